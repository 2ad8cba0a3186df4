"""Memory and time of a photograph of 24 megapixels, enhanced in tiles on two threads of a CPU:
`python nbs/figures/big_picture.py`.

The photograph is a sample enlarged to 6000x4000, with the noise of a sensor, as JPEG. A process of
its own loads it; from then on its peak of resident
memory is counted (Linux), through enhancing and saving. Takes some minutes. Writes `run/big_picture.json`.
Options: --size H W and --threads N; with another size than that, `run/big_picture_MEGAPIXELS.json`
is written. --tiles N runs the model on the first N tiles
only and repeats what it gave for the rest: the memory is the same, hours become minutes, and no time is reported.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SIZE = 4000, 6000

def status(key):
    return next(int(o.split()[1])*1024 for o in open('/proc/self/status') if o.startswith(key))/1e9

def make(path, *size):
    "Write the photograph."
    import torch
    import torch.nn.functional as F

    from lowlight_nat.io.images import read_image, write_image
    torch.manual_seed(0)
    x = F.interpolate(
        read_image(HERE.parents[1]/'samples/rocket.webp')[None], size, mode='bicubic')[0]
    write_image((x + torch.randn(1, *size)*.01).clamp(0, 1), path, 92)

def only(enhance, n):
    "The model is run on n tiles; each further one of the same size gets the last answer."
    once = enhance._once
    known = {}
    def f(x, *args):
        runs = known.get(x.shape, (0,))[0]
        if runs < n: known[x.shape] = runs + 1, once(x, *args)
        return known[x.shape][1]
    enhance._once = f

def measure(path, threads, tiles):
    "In this process: memory with the picture loaded, its peak from then on, and seconds."
    import torch

    from lowlight_nat.inference.enhancer import Enhancer
    from lowlight_nat.io.metadata import read_picture
    torch.set_num_threads(threads)
    enhance = Enhancer.from_pretrained(device='cpu')
    enhance(torch.rand(3, 64, 64)*.1)                        # what is loaded at first use
    if tiles: only(enhance, tiles)
    p = read_picture(path)
    loaded = status('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')            # the peak is counted from here
    t = time.perf_counter()
    res = enhance(p.x, fast=False)
    enhanced = time.perf_counter()-t
    peak = status('VmHWM')
    res.save(Path(path).with_name('out.jpg'))
    return dict(
        picture_gb=round(p.x.numel()*4/1e9, 3), loaded_gb=round(loaded, 3), peak_enhancing_gb=round(
            peak, 3), peak_gb=round(status('VmHWM'),
                                    3), over_loaded_gb=round(status('VmHWM') - loaded, 3),
        **({} if tiles else dict(seconds=round(enhanced),
                                 seconds_with_saving=round(time.perf_counter() - t))),
        precision='bfloat16' if enhance.bf16 else 'float32', tile=enhance.tile,
        overlap=enhance.overlap)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--size', type=int, nargs=2, default=SIZE)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--tiles', type=int, default=0)
    a = p.parse_args()
    size = tuple(a.size)
    with tempfile.TemporaryDirectory() as tmp:
        path = str(Path(tmp)/'big.jpg')
        env = dict(os.environ, OMP_NUM_THREADS=str(a.threads))
        def run(*args):
            return subprocess.run([sys.executable, __file__, *map(str, args)], env=env,
                                                   stdout=subprocess.PIPE, text=True, check=True).stdout
        run('make', path, *size)
        out = run('measure', path, a.threads, a.tiles)
    try:
        cpu = next(
            l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration): cpu = 'unknown'
    res = dict(command=' '.join(['python nbs/figures/big_picture.py', *sys.argv[1:]]),
               size=list(size), threads=a.threads, cpu=cpu, load=round(os.getloadavg()[0], 1),
               **json.loads(out.splitlines()[-1]))
    name = 'big_picture' if size == SIZE else f'big_picture_{size[0]*size[1]/1e6:.0f}'
    (HERE/f'run/{name}.json').write_text(json.dumps(res, indent=1) + '\n')
    print(json.dumps(res, indent=1))

if __name__ == '__main__':
    if sys.argv[1:2] == ['make']: make(sys.argv[2], *map(int, sys.argv[3:]))
    elif sys.argv[1:2] == ['measure']:
        print(json.dumps(measure(sys.argv[2], *map(int, sys.argv[3:]))))
    else: main()
