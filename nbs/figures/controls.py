"""What the method's own numbers (tau, rounds, heat, mix, refine_mask) change, measured for the help
of `lowlight_enhance`: `python nbs/figures/controls.py --data DIR` writes
lowlight_nat/weights/controls.json.

Each is set to its ends, everything else at its default. db: PSNR GT-mean against the default's, the
mean over the pictures. levels: mean absolute change of a pixel, of 255. time: CPU seconds of a
picture, as a ratio to the default's that ran just before; the median over the pictures.
"""
import argparse
import hashlib
import statistics
import time
from pathlib import Path

import torch

from lowlight_nat.data.overlap import data_fingerprint
from lowlight_nat.data.pairs import data_name, find_pairs
from lowlight_nat.evaluation.fidelity import score_pair
from lowlight_nat.experiments.runs import spread_over
from lowlight_nat.inference.enhancer import DEFAULT_WEIGHTS, Enhancer
from lowlight_nat.io.images import read_image
from lowlight_nat.io.records import device_name, versions, write_json
from lowlight_nat.models.checkpoint import weights_path

OUT = Path(__file__).resolve().parents[2]/'lowlight_nat/weights/controls.json'
CASES = [('tau', 0.), ('tau', 1.), ('rounds', 0), ('rounds', 1), ('rounds', 8), ('heat', .7),
         ('mix', 0.), ('mix', 1.), ('refine_mask', 'left half')]


def setting(name, value, x):
    "Arguments of the enhancer."
    if value != 'left half': return {name: value}
    mask = torch.zeros(x.shape[1:])
    mask[:, :x.shape[2]//2] = 1
    return {name: mask}

def timed(enhance, x, **settings):
    "The result of a picture, and the CPU seconds that it took."
    start = time.process_time()
    y = enhance(x, **settings).x
    return y, time.process_time()-start

def score(y, truth): return score_pair(y, truth)['psnr_gt_mean']

def measure(enhance, pairs):
    "A row for each case: means over the pairs, and the median of time."
    rows = {case: [] for case in CASES}
    for pair in pairs:
        x, truth = read_image(pair.low), read_image(pair.high)
        for name, value in CASES:
            plain, seconds = timed(enhance, x)
            y, own = timed(enhance, x, **setting(name, value, x))
            rows[name, value].append((score(y, truth)-score(plain, truth),
                                      255*(y-plain).abs().mean().item(), own/seconds))
        print(pair.name, flush=True)
    means = []
    for (name, value), found in rows.items():
        db, levels, ratio = zip(*found)
        means.append(dict(name=name, value=value, db=round(statistics.mean(db), 3),
                          levels=round(statistics.mean(levels), 2),
                          time=round(statistics.median(ratio), 2)))
    return means

def main():
    p = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    p.add_argument('--data', required=True, help='folder of a data set of pairs')
    p.add_argument('--limit', type=int, default=8, help='validation pictures')
    p.add_argument('--out', type=Path, default=OUT, help='file for the figures')
    args = p.parse_args()
    torch.set_num_threads(1)
    pairs = spread_over(find_pairs(args.data, 'val'), args.limit)
    rows = measure(Enhancer.from_pretrained(device='cpu'), pairs)
    weights = hashlib.sha256(weights_path(DEFAULT_WEIGHTS).read_bytes()).hexdigest()
    data = dict(name=data_name(args.data), split='val', fingerprint=data_fingerprint(pairs))
    write_json(args.out, dict(
        command=f'python nbs/figures/controls.py --data {data["name"]} --limit {args.limit}',
        n=len(pairs), rows=rows, data=data, weights=dict(name=DEFAULT_WEIGHTS, sha256=weights),
        device=device_name('cpu'), versions=versions()))
    for r in rows: print(r)

if __name__ == '__main__': main()
