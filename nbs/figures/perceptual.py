"""A perceptual distance of the systems of the ablation, and of the bundled weights: `python
nbs/figures/perceptual.py DATA RUNS`, where RUNS is the
folder that `lowlight_experiment ablation` wrote into; writes run/perceptual.json beside this file.

The distance is the mean difference of features of the bundled codebook's frozen encoder, at equal
grey mean. It is not LPIPS, whose network was not at hand.
"""
import argparse
import json
import statistics
from pathlib import Path

import torch

from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.evaluation.fidelity import gt_mean
from lowlight_nat.experiments.tables import SYSTEM_ROWS
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.io.metadata import read_picture
from lowlight_nat.models.checkpoint import load_model
from lowlight_nat.training.losses import perceptual_loss

PATH = Path(__file__).parent/'run'/'perceptual.json'

@torch.inference_mode()
def distance(judge, pairs, path, latent, decoder):
    "Mean over the pairs, for one checkpoint with its NATs on or off"
    e = Enhancer.from_pretrained(path, 'cpu')
    return statistics.fmean(
        judge(gt_mean(e(low, latent_nat=latent, decoder_nat=decoder).x, high[0])[None],
              high).item() for low, high in pairs)

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', help='folder of pairs')
    p.add_argument('runs', type=Path, help='out of lowlight_experiment ablation')
    p.add_argument('--seeds', type=int, nargs='*', default=[42, 43, 44])
    a = p.parse_args(argv)
    pairs = [(f.low, read_picture(f.high).x[None]) for f in find_pairs(a.data, 'val')]
    judge = perceptual_loss('encoder', load_model('small').vqgan.encoder)
    rows = []
    folder = next((a.runs/'trained').glob('tiny *'))
    for name, on in SYSTEM_ROWS.items():
        each = [
            distance(judge, pairs, folder/f'{name}, seed {s}'/'decoder.safetensors', *on)
            for s in a.seeds
        ]
        rows.append(
            dict(system=name, ablation=statistics.fmean(each), low=min(each), high=max(each),
                 seeds=len(each), bundled=distance(judge, pairs, 'small', *on)))
        print(rows[-1], flush=True)
    PATH.write_text(
        json.dumps(
            dict(command=f'python nbs/figures/perceptual.py {Path(a.data).name} {a.runs}', val=len(
                pairs), distance=judge.name, rows=rows), indent=1) + '\n')

if __name__ == '__main__': main()
