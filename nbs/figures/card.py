"""The model card of the bundled checkpoint: writes lowlight_nat/weights/README.md and
figures/failures.jpg. Every figure in it is read from the checkpoint's metadata, or from run/ and
val.json beside this file."""
import json
from pathlib import Path

import torch

from lowlight_nat.data.degradations import synthesize_low_light
from lowlight_nat.evaluation.fidelity import score_pair
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.io.images import read_image, write_image
from lowlight_nat.models.checkpoint import load_model, read_metadata, weights_path

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parents[1]/'samples'
CARD = HERE.parents[1]/'lowlight_nat'/'weights'/'README.md'


LOSSY = (
    'Saved with loss (WebP of quality 95, five stops down): of shadows no deeper than a level or '
    'two the format has made blocks of 0 and 1, and the model brings that step '
    'out as black blocks (helmet and chair). JPEG does the same, a lossless file of the same picture does not.'
)

def cases():
    "Name, true picture, and what the model is given"
    def whole(n):
        return read_image(next((SAMPLES/'reference').glob(f'{n}.*')))
    def ref(n):
        return whole(n)[:, :224, :288]
    def dark(x, **kw):
        return synthesize_low_light(x, generator=torch.Generator().manual_seed(0), **kw)
    coffee = ref('coffee')
    face = ref('astronaut')
    yield ('Seven stops too dark: what is left is noise and eight-bit steps, and the picture is '
           'invented from them.'), coffee, dark(
        coffee, exposure=-7.)
    red = (face*torch.tensor([1.3, 0.55, 0.3]).view(3, 1, 1)).clamp(0, 1)
    yield ('Coloured light, four stops down: it guesses a balance, and takes part of the light\'s '
           'colour away.'), red, dark(
        red, exposure=-4.)
    yield LOSSY, whole('astronaut')[:, 96:, 32:], read_image(SAMPLES/'astronaut.webp')[:, 96:, 32:]

def failures(enhance):
    "The figure: given, enhanced, truth; and the figures of each row"
    rows = []
    said = []
    for text, truth, given in cases():
        out = enhance(given).x
        s = score_pair(out[None], truth[None])
        rows.append(torch.cat([given, out, truth], -1))
        said.append(f"{text} ({s['psnr']:.1f} dB raw, {s['psnr_gt_mean']:.1f} dB GT-mean)")
    write_image(torch.cat(rows, 1), HERE/'failures.jpg', quality=82)
    return said

def verdict(systems, seeds=.15):
    "What the table says of the NATs; `seeds`: dB by which equal trainings differed in trials"
    gain = {
        k: systems[k]['psnr_gt_mean'] - systems['glare']['psnr_gt_mean']
        for k in ('latent', 'decoder', 'both')
    }
    said = ', '.join(
        f'{gain[k]:+.2f} dB with {n}' for k, n in (('latent', 'the NAT on the latent'),
                                                   ('decoder',
                                                    'the NAT on the features'), ('both', 'both')))
    small = f'less than the {seeds} dB by which seeds differ: these weights do not show a gain' if gain[
        'both'] < seeds else (f'more than the {seeds} dB by which seeds differ; but this is one '
                              'network with its parts switched off, which it was trained with half '
                              'of the time, and not networks trained without them')
    return f'GT-mean, against GLARE: **{said}**. For both that is {small}.'

def seen(v):
    n = len(v['trained_on'])
    return f'{n} of which show scenes that these weights were trained on' if n else 'of scenes that they were not trained on'

def overlap(v):
    "What the scenes that the training set also shows do to the figures"
    new = [r for r in v['rows'] if r['name'] not in v['trained_on']]
    if len(new) == len(v['rows']): return ''
    m = {
        k: sum(r[k]
               for r in new)/len(new)
        for k in ('psnr_gt_mean', 'ssim_gt_mean', 'psnr', 'ssim')
    }
    return (
        f"{v['note']} The {len(new)} others: **{m['psnr_gt_mean']:.2f} dB, SSIM {m['ssim_gt_mean']:.3f} GT-mean; "
        f"{m['psnr']:.2f} dB, SSIM {m['ssim']:.3f} raw**. ")

def table(rows):
    return '\n'.join('| ' + ' | '.join(r) + ' |'
                     for r in [rows[0], ['---']*len(rows[0]), *rows[1:]])

def card():
    meta = read_metadata(weights_path('small'))
    size = weights_path('small').stat().st_size
    about = meta.about
    model = load_model('small')
    v = json.loads((HERE/'val.json').read_text())
    systems = {
        k: json.loads((HERE/f'run/system_{k}.json').read_text())
        for k in ('glare', 'latent', 'decoder', 'both')
    }
    names = dict(glare='GLARE (both NATs off)', latent='+ NAT on the latent',
                 decoder='+ NAT on the features', both='both')
    said = failures(Enhancer.from_pretrained('small', device='cpu'))
    worst = sorted(systems['both']['rows'], key=lambda r: r['psnr_gt_mean'])
    systems_table = table([['system', 'PSNR GT-mean', 'SSIM GT-mean', 'PSNR raw', 'SSIM raw'], *[[
        names[k], *(f'{s[m]:.{d}f}' for m, d in (('psnr_gt_mean', 2), ('ssim_gt_mean', 4),
                                                 ('psnr', 2), ('ssim', 4)))
    ] for k, s in systems.items()]])
    stages = table([['part', 'steps', 'minutes on two cores'],
                    *[[o['part'], str(o['steps']), f"{o['minutes']:.0f}"] for o in about['trained']]])
    CARD.write_text(
        TEXT.format(size=size/1e6, params=sum(p.numel() for p in model.parameters())/1e6, v=v,
                    seed=about['seed'], torch=about['torch'], note=about['note'], systems=systems_table,
                    stages=stages, failures='\n'.join(
                        f'{i}. {s}' for i, s in enumerate(said, 1)), low=worst[0]['psnr_gt_mean'],
                    high=worst[-1]['psnr_gt_mean'], overlap=overlap(v), seen=seen(v),
                    verdict=verdict(systems)), encoding='utf-8')

TEXT = '''# Model card: `small.safetensors`

Made by `python nbs/figures/card.py` from the checkpoint's own metadata and from what `lowlight_evaluate` wrote; do not edit.

**What it is.** The preset `small` of LowLightNAT: {params:.1f} million parameters, {size:.1f} MB as float16. `Enhancer.from_pretrained()` loads it.

**How it was trained.** Seed {seed}, PyTorch {torch}, on a CPU. {note}

{stages}

Data: the 443 pairs of LOL-v1's training set that share no scene with the validation pictures, as they are and under other lights, and 400 photographs of the Berkeley Segmentation Data Set (Martin et al., ICCV 2001). From both, scenes were made that are dark, backlit or night, and some that are right as they are, by the formulas of the chapters on darkness and pairs. The sample pictures of this repository were not trained on.

**Data and terms.** LOL-v1 (Wei et al., *Deep Retinex Decomposition for Low-Light Enhancement*, BMVC 2018), a data set for research, and the Berkeley photographs, for research and education; no picture of either is in this package. The weights are ours, Apache-2.0. The official LOL test pictures were never read.

**What it is for.** Learning, teaching, and brightening photographs of ordinary scenes taken in too little light. Not for evidence, medicine, or any use in which an invented detail does harm: what the sensor did not record, the model makes up.

**What it reaches.** {v[n]} whole pictures of 400x600 (`lowlight_evaluate --data lol --split val`), {seen}: **{v[psnr_gt_mean]:.2f} dB, SSIM {v[ssim_gt_mean]:.3f} GT-mean; {v[psnr]:.2f} dB, SSIM {v[ssim]:.3f} raw**. GT-mean: the result is scaled to the truth's grey mean first; formula in the chapter on metrics. {overlap}From picture to picture GT-mean PSNR runs from {low:.1f} to {high:.1f} dB. LPIPS and FID: not measured, their networks were not at hand. The same weights as the talk's four systems (in the precision that `lowlight_evaluate` chooses):

{systems}

{verdict} The notebook *Lab: what does the NAT gain?* looks into why.

## Where it fails

![Three rows, each the picture given, the model's result and the truth: a cup of coffee almost black, an astronaut in red light, and her helmet, where the result has small black blocks.](../../nbs/figures/failures.jpg)

Given, enhanced, truth:

{failures}

Also: brightness is a guess (most of the distance between raw and GT-mean; override it with `exposure=`); fine texture in the darkest parts becomes smooth or grainy; lamps and other clipped places stay white; pictures of other cameras than LOL's may come out with a cast.
'''

if __name__ == '__main__':
    card()
    print(CARD.read_text())
