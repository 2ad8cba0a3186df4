"""Small trainings for the exercises "train for a minute and read the curve".

Each function trains two or three variants side by side, step by step, for about a minute on one core, and gives back
their curves. `LOWLIGHT_COURSE_SECONDS` sets another time, for example 1 for a test.
"""
import copy
import os
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from lowlight_nat.io.images import read_image

REFERENCE = Path(__file__).resolve().parents[2]/'samples/reference'
SECONDS = float(os.environ.get('LOWLIGHT_COURSE_SECONDS', 60))


def train(
    variants:dict, # name to (step, measure): a training step, and a function that gives a number
    seconds:float|None=None, # by the clock; None: `SECONDS`
    every:int=20, # steps between two measurements
) -> dict: # name to a list of (step, number)
    "Train variants in turn, so that all have made as many steps when the time is up."
    end = time.time() + (SECONDS if seconds is None else seconds)
    curves = {name: [] for name in variants}
    step = 0
    while step == 0 or time.time() < end:
        for name, (learn, measure) in variants.items():
            if step % every == 0:
                with torch.no_grad(): curves[name].append((step, float(measure())))
            learn()
        step += 1
    return curves

def draw(curves:dict, ylabel:str):
    "The curves of variants in one figure."
    fig, ax = plt.subplots(figsize=(6, 2.8))
    for name, points in curves.items(): ax.plot(*zip(*points), label=name)
    ax.set(xlabel='step', ylabel=ylabel)
    ax.legend()
    plt.show()

def learner(net, loss, lr=2e-3):
    "A training step of `net` that lowers `loss()`."
    opt = torch.optim.Adam(net.parameters(), lr)
    def learn():
        opt.zero_grad()
        loss().backward()
        opt.step()
    return learn


# --- session 1 ---

def patches(name, n, size=32, seed=0):
    "`n` patches of a picture in `samples/reference`."
    x = read_image(REFERENCE/name)
    g = torch.Generator().manual_seed(seed)
    ys = torch.randint(x.shape[1] - size, (n,), generator=g).tolist()
    xs = torch.randint(x.shape[2] - size, (n,), generator=g).tolist()
    return torch.stack([x[:, i:i + size, j:j + size] for i, j in zip(ys, xs)])

def denoiser():
    "A small convolutional network that says what noise is in a picture."
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(32, 3, 3, padding=1))

def noise_anew_or_fixed(seconds=None):
    "Denoising: the training noise is drawn anew at every step, or once for all. Error on new patches."
    torch.manual_seed(0)
    clean = patches('coffee.png', 4, 16)
    new = patches('coffee.png', 6, 24, seed=5)
    seen = new + 0.2*torch.randn_like(new)
    once = clean + 0.2*torch.randn_like(clean)
    def variant(fixed):
        torch.manual_seed(1)
        net = denoiser()
        def loss():
            noisy = once if fixed else clean + 0.2*torch.randn_like(clean)
            return F.mse_loss(noisy - net(noisy), clean)
        return learner(net, loss), lambda: F.mse_loss(seen - net(seen), new)
    return train({'drawn anew': variant(False), 'fixed': variant(True)}, seconds)


# --- session 2 ---

def revival_or_not(seconds=None):
    "64 codes that start in one corner of the latents, with and without revival of dead codes: perplexity."
    torch.manual_seed(0)
    places = torch.randn(16, 2)*2
    def variant(revive):
        codes = places[0] + 0.01*torch.randn(64, 2)
        count = torch.ones(64)
        total = codes.clone()
        def batch(): return places[torch.randint(16, (256,))] + 0.3*torch.randn(256, 2)
        def nearest(z): return torch.cdist(z, codes).argmin(1)
        def learn():
            z = batch()
            one = F.one_hot(nearest(z), 64).float()
            count.lerp_(one.sum(0), 0.05)
            total.lerp_(one.T @ z, 0.05)
            used = count > 1e-3
            codes[used] = total[used]/count[used, None]
            dead = (count < 0.1).nonzero()[:, 0]
            if revive and len(dead):
                codes[dead] = z[torch.randperm(256)[:len(dead)]]
                count[dead] = 1
                total[dead] = codes[dead]
        def perplexity():
            p = F.one_hot(nearest(batch()), 64).float().mean(0)
            return torch.special.entr(p).sum().exp()
        return learn, perplexity
    return train({'without revival': variant(False), 'with revival': variant(True)}, seconds)


# --- session 3 ---

def arcs(n):
    "Points on two arcs, as in the chapter on the flow."
    angle = torch.rand(n)*3.14
    side = torch.randint(2, (n,))*2 - 1
    return torch.stack([side*angle.sin() + 0.5*side, angle.cos()], 1) + 0.05*torch.randn(n, 2)

class Couplings(nn.Module):
    "A flow of two numbers by `n` affine couplings; the two numbers change places after each."
    def __init__(self, n):
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),
                                                nn.Linear(32, 2)) for _ in range(n))
    def nll(self, z):
        "Mean negative log-likelihood in nats."
        logdet = 0.
        for net in self.nets:
            a, b = z.split(1, 1)
            s, t = net(a).split(1, 1)
            s = 2*(s/2).tanh()
            z = torch.cat([b*s.exp() + t, a], 1)   # and the halves change places
            logdet = logdet + s[:, 0]
        return (0.5*z.square().sum(1) - logdet).mean() + 1.838

def couplings_needed(seconds=None):
    "Flows of 1, 2 and 8 couplings on two arcs: negative log-likelihood of new points."
    torch.manual_seed(0)
    new = arcs(2000)
    def variant(n):
        torch.manual_seed(1)
        flow = Couplings(n)
        return learner(flow, lambda: flow.nll(arcs(256))), lambda: flow.nll(new)
    return train({'1 coupling': variant(1), '2 couplings': variant(2), '8 couplings': variant(8)}, seconds)


# --- session 4 ---

class RowNAT(nn.Module):
    "A transformer of one layer that guesses the hidden ones of 16 tokens; token 8 is [MASK]."
    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(9, 32)
        self.place = nn.Parameter(torch.randn(16, 32)*0.1)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0., batch_first=True)
        self.out = nn.Linear(32, 8)
    def loss(self, tokens, share):
        "Cross-entropy of the hidden tokens, with a share of them hidden: (n,1) or a number."
        hidden = torch.rand(tokens.shape) < share
        hidden[:, 0] = True
        logits = self.out(self.layer(self.token(tokens.masked_fill(hidden, 8)) + self.place))
        return F.cross_entropy(logits[hidden], tokens[hidden])

def rows(n):
    "Rows of 16 tokens that count up from a random start by a random step, modulo 8."
    start = torch.randint(8, (n, 1))
    step = torch.randint(1, 4, (n, 1))
    return (start + step*torch.arange(16)) % 8

def shares_of_masks(seconds=None):
    "Training with 15% of the tokens hidden, or with any share: loss where 85% are hidden."
    torch.manual_seed(0)
    new = rows(500)
    def variant(share):
        torch.manual_seed(1)
        net = RowNAT()
        def loss(): return net.loss(rows(64), share if share else torch.rand(64, 1))
        return learner(net, loss), lambda: net.loss(new, 0.85)
    return train({'always 15% hidden': variant(0.15), 'any share hidden': variant(None)}, seconds)


# --- session 5 ---

def spread_or_not(seconds=None):
    "A regression whose noise grows with x, with one spread for all or a predicted one: likelihood of new points."
    def points(n):
        x = torch.rand(n, 1)*2
        return x, (3*x).sin() + 0.4*x*torch.randn(n, 1)
    torch.manual_seed(0)
    new = points(2000)
    def variant(predicted):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(1, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2))
        one = nn.Parameter(torch.zeros(1))
        net.register_parameter('one', one)
        def nll(x, y):
            mean, log_var = net(x).split(1, 1)
            if not predicted: log_var = one.expand_as(mean)
            return (0.5*log_var + 0.5*(y - mean).square()*(-log_var).exp()).mean()
        return learner(net, lambda: nll(*points(128))), lambda: nll(*new)
    return train({'one spread for all': variant(False), 'a predicted spread': variant(True)}, seconds)


# --- session 6 ---

def averaged_or_not(seconds=None):
    "A regression trained with large, noisy steps: error of the last weights, and of their moving average."
    torch.manual_seed(0)
    def points(n):
        x = torch.rand(n, 2)*2 - 1
        return x, (4*x[:, :1]).sin()*x[:, 1:]
    new = points(2000)
    net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    mean = copy.deepcopy(net)
    def loss():
        x, y = points(16)
        return F.mse_loss(net(x), y + 0.5*torch.randn_like(y))
    learn = learner(net, loss, lr=1e-2)
    def both():
        learn()
        with torch.no_grad():
            for a, b in zip(mean.parameters(), net.parameters()): a.lerp_(b, 0.01)
    def error(which): return lambda: F.mse_loss(which(new[0]), new[1]).sqrt()
    return train({'the last weights': (both, error(net)), 'their moving average': (lambda: None, error(mean))}, seconds)
