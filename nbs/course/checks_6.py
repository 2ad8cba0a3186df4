"Checks of session 6: training that can be stopped, tiles, evidence, deployment."
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from checks import close, end_of, exercise, foresee, hunt, near, need, read_curves
from torch import nn

from lowlight_nat.experiments.calibration import auroc


@exercise('6.1', 1)
def ema(f):
    avg = torch.tensor([1.,2.])
    p = torch.tensor([3.,0.])
    for t in (1,10,10_000):
        g = min(.99, (1+t)/(10+t))
        close(
            f(avg.clone(), p, t, .99), g*avg + (1 - g)*p,
            f't={t}: g = min(decay, (1+t)/(10+t)); the average keeps the share g of itself and takes 1-g of the weights'
        )

@exercise('6.2', 1)
def ramp(f):
    for n in (4,7,16):
        w = f(n)
        need(getattr(w, 'shape', None)==(n,), 'a tensor of n weights is wanted')
        need((w > 0).all() and (w[1:] >= w[:-1]).all(),
             'the weights rise, and none is 0: where a tile stands alone it would be divided by 0')
        close(
            w + w.flip(0), torch.ones(n),
            'the ramp that rises and its mirror image must sum to 1 at every pixel: measure at the '
            'pixels\' middles, i + 1/2'
        )

@exercise('6.3', 2)
def corner(f):
    state = torch.get_rng_state()
    a = [tuple(f(42, k, 100, 150, 32)) for k in range(200)]
    need(
        torch.equal(state, torch.get_rng_state()),
        "it draws from the global random numbers, and so depends on what was drawn before: a "
        "`torch.Generator` of its own"
    )
    need(a[::-1] == [tuple(f(42, k, 100, 150, 32)) for k in reversed(range(200))],
         'draw k must not depend on the draws before it')
    need(all(0 <= t <= 68 and 0 <= l <= 118 and int(t) == t and int(l) == l for t, l in a),
         'top is in [0, H-crop], left in [0, W-crop], both whole numbers')
    t,l = torch.tensor(a).T
    need(t.min() < 4 and t.max() > 64 and l.min() < 6 and l.max() > 112,
         'the corners must reach the whole range, both ends included')
    need({
        int(f(1, k, 34, 34, 32)[0])
        for k in range(80)
    } == {
        0, 1, 2
    }, 'a crop of 32 in 34 rows has three places, 0, 1 and 2; `torch.randint` leaves out its upper end'
         )
    need(len(set(a))>150, 'different k, different corners')
    need(
        abs(torch.corrcoef(torch.stack([t/68, l/118]).float())[0, 1]) < .3,
        'top and left must be independent')
    need(a!=[tuple(f(43, k, 100, 150, 32)) for k in range(200)], 'another seed, other corners')
    need(
        not set(f(42, k + 1, 100, 150, 32) == f(43, k, 100, 150, 32) for k in range(20)) == {True},
        'seed+k makes draw k+1 of seed 42 the draw k of seed 43: mix the two numbers, `seed*1_000_003 + k`'
    )

@exercise('6.4', 2)
def blend(f):
    x = torch.rand(1,3,50,70)
    close(
        f(lambda t: t, x, 32, 16), x,
        'tiles that change nothing must give the picture back: sum of weight times tile, divided by the sum of weights',
        1e-3)
    def blur(t):
        return F.avg_pool2d(F.pad(t, (2,2,2,2), mode='reflect'), 5, 1)
    def seam(y):
        return (y[...,1:]-y[...,:-1]).abs().max().item()
    flat = torch.full((1,3,32,160), .5)
    n = []
    def levels(t):
        n.append(0)
        return t + .3*(len(n)%2)
    y = f(levels, flat, 32, 16)
    need(
        seam(y) < .12,
        f'tiles of two levels meet with a step of {seam(y):.2f}: let the weights fall towards the inner edges of a tile'
    )
    need((y.max() - y.min()) > .2,
         'the tiles must be those that `tile_grid` names, each with the same care')

@exercise('6.5', 2)
def auc(f):
    s = torch.randn(60)
    w = torch.rand(60)>.6
    close(
        float(f(s, w)), auroc(s, w),
        'the share of pairs (a wrong place, a right place) in which the wrong one has the higher score'
    )
    s = torch.randint(0,4,(60,)).float()
    close(float(f(s, w)), auroc(s, w), 'a tie counts half: a pair with equal scores is half right')
    close(float(f(torch.zeros(60), w)), .5, 'a map that says nothing has 0.5')

@exercise('6.6', 2)
def interval(f):
    hard = torch.randn(40)*3+24
    a = hard+.3*torch.randn(40)+.2
    b = hard+.3*torch.randn(40)
    got = f(a, b, 2000)
    need(isinstance(got, tuple) and len(got)==2, 'return (lo, hi)')
    lo,hi = map(float, got)
    d = a-b
    m = d.mean().item()
    s = d.std().item()/40**.5
    need(lo<hi, 'lo comes first: the lower end of the interval, then the upper')
    need(
        abs((hi - lo) - 2*1.96*s) < .25*2*1.96*s,
        f'the interval is {hi-lo:.2f} dB wide, about {2*1.96*s:.2f} is right: draw pictures with '
        'replacement, as many as there are, the *same* for both systems; take the 2.5% and 97.5% '
        'quantiles of the mean difference'
    )
    need(abs((lo+hi)/2-m)<s, 'it must lie around the mean of a - b')

@exercise('6.7', 3)
def resume(pair):
    snapshot,restore = pair
    def begin():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4,8), nn.BatchNorm1d(8), nn.Linear(8,2))
        opt = torch.optim.Adam(net.parameters(), 1e-2)
        return net, opt, torch.optim.lr_scheduler.CosineAnnealingLR(
            opt, 20), torch.Generator().manual_seed(1)
    def steps(run, n):
        net,opt,sched,g = run
        for _ in range(n):
            x = torch.randn(16,4,generator=g)
            net(x).pow(2).sub(1).abs().mean().backward()
            opt.step()
            opt.zero_grad()
            sched.step()
        return {k: v.clone() for k,v in net.state_dict().items()}
    run = begin()
    whole = steps(run, 10)
    # goes on, and is killed
    run = begin()
    steps(run, 5)
    kept = snapshot(*run)
    steps(run, 3)
    with tempfile.TemporaryDirectory() as d:
        torch.save(kept, Path(d)/'state.pt')
        kept = torch.load(Path(d)/'state.pt', weights_only=True)
    run = begin()
    restore(kept, *run)
    again = steps(run, 5)
    bad = [k for k in whole if not torch.equal(whole[k], again[k])]
    need(
        not bad,
        f'{", ".join(bad)} differ after 5 + 5 steps from those after 10. What has a state? The '
        'network, its optimiser, the schedule, the generator; and a state dict holds the tensors themselves, so copy it'
    )

@exercise('6.8', 3)
def to_onnx(f):
    import onnxruntime
    net = nn.Sequential(nn.Conv2d(3,8,3,padding=1), nn.SiLU(), nn.Conv2d(8,3,3,padding=1)).eval()
    with tempfile.TemporaryDirectory() as d:
        f(net, path:=str(Path(d)/'net.onnx'))
        need(Path(path).exists(), 'no file was written at `path`')
        run = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        name = run.get_inputs()[0].name
        for shape in ((1,3,32,48), (1,3,40,24)):
            x = torch.rand(shape)
            try: y, = run.run(None, {name: x.numpy()})
            except Exception:
                need(
                    False,
                    f'the file takes no picture of {shape[2]}x{shape[3]}: height and width must be dynamic'
                )
            with torch.no_grad():
                close(torch.tensor(y), net(x), 'the graph gives other numbers than the network',
                      1e-3)

@exercise('6.9', 2)
def predicted(answer):
    truth = .1736
    return foresee(answer, truth, 'a', dict(
        b='they cancel in the mean of all rows, but you look at the best one',
        c='that holds for any one row, and you chose the largest of fifteen',
    ))

@exercise('6.10', 3)
def trained(answer):
    curves, seen, choose_reason = read_curves(answer, ['the last weights', 'their moving average'])
    last, average = (end_of(curves[name]) for name in ('the last weights', 'their moving average'))
    near(seen, last/average, 'divide the mean of the last six measurements of one by that of the other')
    choose_reason('c', dict(
        a='memory changes no error',
        b='the size of the steps is the same throughout',
    ))
    return f'you read {seen:.3g} from the curves'

def _mended(net, x, y):
    before = net.training
    net.eval()
    with torch.no_grad():
        error = (net(x) - y).square().mean().item()
    net.train(before)
    return error

def _planted(net, x, y):
    with torch.no_grad():
        return (net(x) - y).square().mean().item()

@exercise('6.11', 3)
def bug_found(answer):
    fixed = hunt(answer, _mended, _planted)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    x = torch.randn(16, 4)
    y = torch.randn(16, 1)
    for training in (True, False):
        net.train(training)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        got = fixed(net, x, y)
        need(net.training == training, 'give the network back in the mode in which it came')
        need(all(torch.equal(v, net.state_dict()[k]) for k, v in before.items()),
             'the network has changed: what does batch norm do in training mode?')
        close(float(got), _mended(net, x, y), 'the mean square error in the mode of use')
