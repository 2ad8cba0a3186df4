"Checks of session 1: light, darkness, and how a result is measured."
import torch
from checks import choose, close, exercise, need

from lowlight_nat.evaluation.fidelity import gt_mean, psnr
from lowlight_nat.io.images import linear_to_srgb, srgb_to_linear


@exercise('1.1', 1)
def expose(f):
    x = torch.rand(2,3,8,8)
    close(f(x, 0.), x, 'at 0 stops nothing changes')
    close(
        f(x, -2.), linear_to_srgb(srgb_to_linear(x)*.25),
        'light is multiplied by 2**ev; the numbers of a file are not light: `srgb_to_linear` '
        'first, `linear_to_srgb` last'
    )
    need(f(x, 3.).max()<=1, 'a pixel has no more than full light: clip the light to [0,1]')

@exercise('1.2', 1)
def snr(f):
    x = torch.tensor([1e-4,1e-2,1.])
    a = 2e-4
    b = 2.5e-7
    close(f(x, a, b), x/(a*x + b).sqrt(), 'the noise is a standard deviation, and a*x+b a variance',
          1e-6)

@exercise('1.3', 1)
def picture_psnr(f):
    x = torch.rand(2,3,8,8)
    y = (x+torch.tensor([.01,.2]).view(2,1,1,1)).clamp(0,2)
    close(
        f(x, y), psnr(x, y),
        'the mean of (x-y)^2 over channel, row and column of each picture; then 10*log10(1/mean), one number a picture'
    )

@exercise('1.4', 2)
def scale_to_truth(f):
    t = torch.rand(2,3,16,16)*torch.tensor([.9,.5,.2]).view(3,1,1)
    for p, hint in (
        (t*.25,
         'scale by the ratio of the grey means, one for each picture; the weights of red, green and blue are in `GREY`'
         ),
        (t*.3 + torch.tensor([0., 0., .3]).view(3, 1, 1),
         'the grey mean weighs the channels, and a blue picture is darker than its plain mean says'
         ),
        (t*2 - .2,
         'clip the prediction to [0,1] before its mean is taken: that is what a file would hold'),
        (t**4, 'clip the result to [0,1], too')):
        close(f(p, t), gt_mean(p, t), hint)

@exercise('1.5', 2)
def best_gain(f):
    t = torch.rand(3,32,32)
    p = t*.5+.1*torch.randn_like(t)
    g = f(p, t)
    need(not hasattr(g, 'numel') or g.numel()==1, 'one number for the whole picture is wanted')
    close(
        float(g), float((p*t).sum()/(p*p).sum()),
        'set the derivative of sum (g p - t)^2 by g to zero; the ratio of the means is not the '
        'best g when there is noise'
    )

@exercise('1.6', 2)
def noise_after(f):
    a = 1e-3
    b = 1e-6
    for x,ev in ((.5,-4.), (.1,-6.)):
        got = f(x, ev, a, b)
        light = torch.full((200_000,), x*2**ev)
        back = (torch.poisson(light/a)*a + b**.5*torch.randn(len(light)))*2**-ev
        close(
            got/back.std(), torch.tensor(1.),
            f'at x={x}, {ev} stops, a simulation has the standard deviation {back.std():.3f}: the '
            'light that arrives is x*2**ev, and its noise is amplified with it',
            .02)

@exercise('1.7', 3)
def fit_noise(f):
    scene = torch.rand(400_000)**2
    for a,b in ((2e-3,1e-4), (1e-3,4e-4)):
        y1,y2 = ((torch.poisson(scene/a)*a + b**.5*torch.randn(len(scene))) for _ in range(2))
        got = f(y1, y2)
        need(isinstance(got, tuple) and len(got)==2, 'return (a, b)')
        close(
            float(got[0])/a, 1.,
            f'a is {a}, you found {float(got[0]):.2e}. The scene drops out of y1-y2, whose '
            'variance is twice that of one shot; group the pixels by (y1+y2)/2',
            .1)
        close(
            float(got[1])/b, 1.,
            f'b is {b}, you found {float(got[1]):.2e}. It is the intercept of the line', .1)

@exercise('1.8', 2)
def predicted(letter):
    choose(letter, 'b', dict(
        a='2 would be the factor for 4 shots: the noise falls by the root of their number',
        c='the variance falls by 16, and the noise is its root',
    ))

@exercise('1.9', 3)
def read_curve(letter):
    choose(letter, 'b', dict(
        a='look at the right half of the curve with fixed noise, and compare it with its lowest point',
        c='read the legend once more: which of the two curves rises?',
    ))

@exercise('1.10', 3)
def planted_bug(f):
    truth = torch.rand(3,3,8,8)
    result = truth*torch.tensor([.3,.6,.9]).view(-1,1,1,1) + .05*torch.rand(3,3,8,8)
    want = []
    for p, t in zip(result, truth):
        mse = (p*(t.mean()/p.mean()) - t).square().mean()
        want.append(-10*mse.log10())
    close(f(result, truth), torch.stack(want),
          'each picture is scaled by the ratio of its own two means: the ratio has one number a picture')
