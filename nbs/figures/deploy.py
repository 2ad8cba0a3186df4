"""Size, speed and quality of the ways to run the network without its Python: writes run/deploy.json and run/deploy.jpg.

`python nbs/figures/deploy.py` from anywhere, with the extra `deploy` installed; some minutes on two
cores. With LOWLIGHT_DATA set it adds the scores on the val pairs.
Options: --rounds R, --size H W, --repeat N, --threads N, --val N (pairs, evenly spaced; 0: none),
--no-compile, --keep DIR (for the exported files, used again if they are there).
"""
import argparse
import os
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from lowlight_nat.data.degradations import synthesize_low_light
from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.evaluation.fidelity import psnr
from lowlight_nat.experiments.cost import dark_picture
from lowlight_nat.experiments.runs import evaluate
from lowlight_nat.export.onnx import (
    OnnxEnhancer,
    _stamp,
    compiled,
    exported_program,
    has_compiler,
    quantize_dynamic,
    to_half,
    to_onnx,
    write_onnx,
)
from lowlight_nat.export.static_graph import DenseModel
from lowlight_nat.inference.enhancer import shrink
from lowlight_nat.inference.tiling import pad_to_multiple
from lowlight_nat.io.images import read_image, write_image
from lowlight_nat.io.records import device_name, markdown_table, versions, write_json
from lowlight_nat.models.checkpoint import load_model, weights_path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 'astronaut.webp', 'camera.png', 'chelsea.jpg', 'coffee.png', 'rocket.webp'
SHOWN = 'coffee.png'

def dark_samples(pixels):
    "The samples that are bright, made small and dark."
    for i, name in enumerate(SAMPLES):
        x = shrink(read_image(ROOT/'samples'/name)[None], pixels)
        yield name, pad_to_multiple(
            synthesize_low_light(x, generator=torch.Generator().manual_seed(i)).clamp(0, 1), 8)[0]

def variants(model, folder, rounds, compile_):
    "name: (function of a batch of one to AttrDict or tuple with x first, MB on disk or None)."
    ep = exported_program(model, rounds)
    files = {}
    m = None
    for name, make in {
            'onnx float32': lambda o: o, 'onnx float16': to_half,
            'onnx int8, matrix products': quantize_dynamic,
            'onnx int8, convolutions too': lambda o: quantize_dynamic(o, True)
    }.items():
        files[name] = folder/f'{len(files)}.onnx'
        if files[name].exists(): continue   # of an earlier run, with --keep
        # as `export_onnx`, but exported once for all
        m = m or _stamp(to_onnx(ep), model, rounds, 20)
        write_onnx(make(m), files[name])
    threads = torch.get_num_threads()
    res = {'model': (lambda x: model(x, rounds=rounds).x, weights_path('small').stat().st_size/1e6)}
    dense = DenseModel(model, rounds)
    res['dense form'] = (lambda x: dense(x)[0], None)
    program = ep.module()
    res['torch.export'] = (lambda x: program(x)[0], None)
    if compile_ and has_compiler():
        fast = compiled(model, rounds)
        res['torch.compile'] = (lambda x: fast(x)[0], None)
    for name, path in files.items():
        e = OnnxEnhancer(path, threads)
        res[name] = (lambda x, e=e: e.run(x).x, path.stat().st_size/1e6)
    return res

def draw(shown, x, truth):
    """Left to right: dark, model, float16, int8, int8 with convolutions; below, ten times what each
    differs from the model."""
    outs = [o for k, o in shown.items() if k.startswith('onnx') and 'float32' not in k]
    top = torch.cat([x, truth, *outs], 3)
    low = torch.cat(
        [torch.zeros_like(x),
         torch.zeros_like(x), *[(o - truth).abs()*10 for o in outs]], 3)
    write_image(
        torch.cat([top, low], 2)[0].clamp(0, 1), ROOT/'nbs/figures/run/deploy.jpg', quality=80)

def beyond(a, b):
    # share of pixels off by more than 1e-3
    return ((a - b).abs().amax(1) > 1e-3).float().mean().item()

def timed(f, x):
    "Seconds of a call, and CPU seconds of the process."
    def run():
        t = time.perf_counter()
        c = time.process_time()
        f(x)
        return time.perf_counter() - t, time.process_time() - c
    return run

@torch.inference_mode()
def measure(rounds=4, size=(400, 600), repeat=5, val=0, compile_=True, keep=None, pixels=40_000):
    "Rows of the table, in order."
    model = load_model('small')
    rows = []
    pairs = []
    shown = {}
    pics = list(dark_samples(pixels))
    if val and os.environ.get('LOWLIGHT_DATA'):
        pairs = find_pairs(os.environ['LOWLIGHT_DATA'], 'val')
        pairs = [pairs[i*len(pairs)//min(val, len(pairs))] for i in range(min(val, len(pairs)))]
    with tempfile.TemporaryDirectory() as d:
        runs = variants(model, Path(keep or d), rounds, compile_)
        truth = {name: runs['model'][0](x) for name, x in pics}
        for name, (f, mb) in runs.items():
            if name == 'torch.compile': continue   # compiles for every size; measured at one, below
            outs = {k: f(x) for k, x in pics}
            shown[name] = outs[SHOWN]
            row = dict(
                variant=name, mb=mb, largest=max(
                    (outs[k] - truth[k]).abs().max().item() for k in truth), beyond=statistics.mean(
                        beyond(outs[k], truth[k]) for k in truth),
                psnr=None if name == 'model' else statistics.mean(
                    min(120.,
                        psnr(outs[k], truth[k]).item()) for k in truth))
            if pairs:
                s = evaluate(lambda x: f(x[None])[0], pairs)
                row |= dict(psnr_val=s.psnr, ssim_val=s.ssim)
            rows.append(row)
            print(row, flush=True)
        x = dark_picture(size)
        timers = {k: timed(f, x) for k, (f, _) in runs.items()}
        for f in timers.values(): f()   # warm
        rounds = [{k: f() for k, f in timers.items()} for _ in range(repeat)]   # interleaved
        times = {k: [r[k] for r in rounds] for k in timers}
        if 'torch.compile' in runs:
            a = runs['torch.compile'][0](x)
            b = runs['model'][0](x)
            rows.insert(
                3,
                dict(variant='torch.compile', mb=None, largest=(a - b).abs().max().item(),
                     beyond=beyond(a, b), psnr=min(120.,
                                                   psnr(a, b).item())))
    draw(shown, dict(pics)[SHOWN], truth[SHOWN])
    for r in rows:
        r['seconds'], r['seconds_cpu'] = (statistics.median(o) for o in zip(*times[r['variant']]))
    return rows, [p.name for p in pairs]

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--rounds', type=int, default=4)
    p.add_argument('--size', type=int, nargs=2, default=(400, 600))
    p.add_argument('--repeat', type=int, default=5)
    p.add_argument('--val', type=int, default=0)
    p.add_argument('--no-compile', action='store_true')
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--keep')
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    rows, pairs = measure(a.rounds, tuple(a.size), a.repeat, a.val, not a.no_compile, a.keep)
    heads = dict(variant='variant', mb='MB', psnr='PSNR against the model, samples',
                 largest='largest difference', beyond='pixels off by over 0.001', seconds='seconds',
                 seconds_cpu='CPU seconds')
    if pairs: heads |= dict(psnr_val='PSNR val', ssim_val='SSIM val')
    show = [
        r | dict(mb=None if r['mb'] is None else round(r['mb'], 2), largest=f"{r['largest']:.1e}",
                 beyond=f"{r['beyond']:.3%}") for r in rows
    ]
    load = os.getloadavg()[0] if hasattr(os, 'getloadavg') else None
    note = (
        f"{a.size[0]}x{a.size[1]}, {a.rounds} rounds, {a.threads} thread{'s'*(a.threads > 1)}, "
        f"median of {a.repeat} interleaved runs; {device_name('cpu')}"
        +
        (f', load average {load:.1f} at the end: other programs were running, so compare the rows, '
         'not the seconds with other machines'
         if load and load > a.threads + 1 else '') + '.')
    command = 'python nbs/figures/deploy.py ' + ' '.join(
        o for i, o in enumerate(sys.argv[1:], 1) if '--keep' not in (o, sys.argv[i - 1]))
    import onnxruntime
    res = dict(rows=rows, table=markdown_table(show, heads), note=note, pairs=pairs,
               command=command.strip(), load=load, date=date.today().isoformat(),
               versions=versions() | dict(onnxruntime=onnxruntime.__version__))
    write_json(Path(__file__).parent/'run/deploy.json', res)
    print(res['table'], note, sep='\n\n')

if __name__ == '__main__': main()
