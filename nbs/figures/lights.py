"""What sparing the lights does, for several weights: `python nbs/figures/lights.py DATA` writes
run/lights.json beside this file."""
import argparse
import json
import statistics
from pathlib import Path

import torch

from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.evaluation.fidelity import gt_mean, psnr
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.io.metadata import read_picture
from lowlight_nat.models.light import spare_lights

WEIGHTS = 0, 100, 300, 1000, 3000, 10000
PATH = Path(__file__).parent/'run'/'lights.json'

@torch.inference_mode()
def scores(model, low, high):
    "Of one pair (1,3,H,W), for each weight: PSNR GT-mean, PSNR raw, log levels moved"
    out = model(low)
    rows = []
    for w in WEIGHTS:
        l = spare_lights(out.x_norm, out.level.log(), out.level_std.log(), model.cfg.norm_level, w)
        x = (out.x_norm*(l.exp()/model.cfg.norm_level).view(-1, 1, 1, 1)).clamp(0, 1)
        rows.append((psnr(gt_mean(x, high),
                          high).item(), psnr(x, high).item(), (out.level.log() - l).item()))
    return rows

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('data', help='folder with train and val')
    p.add_argument('--every', type=int, default=4, help='training piece that is measured')
    a = p.parse_args(argv)
    model = Enhancer.from_pretrained().model
    rows = [dict(weight=w) for w in WEIGHTS]
    n = {}
    for split, pairs in ('val', find_pairs(a.data,
                                           'val')), ('train', find_pairs(a.data,
                                                                         'train')[::a.every]):
        n[split] = len(pairs)
        each = [
            scores(model, *(read_picture(f).x[None]
                            for f in (pair.low, pair.high)))
            for pair in pairs
        ]
        for row, r in zip(rows, zip(*each)):
            for name, v in zip(('GT-mean PSNR', 'raw PSNR', 'moved'), zip(*r)):
                row[f'{split} {name}'] = statistics.fmean(v)
            print(split, row, flush=True)
    PATH.write_text(
        json.dumps(
            dict(command=f'python nbs/figures/lights.py {Path(a.data).name}', **n, rows=rows),
            indent=1) + '\n')

if __name__ == '__main__': main()
