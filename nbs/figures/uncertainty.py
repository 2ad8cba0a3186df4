"Measure how well each map of uncertainty finds wrong places of the aligned latent, on validation pairs; writes run/uncertainty.json and run/uncertainty.jpg, which the chapter on masking shows."
import argparse, hashlib, json, shlex
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from lowlight_nat.cli import versions
from lowlight_nat.codebook import squared_distances
from lowlight_nat.images import read_image
from lowlight_nat.masking import calibrate_temperature, rank_correlation, reliability, sparsification, token_statistics, uncertainty_scores
from lowlight_nat.model import exposure_normalise, load_model, weights_path
from lowlight_nat.pairs import find_pairs

FIT, PIECE = 2000, 5000   # places a picture to fit a temperature on; places at a time where the whole table is needed


def even(x, n): return x[..., :x.shape[-2]//n*n, :x.shape[-1]//n*n]


@torch.no_grad()
def places(model, pair):
    "Aligned latent (1,d,h,w), its spread (1,h,w), the truth's tokens and the latent error (h*w,) of one pair"
    low, high = (even(read_image(p), model.multiple)[None] for p in (pair.low, pair.high))
    a = model.align(low)
    z = model.vqgan.encode(exposure_normalise(high, model.cfg.norm_level)[0]).float()
    truth = token_statistics(z, model.vqgan.quantizer.codes, 1.).tokens
    return dict(z=a.z_tilde.float(), sigma=a.sigma.float(), truth=truth.flatten(), error=(a.z_tilde - z).pow(2).mean(1).sqrt().flatten())


def sample(model, pics, spread, seed):
    "Distances (in units of 2 sigma^2 if `spread`) and true tokens of some places of every picture, to fit a temperature on"
    g, d2s, truths = torch.Generator().manual_seed(seed), [], []
    for p in pics:
        i = torch.randperm(len(p['truth']), generator=g)[:FIT]
        d2 = squared_distances(p['z'].flatten(2)[..., i, None], model.vqgan.quantizer.codes).flatten(0, 2)
        d2s.append(d2/(2*p['sigma'].flatten()[i, None]**2) if spread else d2)
        truths.append(p['truth'][i])
    return torch.cat(d2s), torch.cat(truths)


def fit(model, pics, spread, seed): return calibrate_temperature(*sample(model, pics, spread, seed), lo=1e-4, hi=1e3)


def temperature(p, scale, spread): return 2*scale*p['sigma']**2 if spread else scale


def calibration(model, pics, scales, spread):
    "Reliability, mean negative log-likelihood of the true token and share of right tokens, at one scale a picture"
    conf, right, nll = [], [], 0.
    for p, s in zip(pics, scales):
        z, T = p['z'].flatten(2)[..., None], torch.as_tensor(temperature(p, s, spread)).expand(1, *p['z'].shape[2:]).flatten()
        for i in torch.arange(len(p['truth'])).split(PIECE):
            log_p = F.log_softmax(squared_distances(z[:, :, i], model.vqgan.quantizer.codes)[0, :, 0]/-T[i, None], -1)
            c, t = log_p.max(-1)
            conf.append(c.exp()); right.append(t == p['truth'][i]); nll += -log_p.gather(1, p['truth'][i, None]).sum().item()
    conf, right = torch.cat(conf).clamp(max=1), torch.cat(right)
    r = reliability(conf, right)
    return dict(scale=sum(scales)/len(scales), ece=r.ece, nll=nll/len(conf), top1=right.float().mean().item(),
                confidence=r.confidence.tolist(), accuracy=r.accuracy.tolist(), count=r.count.tolist())


def maps_of(model, p, one, factor):
    "The maps compared, each (h*w,), of one picture"
    codes = model.vqgan.quantizer.codes
    stats = lambda T, spread=False: token_statistics(p['z'], codes, T, spread=spread)
    own = stats(temperature(p, 1., True), True)
    fitted = stats(temperature(p, factor, True), True)
    maps = {'entropy, T = 1': stats(1.).entropy, 'entropy, one T, calibrated': stats(one).entropy, 'entropy, T = 2 sigma^2': own.entropy,
            'entropy, T = 2 sigma^2, calibrated': fitted.entropy, 'sigma': p['sigma'],
            'expected squared distance': own.spread2, 'expected squared distance, calibrated': fitted.spread2}
    return {n: m.flatten() for n, m in maps.items()} | {'wrong': own.tokens.flatten() != p['truth']}


def compare(model, pics, one, factor):
    "Scores and sparsification curves of every map, over the places of all pictures"
    per = [maps_of(model, p, one, factor) for p in pics]
    error, wrong = torch.cat([p['error'] for p in pics]), torch.cat([m.pop('wrong') for m in per])
    scores, curves = {}, {}
    for n in per[0]:
        s = torch.cat([m[n] for m in per])
        curve = sparsification(s, error)
        within = [rank_correlation(m[n], p['error']) for m, p in zip(per, pics)]
        scores[n] = uncertainty_scores(s, error, wrong) | dict(within=sum(within)/len(within))
        curves[n] = curve.error.tolist()
    return dict(maps=scores, curves=curves | dict(oracle=curve.oracle.tolist()), share=curve.share.tolist(), wrong=wrong.float().mean().item(), places=len(error))


def draw(p, maps, path):
    "The true error and the maps of one picture, each by its ranks, so that all share one scale"
    shown = {'true error': p['error']} | {n: maps[n] for n in ('entropy, one T, calibrated', 'entropy, T = 2 sigma^2', 'expected squared distance')}
    fig, axes = plt.subplots(2, 2, figsize=(7, 5.2), layout='constrained')
    for ax, (n, m) in zip(axes.flat, shown.items()):
        ax.imshow((m.argsort().argsort()/len(m)).view(*p['z'].shape[2:]), vmin=0, vmax=1); ax.set_title(n, fontsize=9); ax.axis('off')
    fig.savefig(path, dpi=90, pil_kwargs=dict(quality=70)); plt.close(fig)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--data', required=True, help='folder of a data set of pairs')
    ap.add_argument('--model', default='small', help='bundled checkpoint or path of one')
    ap.add_argument('--train', type=int, default=24, help='training pairs to fit the temperature on')
    ap.add_argument('--seed', type=int, default=42, help='of the choice of training pairs and places')
    ap.add_argument('--out', type=Path, default=Path(__file__).parent/'run'/'uncertainty.json', help='file to write')
    a = ap.parse_args()
    model, train = load_model(a.model), find_pairs(a.data, 'train')
    pick = torch.randperm(len(train), generator=torch.Generator().manual_seed(a.seed))[:a.train].tolist()
    train, val = ([places(model, p) for p in ps] for ps in ([train[i] for i in pick], find_pairs(a.data, 'val')))
    halves = val[::2], val[1::2]
    cal = {}
    for spread, name in (False, 'one T'), (True, 'T = 2 sigma^2'):
        on_train, on_half = fit(model, train, spread, a.seed), [fit(model, h, spread, a.seed) for h in halves]
        for how, scales in {'raw': [1.]*len(val), 'fitted on training pairs': [on_train]*len(val),
                            'fitted on the other half': [on_half[1 - i % 2] for i in range(len(val))]}.items():
            cal[f'{name}, {how}'] = calibration(model, val, scales, spread)
    one, factor = (cal[f'{n}, fitted on training pairs']['scale'] for n in ('one T', 'T = 2 sigma^2'))
    res = dict(command=f'python nbs/figures/uncertainty.py --data {shlex.quote(Path(a.data).name)} --model {Path(a.model).stem} --train {a.train} --seed {a.seed}',
               model=Path(a.model).stem, sha256=hashlib.sha256(weights_path(a.model).read_bytes()).hexdigest(), seed=a.seed, pictures=len(val), training_pairs=len(train), versions=versions(), **compare(model, val, one, factor), calibration=cal)
    draw(val[0], maps_of(model, val[0], one, factor), a.out.with_suffix('.jpg'))
    a.out.write_text(json.dumps(res, indent=1, allow_nan=False) + '\n')
    for n, s in res['maps'].items(): print(f'{n:40}', ' '.join(f'{k} {v:.3f}' for k, v in s.items()))
    for n, c in cal.items(): print(f'{n:40} scale {c["scale"]:.4f} ECE {c["ece"]:.3f} NLL {c["nll"]:.3f}')


if __name__ == '__main__': main()
