"""Forms of the NAT at equal steps, for the lab notebook: `python nbs/figures/lab.py --form FORM
--seed S`, with LOWLIGHT_DATA set.

Every form is the same small network (conditional encoder, latent, fusion decoder; no flow, no
codebook features), trained on the
same draws with the same plan; only what stands between latent and picture differs. One run takes
minutes on one core and adds
its row to `run/lab.json`. `--form all` runs what is missing there.
"""
import argparse
import json
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from fastcore.basics import AttrDict
from torch import nn

from lowlight_nat.data.loaders import LowLightDataLoaders
from lowlight_nat.evaluation.fidelity import score_pair
from lowlight_nat.models.checkpoint import load_model
from lowlight_nat.models.flow import ConditionalEncoder, SpreadHead, picture_stats, spread_nll
from lowlight_nat.models.fusion import FusionDecoder
from lowlight_nat.models.latent_nat import LatentNAT, parallel_decode
from lowlight_nat.models.layers import has_bf16
from lowlight_nat.models.light import exposure_normalise
from lowlight_nat.models.lowlight_nat import overview
from lowlight_nat.models.masking import cosine_schedule, remask, token_statistics
from lowlight_nat.models.quantizers import squared_distances
from lowlight_nat.training.losses import gaussian_nll, ssim_loss, token_loss, token_targets

HERE = Path(__file__).parent
HALF = has_bf16(torch.device('cpu'))
ROUNDS = 4
SHARE = 0.4
FORMS = dict(
    plain='no NAT: the control', decibel='no NAT, the loss is the mean of log MSE',
    wide='no NAT, the NATs\' parameters in plain blocks instead',
    latent='the talk\'s NAT on the latent, delta form', features='the talk\'s NAT on the features',
    both='both NATs', nomask='NAT on the features, nothing masked, one look',
    noattention='NAT on the features, masked, each cell sees itself only',
    alone='as nomask, but each cell sees itself only: every cell corrected, no attention',
    tone='a colour transform of the whole picture, by attention, one look',
    tonenat='gains by channel and brightness as tokens, masked and decoded in rounds',
    everywhere='NAT on the features, uncertain cells hidden from its eye, every cell corrected',
    kept='the library\'s form: hidden cells predicted in rounds, kept ones corrected in the first (feat_kept)',
    deep='as nomask, twice as deep and wide',
    exposed='a colour transform that knows the exposure: the true one in training, the predicted one in validation'
)

# with a NAT on the features
FEATURES = 'features', 'both', 'nomask', 'noattention', 'alone', 'everywhere', 'kept', 'deep'


class Tone(nn.Module):
    """A colour transform of the whole picture: x + P(x), P quadratic in the three channels; from
    attention over the 1/8 scale"""
    def __init__(self, ch, width=64):
        super().__init__()
        self.query = nn.Parameter(torch.randn(4, ch)*.02)
        self.kv = nn.Linear(ch, 2*ch)
        self.net = nn.Sequential(nn.Linear(6*ch + 17, width), nn.SiLU(), nn.Dropout(.1))
        self.out = nn.Linear(width, 30)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
    def see(self, f8, stats):
        x = f8.float().flatten(2).transpose(1, 2)
        k, v = self.kv(x).chunk(2, -1)
        y = F.scaled_dot_product_attention(self.query.expand(len(x), -1, -1), k, v).flatten(1)
        return self.net(torch.cat([y, x.mean(1), x.std(1), overview(stats)], 1))
    def forward(self, x, f8, stats): return apply_tone(x, self.out(self.see(f8, stats))), {}

class Exposed(nn.Module):
    "A colour transform of the whole picture that depends on its mean level alone"
    def __init__(self, width=32):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, 30))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)
    def forward(self, x, level):
        return apply_tone(x, self.net(torch.stack([level, level.log() + 1], 1)))

def apply_tone(x, p): # p (B,30)
    v = x.permute(0, 2, 3, 1)
    q = torch.stack([v[..., i]*v[..., j] for i in range(3) for j in range(i, 3)], -1)
    b = torch.cat([torch.ones_like(v[..., :1]), v, q], -1)
    return x + .3*torch.einsum('bhwk,bck->bchw', b, p.view(-1, 3, 10))

class ToneNAT(nn.Module):
    """Gains of 3 channels in 6 ranges of brightness as 18 tokens of K = 33 levels; predicted by a
    masked transformer in rounds"""
    levels = torch.linspace(-.4, .4, 33) # of a log gain
    def __init__(self, ch, width=96, depth=2):
        super().__init__()
        self.knots = torch.linspace(.05, 1.05, 6)
        self.tone = Tone(ch, width)
        self.code = nn.Embedding(34, width)
        self.place = nn.Parameter(torch.randn(18, width)*.02)
        def layer():
            return nn.TransformerEncoderLayer(width, 4, 2*width, dropout=.1, activation='gelu',
                                                           batch_first=True, norm_first=True)
        self.blocks = nn.Sequential(*[layer() for _ in range(depth)])
        self.head = nn.Linear(width, 33)
    def weights(self, x): # how much of each range a value has (B,3,6,H,W), sums to 1
        d = (x.clamp(.05, 1.05)[:, :, None] - self.knots.view(1, 1, 6, 1, 1)).abs()
        return (1 - d/.2).clamp(min=0)

    def truth(self, x,
              y): # tokens (B,18): the gain that takes the mean of each range to the truth's
        w = self.weights(x)
        gain = ((w*y[:, :, None]).sum((3, 4)) + 5)/((w*x[:, :, None]).sum((3, 4)) + 5)
        return (gain.clamp(min=.1).log().flatten(1)[..., None] - self.levels).abs().argmin(-1)
    def look(self, see, tokens, todo):
        return self.head(
            self.blocks(self.code(torch.where(todo, 33, tokens)) + self.place + see[:, None]))
    def forward(self, x, f8, stats, y=None):
        see = self.tone.see(f8, stats)
        x0 = x.detach().clamp(0, 1.2)
        todo = torch.ones(len(x), 18, dtype=torch.bool)
        terms = {}
        if y is not None:   # training: a random share of the true tokens is shown
            t = self.truth(x0, y)
            todo = torch.rand(len(x), 18) < torch.rand(len(x), 1).clamp(min=.2)
            logits = self.look(see, t, todo)
            soft = F.softmax(-(self.levels[t][..., None] - self.levels)**2/(2*.025**2), -1)
            terms['tokens'] = .05*-(soft*logits.log_softmax(-1)).sum(-1)[todo].mean()
            gains = torch.where(todo, logits.softmax(-1)@self.levels, self.levels[t])
        else:
            tokens = torch.zeros(len(x), 18, dtype=torch.long)
            gains = torch.zeros(len(x), 18)
            for r in range(self.rounds):
                p = self.look(see, tokens, todo).softmax(-1)
                conf, best = p.max(-1)
                gains = torch.where(todo, p@self.levels, gains)
                tokens = torch.where(todo, best, tokens)
                n = int(18*cosine_schedule(r + 1, self.rounds))
                if not n: break
                todo = torch.zeros_like(todo).scatter(1,
                                                      conf.masked_fill(~todo, 2.).argsort(1)[:, :n],
                                                      True)
        field = torch.einsum('bckhw,bck->bchw', self.weights(x.clamp(0, 1.2)), gains.view(-1, 3, 6))
        return x*field.exp(), terms
    rounds = ROUNDS

class Net(nn.Module):
    "Conditional encoder, latent, fusion decoder; and one of the forms"
    def __init__(self, form, small):
        super().__init__()
        self.form = form
        self.vqgan = [small.vqgan]
        self.codes = small.vqgan.quantizer.codes.detach()
        self.encoder = ConditionalEncoder((48, 64, 96), 4, 48, 2)
        self.spread = SpreadHead(4, 48)
        self.fusion = FusionDecoder(
            4, (48, 64), (48, 64), (48, 96), 3 if form == 'wide' else 2, (False, False),
            dict(width=192, depth=4) if form == 'deep' else dict(width=96, depth=2) |
            ({'kept': True} if form == 'kept' else {}))
        if form in ('latent', 'both'): self.nat = LatentNAT(len(self.codes), 4, 48, 128, 3)
        if form == 'tone': self.tone = Tone(96)
        if form == 'tonenat': self.tone = ToneNAT(96)
        if form == 'exposed':
            self.exposed = Exposed()
            self.small = [small]
        if form not in FEATURES: self.fusion.nat = None
        self.encoder.eighth.register_forward_hook(lambda m, i, o: setattr(self, 'f8', o))
    def forward(self, x_low, stats, z=None, y=None, rounds=ROUNDS, level=None):
        e = self.encoder(x_low, stats)
        terms = {}
        dec = self.fusion
        sigma = self.spread(e.mu.detach(), e.cond.detach())
        latent = e.mu.float()
        share = SHARE if z is None else .1 + .8*torch.rand(()).item()
        mask = sigma > sigma.flatten(1).quantile(1 - share, 1).view(-1, 1, 1)
        if z is not None:
            terms |= dict(latent=(latent - z).abs().mean(),
                          spread=.2*spread_nll(latent.detach(), z, sigma))
        if self.form in ('latent', 'both'):
            t = token_statistics(latent.detach(), self.codes, 2*sigma.detach()**2)
            out = parallel_decode(self.nat, latent, t.tokens, mask, self.codes, e.cond,
                                  sigma.detach(), overview(stats), rounds)
            latent = out.z
            if z is not None:
                terms |= dict(
                    tokens=.1
                    *token_loss(out.log_q, token_targets(squared_distances(z, self.codes))),
                    refined=(latent - z).abs().mean())
        h = dec.before[0](dec.conv_in(latent))
        if self.form in FEATURES:
            n = self.features(h, e, mask, sigma.detach(), rounds, z)
            h = n.h
            if z is not None and n.latent is not None:
                nll = gaussian_nll(n.latent, dec.nat.cells(z), n.logvar)
                terms['low_band'] = .02*(nll[n.mask].mean() if n.mask.any() else nll.mean())
        for i in range(2):
            if i: h = dec.before[1](dec.up(h))
            h = dec.after[i](dec.mix[i](h, e.feats[i]))
        x = dec.conv_out(h).float()
        if self.form == 'exposed':
            x = self.exposed(x,
                             self.small[0].align(x_low).log_level.exp() if level is None else level)
        if hasattr(self, 'tone'):
            args = (x, self.f8, stats) if self.form == 'tone' or y is None else (x, self.f8, stats,
                                                                                 y)
            x, more = self.tone(*args)
            terms |= more
        return AttrDict(x=x, terms=terms)
    def features(self, h, e, mask, sigma, rounds, z):
        nat = self.fusion.nat
        # every cell a picture of its own: it can attend to itself only
        if self.form == 'noattention':
            B = len(h)
            c = nat.cell
            shape = h.shape[2:]
            H, W = (-(-n//c)*c for n in shape)
            def grow(t):
                return F.pad(t.float(),
                                               (0, W - shape[1], 0, H - shape[0]), mode='replicate').to(t.dtype)
            def split(t):
                return grow(t).unflatten(2, (H//c, c)).unflatten(4, (W//c, c)).permute(
                            0, 2, 4, 1, 3, 5).flatten(0, 2)
            def join(t):
                return t.unflatten(0, (B, H//c, W//c)).permute(0, 3, 1, 4, 2, 5).flatten(
                            4).flatten(2, 3)
            n = nat(split(h), split(e.feats[0]),
                    split(mask[:, None])[:, 0], rounds, True,
                    split(sigma[:, None])[:, 0])
            def cells(t):
                return None if t is None else t.unflatten(0, (B, H//c, W//c))[:, :, :, 0, 0]
            return AttrDict(h=join(n.h)[..., :shape[0], :shape[1]], mask=cells(n.mask),
                            latent=cells(n.latent), logvar=cells(n.logvar))
        # each cell is corrected; hidden ones are those the mask names, if any
        if self.form in ('nomask', 'alone', 'deep', 'everywhere'):
            low = nat.cells(h)
            shown = nat.shown(e.feats[0], mask, sigma, h.dtype)
            first = low.flatten(1, 2)
            see = shown.flatten(1, 2)
            angles = nat.angles(shown)
            hidden = (nat.cells(mask[:, None].to(h.dtype))[..., 0] > .5).flatten(1)
            if not rounds: return AttrDict(h=h, mask=hidden, latent=None)
            if self.form != 'everywhere':
                hidden = torch.zeros_like(hidden)
                rounds = 1
            if self.form == 'alone':   # every cell a picture of its own
                first, see, hidden = (t.flatten(0, 1)[:, None] for t in (first, see, hidden))
                angles = nat.angles(see[:, None])
            todo = hidden
            every = torch.ones_like(hidden)
            for r in range(rounds):
                _, x = nat.look(first, see, todo, every, angles, [None]*len(nat.blocks))
                logvar = nat.to_logvar(x).float().clamp(-8, 4)
                todo = remask(-logvar[..., 0], hidden, cosine_schedule(r + 1, rounds))
            def grid(t):
                return t.reshape(*low.shape[:3], -1)
            return AttrDict(h=h + nat.spread(grid(nat.to_feature(x)), h.shape[2:]),
                            mask=grid(every)[..., 0], latent=grid(nat.to_latent(x)),
                            logvar=grid(logvar)[..., 0])
        return nat(h, e.feats[0], mask, rounds, True, sigma)

@torch.no_grad()
def scores(net, dls, **kw):
    net.eval()
    rows = []
    known = kw.pop('known', False)
    for x_low, x_high in dls.valid:
        _, level = exposure_normalise(x_high, .4)
        if known: kw['level'] = level
        with torch.autocast('cpu', torch.bfloat16, enabled=HALF):
            x = net(x_low, picture_stats(x_low), **kw).x
        rows.append(score_pair((x*(level/.4).view(-1, 1, 1, 1)).clamp(0, 1), x_high))
    net.train()
    return {k: sum(r[k]
                   for r in rows)/len(rows)
            for k in ('psnr_gt_mean', 'ssim_gt_mean')
            } | dict(each=[round(r['psnr_gt_mean'], 2) for r in rows])

def train(form, seed, steps, data, weights='small', structure=.2):
    torch.manual_seed(seed)
    small = load_model(weights)
    small.requires_grad_(False)
    net = Net(form, small)
    start = time.time()
    curve = []
    params = [p for p in net.parameters()]
    opt = torch.optim.AdamW(params, 1.5e-3, betas=(.9, .99), weight_decay=1e-4)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 1.5e-3, total_steps=steps, pct_start=.2)
    dls = LowLightDataLoaders.from_folder(data, size=256, bs=4, items_per_epoch=4*steps, seed=seed)
    avg = [p.detach().clone() for p in params]
    for step, (x_low, x_high) in enumerate(dls.train):
        stats = picture_stats(x_low)
        y, level = exposure_normalise(x_high, .4)
        i, j = (int(torch.randint(129, (1,))) for _ in range(2))
        x_low = x_low[..., i:i+128, j:j+128]
        y = y[..., i:i+128, j:j+128]
        with torch.autocast('cpu', torch.bfloat16, enabled=HALF):
            with torch.no_grad(): z = small.vqgan.encode(y).float()
            out = net(x_low, stats, z, y, level=level)
        l1 = (out.x - y).abs().mean() if form != 'decibel' else .05*((out.x - y).pow(2).mean(
            (1, 2, 3)) + 1e-4).log().mean()
        loss = l1 + structure*ssim_loss(out.x, y) + sum(out.terms.values())
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.)
        opt.step()
        sched.step()
        with torch.no_grad():
            torch._foreach_lerp_(avg, [p.detach() for p in params],
                                 1 - min(.99, (1 + step)/(10 + step)))
        curve.append(loss.item())
        if step % 100 == 99:
            print(
                f'{form} {seed}: {step + 1} {sum(curve[-100:])/100:.4f} {time.time() - start:.0f} s',
                flush=True)
    with torch.no_grad():
        for p, a in zip(params, avg): p.copy_(a)
    row = dict(form=form, seed=seed, steps=steps, structure=structure,
               precision='bfloat16' if HALF else 'float32', params=sum(p.numel() for p in params),
               train_loss=sum(curve[-100:])/100, **scores(net, dls))
    if form in ('latent', 'features', 'both', 'nomask', 'alone', 'everywhere', 'kept', 'deep'):
        row['rounds'] = {r: scores(net, dls, rounds=r)['psnr_gt_mean'] for r in (0, 1, 2, 4)}
    if form == 'tonenat':
        row['rounds'] = {}
        for r in 1, 2, 4:
            net.tone.rounds = r
            row['rounds'][r] = scores(net, dls)['psnr_gt_mean']
    if form == 'exposed': row['true_level'] = scores(net, dls, known=True)['psnr_gt_mean']
    if form == 'tone':
        with torch.no_grad():
            net.tone.out.weight.zero_()
            net.tone.out.bias.zero_()
        row['rounds'] = {0: scores(net, dls)['psnr_gt_mean']}
    return row | dict(
        seconds=round(time.time() - start),
        command=f'python nbs/figures/lab.py --form {form} --seed {seed} --steps {steps}' +
        (f' --structure {structure}' if structure != .2 else '') +
        (f' --weights {Path(weights).name}' if weights != 'small' else ''))

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--form', default='all', choices=['all', *FORMS])
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--steps', type=int, default=900)
    p.add_argument('--structure', type=float, default=.2,
                   help='weight of the SSIM term, beside L1 with 1')
    p.add_argument(
        '--weights', default='small',
        help='whose codebook and exposure head: a bundled checkpoint, or a .safetensors file')
    p.add_argument('--out', type=Path, default=HERE/'run/lab.json')
    a = p.parse_args()
    data = os.environ.get('LOWLIGHT_DATA') or exit(
        'set LOWLIGHT_DATA to a folder of pairs with train and val')
    def key(r):
        return (r['form'], r['seed'], r['steps'], r.get('structure', .2))
    def read():
        return json.loads(a.out.read_text()) if a.out.exists() else []
    for form in FORMS if a.form == 'all' else [a.form]:
        if (form, a.seed, a.steps, a.structure) in map(key, read()): continue
        row = train(form, a.seed, a.steps, data, a.weights, a.structure)
        # written beside and renamed: two runs at a time do no harm
        part = a.out.with_name(f'{a.out.name}.{os.getpid()}')
        part.write_text(json.dumps([*read(), row], indent=1) + '\n')
        part.replace(a.out)
        print({k: v for k, v in row.items() if k != 'each'})
