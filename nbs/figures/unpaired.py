"""Fine-tune the bundled model on dark pictures without partners and measure what that costs on
validation pairs; writes run/unpaired.json, which the chapter on unpaired training shows. Needs
LOWLIGHT_DATA."""
import argparse
import json
import os
import time
from pathlib import Path

import torch

from lowlight_nat.data.loaders import LowLightDataLoaders, SyntheticDataset
from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.io.records import versions
from lowlight_nat.models.checkpoint import load_model
from lowlight_nat.training.pipeline import validate_pairs
from lowlight_nat.training.unpaired import unpaired_dls, unpaired_learner

HERE = Path(__file__).resolve().parent
ZERO = 'exposure', 'colour', 'spatial' # terms that look at the result alone
RECIPE = {}                              # what `unpaired_learner` does by itself
FASTER = dict(lr=slice(9e-5, 9e-2))      # 30 times the rate
RECKLESS = dict(parts=('fusion.', 'light.level.'), weights=dict(anchor=0., prior=0., level=0.),
                lr=3e-3)


def darkened(pairs, n, seed):
    "Dark pictures made of bright ones, whose bright originals are not kept"
    ds = SyntheticDataset([p.high for p in pairs[::max(1, len(pairs)//n)][:n]], size=256, seed=seed)
    return [ds.draw(k)[0] for k in range(len(ds))]


def tune(name, images, steps, checkpoint, **kwargs):
    "A fine-tuned model, and what its terms were before and after"
    dls = unpaired_dls(images, size=128, bs=2, items_per_epoch=2*steps, val_size=128, device='cpu')
    learn = unpaired_learner(dls, load_model(checkpoint), **kwargs)
    with learn.no_bar(), learn.no_logging():
        before = learn.validate()
        learn.fit(1)
        after = learn.validate()
    def zero(v):
        return sum(float(x) for n, x in zip(learn.model.terms, v[1:]) if n in ZERO)
    print(name, [round(float(v), 4) for v in before], '->', [round(float(v), 4) for v in after],
          flush=True)
    return learn.model.model.eval(), dict(zero_before=zero(before), zero_after=zero(after),
                                          loss_before=float(before[0]), loss_after=float(after[0]))


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument('--steps', type=int, default=40)
    a.add_argument('--seed', type=int, default=42)
    a.add_argument('--weights', default='small')
    a.add_argument('--out', type=Path, default=HERE/'run'/'unpaired.json')
    args = a.parse_args()
    data = os.environ.get('LOWLIGHT_DATA')
    start = time.perf_counter()
    if not data:
        raise SystemExit(
            'LOWLIGHT_DATA is not set: it names the folder with train/{low,high} and val/{low,high}'
        )
    val = LowLightDataLoaders.from_pairs(
        find_pairs(data, 'val')[:1], find_pairs(data, 'val'), size=64, device='cpu').valid
    dark = darkened(find_pairs(data, 'train'), 24, args.seed)
    def row(name, m, loss=None):
        return dict(
            run=name, **{k: v
                         for k, v in validate_pairs(m, val).items()
                         if k != 'n'}, **{k: round(v, 4)
                                          for k, v in (loss or {}).items()})
    torch.manual_seed(args.seed)
    rows = [row('start', load_model(args.weights))]
    print(rows[-1], flush=True)
    for name, images, kwargs in ('samples', HERE.parents[1]/'samples',
                                 RECIPE), ('darkened', dark, RECIPE), ('faster', dark,
                                                                       FASTER), ('reckless', dark,
                                                                                 RECKLESS):
        torch.manual_seed(args.seed)
        rows.append(row(name, *tune(name, images, args.steps, args.weights, **kwargs)))
        print(rows[-1], flush=True)
    res = dict(
        command=f'python nbs/figures/unpaired.py --steps {args.steps} --seed {args.seed} --weights '
                f'{Path(args.weights).name}',
        steps=args.steps, seed=args.seed, val=len(find_pairs(data, 'val')), rows=rows,
        versions=versions(), seconds=round(time.perf_counter() - start))
    args.out.write_text(json.dumps(res, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
