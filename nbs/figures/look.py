"""Dark, backlit, night and already bright photographs without a truth, enhanced by the bundled
checkpoint: what opens, what stays black, what turns white. Writes run/look.json; the pictures are
others' and stay where they are, but `--sheet FILE` draws them beside their results:
`python nbs/figures/look.py DIR`"""
import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from lowlight_nat.evaluation.fidelity import grey_mean, ssim
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.io.images import read_image, write_image
from lowlight_nat.io.records import versions
from lowlight_nat.models.checkpoint import weights_path

HERE = Path(__file__).resolve().parent
GREY = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)


def grey(x): return (x*GREY).sum(0)

def quantile(x, q): return grey(x).flatten().quantile(q).item()

def white(x): return (x.amin(0) > 0.98).float().mean().item()

def texture(x, where):
    "Root mean square of what a mean over 3x3 pixels takes away, at some places"
    g = grey(x)[None, None]
    fine = (g - F.avg_pool2d(F.pad(g, [1]*4, mode='reflect'), 3, 1))[0, 0]
    return fine[where].square().mean().sqrt().item()

def look(name, x, out):
    "The figures of one picture"
    near_black = grey(x) <= quantile(x, 0.1)
    plain = x*(grey_mean(out)/grey_mean(x)).item()
    row = dict(
        name=name,
        mean_in=grey_mean(x).item(), mean=grey_mean(out).item(),
        p5_in=quantile(x, 0.05), p5=quantile(out, 0.05),
        p25_in=quantile(x, 0.25), p25=quantile(out, 0.25),
        white_in=white(x), white=white(out),
        ssim=ssim(out[None], x[None]).item(),
    
        texture=texture(out, near_black), texture_gain=texture(plain, near_black),
    )
    return {k: v if isinstance(v, str) else round(v, 4) for k, v in row.items()}

def bars(rows):
    "What is asked of some of them: text, value, reached"
    by = {r['name']: r for r in rows}
    def bar(name, text, value, reached):
        if name not in by: return
        found.append(dict(picture=name, asked=text, value=round(value, 4),
                          reached='yes' if reached else 'no'))
    found = []
    for name, least in ('npe89', 0.22), ('church', 0.17):
        r = by.get(name)
        if not r: continue
        bar(name, f'25th percentile at least {least}', r['p25'], r['p25'] >= least)
        more = r['white'] - r['white_in']
        bar(name, 'white pixels at most 1% more', more, more <= 0.01)
    if r := by.get('bright_flowers'):
        off = abs(r['mean'] - r['mean_in'])
        bar(r['name'], 'mean within 0.02 of the input', off, off <= 0.02)
        bar(r['name'], 'SSIM to the input at least 0.95', r['ssim'], r['ssim'] >= 0.95)
    for name in 'moonwalk', 'obelisk':
        if r := by.get(name):
            bar(name, '5th percentile under 0.03', r['p5'], r['p5'] < 0.03)
            # one step of 8 bits is not a texture
            bar(name, 'texture of the darkest tenth at most that of a gain, or half a step',
                r['texture'], r['texture'] <= max(r['texture_gain'], 0.5/255))
    for name in 'moped', 'lime9':
        if r := by.get(name):
            more = r['white'] - r['white_in']
            bar(name, 'white pixels at most 1% more', more, more <= 0.01)
    return found

def sheet(pairs, path, height=240):
    "Inputs and results in rows of three pairs"
    def small(x): return F.interpolate(x[None], (height, round(height*x.shape[2]/x.shape[1])), mode='area')[0]
    tiles = [torch.cat([small(x), small(y)], 2) for x, y in pairs]
    rows = [tiles[i:i + 3] for i in range(0, len(tiles), 3)]
    width = max(sum(t.shape[2] for t in row) for row in rows)
    rows = [torch.cat(row, 2) for row in rows]
    write_image(torch.cat([F.pad(r, [0, width - r.shape[2]]) for r in rows], 1), path, quality=88)

def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument('folder', type=Path)
    a.add_argument('--weights', default='small')
    a.add_argument('--sheet', type=Path)
    a.add_argument('--out', type=Path, default=HERE/'run'/'look.json')
    args = a.parse_args()
    enhance = Enhancer.from_pretrained(args.weights, device='cpu')
    rows = []
    pairs = []
    for path in sorted(args.folder.iterdir()):
        x = read_image(path)
        out = enhance(x).x
        rows.append(look(path.stem, x, out))
        pairs.append((x, out))
        print(rows[-1], flush=True)
    found = bars(rows)
    for b in found:
        print(f"{b['picture']:16s} {b['asked']:55s} {b['value']:.4f} "
              f"{b['reached']}")
    if args.sheet: sheet(pairs, args.sheet)
    res = dict(command='python nbs/figures/look.py DIR', model=weights_path(args.weights).name,
               versions=versions(), bars=found, rows=rows)
    args.out.write_text(json.dumps(res, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
