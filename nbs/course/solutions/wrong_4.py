"Answers to exercises 4 that look right; the checks must notice each."
import math

import torch
import torch.nn.functional as F

from lowlight_nat.models.masking import cosine_schedule, remask


def _grid(d2, tokens, score):
    Ts = torch.logspace(-3, 2, 60)
    return Ts[torch.stack([score(-d2/T, tokens) for T in Ts]).argmin()].item()

def _batch(conf, mask, share):
    n = math.floor(mask.sum().item()*share)
    again = torch.zeros_like(mask).flatten()
    again[conf.masked_fill(~mask, math.inf).flatten().argsort()[:n]] = True
    return again.view_as(mask)

def _decode(predict, tokens, mask, rounds, fault):
    confidence = torch.ones(mask.shape)
    todo = mask
    for r in range(1, rounds+1):
        conf,best = predict(tokens, todo).exp().max(-1)
        where = torch.ones_like(todo) if fault=='everywhere' else todo
        tokens = torch.where(where, best, tokens)
        confidence = torch.where(where, conf, confidence)
        if r<rounds:
            todo = remask(confidence, todo if fault == 'shrinks' else mask,
                          cosine_schedule(r - 1 if fault == 'late' else r, rounds))
    return tokens

def _with(fault): return lambda *args: _decode(*args, fault)
def _d2(z, codes): return (z.permute(0,2,3,1)[...,None,:]-codes).square().sum(-1)

def _places(c, n, largest):
    again = torch.zeros_like(c, dtype=torch.bool).flatten()
    again[c.flatten().topk(n, largest=largest).indices] = True
    return again.view_as(c)

def _most_confident(c, mask, n): return _places(c.masked_fill(~mask, -math.inf), n, True)

def _everywhere(c, mask, n): return _places(c, n, False)

WRONG = {
    # sign; underflow; times T
    '4.1': [
        lambda d2, T: F.log_softmax(d2/T, -1), lambda d2, T: F.softmax(-d2/T, -1).log(),
        lambda d2, T: F.log_softmax(-d2*T, -1)
    ],
    # NaN; in nats
    '4.2': [
        lambda l: -(l.exp()*l).sum(-1)/math.log(l.shape[-1]),
        lambda l: torch.special.entr(l.exp()).sum(-1)
    ],
    # linear
    '4.3': [
        lambda n, R: [math.floor(n*(1 - r/R) + 1e-6) for r in range(R)],
        # one round off
        lambda n, R: [math.floor(n*math.cos(math.pi/2*r/R) + 1e-6) for r in range(1, R + 1)]
    ],
    # none; the most confident
    '4.4': [
        lambda d2, t: 1., lambda d2, t: _grid(d2, t, lambda l, t: -l.softmax(-1).amax(-1).mean()),
        lambda d2, t: torch.linspace(1, 100, 400)[torch.stack(
            [F.cross_entropy(-d2/T, t) for T in torch.linspace(1, 100, 400)]).argmin()].item()
    ],
    # the surest; over the batch; outside
    '4.5': [
        lambda c, m, s: remask(-c, m, s), _batch, lambda c, m, s: remask(c, torch.ones_like(m), s)
    ],
    # T = sigma^2; T = 2 sigma
    '4.6': [
        lambda z, e, s: (-_d2(z, e)/s[..., None]**2).softmax(-1), lambda z, e, s:
        (-_d2(z, e)/(2*s[..., None])).softmax(-1)
    ],
    # expectation; sign; logs
    '4.7': [
        lambda z, p, q, e: q.exp()@e, lambda z, p, q, e: z + (p.exp() - q.exp())@e,
        lambda z, p, q, e: z + (q - p)@e
    ],
    '4.8': [_with(o) for o in ('everywhere', 'shrinks', 'late')],
    '4.9': ['a', 'c', 'd', 2],
    '4.10': ['a', 'c', 'd', 2],
    # the most confident; places outside the mask
    '4.11': [_most_confident, _everywhere],
}
