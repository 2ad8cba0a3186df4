"Checks of session 3: the conditional flow."

import torch
from checks import choose, close, exercise, need

from lowlight_nat.models.flow import ConditionalCoupling, InvConv1x1, check_flow, nll_bits


def _pair(got, names='(u, logdet)'):
    need(isinstance(got, tuple) and len(got)==2, f'return {names}')
    return got

@exercise('3.1', 1)
def affine(f):
    z,t,s = (torch.randn(2,3,4,5) for _ in range(3))
    u,logdet = _pair(f(z, t, s))
    close(u, (z+t)*s.exp(), 'u = (z + t) exp(s): first the shift, then the scale')
    close(
        logdet, s.sum((1, 2, 3)),
        'each entry of u is exp(s) times one of z: the Jacobian is diagonal, its log-determinant '
        'the sum of s, one number a picture'
    )

@exercise('3.2', 1)
def coupling_inverse(f):
    layer = ConditionalCoupling(5, 4, hidden=8)
    with torch.no_grad():
        layer.net[-1].weight.normal_(0, .3)
        layer.net[-1].bias.normal_(0, .3)
    z = torch.randn(2,5,4,4)
    c = torch.randn(2,4,4,4)
    def params(a, c):
        return layer.params(torch.cat([a,c],1))
    with torch.no_grad():
        u,_ = layer(z, c)
        back = f(u, c, layer.first, params)
    close(
        back, z,
        'the first channels came through unchanged, so t and s can be had from them; then z_b = u_b exp(-s) - t',
        1e-3)

@exercise('3.3', 1)
def conv_logdet(f):
    for _ in range(3):
        layer = InvConv1x1(4)
        layer.weight.data = torch.randn(4,4)
        want = layer(torch.randn(1,4,3,5))[1][0].detach()
        close(
            float(f(layer.weight.data, 3, 5)), float(want),
            'W is applied at each of the h*w places, and a determinant may be negative: `torch.linalg.slogdet`',
            1e-3)

@exercise('3.4', 2)
def actnorm_start(f):
    z = torch.randn(4, 3, 6, 6)*torch.tensor([.1, 1., 5.]).view(3, 1, 1) + torch.tensor(
        [2., -1., 0.]).view(3, 1, 1)
    bias,logs = _pair(f(z), '(bias, logs)')
    need(bias.shape==logs.shape==(1,3,1,1), 'bias and logs have the shape (1,d,1,1)')
    u = (z+bias)*logs.exp()
    close(u.mean((0, 2, 3)), torch.zeros(3),
          'the mean of (z + bias) exp(logs) must be 0: the bias is added before the scale', 1e-3)
    close(u.std((0,2,3)), torch.ones(3), 'its standard deviation must be 1: logs = -log std', 1e-3)

@exercise('3.5', 2)
def bits(f):
    u = torch.randn(2,4,3,3)
    mu = torch.randn(2,4,3,3)
    logdet = torch.randn(2)
    need(
        float(f(u, logdet + 5, mu)) < float(f(u, logdet, mu)),
        'a flow that stretches space more makes the latent likelier: the log-determinant is added to the log-likelihood'
    )
    close(
        f(u, logdet, mu), nll_bits(u, logdet, mu),
        'log N(u; mu, I) = -1/2 sum ((u-mu)^2 + log 2 pi), plus logdet; negative, mean over '
        'pictures, divided by n log 2, n numbers a picture'
    )

@exercise('3.6', 2)
def runaway(a):
    a = torch.as_tensor(float(a), dtype=torch.float64)
    close(
        1/torch.sigmoid(a + 2), 1e4,
        f'at a={a:.3f} the inverse multiplies by {1/torch.sigmoid(a+2):.3g}. Solve 1/sigmoid(a+2) '
        '= 1 + exp(-(a+2)) for 10,000',
        1e-2)

@exercise('3.7', 2)
def draw(f):
    def inverse(u, c):
        return 3*u + c
    mu = torch.randn(1,4,32,32)
    c = torch.randn(1,4,32,32)
    close(f(inverse, mu, c, 0.), inverse(mu, c),
          'heat 0 is the inverse of the mean map, without noise')
    for s in (.5,1.):
        eps = (f(inverse, mu, c, s)-c)/3-mu
        close(eps.std(), s,
              'u = mu + s*eps, eps of standard deviation 1; the noise goes in before the inverse',
              .06)
        close(eps.mean(), 0., 'eps has the mean 0', .1)
    need(not torch.equal(f(inverse, mu, c, 1.), f(inverse, mu, c, 1.)), 'two draws must differ')

@exercise('3.8', 3)
def mirrored(cls):
    layer = cls(4, 8)
    need(isinstance(layer, torch.nn.Module), 'it must be an nn.Module')
    back,det = check_flow(layer)
    need(
        back < 1e-6,
        f'the inverse misses z by {back:.1e}: undo the steps in reverse order, t and s from '
        'channels that were not changed'
    )
    need(
        det < 1e-6,
        f'the log-determinant is off by {det:.1e}: the sum of s over the channels that were changed'
    )
    for p in layer.parameters(): torch.nn.init.normal_(p, 0, .3)
    z = torch.randn(1,4,3,3)
    c = torch.randn(1,8,3,3)
    u,_ = layer(z, c)
    close(u[:,2:], z[:,2:], 'the second half passes unchanged; it shifts and scales the first')
    need((u[:,:2]-z[:,:2]).abs().max()>1e-3, 'the first half must change')
    need((layer(z, c+1)[0]-u).abs().max()>1e-4, 'the condition must be used')
    z2 = z.clone()
    z2[:,2:] += 1
    need((layer(z2, c)[0][:, :2] - u[:, :2]).abs().max() > 1e-4,
         'shift and scale must depend on the second half, too')
    for p in layer.parameters(): p.data.mul_(1e3)
    u,_ = layer(z, c)
    need((layer.inverse(u, c) - z).abs().max() < 5e-2*u.abs().max().clamp(min=1),
         'with large weights the inverse is lost in rounding: bound the log-scale, 0.8 tanh')

@exercise('3.9', 2)
def predicted(letter):
    choose(letter, 'a', dict(
        b='the determinant is 1, and the question is after its logarithm',
        c='it is the sum of the log-scales s, and these are 0 for every input',
    ))

@exercise('3.10', 3)
def read_curve(letter):
    choose(letter, 'b', dict(
        a='lower is better: which curve lies lowest at the right end?',
        c='compare the three heights at the right end',
    ))

@exercise('3.11', 3)
def planted_bug(f):
    z = torch.randn(2,3,4,5)
    s = torch.randn(2,3,1,1)
    full = s.expand_as(z).sum((1,2,3))
    close(f(z, s), full, 'every place of a channel is scaled, so each s counts as often as there are places')
