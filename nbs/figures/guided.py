"""How near is the quick way of large pictures to the full one, and what does it cost?
`python nbs/figures/guided.py --data DIR` measures on the validation pairs of a data set, then on a
picture of 24 megapixels, and writes `run/guided.json`. `--look DIR` adds a folder of photographs.

Near: PSNR of the result that was computed small and carried over against the result of the full
picture, plain, and with both blurred by 5x5 pixels, which leaves fine noise out. *carrying* takes the full
result, reduced, and carries it back; *network* is how far the small result is from that. Cost: a process of
its own on one thread makes the large picture by enlarging a sample, with noise, reads it,
enhances it and writes the result; memory is the peak of resident memory over what the process
held with the weights loaded, less the picture itself as float32.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from big_picture import make

from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.evaluation.fidelity import psnr, ssim
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.inference.guided import carry, fit_colour, reduced, window_mean
from lowlight_nat.io.files import list_images
from lowlight_nat.io.images import read_image
from lowlight_nat.io.metadata import read_picture
from lowlight_nat.io.records import versions, write_json

HERE = Path(__file__).parent
SIDES = 1/2, 2/3
SIZE = 4000, 6000

def results(enhance, x):
    "The quick results of a picture, by the way in which the small one is carried."
    found = {}
    def carried(x, u, fields):
        size = x.shape[-2:]
        v = fields[0][:,:,:u.shape[-2],:u.shape[-1]]
        def enlarge(v): return F.interpolate(v, size, mode='bilinear')
        found.update(
            plain=enlarge(v), ratio=x*enlarge(v/u.clamp(min=1e-3)),
            guided=carry(x[0], fit_colour(u[0], v[0]))[None], network=v)
        return [found['guided'].clone(), enlarge(fields[1])[...,::4,::4]]
    enhance._carried = carried
    gain = enhance(x, fast=True).gain
    return {k: (gain*y[0]).clamp(0, 1) for k, y in found.items()}

def some(paths, n):
    "n of them, evenly spread; None: all."
    return paths if n is None or n >= len(paths) else [paths[i*len(paths)//n] for i in range(n)]

def blurred(x): return window_mean(x, 2)

def near(paths, model):
    "Means over pictures, a row for each size of the copy and way to carry."
    found = {}
    for path in paths:
        x = read_image(path)
        want = Enhancer(model, 'cpu')(x, fast=False).x
        for side in SIDES:
            enhance = Enhancer(model, 'cpu', reduced=round(side**2*x[0].numel()))
            ways = results(enhance, x)
            network = ways.pop('network')
            size = network.shape[-2:]
            small = reduced(want[None], size)[0]            # what the copy's result should be
            ways['carrying'] = carry(x, fit_colour(reduced(x[None], size)[0], small)).clamp(0, 1)
            for how, y in ways.items():
                found.setdefault((round(side, 2), how), []).append(dict(
                    psnr=psnr(y, want).item(), blurred=psnr(blurred(y), blurred(want)).item(),
                    ssim=ssim(y, want).item() if how == 'guided' else None))
            found.setdefault((round(side, 2), 'network'), []).append(
                dict(psnr=psnr(network, small).item()))
        print(path.name, *[f'{k}: {v[-1]["psnr"]:.1f}' for k, v in found.items()], flush=True)
    rows = []
    for (side, how), each in found.items():
        means = {k: sum(o[k] for o in each)/len(each) for k, v in each[0].items() if v is not None}
        rows.append(dict(side=side, how=how, n=len(each), **means,
                         least=min(o['psnr'] for o in each)))
    return rows

def resident(name='VmRSS'):
    "Memory of this process, in GB: now, or its peak, VmHWM (ru_maxrss would count the parent's, too)."
    return next(int(o.split()[1])*1024 for o in open('/proc/self/status')
                if o.startswith(name))/1e9

def cost(path):
    "In this process: seconds of the processor, and the peak of memory."
    torch.set_num_threads(1)
    enhance = Enhancer.from_pretrained(device='cpu', bf16=False)
    enhance(torch.rand(3, 64, 64)*.1)                       # what is loaded at first use
    before = resident()
    t0 = time.process_time()
    p = read_picture(path)
    picture = p.x.numel()*4/1e9
    t1 = time.process_time()
    result = enhance(path)
    t2 = time.process_time()
    del p
    result.save(Path(path).with_name('out.jpg'))
    t3 = time.process_time()
    peak = resident('VmHWM')
    return dict(size=list(result.x.shape[-2:]), note=result.notes, read=t1-t0, enhance=t2-t1,
                save=t3-t2, interpreter_gb=before, picture_gb=picture, peak_gb=peak,
                over_gb=peak-before-picture)

def measured_apart(size):
    "What `cost` gives, in a process of its own."
    with tempfile.TemporaryDirectory() as d:
        path = Path(d)/'large.jpg'
        make(path, *size)
        run = subprocess.run([sys.executable, __file__, '--cost', path], check=True,
                             capture_output=True, text=True)
    return json.loads(run.stdout.splitlines()[-1])

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--data', help='folder of a data set of pairs')
    p.add_argument('--look', help='folder of photographs')
    p.add_argument('--size', type=int, nargs=2, default=SIZE, help='of the large picture')
    p.add_argument('--limit', type=int, help='pictures of each folder, evenly spread')
    p.add_argument('--limit-look', type=int, help='of the photographs alone')
    p.add_argument('--cost', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.cost: return print(json.dumps(cost(a.cost)))
    torch.set_num_threads(1)
    large = measured_apart(a.size)
    print(large, flush=True)
    model = Enhancer.from_pretrained(device='cpu').model
    res = dict(large=large, versions=versions(), command='python nbs/figures/guided.py')
    if a.data:
        lows = [o.low for o in find_pairs(a.data, 'val')]
        res['val'] = near(some(lows, a.limit), model)
    if a.look: res['look'] = near(some(list_images(a.look), a.limit_look or a.limit), model)
    write_json(HERE/'run/guided.json', res)


if __name__ == '__main__': main()
