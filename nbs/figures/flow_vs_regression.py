"""Regression against a conditional flow on real pairs, in the latent space of a trained model:
equal inputs, width, batches and steps.

    python nbs/figures/flow_vs_regression.py DATA

DATA is a folder of pairs that `lowlight_nat.data.pairs.find_pairs` reads. Writes
run/flow_vs_regression.json and run/flow_vs_regression.jpg beside this file;
the pictures in the latter are of `samples`, none of DATA."""
import json
import math
import platform
import random
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from fastcore.script import call_parse
from PIL import Image, ImageDraw
from torch import nn

from lowlight_nat.data.pairs import Pair, find_pairs
from lowlight_nat.evaluation.fidelity import score_pair
from lowlight_nat.inference.tiling import pad_to_multiple
from lowlight_nat.io.images import read_image, to_pil
from lowlight_nat.models.checkpoint import load_model
from lowlight_nat.models.flow import ConditionalFlow, nll_bits
from lowlight_nat.models.layers import ResBlock, conv3
from lowlight_nat.models.light import exposure_normalise

RUN = Path(__file__).resolve().parent/'run'
SAMPLES = Path(__file__).resolve().parents[2]/'samples'
SHOWN = 'coffee.png', 'astronaut.webp', 'chelsea.jpg'
DRAWS = 6   # samples at heat 1, for the spread


class Regression(nn.Module):
    "Residual blocks of the flow's hidden width, and a latent"
    def __init__(self, dim, cond, hidden, blocks):
        super().__init__()
        self.net = nn.Sequential(conv3(cond, hidden), *[ResBlock(hidden) for _ in range(blocks)],
                                 conv3(hidden, dim))
    def forward(self, c): return self.net(c)
    def loss(self, z, c): return (self(c) - z).abs().mean()
    def mode(self, c): return self(c)


class Flow(nn.Module):
    "The flow with a mean map of its own, which regression's last layer corresponds to"
    def __init__(self, dim, cond, hidden, steps, l1):
        super().__init__()
        self.flow = ConditionalFlow(dim, cond, steps, hidden)
        self.mu = conv3(cond, dim)
        self.l1 = l1
    def bits(self, z, c):
        u, logdet = self.flow(z, c)
        return nll_bits(u, logdet, self.mu(c))
    def mode(self, c): return self.flow.inverse(self.mu(c), c)
    def sample(self, c, heat, seed): return self.flow.sample(self.mu(c), c, heat, seed)
    def loss(self, z, c):
        bits = self.bits(z, c)
        return bits + self.l1*(self.mode(c) - z).abs().mean() if self.l1 else bits


def load_pair(p, model):
    "Condition, true latent, exposure, and the bright picture; of the whole pictures"
    low, high = (pad_to_multiple(read_image(f)[None], model.multiple)[0] for f in (p.low, p.high))
    x, _ = exposure_normalise(high, model.cfg.norm_level)
    a = model.align(low)
    return dict(c=a.cond, z=model.vqgan.encode(x).float(),
                level=a.light.log_level.exp(), x_high=high)


def train(head, pairs, steps, bs, size, lr, seed):
    "Adam, one cycle; crops of the latent grid, the same for every head of a seed"
    rng = random.Random(seed)
    opt = torch.optim.Adam(head.parameters(), lr)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, lr, steps, pct_start=.15)
    start = time.perf_counter()
    for _ in range(steps):
        crops = []
        for p in rng.choices(pairs, k=bs):
            i, j = (rng.randrange(n - size + 1) for n in p['z'].shape[2:])
            crops.append([p[k][..., i:i+size, j:j+size] for k in ('z', 'c')])
        z, c = (torch.cat(t) for t in zip(*crops))
        opt.zero_grad()
        head.loss(z, c).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.)
        opt.step()
        sched.step()
    head.eval()
    return time.perf_counter() - start


def gradient_energy(x): return (x.diff(dim=-1)**2).mean().item() + (x.diff(dim=-2)**2).mean().item()
def high_frequency(x):
    return ((x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))**2).mean().item()


def decode(model, z):
    "Latent through quantiser and decoder: exposure-normalised picture"
    q = model.vqgan.quantizer
    return model.vqgan.decode(q.lookup(q.nearest(z))).float()


def picture_scores(model, p, z_hat):
    "Of one answer for one picture"
    x = decode(model, z_hat)
    true = decode(model, p['z'])
    out = (x*p['level']/model.cfg.norm_level).clamp(0, 1)
    return dict(latent_l1=(z_hat - p['z']).abs().mean().item(),
                latent_rmse=(z_hat - p['z']).pow(2).mean().sqrt().item(),
                gradient_energy=gradient_energy(x)/gradient_energy(true),
                high_frequency=high_frequency(x)/high_frequency(true), **score_pair(
                    out, p['x_high']))


def mean_rows(rows): return {k: sum(r[k] for r in rows)/len(rows) for k in rows[0]}


def fitted_bits(head, train_pairs, val):
    """Bits per dimension of a Gaussian and a Laplacian around the regression, their widths fitted
    for each channel on training pictures"""
    def residuals(pairs):
        return torch.cat([(p['z'] - head(p['c'])).flatten(2)[0] for p in pairs], 1)
    r = residuals(train_pairs)
    v = residuals(val)
    s2 = r.pow(2).mean(1, keepdim=True)
    b = r.abs().mean(1, keepdim=True)
    gauss = .5*(v**2/s2 + (2*math.pi*s2).log())
    laplace = v.abs()/b + (2*b).log()
    return gauss.mean().item()/math.log(2), laplace.mean().item()/math.log(2)


@torch.no_grad()
def evaluate(name, head, model, pairs, val):
    "Rows of the table: the head's one answer; for a flow a sample and the mean of several too"
    if isinstance(head, Regression):
        bits = fitted_bits(head, pairs[:40], val)
        return {
            name: mean_rows([picture_scores(model, p, head.mode(p['c']))
                             for p in val]) | dict(bits=bits[0], bits_laplace=bits[1], spread=0.)
        }
    rows = {k: [] for k in ('heat 0', 'heat 0.5', 'heat 1', f'mean of {DRAWS}')}
    bits = 0
    var = 0
    err = 0
    for p in val:
        draws = torch.cat([head.sample(p['c'], 1., i) for i in range(DRAWS)])
        mean = draws.mean(0, keepdim=True)
        for k, z in zip(rows, (head.mode(p['c']), head.sample(p['c'], .5, 0), draws[:1], mean)):
            rows[k].append(picture_scores(model, p, z))
        bits += head.bits(p['z'], p['c']).item()/len(val)
        # less what few draws add
        v = draws.var(0).mean().item()
        var += v
        err += (mean - p['z']).pow(2).mean().item() - v/DRAWS
    res = {f'{name}, {k}': mean_rows(r) for k, r in rows.items()}
    for k in list(res)[:1]: res[k] |= dict(bits=bits, spread=math.sqrt(var/err))
    return res


@torch.no_grad()
def figure(model, heads, val, path, size=40):
    """Columns: the true latent decoded, regression, flow at heat 0 and 1; one picture a row, all at
    the true exposure"""
    rows = []
    side = 4*size
    for p in val:
        i = (p['z'].shape[2] - size)//2
        j = (p['z'].shape[3] - size)//2
        reg, flow = heads
        zs = p['z'], reg.mode(p['c']), flow.mode(p['c']), flow.sample(p['c'], 1., 0)
        gain = p['x_high'].mean()/decode(model, p['z']).mean()
        rows.append([
            to_pil((decode(model, z)*gain).clamp(0, 1)[0, :, 4*i:4*i + side, 4*j:4*j + side])
            for z in zs
        ])
    out = Image.new('RGB', (4*(side + 4), len(rows)*(side + 4) + 16), 'white')
    for k, t in enumerate(('true latent', 'regression', 'flow, heat 0', 'flow, heat 1')):
        ImageDraw.Draw(out).text((k*(side + 4) + 4, 2), t, fill='black')
    for r, ims in enumerate(rows):
        for k, im in enumerate(ims): out.paste(im, (k*(side + 4), r*(side + 4) + 16))
    out.save(path, quality=85)


@call_parse
def main(data:Path, # folder of pairs
         model:str='small', # preset of a bundled checkpoint, or the path of one
         steps:int=800, # optimizer steps of each head
         seeds:int=2, # runs from different seeds, 0, 1, ...
         hidden:int=32, # width of all heads
         pairs:int=96, # training pairs, evenly picked
         bs:int=8, # crops a step
         size:int=20, # of a crop, latent places
         lr:float=2e-3, # peak learning rate
         only_figure:bool=False): # train what the figure shows, draw it, and measure nothing
    "Train and compare; writes JSON and a JPEG beside this script"
    start = time.perf_counter()
    m = load_model(model).requires_grad_(False)
    files = find_pairs(data, 'train')
    files = files[::max(1, len(files)//pairs)][:pairs]
    with torch.no_grad():
        tr, val = ([load_pair(p, m) for p in ps] for ps in (files, find_pairs(data, 'val')))
    d = m.cfg.dim
    c = m.cfg.cond
    make = {
        'regression': lambda: Regression(d, c, hidden, 7),
        'flow (likelihood)': lambda: Flow(d, c, hidden, 4, 0.),
        'flow (likelihood + L1)': lambda: Flow(d, c, hidden, 4, 1.5)
    }
    runs = {}
    seconds = {}
    kept = {}
    for seed in range(1 if only_figure else seeds):
        for name, new in make.items():
            if only_figure and name == 'flow (likelihood)': continue
            torch.manual_seed(seed)
            head = new()
            seconds.setdefault(name, []).append(round(train(head, tr, steps, bs, size, lr, seed),
                                                      1))
            kept.setdefault(name, head)
            if only_figure: continue
            for k, row in evaluate(name, head, m, tr, val).items():
                runs.setdefault(k, []).append(row)
            print(
                name, seed, seconds[name][-1], 's', {
                    k: round(v, 3)
                    for k, v in next(v for k, v in runs.items() if k.startswith(name))[-1].items()
                }, flush=True)
    with torch.no_grad():
        shown = [load_pair(Pair(SAMPLES/n, SAMPLES/'reference'/n, n), m) for n in SHOWN]
    figure(m, (kept['regression'], kept['flow (likelihood + L1)']), shown,
           RUN/'flow_vs_regression.jpg')
    if only_figure: return
    with torch.no_grad(): ceiling = mean_rows([picture_scores(m, p, p['z']) for p in val])
    table = {k: mean_rows(v) for k, v in runs.items()} | {'true latent': ceiling}
    res = dict(
        command=f'python nbs/figures/flow_vs_regression.py DATA --model {model} --steps {steps} '
                f'--seeds {seeds} --hidden {hidden} --pairs {pairs} --bs {bs} --size {size} --lr {lr}',
        data=f'{len(tr)} training pairs', validation_pictures=len(val), seeds=list(
            range(seeds)), steps=steps, hidden=hidden, threads=torch.get_num_threads(), parameters={
                k: sum(o.numel()
                       for o in h.parameters())
                for k, h in kept.items()
            }, seconds=seconds, total_seconds=round(time.perf_counter() - start),
        torch=torch.__version__, python=platform.python_version(),
        lowlight_nat=version('lowlight_nat'), mean=table, runs=runs)
    RUN.mkdir(exist_ok=True)
    (RUN/'flow_vs_regression.json').write_text(json.dumps(res, indent=1) + '\n')
