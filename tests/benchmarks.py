"""How long does it take here? `python tests/benchmarks.py [NAME ...]` prints seconds, the least of several runs.

Nothing here fails for a figure: seconds depend on the machine and on what else it does. Quality,
arithmetic and memory are held by the tests.
"""
import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARES = 0.05, 0.4, 0.9                          # of the places that are masked


def least(f, repeat=3):
    "Wall seconds of the fastest of several calls."
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)

def imports():
    "A new process that imports the Enhancer and ends."
    line = [sys.executable, '-c', 'import lowlight_nat.inference.enhancer']
    print(
        f'import lowlight_nat.inference.enhancer: '
        f'{least(lambda: subprocess.run(line, cwd=ROOT, check=True)):.2f} s, Python itself included'
    )

def picture():
    "The bundled model on a picture of 400x600."
    import torch

    from lowlight_nat.inference.enhancer import Enhancer
    x = torch.rand(3, 400, 600, generator=torch.Generator().manual_seed(0))*0.1
    for bf16 in False, True:
        enhance = Enhancer.from_pretrained(device='cpu', bf16=bf16)
        enhance(x)
        print(
            f"400x600 in {'bfloat16' if bf16 else 'float32'}, {torch.get_num_threads()} threads: "
            f"{least(lambda: enhance(x)):.2f} s"
        )

def masks():
    "The whole inference by the share of masked places."
    import torch

    from lowlight_nat.experiments.cost import dark_picture, interleaved_seconds, tau_for_share
    from lowlight_nat.models.checkpoint import load_model
    model = load_model('small').eval()
    x = dark_picture((192, 288))
    with torch.inference_mode():
        entropy = model(x, latent_nat=False, decoder_nat=False).entropy
        runs = {
            share: lambda share=share: model(x, tau=tau_for_share(entropy, share))
            for share in SHARES
        }
        for share, t in interleaved_seconds(runs, 3).items():
            print(f'{share:.0%} masked, 192x288: {min(t):.3f} s')

def batches():
    "Drawing batches of training crops from a folder of pairs."
    from lowlight_nat.data.loaders import LowLightDataLoaders
    if not os.environ.get('LOWLIGHT_DATA'):
        return print('batches: not measured, since LOWLIGHT_DATA is not set')
    dls = LowLightDataLoaders.from_folder(os.environ['LOWLIGHT_DATA'], device='cpu')
    dls.train.dataset.preload()
    def epoch():
        for _ in dls.train: pass
    print(f'a batch of {dls.train.bs} crops: {1e3*least(epoch)/len(dls.train):.1f} ms')

def fingerprints():
    "Looking up one picture of 400x600 among 340 fingerprints."
    import numpy as np
    import torch

    from lowlight_nat.data.overlap import fingerprint, overlaps, pack
    x = torch.rand(3, 400, 600, generator=torch.Generator().manual_seed(0))
    known = fingerprint(x, 'known')
    others = [type(known)(16, 16, np.random.default_rng(i).bytes(60), str(i)) for i in range(339)]
    table = pack([*others, known])
    print(f'one picture against 340 fingerprints: {least(lambda: overlaps([x], table)):.2f} s')

BENCHMARKS = {f.__name__: f for f in (imports, picture, masks, batches, fingerprints)}

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', metavar='NAME', help=', '.join(BENCHMARKS))
    names = p.parse_args().names or [*BENCHMARKS]
    if unknown := set(names) - set(BENCHMARKS):
        p.error(f"there is no {', '.join(unknown)}: choose from {', '.join(BENCHMARKS)}")
    for name in names: BENCHMARKS[name]()
