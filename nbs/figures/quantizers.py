"""Train the tiny codebook with every quantizer, by the same plan, and write run/quantizers.json.

    python nbs/figures/quantizers.py --data DATA [--steps 600] [--bs 8] [--seed 42]

DATA is a folder of pairs with `train` and `val` in any of the layouts the package reads. About half
a minute a row on one core.
"""
import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import fastai
import torch
from fastai.callback.core import Callback

from lowlight_nat import __version__
from lowlight_nat.data.loaders import LowLightDataLoaders
from lowlight_nat.evaluation.fidelity import score_pair
from lowlight_nat.models.checkpoint import load_model, weights_path
from lowlight_nat.models.config import ModelConfig, TrainPlan
from lowlight_nat.models.light import exposure_normalise
from lowlight_nat.models.lowlight_nat import LowLightNAT
from lowlight_nat.models.quantizers import usage_stats
from lowlight_nat.models.vqgan import VQGAN
from lowlight_nat.training import learner, stages
from lowlight_nat.training.callbacks import AdversarialStep, CodebookCare
from lowlight_nat.training.losses import perceptual_loss

START = 0.4
EARLY = 0.15
GAN_START = 0.5
GAN_WEIGHT = 0.1
ROWS = [
    dict(name='nearest', quantizer='nearest'),
    dict(name='ema'),
    dict(name='ema, rotation', rotation=True),
    dict(name='cosine', quantizer='cosine'),
    dict(name='fsq', quantizer='fsq'),
    dict(name='none', start=2.),
    dict(name='ema, early', start=EARLY),
    dict(name='ema, all terms', parts=True)
]


class AllTerms(stages.CodebookStage):
    "Stage 1 with a perceptual term"
    terms = *stages.CodebookStage.terms, 'perceptual'
    perceptual = None
    def forward(self, x_low, x_high):
        out = super().forward(x_low, x_high)
        out.terms['perceptual'] = 0.1*type(self).perceptual(out.x_rec.clamp(0, 1),
                                                            out.x_norm.clamp(0, 1))
        return out


class Terms(Callback):
    "Loss terms every ten steps"
    order = 59
    def before_fit(self): self.rows = []
    def after_step(self):
        if self.learn.train_iter % 10 == 0:
            self.rows.append(
                dict(step=self.learn.train_iter,
                     **{k: round(v.item(), 6)
                        for k, v in self.pred.terms.items()}))


@torch.no_grad()
def measure(vqgan, pairs, quantise):
    "Scores over the validation pictures, means; tokens of all together"
    scores = []
    tokens = []
    casts = []
    zs = []
    for x, level in pairs:
        z = vqgan.encode(x)
        t = vqgan.quantizer.nearest(z)
        rec = vqgan.decode(vqgan.quantizer.lookup(t) if quantise else z)
        # back at the true level: quality, not brightness, is measured
        def bright(v):
            return (v*(level/0.4).view(-1, 1, 1, 1)).clamp(0, 1)
        scores.append(score_pair(bright(rec), bright(x)))
        tokens.append(t.flatten())
        zs.append(z[0].flatten(1))
        cast = (rec - x).mean((2, 3))
        casts.append((cast - cast.mean(1, keepdim=True)).abs().mean().item())
    eig = torch.linalg.eigvalsh(torch.cat(zs, 1).cov())
    def mean(k):
        return sum(s[k] for s in scores)/len(scores)
    use = vars(usage_stats(torch.cat(tokens), vqgan.quantizer.n_codes)) if quantise else {}
    return {
        **{k: round(mean(k), 3)
           for k in ('psnr', 'psnr_gt_mean', 'ssim')}, **{k: round(v, 4)
                                                          for k, v in use.items()}, 'cast': round(
            sum(casts)/len(casts), 5), 'smallest_direction': round((eig[0]/eig[-1]).item(), 5)
    }


def train(row, args, cfg, plan):
    "One row of the table; with `parts`, also the curves of all loss terms"
    torch.manual_seed(args.seed)
    model = LowLightNAT(cfg)
    parts = row.get('parts', False)
    kind = row.get('quantizer', 'ema')
    rotation = row.get('rotation', False)
    start = row.get('start', START)
    torch.manual_seed(args.seed)
    vqgan = model.vqgan = VQGAN(cfg.vq_channels, cfg.dim, cfg.n_codes, cfg.vq_blocks, cfg.vq_stem,
                                cfg.vq_groups, cfg.decay, cfg.beta, kind, rotation)
    dls = LowLightDataLoaders.from_folder(args.data, size=plan.context, bs=args.bs,
                                          items_per_epoch=args.bs*args.steps, seed=args.seed)
    stages.STAGES['codebook'] = AllTerms if parts else stages.CodebookStage
    gan = [AdversarialStep(GAN_WEIGHT, vqgan.decoder.conv_out[1].weight, GAN_START)
           ] if parts else []
    terms = Terms()
    torch.manual_seed(args.seed)
    learn = learner.codebook_learner(dls, model, plan, [terms, *gan])
    next(cb for cb in learn.cbs if isinstance(cb, CodebookCare)).start = start
    # measured below, once
    learn._do_epoch_validate = lambda *a, **k: None
    began = time.process_time()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, plan.codebook.lr, pct_start=0.15)
    seconds = time.process_time() - began
    pairs = [exposure_normalise(y.as_subclass(torch.Tensor), 0.4) for _, y in dls.valid]
    out = dict(name=row['name'], quantizer=kind, rotation=rotation,
               start=start, n_codes=vqgan.quantizer.n_codes,
               **measure(vqgan.eval(), pairs, start
                         < 1), cpu_seconds=round(seconds), curve=terms.rows)
    return out, gan


def parts_of(row, gan, beta):
    "The curves of one run with all terms, codebook and commitment told apart"
    curve = [
        dict(step=r['step'], l1=r['l1'], ssim=r['ssim'], perceptual=r['perceptual'],
             commitment=r['commit'],
             codebook=r['commit']/beta if row['quantizer'] == 'ema' else r['commit']/(1 + beta))
        for r in row['curve']
    ]
    gan = [
        dict(step=s, g=round(g, 5), w=round(w, 6), d=round(d, 5))
        for (s, g, w), d in zip(gan.terms, gan.log)
    ][::10]
    return dict(perceptual=AllTerms.perceptual.name, quantizer=row['quantizer'],
                gan_start=GAN_START, gan_weight=GAN_WEIGHT, curve=curve, gan=gan)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', required=True)
    p.add_argument('--steps', type=int, default=600)
    p.add_argument('--bs', type=int, default=8)
    p.add_argument('--seed', type=int, default=42)
    p.add_argument('--only', nargs='*')
    p.add_argument('--out', default=Path(__file__).parent/'run'/'quantizers.json')
    args = p.parse_args()
    torch.set_num_threads(1)
    cfg = ModelConfig.tiny()
    plan = replace(TrainPlan.tiny(), seed=args.seed)
    AllTerms.perceptual = perceptual_loss('auto', load_model(weights_path('small')).vqgan.encoder)
    rows = []
    parts = None
    for row in ROWS:
        if args.only and row['name'] not in args.only: continue
        out, gan = train(row, args, cfg, plan)
        print({k: v for k, v in out.items() if k != 'curve'}, flush=True)
        if gan: parts = parts_of(out, gan[0], cfg.beta)
        rows.append(out)
    pairs = dict(train='LOL-v1, a working set of 340 crops',
                 val='12 whole pictures of other scenes')
    about = dict(
        command=f'python nbs/figures/quantizers.py --data DATA --steps {args.steps} --bs {args.bs} --seed {args.seed}',
        seed=args.seed, steps=args.steps, bs=args.bs, bf16=plan.bf16, start=START, pairs=pairs,
        versions=dict(lowlight_nat=__version__, torch=torch.__version__, fastai=fastai.__version__,
                      python=platform.python_version()), cpu_seconds=sum(r['cpu_seconds']
                                                                         for r in rows))
    Path(args.out).write_text(json.dumps(dict(**about, rows=rows, parts=parts)) + '\n')


if __name__ == '__main__': main()
