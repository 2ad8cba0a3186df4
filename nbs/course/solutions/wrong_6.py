"Answers to exercises 6 that look right; the checks must notice each."
import copy

import torch

from lowlight_nat.inference.tiling import tile_grid


def _tiles(f, x, tile, overlap, add):
    out = torch.zeros_like(x)
    total = torch.zeros(x.shape[-2:])
    for t,l,b,r in tile_grid(*x.shape[-2:], tile, overlap):
        y = f(x[...,t:b,l:r])
        if add:
            out[...,t:b,l:r] += y
            total[t:b,l:r] += 1
        else:
            out[...,t:b,l:r] = y
            total[t:b,l:r] = 1
    return out,total

def _last_wins(f, x, tile, overlap): return _tiles(f, x, tile, overlap, False)[0]
def _sum(f, x, tile, overlap): return _tiles(f, x, tile, overlap, True)[0]
def _flat(f, x, tile, overlap):
    out,total = _tiles(f, x, tile, overlap, True)
    return out/total

def _global(seed, k, H, W, crop):
    return int(torch.randint(H-crop+1, ())),int(torch.randint(W-crop+1, ()))
def _one_off(seed, k, H, W, crop, n=0, mix=1_000_003):
    g = torch.Generator().manual_seed(seed*mix+k)
    return tuple(int(torch.randint(o-crop+n, (), generator=g)) for o in (H,W))

def _unpaired(a, b, draws):
    i,j = (torch.randint(len(a), (draws,len(a))) for _ in range(2))
    return tuple((a[i].mean(1)-b[j].mean(1)).quantile(torch.tensor([.025,.975])).tolist())
def _of_pictures(a, b, draws): return tuple((a-b).quantile(torch.tensor([.025,.975])).tolist())

def _keep(net, opt, sched, g, names='net opt sched g', copied=True):
    kept = {
        k: o.get_state() if k == 'g' else o.state_dict()
        for k, o in dict(net=net, opt=opt, sched=sched, g=g).items()
        if k in names.split()
    }
    return copy.deepcopy(kept) if copied else kept
def _back(kept, net, opt, sched, g):
    for k,o in dict(net=net, opt=opt, sched=sched, g=g).items():
        if k in kept: (o.set_state if k=='g' else o.load_state_dict)(kept[k])
def _without(name):
    return (lambda *run: _keep(*run, names=' '.join({'net','opt','sched','g'}-{name}))),_back

def _fixed(net, path):
    torch.onnx.export(net, (torch.rand(1, 3, 32, 48), ), path, dynamo=True, external_data=False,
                      verbose=False)

WRONG = {
    # swapped; no warm-up
    '6.1': [
        lambda a, p, t, d: (1 - min(d, (1 + t)/(10 + t)))*a + min(d, (1 + t)/(10 + t))*p,
        lambda a, p, t, d: d*a + (1 - d)*p
    ],
    '6.2': [
        lambda n: torch.sin(torch.pi/2*torch.arange(n)/n)**2,
        lambda n: torch.sin(torch.pi/2*(torch.arange(n) + .5)/n), lambda n: (torch.arange(n) + 1)/n
    ],
    # global; +1 missing; seed+k; top = left
    '6.3': [
        _global, _one_off, lambda *o: _one_off(*o, n=1, mix=1), lambda s, k, H, W, c:
        (_one_off(s, k, H, W, c, 1)[0], )*2
    ],
    # seams; not divided; flat weights
    '6.4': [_last_wins, _sum, _flat],
    # the wrong way round; ties lost
    '6.5': [
        lambda s, w: (s[~w][:, None] > s[w][None]).float().mean(), lambda s, w:
        (s[w][:, None] > s[~w][None]).float().mean()
    ],
    # unpaired; spread of pictures, not of the mean
    '6.6': [_unpaired, _of_pictures, lambda a, b, n: _of_pictures(a, b, n)[::-1]],
    '6.7': [_without(o) for o in ('opt', 'sched', 'g')] + [
        (lambda *run: _keep(*run, copied=False), _back),
        # batch norm's buffers
        (lambda net, *run: dict(_keep(net, *run), net=copy.deepcopy(dict(net.named_parameters()))),
         lambda kept, net, *run:
         (_back({k: v
                 for k, v in kept.items()
                 if k != 'net'}, net, *run), net.load_state_dict(kept['net'], strict=False)))
    ],
    # one size
    '6.8': [_fixed],
    '6.9': ['b', 'c', 'd', 2],
    '6.10': ['b', 'c', 'd', 2],
    '6.11': [
        lambda p, t: -10*(p - t).square().mean().log10(),
        lambda p, t: (-10*(p - t).square().mean((1, 2, 3)).log10()).median(),
    ],
}
