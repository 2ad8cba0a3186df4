"Answers to exercises 1 that look right; the checks must notice each."
import torch

from lowlight_nat.evaluation.fidelity import grey_mean
from lowlight_nat.io.images import linear_to_srgb, srgb_to_linear


def _not_in_pairs(y1, y2):
    x = (y1+y2)/2
    order = x.argsort()
    X, v = (torch.stack([f(o)
                         for o in t[order].chunk(50)])
            for f, t in ((torch.mean, x), (torch.var, y1 - y2)))
    a, b = torch.linalg.lstsq(torch.stack([X, torch.ones(50)], 1)/v[:, None],
                              torch.ones(50, 1)).solution.flatten()
    return a.item(),b.item()

def _one_shot(y1, y2): return (y1.var()/y1.mean()).item(), 0.

WRONG = {
    '1.1': [
        lambda x, ev: (x*2**ev).clamp(0, 1), # numbers are not light
        lambda x, ev: linear_to_srgb(srgb_to_linear(x)*2**ev)
    ], # not clipped
    # variance taken for deviation
    '1.2': [lambda x, a, b: x/(a*x + b), lambda x, a, b: x/
            ((a*x)**.5 + b**.5)], # deviations don't add
    # one number for the batch
    '1.3': [
        lambda x, y: -10*(x - y).square().mean().log10(), lambda x, y: -20*(x - y).square().mean(
            (1, 2, 3)).log10()
    ], # the root is missing
    # prediction not clipped first
    '1.4': [
        lambda p, t: (p*(grey_mean(t)/grey_mean(p)).view(-1, 1, 1, 1)).clamp(0, 1),
        # plain mean
        lambda p, t: (p.clamp(0, 1)*(t.mean((1, 2, 3))/p.clamp(0, 1).mean(
            (1, 2, 3))).view(-1, 1, 1, 1)).clamp(0, 1),
        # result not clipped
        lambda p, t: p.clamp(0, 1)*(grey_mean(t)/grey_mean(p.clamp(0, 1))).view(-1, 1, 1, 1)
    ],
    # ratio of means; the wrong way round
    '1.5': [lambda p, t: t.mean()/p.mean(), lambda p, t: (t*t).sum()/(p*t).sum()],
    # noise of the bright scene
    '1.6': [lambda x, ev, a, b: (a*x + b)**.5*2**-ev, lambda x, ev, a, b:
            (a*x*2**ev + b)**.5], # not amplified
    # factor 2; the scene's variance
    '1.7': [_not_in_pairs, _one_shot],
    '1.8': ['a', 'c', 'd', 2],
    '1.9': ['a', 'c', 'd', 2],
    '1.10': [
        lambda p, t: -10*(p*(t.mean()/p.mean()) - t).square().mean((1, 2, 3)).log10(),
        lambda p, t: -10*(p*(t.mean((2, 3))/p.mean((2, 3)))[:, :, None, None] - t).square().mean((1, 2, 3)).log10(),
    ],
}
