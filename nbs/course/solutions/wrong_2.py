"Answers to exercises 2 that look right; the checks must notice each."
import torch
import torch.nn.functional as F


def _ema_of_codes(codes, count, total, z, tokens, decay):
    one = F.one_hot(tokens, len(codes)).float()
    n = one.sum(0)
    mean = one.T@z/n.clamp(min=1)[:,None]
    return torch.where(n[:, None] > 0, decay*codes + (1 - decay)*mean,
                       codes), decay*count + (1 - decay)*n, decay*total + (1 - decay)*one.T@z

def _ema_swapped(codes, count, total, z, tokens, decay):
    one = F.one_hot(tokens, len(codes)).float()
    count = (1-decay)*count+decay*one.sum(0)
    total = (1-decay)*total+decay*one.T@z
    return torch.where(count[:,None]>1e-3, total/count[:,None], codes),count,total

def _revive_near(codes, count, z, threshold):
    dead = (count<threshold).nonzero()[:,0]
    codes = codes.clone()
    codes[dead] = z[:len(dead)]
    return codes

def _revive_one(codes, count, z, threshold):
    codes = codes.clone()
    codes[count<threshold] = z[torch.cdist(z, codes).min(1).values.argmax()]
    return codes

def _weight(rec, g, last, swap=False, detach=True, limit=True):
    a, b = (torch.autograd.grad(l, last, retain_graph=True, create_graph=not detach)[0].norm()
            for l in ((g, rec) if swap else (rec, g)))
    w = a/(b+1e-4)
    if limit: w = w.clamp(0,1e4)
    return w.detach() if detach else w + 0*last.sum()

def _scale_only(z, e):
    def n(t):
        return t.norm(dim=1, keepdim=True)
    s = (n(e)/n(z)).detach()
    return s*z + (e-s*z).detach()

WRONG = {
    # the farthest
    '2.1': [
        lambda z, c: torch.cdist(z.permute(0, 2, 3, 1), c[None]).argmax(-1),
        # largest product; long codes win
        lambda z, c: (z.permute(0, 2, 3, 1)@c.T).argmax(-1)
    ],
    # no gradient, twice; value of z
    '2.2': [lambda z, e: e, lambda z, e: z + (e - z), lambda z, e: e + (z - e).detach()],
    # how many are used
    '2.3': [
        lambda t, K: torch.bincount(t.flatten(), minlength=K).gt(0).sum().float(),
        # entropy itself
        lambda t, K: torch.special.entr(torch.bincount(t.flatten(), minlength=K)/t.numel()).sum()
    ],
    # weight on the wrong term
    '2.4': [
        lambda z, e, b: b*F.mse_loss(e, z.detach()) + F.mse_loss(z, e.detach()),
        # nothing detached
        lambda z, e, b: (1 + b)*F.mse_loss(z, e)
    ],
    # averages codes; decay and 1-decay swapped
    '2.5': [_ema_of_codes, _ema_swapped],
    # not the far ones; all to one place; all codes
    '2.6': [_revive_near, _revive_one, lambda codes, count, z, th: z[:len(codes)].clone()],
    '2.7': [
        lambda r, g, l: _weight(r, g, l, swap=True), lambda r, g, l: _weight(r, g, l, detach=False),
        lambda r, g, l: _weight(r, g, l, limit=False)
    ],
    # straight through; no rotation; channel by channel
    '2.8': [lambda z, e: z + (e - z).detach(), _scale_only, lambda z, e: z*(e/z).detach()],
    '2.9': ['b', 'c', 'd', 2],
    '2.10': ['a', 'c', 'd', 2],
    '2.11': [
        lambda r, f: .5*((1 + r).relu().mean() + (1 - f).relu().mean()),
        lambda r, f: .5*((1 - r).mean() + (1 + f).mean()),
    ],
}
