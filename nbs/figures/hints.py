"""What are hints and variations worth? `python nbs/figures/hints.py --data DIR` measures on the pairs
of a folder, `--limit N` of them, and writes `run/hints.json`.

A simulated person takes patches of 32x32 pixels from the truth, and in one row says "right" of a
region. *Change* and *direct* are the two ways from the corrected region to tokens; *level* hears
what the patches say of the level, and nothing else. Then four variations: how far apart, and how
good.
"""
import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.evaluation.fidelity import grey_mean, psnr, ssim
from lowlight_nat.inference.hints import Hint, Listener, hints_from_truth, place_hints
from lowlight_nat.inference.tiling import crop_to
from lowlight_nat.io.images import read_image
from lowlight_nat.io.records import versions, write_json
from lowlight_nat.models.checkpoint import load_model

HERE = Path(__file__).parent
PATCHES = 1, 16


class Direct(Listener):
    "Tokens of the corrected picture itself, instead of what it changes."
    def tokens_of(self, asked, seen): return self.quantizer.nearest(self.model.vqgan.encode(asked))

def picture(listener, told):
    "The result of what is known (1,3,H,W)."
    seen = listener.look(told)
    return (seen.x_norm*listener.gain(seen, told).view(-1, 1, 1, 1)).clamp(0, 1)

def gt_mean(x, truth): return (x*(grey_mean(truth)/grey_mean(x)).view(-1, 1, 1, 1)).clamp(0, 1)

def scores(x, truth):
    same = gt_mean(x, truth)
    return dict(psnr=psnr(x, truth).item(), ssim=ssim(x, truth).item(),
                psnr_gt_mean=psnr(same, truth).item(), ssim_gt_mean=ssim(same, truth).item())

def right_in_the_middle(size):
    "A region that is said to be right."
    middle = [n//2//4*4 for n in size]
    return Hint('right', (middle[1]-48, middle[0]-48, middle[1]+48, middle[0]+48))

def measure(model, low, high, seed, variations=4):
    "Rows of one pair: name, scores, and by how many levels of 255 the result moved."
    H, W = [n//8*8 for n in low.shape[-2:]]
    low = crop_to(low, (H, W))
    high = crop_to(high, (H, W))
    x = low[None]
    truth = high[None]
    a = Listener(model, x, grey_mean(x))
    b = Direct.__new__(Direct)
    vars(b).update(vars(a))
    start = picture(a, a.nothing)
    rows = []
    def row(name, y):
        moved = 255*(y - start).abs().mean().item()
        rows.append(dict(name=name, **scores(y, truth), moved=moved))
        print(' ', ', '.join(f'{k} {v:.3f}' if k != 'name' else v for k, v in rows[-1].items()),
              flush=True)
    row('no hint', start)
    agreed = place_hints([right_in_the_middle((H, W))], (H, W))
    for name, listener in dict(change=a, direct=b).items():
        row(f'right, {name}', picture(listener, listener.hear(agreed)))
    for n in PATCHES:
        placed = place_hints(hints_from_truth(high, n, seed), (H, W))
        told = a.hear(placed)
        row(f'{n} patches, level', picture(a, replace(told, where=told.where & False)))
        row(f'{n} patches, change', picture(a, told))
        row(f'{n} patches, direct', picture(b, b.hear(placed)))
    colours = []
    colours_only = []
    shift = torch.linspace(-0.3, 0.3, variations)     # as `Enhancer.variations` has it
    for told, d in zip(a.draw_several(variations, seed=100*seed), shift):
        colours_only.append(255*picture(a, told).mean((2, 3)))
        told = replace(told, log_level=told.log_level + d*told.log_std.exp())
        y = picture(a, told)
        row('variation', y)
        colours.append(255*y.mean((2, 3)))
    for name, found in dict(apart=colours, apart_at_one_level=colours_only).items():
        apart = torch.cdist(torch.cat(found), torch.cat(found), p=float('inf'))
        pairs = apart[~torch.eye(variations, dtype=torch.bool)]
        rows.append(dict(name=name, least=pairs.min().item(), mean=pairs.mean().item()))
        print(' ', rows[-1], flush=True)
    return rows

def table(found):
    "Means over the pictures, as text."
    names = list(dict.fromkeys(r['name'] for r in found if 'psnr' in r))
    def mean(name, key):
        v = [r[key] for r in found if r['name'] == name]
        return sum(v)/len(v)
    lines = [f"{'':22}  PSNR  SSIM   GT-mean PSNR  SSIM   moved, levels"]
    for name in names:
        p, s, pg, sg, m = (mean(name, k) for k in ('psnr', 'ssim', 'psnr_gt_mean', 'ssim_gt_mean',
                                                   'moved'))
        lines.append(f'{name:22} {p:5.2f}  {s:.3f}        {pg:5.2f}  {sg:.3f}  {m:5.2f}')
    for name, what in dict(apart='variations', apart_at_one_level='at one level').items():
        lines.append(f'{what}: two of four differ in mean colour by {mean(name, "mean"):.1f} levels, '
                     f'the closest two by {mean(name, "least"):.1f}')
    return '\n'.join(lines)

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    p.add_argument('--data', required=True, help='folder of pairs')
    p.add_argument('--limit', type=int, help='pairs; all by default')
    p.add_argument('--weights', default='small')
    p.add_argument('--out', default=HERE/'run/hints.json', type=Path)
    o = p.parse_args(argv)
    torch.set_num_threads(1)
    model = load_model(o.weights).eval()
    pairs = find_pairs(o.data, split='val')[:o.limit]
    found = []
    for i, pair in enumerate(pairs):
        print(pair.low.name, flush=True)
        with torch.inference_mode():
            found += measure(model, read_image(pair.low), read_image(pair.high), i)
    weights = Path(o.weights).stem
    note = f'{len(pairs)} pairs of val, weights {weights}, one seed a pair'
    said = table(found)
    print(said)
    write_json(o.out, dict(rows=found, table=said, note=note, versions=versions()))

if __name__ == '__main__': sys.exit(main())
