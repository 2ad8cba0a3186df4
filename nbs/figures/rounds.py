"""Measure what the latent NAT's rounds do on validation pairs, and its three read-outs; writes
run/rounds.json, which the chapter on the NAT shows."""
import argparse
import json
import shlex
from pathlib import Path

import torch
import torch.nn.functional as F

from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.evaluation.fidelity import score_pair
from lowlight_nat.io.images import read_image
from lowlight_nat.io.records import versions
from lowlight_nat.models.checkpoint import load_model
from lowlight_nat.models.latent_nat import OUTPUTS
from lowlight_nat.models.light import exposure_normalise
from lowlight_nat.models.masking import prior_at
from lowlight_nat.models.quantizers import squared_distances
from lowlight_nat.training.losses import token_targets


def even(x, n): return x[..., :x.shape[-2]//n*n, :x.shape[-1]//n*n]


def table(r, prior):
    """Last log-distribution of every masked place (N,K): that of the last round that predicted it,
    the prior's where none did"""
    where = torch.full(r.mask.shape, -1, dtype=torch.long)
    where[r.mask] = torch.arange(len(prior))
    log_q = prior.clone()
    for places, q in r.log_q:
        log_q[places.take(where.flatten(1))[places.meant]] = q.detach()[places.meant]
    return log_q


def measure(model, a, t, rounds, output='delta'):
    "One picture, one setting: figures of the masked places, and of the picture decoded"
    codes = model.vqgan.quantizer.codes
    r = model.refine(a, rounds=rounds, output=output, keep=True)
    m = r.mask
    def e(z):
        return (z.detach() - t.z).abs().mean(1)[r.mask]
    d2 = squared_distances(t.z, codes)[m]
    log_q = table(r, prior_at(a.z_tilde, codes, 2*model.cfg.factor*a.sigma**2, m))
    truth = d2.argmin(-1)
    r.z = r.z.detach()
    r.log_q = None
    gain = (t.level/model.cfg.norm_level).view(-1, 1, 1, 1)
    vq = score_pair((model.vqgan.decode(r.z).float()*gain).clamp(0, 1), t.x_high)
    whole = score_pair((model.decode(a, r).x.float()*gain).clamp(0, 1), t.x_high)
    return dict(masked=m.float().mean().item(), cross_entropy=F.nll_loss(
        log_q, truth).item(), soft_cross_entropy=-(token_targets(d2)*log_q).sum(-1).mean().item(),
                accuracy=(log_q.argmax(-1) == truth).float().mean().item(), error_before=e(
                    a.z_tilde).mean().item(), error_after=e(
                        r.z).mean().item(), vq_psnr_gt_mean=vq['psnr_gt_mean'],
                psnr_gt_mean=whole['psnr_gt_mean'], ssim_gt_mean=whole['ssim_gt_mean'])


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--data', required=True, help='folder of a data set; its split val is used')
    p.add_argument('--model', default='small', help='bundled checkpoint, or the path of one')
    args = p.parse_args()
    model = load_model(args.model)
    rows = {}
    with torch.no_grad():
        for pair in find_pairs(args.data, 'val'):
            low, high = (even(read_image(f), model.multiple)[None] for f in (pair.low, pair.high))
            x, level = exposure_normalise(high, model.cfg.norm_level)
            t = argparse.Namespace(z=model.vqgan.encode(x).float(), level=level, x_high=high)
            a = model.align(low)
            for R in 0, 1, 2, 4, 6:
                rows.setdefault(f'delta, R={R}', []).append(measure(model, a, t, R))
            for o in OUTPUTS[1:]:
                rows.setdefault(f'{o}, R=4', []).append(measure(model, a, t, 4, o))
    mean = {k: {f: round(sum(r[f] for r in v)/len(v), 4) for f in v[0]} for k, v in rows.items()}
    out = Path(__file__).with_name('run')/'rounds.json'
    out.write_text(
        json.dumps(
            dict(
                command=f'python nbs/figures/rounds.py --data {shlex.quote(Path(args.data).name)} --model {args.model}',
                n=len(v) if (v := next(iter(rows.values()))) else 0, tau=model.cfg.tau,
                note='the level of the truth is used for all, so that only colour and detail are compared',
                versions=versions(), rows=mean), indent=1) + '\n')
    for k, v in mean.items(): print(f'{k:20}', v)


if __name__ == '__main__': main()
