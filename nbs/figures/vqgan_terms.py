"""Train a toy VQGAN with all terms of its loss and without each of them: run/vqgan_terms.json and .jpg.

    python nbs/figures/vqgan_terms.py [--steps 1000] [--seed 1] [--only NAME ...]

`--only` trains these rows and keeps what the files say of the others. It needs the pictures in
`samples/reference` alone. About three minutes a row on one core.
"""
import argparse
import json
import platform
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from lowlight_nat import __version__
from lowlight_nat.evaluation.fidelity import psnr
from lowlight_nat.io.images import read_image
from lowlight_nat.models.checkpoint import load_model, weights_path
from lowlight_nat.models.quantizers import usage_stats
from lowlight_nat.models.vqgan import VQGAN, PatchDiscriminator
from lowlight_nat.training.losses import (
    adaptive_weight,
    hinge_d_loss,
    hinge_g_loss,
    l1_loss,
    perceptual_loss,
    ssim_loss,
)

TERMS = 'L1', 'structure', 'perceptual', 'commitment', 'critic'
WEIGHTS = dict(structure=0.2, perceptual=0.1, critic=0.1)
ROWS = {'all terms': TERMS, **{f'without {o}': tuple(t for t in TERMS if t != o) for o in TERMS},
        'L1 and commitment only': ('L1', 'commitment'), 'critic 8 times as strong': TERMS}
STRONG = {'critic 8 times as strong': 0.8}   # weight of the critic, where it is another
SIZE = dict(channels=(24, 48, 64), dim=4, n_codes=128, blocks=1)   # f = 8
START = 0.25   # quantise from this share of the steps on
CRITIC = 0.5   # and from this one on, ask the critic
DETAIL = dict(name='chelsea.jpg', top=60, left=110, side=128)


def crops(pictures, n, generator, size=64):
    "Random pieces of the pictures, (n,3,size,size)"
    out = []
    for i in range(n):
        p = pictures[i % len(pictures)]
        top = int(torch.randint(p.shape[1] - size + 1, (1,), generator=generator))
        left = int(torch.randint(p.shape[2] - size + 1, (1,), generator=generator))
        out.append(p[:, top:top + size, left:left + size])
    return torch.stack(out)

def reconstruction(terms, out, x, perceptual):
    "The terms that compare two pictures, weighted"
    total = x.new_zeros(())
    rec = out.x_rec.clamp(0, 1)
    if 'L1' in terms: total = total + l1_loss(out.x_rec, x)
    if 'structure' in terms: total = total + WEIGHTS['structure']*ssim_loss(out.x_rec, x)
    if 'perceptual' in terms: total = total + WEIGHTS['perceptual']*perceptual(rec, x)
    return total

def train(name, pictures, perceptual, steps, seed):
    "One VQGAN with the terms of this row"
    terms = ROWS[name]
    w = STRONG.get(name, WEIGHTS['critic'])
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    vqgan = VQGAN(**SIZE, beta=0.25 if 'commitment' in terms else 0.)
    critic = PatchDiscriminator(16)
    opt = torch.optim.AdamW(vqgan.parameters(), lr=1e-3)
    opt_critic = torch.optim.AdamW(critic.parameters(), lr=2e-4, betas=(0.5, 0.9))
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    last = vqgan.decoder.conv_out[1].weight
    for step in range(steps):
        x = crops(pictures, 8, generator)
        if step == int(START*steps): vqgan.start(crops(pictures, 32, generator), generator)
        out = vqgan(x)
        rec = reconstruction(terms, out, x, perceptual)
        loss = rec + out.commit
        asked = 'critic' in terms and step >= CRITIC*steps
        if asked:
            g = hinge_g_loss(critic(out.x_rec))
            loss = loss + w*adaptive_weight(rec, g, last)*g
        loss.backward()
        opt.step()
        slower.step()
        opt.zero_grad()
        if asked:
            opt_critic.zero_grad()   # what the decoder's loss left there
            hinge_d_loss(critic(x), critic(out.x_rec.detach())).backward()
            opt_critic.step()
        if step > START*steps and step % 20 == 0:
            vqgan.quantizer.revive(out.z.detach(), generator=generator)
    return vqgan.eval()

def fineness(x):
    "Standard deviation of what a 5x5 mean takes away, of the grey picture"
    grey = x.mean(0, keepdim=True)[None]
    return (grey - F.avg_pool2d(grey, 5, 1, 2, count_include_pad=False)).std().item()

@torch.no_grad()
def measure(vqgan, pictures, detail):
    "Figures over the pictures; the detail, decoded"
    tokens = []
    psnrs = []
    shares = []
    spreads = []
    for p in pictures:
        out = vqgan(p[None])
        rec = out.x_rec[0].clamp(0, 1)
        psnrs.append(psnr(rec[None], p[None]).item())
        shares.append(fineness(rec)/fineness(p))
        tokens.append(out.tokens.flatten())
        spreads.append(out.z.std().item())
    use = usage_stats(torch.cat(tokens), vqgan.quantizer.n_codes)
    def mean(v): return sum(v)/len(v)
    row = dict(psnr=round(mean(psnrs), 2), fineness=round(mean(shares), 3), used=round(use.used, 3),
               perplexity=round(use.perplexity, 1), spread=round(mean(spreads), 3))
    return row, vqgan(detail[None]).x_rec[0].clamp(0, 1)

def before(folder, side):
    "What the files of an earlier run say: row and detail by name"
    if not (folder/'vqgan_terms.json').exists(): return {}
    rows = json.loads((folder/'vqgan_terms.json').read_text())['rows']
    parts = read_image(folder/'vqgan_terms.jpg').split(side, 2)[1:]
    return {row['name']: (row, part) for row, part in zip(rows, parts)}

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--steps', type=int, default=1000)
    p.add_argument('--seed', type=int, default=1)
    p.add_argument('--only', nargs='*', choices=list(ROWS), default=list(ROWS), metavar='NAME')
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'run')
    args = p.parse_args()
    torch.set_num_threads(1)
    folder = Path(__file__).parents[2]/'samples/reference'
    def whole(x): return x[:, :x.shape[1]//8*8, :x.shape[2]//8*8]
    pictures = [whole(read_image(f)[:3]) for f in sorted(folder.glob('*'))]
    top, left, side = (DETAIL[k] for k in ('top', 'left', 'side'))
    detail = read_image(folder/DETAIL['name'])[:3, top:top + side, left:left + side]
    perceptual = perceptual_loss('encoder', load_model(weights_path('small')).vqgan.encoder)
    known = before(args.out, side)
    for name in args.only:
        vqgan = train(name, pictures, perceptual, args.steps, args.seed)
        row, seen = measure(vqgan, pictures, detail)
        known[name] = dict(name=name, **row), seen
        print(known[name][0], flush=True)
    rows = [known[name][0] for name in ROWS]
    strip = torch.cat([detail] + [known[name][1] for name in ROWS], 2)
    bytes_ = (strip.permute(1, 2, 0)*255).round().byte().numpy()
    Image.fromarray(bytes_).save(args.out/'vqgan_terms.jpg', quality=95)
    about = dict(
        command=f'python nbs/figures/vqgan_terms.py --steps {args.steps} --seed {args.seed}',
        seed=args.seed, steps=args.steps, start=START, critic=CRITIC, weights=WEIGHTS,
        perceptual=perceptual.name, detail=DETAIL,
        size={k: list(v) if isinstance(v, tuple) else v for k, v in SIZE.items()},
        versions=dict(lowlight_nat=__version__, torch=torch.__version__,
                      python=platform.python_version()))
    (args.out/'vqgan_terms.json').write_text(json.dumps(dict(**about, rows=rows)) + '\n')


if __name__ == '__main__': main()
