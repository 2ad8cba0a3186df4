"""Do batches pay? Seconds of the processor for a picture, alone and in a batch of 8, for some
sizes: `python nbs/figures/batches.py`, about two minutes. Writes `run/batches.json`."""
import os
import time
from pathlib import Path

import torch

from lowlight_nat.inference.enhancer import Enhancer, check_settings
from lowlight_nat.io.images import read_image
from lowlight_nat.io.metadata import read_picture
from lowlight_nat.io.records import device_name, versions, write_json

HERE = Path(__file__).parent
SIZES = ((64, 64), (96, 128), (192, 256), (288, 344))
B = 8

def main():
    torch.set_num_threads(1)
    enhance = Enhancer.from_pretrained(device='cpu')
    x = read_image(HERE.parents[1]/'samples/rocket.webp')
    rows = []
    for size in SIZES:
        small = torch.nn.functional.interpolate(x[None], size, mode='area')[0]
        ps = [read_picture(small*(1 - i/20)) for i in range(B)]
        o = check_settings()
        def alone(): return [enhance._alone(p, o) for p in ps]
        def together(): return enhance._together(ps, o)
        seconds = {alone: [], together: []}
        results = {}
        for _ in range(3):                     # in turns, so that another program's load meets both
            for f in seconds:
                t = time.process_time()
                results[f] = f()
                seconds[f].append((time.process_time() - t)/B)
        a, b = (min(o) for o in seconds.values())
        worst = max((p.x - q.x).abs().max().item() for p, q in zip(*results.values()))
        rows.append({
            'size': f'{size[0]}x{size[1]}', 'alone, s': round(a, 3),
            f'batch of {B}, s': round(b, 3), 'gain': round(a/b, 2), 'largest difference': worst
        })
        print(rows[-1], flush=True)
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    note = f"{device_name('cpu')}, one thread, {'bfloat16' if enhance.bf16 else 'float32'}, best of 3" + (
        f'; load average {load:.1f}: other programs were running' if load and load > 2 else '')
    write_json(
        HERE/'run/batches.json',
        dict(rows=rows, note=note, command='python nbs/figures/batches.py', versions=versions()))

if __name__ == '__main__': main()
