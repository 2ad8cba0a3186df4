"Answers to exercises 3 that look right; the checks must notice each."
import math

import torch
from torch import nn

from lowlight_nat.models.layers import conv3


class _Mirrored(nn.Module):
    "The solution, with something wrong that can be named"
    fault = ''
    def __init__(self, dim, cond, hidden=16):
        super().__init__()
        self.half = dim//2
        self.net = nn.Sequential(conv3(dim - self.half + cond, hidden), nn.ReLU(),
                                 conv3(hidden, 2*self.half))
    def params(self, b, c):
        t,a = self.net(torch.cat([b,c*(self.fault!='blind')],1)).chunk(2,1)
        return t, a if self.fault=='unbounded' else .8*a.tanh()
    def forward(self, z, c):
        a = z[:,:self.half]
        b = z[:,self.half:]
        t,s = self.params(b, c)
        return torch.cat([(a + t)*s.exp(), b], 1), s.mean(
            (1, 2, 3)) if self.fault == 'mean' else s.sum((1, 2, 3))
    def inverse(self, u, c):
        a = u[:,:self.half]
        b = u[:,self.half:]
        t,s = self.params(b, c)
        return torch.cat([(a-t)*(-s).exp() if self.fault=='order' else a*(-s).exp()-t, b],1)

def _with(fault): return type('Mirrored_'+fault, (_Mirrored,), dict(fault=fault))

def _late(u, c, first, params):
    a = u[:,:first]
    b = u[:,first:]
    t,s = params(a, c)
    return torch.cat([a,(b-t)*(-s).exp()],1)

def _nll(u, logdet, mu, sign=1, base=math.log(2), c=math.log(2*math.pi)):
    return -((-.5*((u-mu)**2+c).flatten(1).sum(1)+sign*logdet)/(u[0].numel()*base)).mean()

def _stats(z): return z.mean((0,2,3),keepdim=True),z.std((0,2,3),keepdim=True)

WRONG = {
    '3.1': [
        lambda z, t, s: (z*s.exp() + t, s.sum((1, 2, 3))), lambda z, t, s:
        ((z + t)*s.exp(), s.mean((1, 2, 3))), lambda z, t, s: ((z + t)*s.exp(), s.sum())
    ],
    # steps not in reverse order
    '3.2': [_late, lambda u, c, first, params: u],
    # one place; a negative determinant
    '3.3': [lambda W, h, w: torch.linalg.slogdet(W)[1], lambda W, h, w: h*w*torch.det(W).log()],
    # bias after the scale; sign
    '3.4': [
        lambda z: (-_stats(z)[0]/_stats(z)[1], -_stats(z)[1].log()), lambda z:
        (-_stats(z)[0], _stats(z)[1].log())
    ],
    # sign; nats; no constant
    '3.5': [
        lambda u, l, m: _nll(u, l, m, sign=-1), lambda u, l, m: _nll(u, l, m, base=1),
        lambda u, l, m: _nll(u, l, m, c=0)
    ],
    '3.6': [-math.log(1e4 - 1), -2. + math.log(1e-4)/2],
    # noise after the inverse; heat on mu
    '3.7': [
        lambda inv, mu, c, s: inv(mu, c) + s*torch.randn_like(mu),
        lambda inv, mu, c, s: inv(s*mu + torch.randn_like(mu), c),
        # uniform
        lambda inv, mu, c, s: inv(mu + s*torch.rand_like(mu), c)
    ],
    '3.8': [_with(o) for o in ('order', 'mean', 'blind', 'unbounded')],
    '3.9': ['b', 'c', 'd', 2],
    '3.10': ['a', 'c', 'd', 2],
    '3.11': [
        lambda z, s: s.sum((1, 2, 3)),
        lambda z, s: s.expand_as(z).mean((1, 2, 3)),
    ],
}
