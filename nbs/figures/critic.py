"""Train a critic on stored latents and compare it with the other maps of doubt: as the mask, as the
confidence between rounds, and as the map that a user gets. Writes run/critic.json, which the
chapter on the critic reads.

    python nbs/figures/critic.py --latents RUN/latents --data lol --state FOLDER

`--latents` holds `*.safetensors` of training pictures, as the stage nat of a run leaves them. The
state of the training lies in `--state`; called again, with more steps or not, it goes on from
there. Another model or NAT needs another folder.
"""
import argparse
import json
import shlex
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.evaluation.fidelity import gt_mean
from lowlight_nat.experiments.calibration import auroc, rank_correlation, uncertainty_scores
from lowlight_nat.io.images import read_image
from lowlight_nat.io.records import versions
from lowlight_nat.models.checkpoint import load_model
from lowlight_nat.models.critic import TokenCritic, critic_loss, proposed, token_odds
from lowlight_nat.models.latent_nat import LatentNAT, mean_prior_code, resolve
from lowlight_nat.models.masking import cosine_schedule, least_confident, mask_share_threshold
from lowlight_nat.models.uncertainty import token_statistics
from lowlight_nat.training.latents import LatentDataset

SIZE = 32                # places a side of a crop
BATCH = 4                # crops a step
SIDE = 32                # places a side of what is decoded in rounds
NEAREST = 0.5            # share of the steps on nearest codes, with nothing shown


# --- training ---

def nat_of(model, path):
    "The NAT of a model, or that of a file of its weights alone, in evaluation mode"
    if path is None: return model.nat.eval()
    weights = load_file(path)
    width = len(weights['mask_embed'])
    depth = sum(k.startswith('near.') and k.endswith('.norm.weight') for k in weights)
    c = model.cfg
    nat = LatentNAT(len(model.vqgan.quantizer.codes), c.dim, c.cond, width, depth)
    nat.load_state_dict(weights)
    return nat.eval()

def batch(data, model, k):
    "Crops of stored latents, number k: z, tokens, codes, cond, sigma, overview"
    draws = [data.draw(k*BATCH + i) for i in range(BATCH)]
    z, cond, sigma, overview, tokens = (torch.stack(v) for v in zip(*draws))
    sigma = sigma*model.cfg.factor**0.5
    return z, tokens, model.vqgan.quantizer.codes.detach(), cond, sigma, overview

def rate(i, steps):
    "Learning rate of step i: up, level, and down to nothing in the last fifth"
    return 2e-3*min(1, (i + 1)/30, 5*(steps - i)/steps)

def train(a, model, nat):
    "A critic, the mean of its last weights; the training goes on where it was"
    paths = sorted(a.latents.glob('*.safetensors'))
    if not paths: raise SystemExit(f"'{a.latents}' has no latents; give the folder of a run's")
    torch.manual_seed(a.seed)
    critic = TokenCritic(model.cfg.dim, model.cfg.cond)
    mean = {k: v.clone() for k, v in critic.state_dict().items()}
    opt = torch.optim.AdamW(critic.parameters(), 2e-3, weight_decay=1e-3, betas=(0.9, 0.99))
    state = a.state/'critic.pt'
    done = 0
    seconds = 0.
    if state.exists():
        s = torch.load(state, weights_only=True)
        critic.load_state_dict(s['critic'])
        opt.load_state_dict(s['opt'])
        mean = s['mean']
        done = s['done']
        seconds = s['seconds']
    data = LatentDataset(paths, paths, SIZE, a.steps*BATCH, a.seed)
    began = time.process_time() - seconds
    sums = {}
    for i in range(done, a.steps):
        torch.manual_seed(a.seed*1_000_000 + i)
        nearest = torch.rand(()).item() < NEAREST
        z, tokens, codes, cond, sigma, overview = batch(data, model, i)
        with torch.autocast('cpu', torch.bfloat16):
            given = proposed(nat, z, tokens, codes, cond, sigma, overview, nearest)
        loss = critic_loss(critic, given, z, tokens, codes, cond, sigma, overview)
        for group in opt.param_groups: group['lr'] = rate(i, a.steps)
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(critic.parameters(), 1.)
        opt.step()
        keep = min(0.98, (1 + i)/(10 + i))
        for k, v in critic.state_dict().items(): mean[k].lerp_(v, 1 - keep)
        sums.setdefault(nearest, []).append(loss.item())
        if (i + 1) % 25 == 0 or i + 1 == a.steps:
            seconds = time.process_time() - began
            now = {k: sum(v)/len(v) for k, v in sums.items()}
            print(f'{i + 1} drawn {now.get(False, 0):.4f} nearest {now.get(True, 0):.4f} '
                  f'{seconds:.0f} s', flush=True)
            sums = {}
            beside = state.with_suffix('.new')
            torch.save(dict(critic=critic.state_dict(), opt=opt.state_dict(), mean=mean,
                            done=i + 1, seconds=seconds), beside)
            beside.replace(state)
    critic.load_state_dict(mean)
    save_file(mean, a.state/'critic.safetensors')
    return critic.eval(), seconds


# --- what is judged ---

@torch.no_grad()
def look_at(model, pair):
    "What is known and what is true of a validation picture: tensors by name"
    def even(x): return x[:, :x.shape[1]//8*8, :x.shape[2]//8*8][None]
    x_low = even(read_image(pair.low))
    x_high = even(read_image(pair.high))
    a = model.align(x_low)
    true = model.vqgan.encode(model.normalise(x_high)[0]).float()
    finished = model.decode(a, model.refine(a)).x
    off = (gt_mean(finished, x_high, 'unclipped') - x_high).abs().mean(1, keepdim=True)
    grey = x_low.mean(1, keepdim=True)
    return dict(
        z=a.z_tilde.float(),
        cond=a.cond.float(),
        sigma=a.sigma.float()*model.cfg.factor**0.5,
        overview=a.light.overview.float(),
        true=true,
        tokens=model.vqgan.quantizer.nearest(true),
        off=F.avg_pool2d(off, 4)[:, 0],                            # (1,h,w)
        light=F.avg_pool2d(grey/grey.mean(), 4)[:, 0],             # a control: where it is bright
    )

def looks(a, model):
    "All validation pictures, kept beside the state of the training"
    for pair in find_pairs(a.data, 'val')[:a.limit]:
        path = a.state/f'val_{pair.name}.safetensors'
        if not path.exists():
            save_file({k: v.contiguous() for k, v in look_at(model, pair).items()}, path)
        yield load_file(path)

def maps_of(critic, o, codes):
    "The maps that are compared, and the nearest tokens (1,h,w)"
    T = 2*o['sigma']**2
    t = token_statistics(o['z'], codes, T, spread=True)
    said = critic(o['z'], t.tokens, codes, o['cond'], o['sigma'], o['overview'])
    places = o['z'].permute(0, 2, 3, 1).flatten(0, 2)
    odds = token_odds(places, t.tokens.flatten(), codes, T.flatten())
    return t.tokens, {
        'probability': -odds.log_p.view_as(T),
        'entropy': t.entropy,
        'spread': t.spread2.sqrt(),
        'sigma': o['sigma'],
        'critic: wrong': said.wrong,
        'critic: error': said.error,
        'brightness': o['light'],
    }

def scores(maps, errors, wrongs):
    "Scores of one map, over the places of all pictures and within each"
    flat = [torch.cat([m.flatten() for m in v]) for v in (maps, errors, wrongs)]
    def tenth(e): return e > mask_share_threshold(e, 0.1)
    within = [auroc(m, tenth(e)) for m, e in zip(maps, errors)]
    return uncertainty_scores(*flat) | dict(within_tenth=sum(within)/len(within))

@torch.no_grad()
def compare_maps(critic, seen, codes):
    "Rows of the mask (error of the latent) and of the user's map (error of the finished picture)"
    per = [maps_of(critic, o, codes) for o in seen]
    wrong = [t != o['tokens'] for (t, _), o in zip(per, seen)]
    latent = [(o['z'] - o['true']).pow(2).mean(1).sqrt() for o in seen]
    picture = [o['off'] for o in seen]
    def rows(errors):
        names = per[0][1]
        return [dict(map=n, **scores([m[n] for _, m in per], errors, wrong)) for n in names]
    return rows(latent), rows(picture)


# --- rounds ---

def crops(seen):
    "The middle of every picture, as one batch"
    top = [(o['sigma'].shape[1] - SIDE)//2 for o in seen]
    left = [(o['sigma'].shape[2] - SIDE)//2 for o in seen]
    def cut(name): return torch.cat([o[name][..., i:i+SIDE, j:j+SIDE]
                                     for o, i, j in zip(seen, top, left)])
    cropped = {n: cut(n) for n in ('z', 'cond', 'sigma', 'true', 'tokens')}
    return cropped | dict(overview=torch.cat([o['overview'] for o in seen]))

def grid_of(codes, tokens): return F.embedding(tokens, codes).permute(0, 3, 1, 2)

def ask(nat, o, codes, tokens, masked, sample, noise):
    "What the NAT reads at the masked places (N,...), the others shown"
    look = nat(o['z'], grid_of(codes, tokens), ~masked, o['cond'], o['sigma'], o['overview'])
    return resolve(nat, look.each(lambda t: t[masked]), codes, sample=sample, generator=noise)

def decode(nat, critic, o, codes, by, rounds, sample, seed=0):
    "Parallel decoding from nothing, by one kind of confidence: tokens (B,h,w), latent (B,d,h,w)"
    noise = torch.Generator().manual_seed(seed)
    tokens = torch.zeros_like(o['tokens'])
    masked = torch.ones_like(tokens, dtype=torch.bool)
    places = o['z'].permute(0, 2, 3, 1)
    before = mean_prior_code(places.flatten(0, 2), codes, 2*o['sigma'].flatten()**2)
    before = before.view_as(places)
    refined = places.clone()
    own = torch.zeros_like(o['sigma'])
    for r in range(rounds):
        q = ask(nat, o, codes, tokens, masked, sample, noise)
        tokens = tokens.masked_scatter(masked, q.tokens)
        own = own.masked_scatter(masked, q.confidence)
        refined[masked] = places[masked] + q.mean - before[masked]
        if r + 1 == rounds: break
        if by == 'probability': confidence = own
        elif by == 'chance': confidence = torch.rand(own.shape, generator=noise)
        elif by == 'truth': confidence = (tokens == o['tokens']).float() + 1e-3*own
        else:
            said = critic(o['z'], tokens, codes, o['cond'], o['sigma'], o['overview'])
            confidence = -said.wrong if by == 'critic: wrong' else -said.error
        everywhere = torch.ones_like(masked)
        masked = least_confident(confidence, everywhere, cosine_schedule(r + 1, rounds))
    return tokens, refined.permute(0, 3, 1, 2)

KINDS = 'probability', 'chance', 'truth', 'critic: wrong', 'critic: error'

@torch.no_grad()
def compare_rounds(critic, nat, o, codes, path, kinds=KINDS):
    "Rows of decoding in rounds, by confidence; those in the file `path` are taken from there"
    rows = json.loads(path.read_text()) if path.exists() else []
    done = [(r['answer'], r['rounds'], r['by']) for r in rows]
    def rms(x): return (x - o['true']).pow(2).mean().sqrt().item()
    todo = [('arg max', 1, 'probability'), ('drawn', 1, 'probability')]
    todo += [(answer, rounds, by) for by in kinds for rounds in (4, 8)
             for answer in ('arg max', 'drawn')]
    for answer, rounds, by in todo:
        if (answer, rounds, by) in done: continue
        tokens, z = decode(nat, critic, o, codes, by, rounds, float(answer == 'drawn'))
        rows.append(dict(answer=answer, rounds=rounds, by=by,
                         right=(tokens == o['tokens']).float().mean().item(),
                         error_tokens=rms(grid_of(codes, tokens)), error_latent=rms(z)))
        path.write_text(json.dumps(rows))
        print(rows[-1], flush=True)
    return rows

@torch.no_grad()
def compare_draws(critic, nat, o, codes, seed=0):
    "How well wrong draws of one look are found, by share of true tokens shown"
    rows = []
    for shown in (0., 0.03, 0.25):
        noise = torch.Generator().manual_seed(seed)
        masked = torch.rand(o['sigma'].shape, generator=noise) >= shown
        q = ask(nat, o, codes, o['tokens'], masked, 1., noise)
        tokens = o['tokens'].masked_scatter(masked, q.tokens)
        said = critic(o['z'], tokens, codes, o['cond'], o['sigma'], o['overview'])
        off = (grid_of(codes, tokens) - o['true']).pow(2).mean(1).sqrt()[masked]
        wrong = (tokens != o['tokens'])[masked]
        maps = {
            'probability': -q.confidence,
            'NAT: error': q.sigma,
            'critic: wrong': said.wrong[masked],
            'critic: error': said.error[masked],
        }
        for n, m in maps.items():
            rows.append(dict(shown=shown, by=n, auroc_wrong=auroc(m, wrong),
                             spearman=rank_correlation(m, off), wrong=wrong.float().mean().item()))
    return rows


def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    ap.add_argument('--latents', type=Path, required=True, help='folder of stored latents')
    ap.add_argument('--data', required=True, help='folder of a data set of pairs, with val')
    ap.add_argument('--model', default='small', help='bundled checkpoint or path of one')
    ap.add_argument('--nat', type=Path, help="weights of a latent NAT; by default the model's")
    ap.add_argument('--state', type=Path, required=True, help='folder for what is half done')
    ap.add_argument('--steps', type=int, default=1200, help=f'of {BATCH} crops')
    ap.add_argument('--limit', type=int, help='validation pictures, by default all')
    ap.add_argument('--rounds', type=int, default=8, help='of them, decoded in rounds')
    ap.add_argument('--seed', type=int, default=42, help='of the training')
    ap.add_argument('--out', type=Path, default=Path(__file__).parent/'run'/'critic.json',
                    help='file to write')
    a = ap.parse_args()
    a.state.mkdir(parents=True, exist_ok=True)
    model = load_model(a.model)
    nat = nat_of(model, a.nat)
    codes = model.vqgan.quantizer.codes.detach()
    critic, seconds = train(a, model, nat)
    seen = list(looks(a, model))
    latent, picture = compare_maps(critic, seen, codes)
    o = crops(seen[:a.rounds])
    draws = compare_draws(critic, nat, o, codes)
    rounds = compare_rounds(critic, nat, o, codes, a.state/f'rounds_{a.steps}.json')
    own = f' --nat {a.nat.name}' if a.nat else ''
    res = dict(
        command=f'python nbs/figures/critic.py --latents latents --data '
                f'{shlex.quote(Path(a.data).name)} --model {Path(a.model).stem}{own} '
                f'--state state --steps {a.steps} --seed {a.seed}',
        model=Path(a.model).stem, pictures=len(seen), seed=a.seed, steps=a.steps,
        seconds=round(seconds), parameters=sum(p.numel() for p in critic.parameters()),
        side=SIDE,
        rounds_on=len(o['z']), versions=versions(), mask=latent, picture=picture, draws=draws,
        rounds=rounds)
    a.out.write_text(json.dumps(res, indent=1, allow_nan=False) + '\n')
    for rows in latent, picture, draws:
        for row in rows:
            print(' '.join(f'{k} {v:.3f}' if isinstance(v, float) else f'{k} {v}'
                           for k, v in row.items()))


if __name__ == '__main__': main()
