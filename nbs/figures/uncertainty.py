"""Measure how well each map of uncertainty finds wrong places of the aligned latent, on validation
pairs; writes run/uncertainty.json, and run/uncertainty.jpg of a picture of `samples`, which the
chapter on calibration shows."""
import argparse
import hashlib
import json
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from lowlight_nat.data.pairs import Pair, find_pairs
from lowlight_nat.experiments.calibration import maps_of, measure_uncertainty, places
from lowlight_nat.io.records import versions
from lowlight_nat.models.checkpoint import load_model, weights_path

SAMPLES = Path(__file__).resolve().parents[2]/'samples'


def draw(p, maps, path):
    "The true error and the maps of one picture, each by its ranks, so that all share one scale"
    shown = {'true error': p.error} | {
        n: maps[n]
        for n in ('entropy, one T, calibrated', 'entropy, T = 2 sigma^2',
                  'expected squared distance')
    }
    fig, axes = plt.subplots(2, 2, figsize=(7, 5.2), layout='constrained')
    for ax, (n, m) in zip(axes.flat, shown.items()):
        ax.imshow((m.argsort().argsort()/len(m)).view(*p.z.shape[2:]), vmin=0, vmax=1)
        ax.set_title(n, fontsize=9)
        ax.axis('off')
    fig.savefig(path, dpi=90, pil_kwargs=dict(quality=70))
    plt.close(fig)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument('--data', required=True, help='folder of a data set of pairs')
    ap.add_argument('--model', default='small', help='bundled checkpoint or path of one')
    ap.add_argument('--train', type=int, default=24,
                    help='training pairs to fit the temperature on')
    ap.add_argument('--seed', type=int, default=42,
                    help='of the choice of training pairs and places')
    ap.add_argument('--out', type=Path, default=Path(__file__).parent/'run'/'uncertainty.json',
                    help='file to write')
    a = ap.parse_args()
    model = load_model(a.model)
    train = find_pairs(a.data, 'train')
    val = find_pairs(a.data, 'val')
    pick = torch.randperm(len(train),
                          generator=torch.Generator().manual_seed(a.seed))[:a.train].tolist()
    r = measure_uncertainty(model, val, [train[i] for i in pick], a.seed)
    measured = {k: v for k, v in r.figures().items() if k not in ('one', 'factor')}
    res = dict(
        command=f'python nbs/figures/uncertainty.py --data {shlex.quote(Path(a.data).name)} '
                f'--model {Path(a.model).stem} --train {a.train} --seed {a.seed}',
        model=Path(a.model).stem, sha256=hashlib.sha256(weights_path(
            a.model).read_bytes()).hexdigest(), seed=a.seed, pictures=len(val),
        training_pairs=len(pick), versions=versions(), **measured)
    shown = places(model, Pair(SAMPLES/'coffee.png', SAMPLES/'reference/coffee.png', 'coffee'))
    draw(shown, maps_of(model, shown, r.one, r.factor), a.out.with_suffix('.jpg'))
    a.out.write_text(json.dumps(res, indent=1, allow_nan=False) + '\n')
    for n, s in res['maps'].items():
        print(f'{n:40}', ' '.join(f'{k} {v:.3f}' for k, v in s.items()))
    for n, c in res['calibration'].items():
        print(f'{n:40} scale {c["scale"]:.4f} ECE {c["ece"]:.3f} NLL {c["nll"]:.3f}')


if __name__ == '__main__': main()
