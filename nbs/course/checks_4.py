"Checks of session 4: token distribution, entropy, masks and the rounds of the latent NAT."
import math

import torch
import torch.nn.functional as F
from checks import close, end_of, exercise, foresee, hunt, near, need, read_curves

from lowlight_nat.models.masking import remask
from lowlight_nat.models.uncertainty import calibrate_temperature, entropy_map, token_log_probs


@exercise('4.1', 1)
def log_probs(f):
    d2 = torch.rand(2,3,3,8)*4
    close(f(d2, .5), token_log_probs(d2, .5),
          'log-softmax over the codes, which come last, of -d2/T')
    close(f(d2*1e4, .5), token_log_probs(d2*1e4, .5),
          'far codes have probability 0, whose log is -inf: `F.log_softmax` never forms the 0',
          1e-3)

@exercise('4.2', 1)
def entropy(f):
    log_p = torch.randn(2,3,3,16).mul(3).log_softmax(-1)
    close(f(log_p), entropy_map(log_p), 'H = -sum p log p, divided by log K: 1 for a mere guess')
    close(f(torch.zeros(1, 8).log_softmax(-1)), torch.ones(1),
          'the uniform distribution must have 1')
    close(f(torch.tensor([[0., -math.inf, -math.inf]])), torch.zeros(1),
          '0 log 0 is 0, the computer says NaN: `torch.special.entr`')

@exercise('4.3', 1)
def masked_counts(f):
    for n,R in ((100,4), (64,8), (7,2)):
        want = [n] + [int(n*math.cos(math.pi/2*r/R)+1e-6) for r in range(1,R)]
        need(
            list(f(n, R)) == want,
            f'n={n}, R={R}: {want} is wanted. In round 1 all n are predicted; after r rounds '
            'floor(n cos(pi/2 r/R)) are masked again, for r = 1 .. R-1'
        )

@exercise('4.4', 2)
def temperature(f):
    for T0 in (.05,3.):
        d2 = torch.rand(4000,12)*2*T0*4
        tokens = torch.distributions.Categorical(logits=-d2/T0).sample()
        def nll(T):
            return F.cross_entropy(-d2/T, tokens).item()
        T = float(f(d2, tokens))
        best = calibrate_temperature(d2, tokens)
        need(T>0, 'a temperature is positive')
        need(
            nll(T) <= nll(best) + 1e-3,
            f'at T={T:.3g} the truth costs {nll(T):.4f} nats, at {best:.3g} only {nll(best):.4f}. '
            'T may lie anywhere between 1e-3 and 1e2: search in log T'
        )

@exercise('4.5', 2)
def mask_again(f):
    conf = torch.rand(2,4,4)
    conf[1] *= .1
    mask = torch.rand(2,4,4)>.3
    for share in (.5,.25,0.,1.):
        got = f(conf, mask, share)
        need(
            getattr(got, 'dtype', None) == torch.bool and got.shape == mask.shape,
            'a bool mask of the same shape is wanted')
        need(not (got & ~mask).any(), 'only places of the mask may be masked again')
        need((got == remask(conf, mask, share)).all(
        ), 'in each picture for itself: the floor(share*n) places of lowest confidence, n the places of its mask'
             )

@exercise('4.6', 2)
def posterior(f):
    codes = torch.randn(9,3)
    sigma = torch.rand(2,4,4)+.2
    z = torch.randn(2,3,4,4)
    got = f(z, codes, sigma)
    want = torch.distributions.Normal(codes.view(1, 1, 1, 9, 3), sigma[..., None, None]).log_prob(
        z.permute(0, 2, 3, 1)[..., None, :]).sum(-1).softmax(-1)
    close(
        got, want,
        "Bayes: p(k|z) is proportional to N(z; e_k, sigma^2 I). The exponent is -|z-e_k|^2/(2 "
        "sigma^2), so T = 2 sigma^2 at each place; the codes come last"
    )

@exercise('4.7', 2)
def delta(f):
    z = torch.randn(6,3)
    codes = torch.randn(8,3)
    lp,lq = (torch.randn(6,8).log_softmax(-1) for _ in range(2))
    close(f(z, lp, lp, codes), z,
          'where the NAT says what the prior says, the latent must stay exactly as it is')
    close(
        f(z, lp, lq, codes), z + (lq.exp() - lp.exp())@codes,
        'z + E_q[e] - E_p[e], and a mean takes probabilities, not their logarithms: exp(log_p) @ codes'
    )

@exercise('4.8', 3)
def parallel(f):
    B = 2
    h = 4
    w = 4
    K = 6
    R = 4
    mask = torch.rand(B,h,w)>.2
    tokens = torch.randint(0,K,(B,h,w))
    calls = []
    def predict(t, m):
        calls.append((t.clone(), m.clone()))
        g = torch.Generator().manual_seed(len(calls))
        return (3*torch.randn(B,h,w,K,generator=g)).log_softmax(-1)
    out = f(predict, tokens.clone(), mask, R)
    need(len(calls)==R, f'{len(calls)} calls of predict for {R} rounds: one a round')
    need((calls[0][1]==mask).all(), 'in the first round all places of the mask are predicted')
    want = tokens.clone()
    conf = torch.ones(B,h,w)
    todo = mask
    for r in range(R):
        need((calls[r][1] == todo).all(
        ), f'round {r+1} has the wrong mask: `remask` the confidence with the share '
           '`cosine_schedule(r, rounds)` of the *first* mask, r rounds done'
             )
        need((calls[r][0] == want)[~todo].all(),
             f'before round {r+1}, a place that is not masked has the wrong token')
        lp = (3*torch.randn(B,h,w,K,generator=torch.Generator().manual_seed(r+1))).log_softmax(-1)
        c,t = lp.exp().max(-1)
        want = torch.where(todo, t, want)
        conf = torch.where(todo, c, conf)
        if r+1<R: todo = remask(conf, mask, math.cos(math.pi/2*(r+1)/R))
    need(
        out.shape == tokens.shape and (out == want).all(),
        'each place keeps the token of the last round in which it was masked; places outside the mask keep theirs'
    )

@exercise('4.9', 2)
def predicted(answer):
    truth = math.log(2)/math.log(128)
    return foresee(answer, truth, 'b', dict(
        a='there is no doubt about the patch, but the entropy is of the code: compare 0 with what you measured',
        c='twice 0 is 0: compare it with what you measured',
    ))

@exercise('4.10', 3)
def trained(answer):
    curves, seen, choose_reason = read_curves(answer, ['15% hidden', 'any share hidden'])
    few, any_ = (end_of(curves[name]) for name in ('15% hidden', 'any share hidden'))
    near(seen, few - any_, 'subtract the mean of the last six measurements of any share from that of 15%')
    choose_reason('a', dict(
        b='if it had learned nothing, it would guess, at 2.08 nats',
        c='a guess costs 2.08 nats, and its curve is above',
    ))
    return f'you read {seen:.3g} from the curves'

def _mended(logits, tokens, mask):
    each = F.cross_entropy(logits.movedim(-1, 1), tokens, reduction='none')
    return (each*mask).sum()/mask.sum()

def _planted(logits, tokens, mask):
    each = F.cross_entropy(logits.movedim(-1, 1), tokens, reduction='none')
    return (each*mask).mean()

@exercise('4.11', 3)
def bug_found(answer):
    fixed = hunt(answer, _mended, _planted)
    logits = torch.randn(2, 3, 4, 6)
    tokens = torch.randint(6, (2, 3, 4))
    mask = torch.rand(2, 3, 4) < .3
    mask[0, 0, 0] = True
    close(fixed(logits, tokens, mask), F.cross_entropy(logits[mask], tokens[mask]),
          'divide by the number of masked places, not by that of all places')
