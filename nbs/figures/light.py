"""What the light grid knows of pictures it was trained on, and of new scenes.

    python nbs/figures/light.py DATA

DATA is a folder of pairs that `lowlight_nat.data.pairs.find_pairs` reads. Writes run/light.json and
run/light.jpg beside this file."""
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from fastcore.script import call_parse

from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.evaluation.fidelity import grey_mean, score_pair
from lowlight_nat.inference.tiling import crop_to, pad_to_multiple
from lowlight_nat.io.images import read_image
from lowlight_nat.io.records import versions
from lowlight_nat.models.checkpoint import load_model, weights_path
from lowlight_nat.models.light import coverage, lift

RUN = Path(__file__).resolve().parent/'run'
SAMPLES = Path(__file__).resolve().parents[2]/'samples'
SHOWN = 'coffee.png', 'rocket.webp'


def at_level(x_norm, level): # (1,3,H,W), number
    return (x_norm*level/0.4).clamp(0, 1)


@torch.no_grad()
def look(model, pair):
    "Scores of the lifted picture, of the lit one, and of the whole network; level told and true"
    low = read_image(pair.low)[None]
    high = read_image(pair.high)[None]
    padded, size = pad_to_multiple(low, 8)
    light = model.light(padded)
    level = light.log_level.exp().item()
    v = lift(low, light.mean)
    pictures = dict(
        lifted=at_level(v*0.4/grey_mean(v), level),
        lit=at_level(crop_to(light.on(padded), size), level),
        network=crop_to(model(padded).x, size),
    )
    rows = {name: score_pair(x, high) for name, x in pictures.items()}
    return rows, light, grey_mean(high)


def summary(model, pairs):
    "Means over pictures, and what the level is worth"
    looks = [look(model, p) for p in pairs]
    res = {}
    for name in looks[0][0]:
        scores = [rows[name] for rows, _, _ in looks]
        res[name] = {k: round(sum(s[k] for s in scores)/len(scores), 4) for k in scores[0]}
    mu = torch.cat([light.log_level for _, light, _ in looks])
    log_std = torch.cat([light.log_std for _, light, _ in looks])
    truth = torch.cat([t for *_, t in looks])
    off = (mu - truth.log())/math.log(2)   # stops
    within = coverage(mu, log_std, truth)
    res['level'] = dict(rms=round(off.square().mean().sqrt().item(), 4),
                        bias=round(off.mean().item(), 4),
                        within_1=round(within[0], 3), within_2=round(within[1], 3))
    res['pictures'] = len(pairs)
    return res, mu.exp().tolist(), log_std.exp().tolist(), truth.tolist()


@torch.no_grad()
def draw(model, levels, path):
    "Samples with their local gain, and the levels of all pictures"
    fig, axs = plt.subplots(len(SHOWN), 4, figsize=(11, 4.2), layout='constrained')
    for ax, name in zip(axs, SHOWN):
        x = pad_to_multiple(read_image(SAMPLES/name)[None], 8)[0]
        light = model.light(x)
        lit = light.on(x)
        gain = torch.nn.functional.avg_pool2d(lit, 8)/torch.nn.functional.avg_pool2d(
            lift(x, light.mean), 8).clamp(min=0.02)
        stops = gain.mean(1)[0].clamp(min=1e-3).log2()
        level = light.log_level.exp().item()
        result = at_level(lit, level)
        for a, (y, title) in zip(ax, [(x[0], 'input'), (stops, 'gain after the lift, in stops'),
                                      (result[0], 'lit'), (model(x).x[0], 'whole network')]):
            if y.ndim == 2:
                shown = a.imshow(y, cmap='RdBu_r', vmin=-1.5, vmax=1.5)
                fig.colorbar(shown, ax=a, shrink=0.7)
            else: a.imshow(y.clamp(0, 1).permute(1, 2, 0))
            a.set_title(title, fontsize=11)
            a.axis('off')
    fig.savefig(path, dpi=90, pil_kwargs=dict(quality=85))


@call_parse
def main(
    data:str, # folder of pairs
    weights:str='small', # checkpoint
    every:int=11, # training picture that is looked at
):
    "Measure the light grid; writes run/light.json and run/light.jpg"
    model = load_model(weights)
    train, *_ = summary(model, find_pairs(data, 'train')[::every])
    val, *levels = summary(model, find_pairs(data, 'val'))
    res = dict(command=f'python nbs/figures/light.py {Path(data).name}',
               model=Path(weights_path(weights)).stem, versions=versions(), train=train, val=val,
               levels=dict(zip(('told', 'std', 'true'), levels)))
    draw(model, levels, RUN/'light.jpg')
    (RUN/'light.json').write_text(json.dumps(res, indent=1, allow_nan=False) + '\n')
