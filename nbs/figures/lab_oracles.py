"""Where the bundled model's error lies, and what could be known of it: `python
nbs/figures/lab_oracles.py`, with LOWLIGHT_DATA set.

Every oracle looks at the truth, so none of them is a result: they say how much would be won if one thing were known.
Writes `run/lab_oracles.json`; all figures are PSNR at equal grey mean, in dB, means over pictures.
"""
import json
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from lowlight_nat.data.loaders import LowLightDataLoaders
from lowlight_nat.evaluation.fidelity import gt_mean, psnr, score_pair
from lowlight_nat.models.checkpoint import load_model
from lowlight_nat.training.losses import perceptual_loss

HERE = Path(__file__).parent

def solve(A, y): return A@torch.linalg.lstsq(A.double(), y.double()).solution.float()

def basis(v, degree): # (N,3) to (N,n)
    out = [torch.ones(len(v), 1), v]
    if degree > 1:
        out.append(torch.stack([v[:, i]*v[:, j] for i in range(3) for j in range(i, 3)], 1))
    return torch.cat(out, 1)

def colour(x, y, degree): # the best polynomial of the whole picture's colours
    return solve(basis(x[0].flatten(1).T, degree), y[0].flatten(1).T).T.view_as(x)

def channels(x, y):
    return torch.stack([
        solve(torch.stack([torch.ones(x[0, 0].numel()), x[0, c].flatten()], 1),
              y[0, c].flatten()[:, None]).view_as(x[0, 0]) for c in range(3)
    ])[None]

def curves(x, y, bins=64): # the best curve of each channel
    out = torch.zeros_like(y)
    for c in range(3):
        b = (x[0, c].clamp(0, 1)*(bins - 1)).long().flatten()
        total = torch.zeros(bins).index_add_(0, b, y[0, c].flatten())
        out[0, c] = (total/torch.bincount(b, minlength=bins).clamp(min=1))[b].view_as(out[0, c])
    return out

def blocks(x, y, side): # the mean of the error over blocks
    e = F.avg_pool2d(y - x, side, ceil_mode=True, count_include_pad=False)
    return x + F.interpolate(e, scale_factor=side, mode='bilinear')[..., :y.shape[2], :y.shape[3]]

@torch.no_grad()
def tokens_known(model, x_low, x_high,
                 what): # the picture if latent and tokens of the masked places were known
    y, level = model.normalise(x_high)
    a = model.align(x_low)
    z = model.vqgan.encode(y).float()
    r = model.refine(a, rounds=model.cfg.rounds if model.cfg.latent_nat else 0)
    truth = model.vqgan.quantizer(z).tokens
    if what in ('tokens', 'both'): r.tokens = torch.where(r.mask, truth, r.tokens)
    if what in ('latent', 'both'): r.z = torch.where(r.mask[:, None], z, r.z)
    if what == 'all':
        r.tokens = truth
        r.z = z
    x = model.decode(a, r).x.float()
    return (x*(level/model.cfg.norm_level).view(-1, 1, 1, 1)).clamp(0, 1)

ORACLES = dict(affine=channels, matrix=lambda x, y: colour(x, y, 1),
               quadratic=lambda x, y: colour(x, y, 2), curves=curves,
               block16=lambda x, y: blocks(x, y, 16), block32=lambda x, y: blocks(x, y, 32),
               block64=lambda x, y: blocks(x, y, 64), block128=lambda x, y: blocks(x, y, 128))

@torch.no_grad()
def oracles(model, dl):
    rows = []
    for x_low, x_high in dl:
        x = gt_mean(model(x_low).x_norm.float().clamp(0, 1), x_high).clamp(0, 1)
        row = dict(model=psnr(x, x_high)) | {
            k: psnr(f(x, x_high).clamp(0, 1), x_high)
            for k, f in ORACLES.items()
        }
        row |= {
            f'known {k}': psnr(
                gt_mean(tokens_known(model, x_low, x_high, k), x_high).clamp(0, 1), x_high)
            for k in ('tokens', 'latent', 'both', 'all')
        }
        y, level = model.normalise(x_high)
        row['codebook'] = psnr(
            gt_mean((model.vqgan(y).x_rec*(level/model.cfg.norm_level).view(-1, 1, 1, 1)).clamp(
                0, 1), x_high).clamp(0, 1), x_high)
        rows.append({k: v.item() for k, v in row.items()})
    return {k: sum(r[k] for r in rows)/len(rows) for k in rows[0]}

@torch.no_grad()
def by_rounds(model, dl): # the bundled weights with other numbers of rounds; 0 turns both NATs off
    features = perceptual_loss('encoder', model.vqgan.encoder)
    rows = {}
    for rounds in 0, 1, 2, 4, 6:
        scores = []
        for x_low, x_high in dl:
            x = model(x_low, rounds=rounds).x
            scores.append(
                score_pair(x, x_high)
                | dict(features=features(gt_mean(x, x_high).clamp(0, 1), x_high).item()))
        rows[rounds] = {k: sum(s[k] for s in scores)/len(scores) for k in scores[0]}
    return rows

# Is the colour transform of a picture predictable? A small network on statistics of the dark
# picture and of the result, cross-validated over scenes.
def seen(model, x_low, x_high, n):
    with torch.no_grad(): x = model(x_low).x_norm.float()
    y, level = model.normalise(x_high)
    at = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(0))[:n]
    qs = torch.linspace(.01, .99, 13)
    f = []
    for s in ((x_low + 1e-3).log()/3 + 1, x):
        v = s[0].flatten(1)[:, ::7]
        f += [
            torch.quantile(v, qs, dim=1).T.flatten(),
            v.mean(1),
            torch.corrcoef(v)[[0, 0, 1], [1, 2, 2]]
        ]
    return dict(x=x[0].flatten(1).T[at], y=y[0].flatten(1).T[at],
                statistics=torch.cat(f).nan_to_num(), level=torch.stack([level[0], level[0].log()]))

GREY = torch.tensor([.299, .587, .114])
def points_psnr(x, y, level):
    x = x*((y@GREY).mean()/(x@GREY).mean())
    return -10*(((x*level/.4).clamp(0, 1) - (y*level/.4).clamp(0, 1))**2).mean().log10().item()

def predict(rows, known, fold, steps=500, n=10, n_hidden=32):
    torch.manual_seed(fold)
    A, X, Y, L = (torch.stack([r[k] for r in rows]) for k in (known, 'x', 'y', 'level'))
    train = torch.arange(len(rows)) % 5 != fold
    A = (A - A[train].mean(0))/(A[train].std(0) + 1e-3)
    net = nn.Sequential(nn.Linear(A.shape[1], n_hidden), nn.SiLU(),
                        nn.Dropout(.3 if known == 'statistics' else 0.), nn.Linear(n_hidden, 3*n))
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    def apply(i, x):
        return x + .3*torch.stack([basis(v, 2) for v in x])@net(A[i]).view(-1, n, 3)
    opt = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=.05)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=steps)
    places = train.nonzero()[:, 0]
    for _ in range(steps):
        i = places[torch.randint(len(places), (32,))]
        j = torch.randint(X.shape[1], (512,))
        x = apply(i, X[i][:, j])
        y = Y[i][:, j]
        x = x*((y@GREY).mean(1)/(x@GREY).mean(1))[:, None, None]
        loss = ((x - y)*(L[i, :1]/.4)[..., None]).abs().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        sched.step()
    net.eval()
    held = (~train).nonzero()[:, 0]
    with torch.no_grad():
        def score(f):
            return sum(points_psnr(f(i), Y[i], L[i, 0]) for i in held)/len(held)
        return score(lambda i: X[i]), score(lambda i: apply(i[None], X[i][None])[0])

if __name__ == '__main__':
    data = os.environ.get('LOWLIGHT_DATA') or exit(
        'set LOWLIGHT_DATA to a folder of pairs with train and val')
    model = load_model('small')
    dls = LowLightDataLoaders.from_folder(data, size=None, bs=1)
    res = dict(command='python nbs/figures/lab_oracles.py', val=oracles(model, dls.valid),
               rounds=by_rounds(model, dls.valid))
    print(res['val'], res['rounds'])
    rows = [
        seen(model, *(t[None]
                      for t in dls.train.dataset.draw(k)), 2048)
        for k in range(len(dls.train.dataset.pairs))
    ]
    for known in ('statistics', 'level'):
        scores = torch.tensor([predict(rows, known, fold) for fold in range(5)])
        res[f'predicted from {known}'] = dict(before=scores[:, 0].mean().item(),
                                              after=scores[:, 1].mean().item())
        print(known, res[f'predicted from {known}'])
    (HERE/'run/lab_oracles.json').write_text(json.dumps(res, indent=1) + '\n')
