"""Compare exposure heads on real pairs: both kinds, trained on the frozen encoder of a model,
against a constant, linear fits and the oracle.

    python nbs/figures/exposure.py DATA

DATA is a folder of pairs that `lowlight_nat.data.pairs.find_pairs` reads. Writes run/exposure.json
and run/exposure.jpg beside this file.
`--views FILE` keeps what the encoder sees (the longer half of the work) and reads it again."""
import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from fastcore.basics import AttrDict
from fastcore.script import call_parse

from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.evaluation.fidelity import grey_mean, gt_mean, psnr
from lowlight_nat.inference.tiling import pad_to_multiple
from lowlight_nat.io.images import read_image
from lowlight_nat.io.records import versions
from lowlight_nat.models.checkpoint import load_model, weights_path
from lowlight_nat.models.flow import picture_stats
from lowlight_nat.models.light import (
    AttentionExposure,
    ExposureHead,
    ExposureView,
    coverage,
    exposure_view,
    fit_exposure,
    inspect_exposure,
    pick_views,
)

RUN = Path(__file__).resolve().parent/'run'
SAMPLE = Path(__file__).resolve().parents[2]/'samples'/'rocket.webp'
SCALES = (0.5, 1., 1.5)
FOLDS = 5
VERSIONS = 3
PENALTIES = 0.1, 1., 10., 100.   # of the linear fits


@dataclass
class WithEighth(ExposureView):
    eighth: torch.Tensor = None # features at 1/8 (B,c8,h',w')


def whole(path): return pad_to_multiple(read_image(path)[None], 8)[0]


def stack(views): return type(views[0]).join(views)


@torch.no_grad()
def look(model, low):
    """What the heads are given, with the features at 1/8 as well (the encoder hands out those at
    1/4, to which they are added)"""
    kept = []
    stats = picture_stats(low)
    hook = model.encoder.eighth.register_forward_hook(lambda m, i, o: kept.append(o))
    e = model.encoder(low, stats)
    hook.remove()
    v = exposure_view(stats, e.summary, e.feats[0])
    return WithEighth(**vars(v), eighth=exposure_view(stats, e.summary, kept[0]).places)


def training_views(model, pairs, seed):
    """Views of the training pieces, as they are and then with the dark picture scaled and perhaps
    flipped; their levels"""
    g = torch.Generator().manual_seed(seed)
    versions = []
    for v in range(VERSIONS):
        views = []
        for p in pairs:
            low = whole(p.low)
            s, f = torch.rand(2, generator=g)
            if v: low = (low*(0.5 + s)).clamp(0, 1).flip(3 if f < 0.5 else 2)
            views.append(look(model, low))
        versions.append(stack(views))
    return versions, torch.cat([grey_mean(read_image(p.high)[None]) for p in pairs])


@torch.no_grad()
def all_views(model, data, seed):
    "What the comparison needs of the encoder and the decoder, of training and validation pairs"
    train, level = training_views(model, find_pairs(data, 'train'), seed)
    pairs = find_pairs(data, 'val')
    lows = [whole(p.low) for p in pairs]
    highs = [read_image(p.high)[None] for p in pairs]
    return dict(
        train=train, level=level,
        val={s: stack([look(model, (x*s).clamp(0, 1))
                       for x in lows])
             for s in SCALES}, x_norm=[
                 model(x).x_norm.float()[..., :h.shape[2], :h.shape[3]]
                 for x, h in zip(lows, highs)
             ], high=highs, truth=torch.cat([grey_mean(h) for h in highs]))


def folds(n): return torch.arange(n)*FOLDS//n


class Linear:
    "Ridge regression of the log level; the doubt is one number, the deviation of the fit"
    def __init__(self, keys, penalty):
        self.keys = keys
        self.penalty = penalty
    def inputs(self, v):
        return torch.cat([v[k] for k in self.keys], 1) if self.keys else v.overview[:, :0]
    def fit(self, views, level, seed):
        x = self.inputs(views[0])
        y = level.log()
        self.mean = x.mean(0)
        self.bias = y.mean()
        self.w = torch.linalg.solve(
            (x - self.mean).T@(x - self.mean) + self.penalty*torch.eye(x.shape[1]),
            (x - self.mean).T@(y - self.bias))
        self.std = (self.read(views[0]).log_level - y).std()
        return self
    def read(self, v):
        mu = (self.inputs(v) - self.mean) @ self.w + self.bias
        return AttrDict(
            log_level=mu, log_std=(self.std if hasattr(self, 'std') else torch.ones(
                ())).log().expand(len(mu)))


class Head:
    "An exposure head trained by `fit_exposure`; `places` names the features it attends to"
    def __init__(self, make, places='places'):
        self.make = make
        self.places = places
    def view(self, v): return replace(v, places=getattr(v, self.places))
    def fit(self, views, level, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = self.make()
        fit_exposure(self.head, [self.view(v) for v in views], level, seed=seed)
        return self
    @torch.no_grad()
    def read(self, v): return self.head.read(self.view(v))


class Ready:
    "The head that was trained with the encoder"
    def __init__(self, head): self.head = head
    @torch.no_grad()
    def read(self, v): return self.head.read(v)


class Oracle:
    "The truth"
    def __init__(self, level): self.level = level
    def read(self, v):
        return AttrDict(log_level=self.level.log(), log_std=torch.full_like(self.level, -4.))


def crosswise(make, d, seed):
    "Predictions for the training pieces, each by a fit on the other folds"
    at = folds(len(d['level']))
    out = AttrDict(log_level=torch.zeros(len(d['level'])), log_std=torch.zeros(len(d['level'])))
    for k in range(FOLDS):
        fit = make().fit([pick_views(v, at != k) for v in d['train']], d['level'][at != k],
                         seed).read(pick_views(d['train'][0], at == k))
        for name in out: out[name][at == k] = getattr(fit, name)
    return out


def error(out, level): return (out.log_level - level.log()).abs().mean().item()


def on_val(fitted, d, level0):
    """Figures on the validation pictures: error of the log level, coverage, PSNR of the model's
    pictures at the predicted level, raw and GT-mean"""
    outs = {s: fitted.read(v) for s, v in d['val'].items()}
    o = outs[1.]
    x = [(x*m/level0).clamp(0, 1) for x, m in zip(d['x_norm'], o.log_level.exp())]
    raw, mean = (torch.stack([psnr(f(a, h), h).mean()
                              for a, h in zip(x, d['high'])]).mean().item()
                 for f in (lambda a, h: a, gt_mean))
    w1, w2 = coverage(o.log_level, o.log_std, d['truth'])
    return {
        'val error': error(o, d['truth']), 'raw PSNR': raw,
        'GT-mean PSNR': mean, 'val within 1': w1, 'val within 2': w2, 'error x0.5': error(
            outs[0.5], d['truth']), 'error x1.5': error(outs[1.5], d['truth'])
    }, o


def on_folds(out, level):
    z = (level.log() - out.log_level)/out.log_std.exp()
    w1, w2 = coverage(out.log_level, out.log_std, level)
    return {
        'cv error': error(out, level), 'cv nll': (0.5*z**2 + out.log_std).mean().item(),
        'cv within 1': w1, 'cv within 2': w2, 'cv rms of z': z.pow(2).mean().sqrt().item()
    }


def mean_of(rows):
    "Means over the seeds, and their deviation where there are several"
    res = {k: sum(r[k] for r in rows)/len(rows) for k in rows[0]}
    for k in ('val error', 'raw PSNR', 'cv error'):
        if k in res:
            res[f'{k}, sd of seeds'] = torch.tensor([r[k] for r in rows
                                                     ]).std().item() if len(rows) > 1 else 0.
    return res


def linear(keys, d):
    "A linear fit whose penalty did best in cross-validation"
    return min(
        PENALTIES,
        key=lambda p: error(crosswise(lambda: Linear(keys, p), d, 0), d['level'])) if keys else 1.


def compare(model, d, seeds):
    "Rows of the table; predictions on val and crosswise, and a trained head, of the first seed"
    widths = d['train'][0].summary.shape[1], d['train'][0].places.shape[1], d['train'][
        0].eighth.shape[1]
    kinds = {
        'constant': (), 'linear, statistics': ('overview', ),
        'linear, statistics and summary': ('overview', 'summary')
    }
    penalty = {n: linear(k, d) for n, k in kinds.items()}
    makes = {n: (lambda n=n, k=k: Linear(k, penalty[n])) for n, k in kinds.items()}
    makes |= {
        'statistics': lambda: Head(lambda: ExposureHead(widths[0])),
        'attention': lambda: Head(lambda: AttentionExposure(widths[1])),
        'attention, features at 1/8': lambda: Head(lambda: AttentionExposure(widths[2]), 'eighth')
    }
    rows = {}
    val = {}
    cv = {}
    heads = {}
    for n, make in makes.items():
        t = time.time()
        found = []
        for s in seeds if isinstance(make(), Head) else seeds[:1]:
            fitted = make().fit(d['train'], d['level'], s)
            row, o = on_val(fitted, d, model.cfg.norm_level)
            c = crosswise(make, d, s)
            found.append(row | on_folds(c, d['level']))
            if s == seeds[0]:
                val[n] = o
                cv[n] = c
                heads[n] = fitted
        rows[n] = mean_of(found)
        print(f'{n:32}', ' '.join(f'{k} {v:.3f}' for k, v in rows[n].items()),
              f'{time.time() - t:.0f} s', flush=True)
    for n, fitted in {
            'trained with the encoder': Ready(model.exposure), 'oracle': Oracle(d['truth'])
    }.items():
        rows[n] = mean_of([on_val(fitted, d, model.cfg.norm_level)[0]])
    return rows, penalty, val, cv, heads


def draw_levels(ax, o, c, truth, level, title):
    ax.plot([0.15, 0.75], [0.15, 0.75], 'k:', lw=0.8)
    ax.plot(level, c.log_level.exp(), '.', c='0.75', ms=2.5, label='training pieces, held out')
    m = o.log_level.exp()
    s = o.log_std.exp()
    ax.errorbar(truth, m, (m*(1 - (-s).exp()), m*(s.exp() - 1)), fmt='o', ms=3.5, lw=0.9,
                label='validation')
    ax.set(title=title, xlabel='true level', xlim=(0.1, 0.8), ylim=(0.1, 0.8))
    ax.legend(fontsize=6, loc='upper left')


def draw(model, rows, val, cv, heads, d, path):
    """Predicted against true levels, claimed against observed coverage, and the attention maps on a
    sample picture"""
    fig, axes = plt.subplots(2, 4, figsize=(10, 4.9), layout='constrained',
                             gridspec_kw=dict(height_ratios=(1.6, 1)))
    for ax, n in zip(axes[0], ('statistics', 'attention')):
        draw_levels(ax, val[n], cv[n], d['truth'], d['level'], n)
    axes[0, 0].set_ylabel('predicted level')
    k = torch.linspace(0.1, 2.5, 25)
    for n in 'statistics', 'attention':
        axes[0, 2].plot(torch.erf(k/2**0.5), coverage(cv[n].log_level, cv[n].log_std, d['level'],
                                                      k), label=n)
    axes[0, 2].plot([0, 1], [0, 1], 'k:', lw=0.8)
    axes[0, 2].legend(fontsize=7)
    axes[0, 2].set(title='coverage, held out', xlabel='claimed', ylabel='observed')
    x = whole(SAMPLE)
    head = heads['attention']
    seen = inspect_exposure(head.head, look(model, x))
    axes[0, 3].imshow((x[0]*0.4/x.mean()).clamp(0, 1).permute(1, 2, 0))
    axes[0, 3].axis('off')
    axes[0, 3].set_title(
        f'predicted {seen.log_level.exp().item():.2f}, factor {seen.log_std.exp().exp().item():.2f}',
        fontsize=9)
    for i, ax in enumerate(axes[1]):
        ax.imshow((x[0].mean(0)*0.4/x.mean()).clamp(0, 1), cmap='gray', extent=(0, 1, 0, 1),
                  aspect=x.shape[2]/x.shape[3])
        ax.imshow(seen.attention[0, i], cmap='inferno', alpha=0.65, extent=(0, 1, 0, 1),
                  aspect=x.shape[2]/x.shape[3])
        ax.axis('off')
        ax.set_title(f'query {i + 1}', fontsize=9)
    fig.savefig(path, dpi=85, pil_kwargs=dict(quality=72))
    plt.close(fig)


@call_parse
def main(data:str, # folder of pairs
         model:str='small', # bundled checkpoint, or path of one
         views:str=None, # file in which the encoder's views are kept between runs
         seeds:str='42,43,44'): # of the heads
    "Compare exposure heads; writes run/exposure.json and run/exposure.jpg"
    net = load_model(model)
    seeds = [int(s) for s in seeds.split(',')]
    if views and Path(views).exists(): d = torch.load(views, weights_only=False)
    else: d = all_views(net, data, seeds[0])
    if views: torch.save(d, views)
    rows, penalty, val, cv, heads = compare(net, d, seeds)
    sha = hashlib.sha256(weights_path(model).read_bytes()).hexdigest()
    res = dict(command=f'python nbs/figures/exposure.py {Path(data).name}', model=Path(model).stem,
               sha256=sha, seeds=seeds, pieces=len(d['level']),
               pictures=len(d['truth']), versions=versions(), spread=dict(
                   train=d['level'].log().std().item(),
                   val=d['truth'].log().std().item()), penalties=penalty, rows=rows)
    draw(net, rows, val, cv, heads, d, RUN/'exposure.jpg')
    (RUN/'exposure.json').write_text(json.dumps(res, indent=1, allow_nan=False) + '\n')
