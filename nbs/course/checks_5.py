"Checks of session 5: the fusion decoder, the NAT on features, the level."
from pathlib import Path

import torch
import torch.nn.functional as F
from checks import close, exercise, foresee, hunt, need, read_curves

from lowlight_nat.evaluation.fidelity import grey_mean, gt_mean, psnr
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.io.images import read_image

_samples = Path(__file__).resolve().parents[2]/'samples'

@exercise('5.1', 1)
def mix_up(f):
    h = torch.randn(2,3,4,4)
    low = torch.randn(2,3,4,4)
    close(f(h, low, torch.tensor(20.)), low,
          'a large w trusts the dark picture: m = sigmoid(w) is the weight of f_low', 1e-3)
    for w in (-1.,.5):
        close(f(h, low, torch.tensor(w)),
              torch.sigmoid(torch.tensor(w))*low + (1 - torch.sigmoid(torch.tensor(w)))*h,
              'm f_low + (1-m) h with m = sigmoid(w)')

@exercise('5.2', 1)
def normalise(f):
    x = torch.rand(2,3,8,8)*torch.tensor([.9,.5,.2]).view(3,1,1)
    got = f(x, .4)
    need(isinstance(got, tuple) and len(got)==2, 'return the picture and its level')
    close(got[1], grey_mean(x),
          'the level is the mean of the grey picture, one number a picture: `grey_mean`')
    close(got[0],
          x*(.4/grey_mean(x)).view(2, 1, 1, 1),
          'scale by level over mean, and do not clip: the network must see what was bright')

@exercise('5.3', 1)
def logvar(f):
    e = torch.randn(500,4)*3
    got = float(f(e))
    def nll(v):
        return float((.5*(e.pow(2).mean(-1)*torch.exp(-torch.tensor(v))+v)).mean())
    need(
        nll(got) <= min(nll(got + .01), nll(got - .01)) + 1e-6,
        f'at {got:.3f} the loss still falls to one side. Set the derivative by v of m exp(-v) + v '
        'to zero, m the mean square'
    )

@exercise('5.4', 2)
def shift_by_offsets(f):
    x = torch.randn(1,2,9,11)
    for dy,dx in ((0,0), (2,0), (0,-3), (-1,2)):
        got = f(x, dy, dx)
        need(getattr(got, 'shape', None)==x.shape, 'the result has the shape of x')
        want = torch.zeros_like(x)
        ys,xs = torch.meshgrid(torch.arange(9)+dy, torch.arange(11)+dx, indexing='ij')
        ok = (ys>=0)&(ys<9)&(xs>=0)&(xs<11)
        want[..., ok] = x[..., ys[ok], xs[ok]]
        close(
            got, want,
            f'dy={dy}, dx={dx}: y[i,j] = x[i+dy, j+dx]. Offsets come in pairs (row, column); with '
            'a 1x1 kernel there is one pair, (B,2,H,W)'
        )

@exercise('5.5', 2)
def low_band(f):
    h = torch.randn(1,3,8,8)
    new = torch.randn(1,3,2,2)
    cell = 4
    mask = torch.tensor([[[True,False],[False,True]]])
    got = f(h, new, mask, cell)
    def low(x):
        return F.avg_pool2d(x, cell)
    def up(x):
        return x.repeat_interleave(cell,-1).repeat_interleave(cell,-2)
    wide = up(mask[:,None].float())>0
    close(torch.where(wide, 0., got), torch.where(wide, 0., h),
          'cells that are not masked stay as they are')
    close(torch.where(mask[:, None], low(got), new), new,
          'the mean of a masked cell must be the new one')
    close(
        got - up(low(got)), h - up(low(h)),
        'a cell must keep its detail, which is all but its mean: add the difference of the means')

@exercise('5.6', 2)
def coverage(f):
    m = torch.randn(20_000)*.3-1
    s = torch.rand(20_000)*.3+.05
    level = (m+s*torch.randn(20_000)).exp()
    for k,want in ((1,.683),(2,.954)):
        close(
            float(f(m, s.log(), level, k)), want,
            f'a prediction that tells the truth covers {want} within {k} deviations. It speaks of log '
            'levels, and of the log of its standard deviation',
            .02)
    close(float(f(m, (s*.5).log(), level, 1)), .383,
          'a prediction that claims half its error covers less', .02)

@exercise('5.7', 3)
def match_level(f):
    for x, level in ((torch.rand(1, 3, 16, 16)*.3, .4), (torch.rand(1, 3, 16, 16)**4, .6),
                     (torch.rand(1, 3, 16, 16)*.9 + .1, .2)):
        g = float(f(x, level))
        m = grey_mean((x*g).clamp(0,1)).item()
        need(
            abs(m - level) < 1e-3,
            f'with g={g:.3f} the clipped picture has the level {m:.4f}, {level} is wanted. '
            'Clipping makes it darker than g says: halve an interval of g until the level fits'
        )

@exercise('5.8', 3)
def nat_gain(f):
    enhance = Enhancer.from_pretrained(device='cpu')
    dark, truth = (read_image(f'{o}/chelsea.jpg')[:, :96, :128]
                   for o in (_samples, _samples/'reference'))
    def score(rounds):
        x = enhance(dark, rounds=rounds).x.cpu().view(1,*dark.shape)
        return psnr(gt_mean(x, truth[None]), truth[None]).item()
    got = f(enhance, dark, truth)
    need(isinstance(got, float) or getattr(got, 'numel', lambda: 0)()==1, 'one number, in dB')
    want = score(4)-score(0)
    close(
        float(got), want,
        f'{want:+.3f} dB is wanted, you have {float(got):+.3f}: PSNR after `gt_mean` with '
        'rounds=4, less that with rounds=0',
        1e-4)

@exercise('5.9', 2)
def predicted(answer):
    truth = .2
    return foresee(answer, truth, 'b', dict(
        a='then m = 0 would be best: compare it with what you measured',
        c='that would be m = 1/3: compare it with what you measured',
    ))

@exercise('5.10', 3)
def trained(answer):
    curves, seen, choose_reason = read_curves(answer, ['one spread for all', 'a predicted spread'])
    goal = curves['one spread for all'][-1][1]
    step = next((at for at, value in curves['a predicted spread'] if value <= goal), None)
    need(step is not None, 'the predicted spread never gets there: train for longer')
    need(abs(seen - step) <= .05*curves['a predicted spread'][-1][0],
         f'draw a level line at {goal:.3f}, the end of the other curve: where does the curve cross it first?')
    choose_reason('b', dict(
        a='both see the same points, and their means end nearly alike: the loss has a second term',
        c='more weights lower the loss on training points, and these are new ones',
    ))
    return f'you read {seen:.3g} from the curves'

def _mended(mean, log_std, y):
    return (log_std + 0.5*(y - mean)**2*(-2*log_std).exp()).mean()

def _planted(mean, log_std, y):
    return (0.5*log_std + 0.5*(y - mean)**2*(-2*log_std).exp()).mean()

@exercise('5.11', 3)
def bug_found(answer):
    fixed = hunt(answer, _mended, _planted)
    mean, log_std, y = torch.randn(3, 50)
    want = F.gaussian_nll_loss(mean, y, (2*log_std).exp(), eps=1e-12)
    close(fixed(mean, log_std, y), want,
          'write the density of a Gaussian down: its logarithm holds -log sigma, not -0.5 log sigma')
