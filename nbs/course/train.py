"""Small trainings for the exercises "train for a minute and read the curve".

Each function trains two or three variants side by side, for up to a minute on two cores, and returns their curves.
`LOWLIGHT_COURSE_SHARE` sets the share of the steps that is made, for example 0.02; a test of nbdev makes no more than
that on its own.
"""
import copy
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from lowlight_nat.io.images import read_image

SAMPLES = Path(__file__).resolve().parents[2]/'samples'


def share_of_steps():
    usual = 0.02 if 'IN_TEST' in os.environ else 1     # nbdev sets it while it tests notebooks
    return float(os.environ.get('LOWLIGHT_COURSE_SHARE', usual))


class Variant:
    "One of the things that are trained side by side: what it does in a step, and how it is measured."
    def __init__(self, learn, measure):
        self.learn = learn       # makes one training step
        self.measure = measure   # returns one number
        self.curve = []          # of (step, number)
        self.random = torch.get_rng_state()

    def go(self, step, every):
        "One step with random numbers of its own, so that no variant depends on the others."
        torch.set_rng_state(self.random)
        if step % every == 0:
            with torch.no_grad(): self.curve.append((step, float(self.measure())))
        self.learn()
        self.random = torch.get_rng_state()

def train(
    variants:dict, # name to `Variant`
    steps:int, # of the whole training; `LOWLIGHT_COURSE_SHARE` shortens it
    points:int=60, # measurements on each curve
) -> dict: # name to a list of (step, number)
    "Train variants in turn, with the same random numbers."
    steps = max(points, round(steps*share_of_steps()))
    for step in range(steps):
        for o in variants.values(): o.go(step, steps//points)
    return {name: o.curve for name, o in variants.items()}

def draw(curves:dict, ylabel:str):
    "The curves of a training in one figure."
    fig, ax = plt.subplots(figsize=(6.5, 3.2), layout='constrained')
    for name, points in curves.items(): ax.plot(*zip(*points), label=name)
    ax.set(xlabel='training step', ylabel=ylabel)
    fig.legend(loc='outside upper center', ncols=len(curves), fontsize=9)
    plt.show()

def stepper(net, loss, lr=2e-3):
    "A training step of `net` that lowers `loss()`."
    opt = torch.optim.Adam(net.parameters(), lr)
    def learn():
        opt.zero_grad()
        loss().backward()
        opt.step()
    return learn

def seeded(build, *args):
    "A variant that starts with the same random numbers as the others."
    torch.manual_seed(1)
    return build(*args)


# --- session 1: denoising, with noise drawn anew or once ---

def patches(name, n, size=16):
    "`n` patches of a picture in `samples/reference`."
    x = read_image(SAMPLES/'reference'/name)
    tops = torch.randint(x.shape[1] - size, (n,)).tolist()
    lefts = torch.randint(x.shape[2] - size, (n,)).tolist()
    return torch.stack([x[:, i:i + size, j:j + size] for i, j in zip(tops, lefts)])

def noisy(x): return x + 0.2*torch.randn_like(x)

def noise_of(net, x):
    "The picture without the noise that the network finds in it."
    return x - net(x)

def denoiser(width=32):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(width, 3, 3, padding=1))

def noise_anew_or_once(steps=4000):
    "Take noise of 0.2 away, with noise drawn anew at every step or once for all: PSNR on new patches."
    torch.manual_seed(0)
    clean = patches('coffee.png', 4)
    once = noisy(clean)
    new = patches('chelsea.jpg', 8)
    seen = noisy(new)
    def variant(fixed):
        net = denoiser()
        def loss():
            x = once if fixed else noisy(clean)
            return F.mse_loss(noise_of(net, x), clean)
        def psnr(): return -10*F.mse_loss(noise_of(net, seen), new).log10()
        return Variant(stepper(net, loss), psnr)
    return train({'drawn at every step': seeded(variant, False), 'drawn once': seeded(variant, True)}, steps)


# --- session 2: dead codes, revived or not ---

class MovingCodes:
    "A codebook of 64 codes in the plane, learned by moving averages."
    def __init__(self, codes, decay=0.99):
        self.codes = codes.clone()
        self.count = torch.ones(len(codes))
        self.total = codes.clone()
        self.decay = decay

    def tokens(self, z): return torch.cdist(z, self.codes).argmin(1)

    def learn(self, z):
        one = F.one_hot(self.tokens(z), len(self.codes)).float()
        self.count.lerp_(one.sum(0), 1 - self.decay)
        self.total.lerp_(one.T@z, 1 - self.decay)
        used = self.count > 1e-3
        self.codes[used] = self.total[used]/self.count[used, None]

    def revive(self, z, threshold=0.1):
        "Put dead codes on latents of the batch."
        dead = (self.count < threshold).nonzero()[:, 0]
        self.codes[dead] = z[torch.randperm(len(z))[:len(dead)]]
        self.count[dead] = 1.
        self.total[dead] = self.codes[dead]

def revival_or_not(steps=24_000):
    "64 codes that start in one corner of 16 heaps of latents, with revival or without: perplexity."
    torch.manual_seed(0)
    heaps = 2*torch.randn(16, 2)
    start = heaps[0] + 0.01*torch.randn(64, 2)
    def latents(n): return heaps[torch.randint(16, (n,))] + 0.3*torch.randn(n, 2)
    new = latents(4096)
    def variant(revive):
        book = MovingCodes(start)
        def learn():
            z = latents(256)
            book.learn(z)
            if revive: book.revive(z)
        def perplexity():
            p = torch.bincount(book.tokens(new), minlength=64)/len(new)
            return torch.special.entr(p).sum().exp()
        return Variant(learn, perplexity)
    return train({'with revival': seeded(variant, True), 'without': seeded(variant, False)}, steps)


# --- session 3: flows of 1, 2 and 8 couplings ---

def arcs(n):
    "Points on two arcs that face each other."
    angle = math.pi*torch.rand(n)
    side = 2*torch.randint(2, (n,)) - 1
    return torch.stack([side*(angle.sin() + 0.5), angle.cos()], 1) + 0.05*torch.randn(n, 2)

class Couplings(nn.Module):
    "A flow of two numbers; the two change places after each coupling."
    def __init__(self, n):
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
            for _ in range(n))

    def nll(self, z):
        "Mean negative log-likelihood in nats."
        logdet = 0.
        for net in self.nets:
            a, b = z.chunk(2, 1)
            t, s = net(a).chunk(2, 1)
            s = 2*(s/2).tanh()
            z = torch.cat([(b + t)*s.exp(), a], 1)
            logdet = logdet + s[:, 0]
        return (0.5*z.square().sum(1) - logdet).mean() + math.log(2*math.pi)

def couplings_needed(steps=3000):
    "Flows of 1, 2 and 8 couplings learn two arcs: negative log-likelihood of new points."
    torch.manual_seed(0)
    new = arcs(2000)
    def variant(n):
        flow = Couplings(n)
        return Variant(stepper(flow, lambda: flow.nll(arcs(256))), lambda: flow.nll(new))
    return train({f'{n} coupling{"s"*(n > 1)}': seeded(variant, n) for n in (1, 2, 8)}, steps)


# --- session 4: which share of the tokens to hide in training ---

class RowNAT(nn.Module):
    "A transformer of one layer that guesses the hidden ones of 16 tokens; token 8 stands for hidden."
    def __init__(self, dim=32):
        super().__init__()
        self.token = nn.Embedding(9, dim)
        self.place = nn.Parameter(0.1*torch.randn(16, dim))
        self.layer = nn.TransformerEncoderLayer(dim, 4, 2*dim, dropout=0., batch_first=True)
        self.out = nn.Linear(dim, 8)

    def loss(self, tokens, share):
        "Cross-entropy of the hidden tokens in nats, with a share hidden, at least one in each row."
        hidden = torch.rand(tokens.shape) < share
        hidden[:, 0] = True
        logits = self.out(self.layer(self.token(tokens.masked_fill(hidden, 8)) + self.place))
        return F.cross_entropy(logits[hidden], tokens[hidden])

def rows(n):
    "Rows of 16 tokens that count up by 1, 2 or 3 from a random start, modulo 8."
    start = torch.randint(8, (n, 1))
    return (start + torch.randint(1, 4, (n, 1))*torch.arange(16)) % 8

def shares_to_hide(steps=2400):
    "Training with 15% of the tokens hidden, or with any share: loss where 80% are hidden."
    torch.manual_seed(0)
    new = rows(500)
    def variant(share):
        net = RowNAT()
        def loss(): return net.loss(rows(64), share or torch.rand(64, 1))
        def measure():
            torch.manual_seed(2)
            return net.loss(new, 0.8)
        return Variant(stepper(net, loss), measure)
    return train({'15% hidden': seeded(variant, 0.15), 'any share hidden': seeded(variant, None)}, steps)


# --- session 5: one spread for all, or a predicted one ---

def spread_or_not(steps=9000):
    "A regression whose noise grows with x, with one spread or a predicted one: likelihood of new points."
    def points(n):
        x = 2*torch.rand(n, 1)
        return x, (3*x).sin() + 0.4*x*torch.randn(n, 1)
    torch.manual_seed(0)
    new = points(2000)
    def variant(predicted):
        net = nn.Sequential(nn.Linear(1, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2))
        net.one = nn.Parameter(torch.zeros(1))
        def nll(x, y):
            mean, log_var = net[:5](x).chunk(2, 1)
            if not predicted: log_var = net.one.expand_as(mean)
            return 0.5*(log_var + (y - mean).square()*(-log_var).exp()).mean()
        return Variant(stepper(net, lambda: nll(*points(128)), lr=3e-4), lambda: nll(*new))
    return train({'one spread for all': seeded(variant, False), 'a predicted spread': seeded(variant, True)}, steps)


# --- session 6: the last weights, or their moving average ---

def averaged_or_not(steps=16_000):
    "A regression with large, noisy steps: error of the last weights, and of their moving average."
    def points(n):
        x = 2*torch.rand(n, 2) - 1
        return x, (4*x[:, :1]).sin()*x[:, 1:]
    torch.manual_seed(0)
    x_new, y_new = points(2000)
    net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    mean = copy.deepcopy(net)
    def loss():
        x, y = points(16)
        return F.mse_loss(net(x), y + 0.5*torch.randn_like(y))
    step = stepper(net, loss, lr=1e-2)
    def learn():
        step()
        with torch.no_grad():
            for a, b in zip(mean.parameters(), net.parameters()): a.lerp_(b, 0.001)
    def error(which): return lambda: F.mse_loss(which(x_new), y_new).sqrt()
    return train({'the last weights': Variant(learn, error(net)),
                  'their moving average': Variant(lambda: None, error(mean))}, steps)
