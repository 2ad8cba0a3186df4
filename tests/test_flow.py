"""The flow: every layer undone by its inverse, every log-determinant that of the Jacobian, its
layers those of normflows, and nothing infinite far from home."""
import json
import math
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lowlight_nat.io.files import list_images
from lowlight_nat.io.images import read_image
from lowlight_nat.models.checkpoint import load_model
from lowlight_nat.models.config import ModelConfig
from lowlight_nat.models.flow import (
    ActNorm,
    ConditionalAffine,
    ConditionalCoupling,
    ConditionalEncoder,
    ConditionalFlow,
    InvConv1x1,
    SpreadHead,
    check_flow,
    low_light_views,
    nll_bits,
)
from lowlight_nat.models.glare import GlareActNorm, GlareCoupling, GlareFlow, GlareSizes, GlareStep, shift_scale
from lowlight_nat.models.light import LightGrid
from lowlight_nat.models.lowlight_nat import LowLightNAT

LAYERS = dict(actnorm=lambda: ActNorm(4), invconv=lambda: InvConv1x1(4),
              affine=lambda: ConditionalAffine(4, 8), coupling=lambda: ConditionalCoupling(4, 8),
              coupling_odd=lambda: ConditionalCoupling(3, 8),
              flow=lambda: ConditionalFlow(4, 8, steps=6, hidden=16),
              flow_odd=lambda: ConditionalFlow(3, 8, steps=3, hidden=16))
NARROW = GlareSizes(flow_steps=3, cond=8, hidden=16)
LAYERS |= dict(glare_actnorm=lambda: GlareActNorm(3), glare_plain=lambda: GlareStep(NARROW, False),
               glare_coupling=lambda: GlareCoupling(3, 8, 16),
               glare_step=lambda: GlareStep(NARROW, True), glare_flow=lambda: GlareFlow(NARROW))
layers = pytest.mark.parametrize('name', LAYERS)
precision = pytest.mark.parametrize('bf16', [False, True], ids=['float32', 'bfloat16'])
def dim_of(name):
    return 3 if 'odd' in name or 'glare' in name else 4


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    with torch.no_grad(): yield

def close(a, b, tol=1e-5): torch.testing.assert_close(a, b, rtol=tol, atol=tol)
def shaken(layer, by=.3):
    for p in layer.parameters(): p.add_(by*torch.randn_like(p))
    return layer.eval()
def autocast(bf16): return torch.autocast('cpu', dtype=torch.bfloat16) if bf16 else nullcontext()

@pytest.fixture(scope='module')
def model(): return load_model('small').requires_grad_(False)

@pytest.fixture(scope='module')
def glare_flow():
    "GLARE's flow after a few steps of maximum likelihood on latents that follow their condition"
    torch.manual_seed(0)
    flow = GlareFlow(NARROW).train()
    opt = torch.optim.Adam(flow.parameters(), 5e-3)
    bits = []
    for _ in range(40):
        c = torch.randn(8, 8, 6, 6)
        z = c[:, :3].tanh()*2 + .2*torch.randn(8, 3, 6, 6)
        with torch.enable_grad():
            loss = nll_bits(*flow(z, c), torch.zeros_like(z))
            loss.backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 1.)
        opt.step()
        opt.zero_grad()
        bits.append(loss.item())
    assert bits[-1] < bits[0] - .5
    return flow.eval().requires_grad_(False)

@pytest.fixture(scope='module')
def pictures(root):
    "Dark pictures made from samples of the project, (3,3,128,192)"
    files = list_images(root/'samples')[:3]
    x = torch.stack([
        nn.functional.interpolate(read_image(p)[None], size=(128, 192), mode='area')[0]
        for p in files
    ])
    return (x*.12 + .005*torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(
        0, 1)

ODD = dict(zero=torch.zeros(1, 3, 64, 64), one=torch.ones(1, 3, 64, 64), pixel=torch.zeros(
    1, 3, 64, 64), thousand=torch.full((1, 3, 64, 64), 1e3),
           signed=torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))*1e3)
ODD['pixel'][..., 30, 20] = 1.
odd = pytest.mark.parametrize('picture', ODD)


# the two promises
@layers
@pytest.mark.parametrize('seed', range(3))
@pytest.mark.slow
def test_promises_at_random_weights(name, seed):
    torch.manual_seed(seed)
    # through six steps 0.3 would amplify the rounding of the first by 1e7; through one of GLARE's
    # scales by 1e4
    shake = .1 if 'flow' in name or 'glare' in name else .3
    with torch.enable_grad():
        for dtype, trip, det in (torch.float64, 1e-8, 1e-7), (torch.float32, 1e-4, 1e-3):
            got = check_flow(LAYERS[name](), dim_of(name), 8, shake=shake, dtype=dtype)
            assert got[0] < trip and got[1] < det, (dtype, got)

@layers
def test_promises_of_a_fresh_layer(name):
    layer = LAYERS[name]().train()
    # actnorms set themselves
    layer(torch.randn(4, dim_of(name), 6, 5)*3 + 1, torch.randn(4, 8, 6, 5))
    with torch.enable_grad():
        trip, det = check_flow(layer, dim_of(name), 8, shake=0., dtype=torch.float32)
    assert trip < 1e-4 and det < 1e-3

def test_promises_of_glares_flow_at_the_published_size():
    with torch.enable_grad():
        for dtype, trip, det in (torch.float64, 1e-8, 1e-7), (torch.float32, 1e-4, 1e-3):
            got = check_flow(GlareFlow(), 3, 64, (1, 2), shake=.05, dtype=dtype)
            assert got[0] < trip and got[1] < det, (dtype, got)

@pytest.mark.slow
def test_trained_layers_of_glares_flow_keep_their_promises(glare_flow):
    step = glare_flow.layers[-1]
    for layer in step.actnorm, step.invconv, step.affine, *glare_flow.layers, glare_flow:
        with torch.enable_grad():
            for dtype, trip, det in (torch.float64, 1e-8, 1e-7), (torch.float32, 1e-4, 1e-2):
                got = check_flow(layer, 3, 8, shake=0., dtype=dtype)
                assert got[0] < trip and got[1] < det, (layer, dtype, got)

def test_the_checker_leaves_the_layer_alone():
    layer = ConditionalCoupling(4, 8).train()
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    with torch.enable_grad(): check_flow(layer)
    assert layer.training and all(
        torch.equal(v, before[k]) and v.dtype == before[k].dtype
        for k, v in layer.state_dict().items())

class Forgetful(ConditionalCoupling):
    def forward(self, z, c):
        u, logdet = super().forward(z, c)
        return u, .5*logdet
class Askew(ConditionalCoupling):
    def inverse(self, u, c): return super().inverse(u, c.roll(1, 2))
class Mixed(ConditionalCoupling):
    def forward(self, z, c):
        u, logdet = super().forward(z, c)
        return u, logdet[:1].expand(2)
class Signed(ConditionalCoupling):
    def inverse(self, u, c):
        z = super().inverse(u, c)
        return z, super().forward(z, c)[1]
class Rounded(ConditionalCoupling):     # right in float64, wrong in float32
    def inverse(self, u, c):
        z = super().inverse(u, c)
        return z if z.dtype == torch.float64 else z.bfloat16().float()

@pytest.mark.parametrize('wrong,which', [(Forgetful, 1), (Askew, 0), (Mixed, 1), (Signed, 1), (Rounded, 0)])
def test_the_checker_notices(wrong, which):
    with torch.enable_grad(): assert check_flow(wrong(4, 8), dtype=torch.float32)[which] > 1e-3

def test_both_log_determinants_sum_to_zero():
    "For an inverse that returns its own"
    class Told(ConditionalCoupling):
        def inverse(self, u, c):
            z = super().inverse(u, c)
            return z, -super().forward(z, c)[1]
    with torch.enable_grad(): assert check_flow(Told(4, 8))[1] < 1e-8

def test_trained_flow_inverts(model, pictures):
    "The bundled model, on its own latents and on what it samples"
    e = model.align(pictures)
    z = model.vqgan.encode((pictures/.12).clamp(0, 1)).float()
    for z in z, model.flow.inverse(e.mu, e.cond), torch.randn_like(z):
        assert (model.flow.inverse(model.flow(z, e.cond)[0], e.cond) - z).abs().max() < 1e-4

def test_trained_layers_keep_their_promises(model):
    d = model.cfg.dim
    c = model.cfg.cond
    for layer in [*model.flow.layers, model.flow]:
        with torch.enable_grad():
            for dtype, trip, det in (torch.float64, 1e-8, 1e-7), (torch.float32, 1e-4, 1e-2):
                got = check_flow(layer, d, c, shake=0., dtype=dtype)
                assert got[0] < trip and got[1] < det, (layer, dtype, got)


# far from home
@precision
@pytest.mark.parametrize('weights', ['random', 'trained'])
@odd
def test_odd_pictures(picture, weights, bf16, model):
    if weights == 'trained':
        net = model.light
        enc = model.encoder
        flow = model.flow
        spread = model.spread
    else:
        net = shaken(LightGrid((8, 8, 8)), .1).eval()
        enc = shaken(ConditionalEncoder((8, 16, 16), 4, 8), .1)
        flow = shaken(ConditionalFlow(4, 8, 6, 16), .1)
        spread = shaken(SpreadHead(4, 8))
    x = ODD[picture]
    with autocast(bf16):
        light = net(x)
        e = enc(x, light.on(x), light.mean)
        for u in e.mu, e.mu + torch.randn_like(e.mu), 1e3*torch.randn_like(e.mu):
            z = flow.inverse(u, e.cond)
            sigma = spread(z, e.cond)
            v, logdet = flow(z, e.cond)
            assert all(t.isfinite().all()
                       for t in (e.cond, e.mu, *e.feats, z, sigma, v, logdet))
            assert sigma.min() >= .0199 and sigma.max() <= 5.001
            if weights == 'trained':
                assert (v - u).abs().max() < 1e-3*max(1., u.abs().max(), z.abs().max())

@precision
@pytest.mark.parametrize('size', [1., 10., 100., 1e3])
@pytest.mark.slow
def test_large_latents_and_conditions(size, bf16, model):
    z = size*torch.randn(2, model.cfg.dim, 16, 24)
    c = size*torch.randn(2, model.cfg.cond, 16, 24)
    with autocast(bf16):
        for z, c in (z, c), (z, c/size), (z/size, c), (torch.full_like(
                z, size), c), (torch.zeros_like(z), torch.full_like(c, -size)):
            u, logdet = model.flow(z, c)
            back = model.flow.inverse(u, c)
            sigma = model.spread(z, c)
            assert all(t.isfinite().all()
                       for t in (u, logdet, back, sigma, model.flow.inverse(z, c)))
            assert (back - z).abs().max() < 1e-3*max(1., size)

@pytest.mark.parametrize('steps', [6, 24])
def test_wild_weights_stay_finite(steps):
    """Standard deviation one in every conditional layer; without a limit on the shift, 24 steps
    overflow"""
    flow = ConditionalFlow(4, 8, steps, 16).eval()
    for l in flow.layers:
        if isinstance(l, ConditionalAffine): shaken(l, 1.)
    z = 1e3*torch.randn(1, 4, 8, 8)
    c = 1e3*torch.randn(1, 8, 8, 8)
    u, logdet = flow(z, c)
    assert u.isfinite().all() and logdet.isfinite().all() and flow.inverse(z, c).isfinite().all()

def test_without_our_limits_the_way_back_overflows():
    "Weights five times too large: the bounded scale stays finite, GLARE's scale does not"
    torch.manual_seed(0)
    flow = shaken(ConditionalFlow(4, 8, 6, 16), .1)
    for layer in flow.layers:
        if isinstance(layer, ConditionalAffine):
            for p in layer.parameters(): p.mul_(5)
    u = 1e3*torch.randn(1, 4, 16, 16)
    c = torch.randn(1, 8, 16, 16)
    assert flow.inverse(u, c).isfinite().all()
    def glare_params(layer, x):
        t, a = layer.net(x).chunk(2, 1)
        return t, ((a + 2).sigmoid() + 1e-4).log()
    for layer in flow.layers:
        if isinstance(layer, ConditionalAffine): layer.params = glare_params.__get__(layer)
    assert not flow.inverse(u, c).isfinite().all()

def test_the_flow_leaves_half_precision():
    flow = shaken(ConditionalFlow(4, 8, 6, 16), .1)
    z = torch.randn(2, 4, 16, 24)
    c = torch.randn(2, 8, 16, 24)
    want = flow(z, c)[0]
    with torch.autocast('cpu', dtype=torch.bfloat16): u = flow(z, c)[0]
    assert u.dtype == torch.float32 and torch.equal(u, want)
    close(flow.inverse(want, c), z, 1e-4)

WEIGHTS = dict(fresh=(NARROW, 0.), shaken=(NARROW, .1), wild=(NARROW, .3),
               deep=(GlareSizes(cond=8, hidden=16), 1.), published=(GlareSizes(cond=8), .1))

@precision
@pytest.mark.parametrize('weights', [*WEIGHTS, 'trained'])
@odd
@pytest.mark.slow
def test_odd_inputs_of_glares_flow(picture, weights, bf16, glare_flow):
    """Finite, and no larger than the flow's reach; without that the inverse overflows at `shaken`,
    without a limit on the shift the forward pass at `deep`"""
    flow = glare_flow if weights == 'trained' else shaken(GlareFlow(WEIGHTS[weights][0]),
                                                          WEIGHTS[weights][1])
    u = ODD[picture][..., 20:36, 10:26]
    c = torch.randn(1, 8, 16, 16)
    with autocast(bf16):
        for c in c, 1e3*c, 0*c, torch.ones_like(c), torch.full_like(c, -1e3):
            z = flow.inverse(u, c)
            v, logdet = flow(u, c)
            assert all(t.isfinite().all() for t in (z, v, logdet))
            assert z.abs().max() <= GlareStep.reach

@pytest.fixture(scope='module')
def glare_models():
    """The official network at a quarter of its width: as it starts, shaken, and after a few steps
    of likelihood"""
    torch.manual_seed(0)
    cfg = replace(ModelConfig.base(), vq_channels=(32, 64, 128), n_codes=64, flow_steps=3,
                  nat_width=32, nat_depth=1, nat_heads=4, feat_width=32, feat_depth=1)
    m = {k: LowLightNAT(cfg) for k in ('fresh', 'shaken', 'trained')}
    with torch.no_grad(): shaken(m['shaken'], .1)
    t = m['trained'].train()
    opt = torch.optim.Adam([*t.encoder.parameters(), *t.flow.parameters()], 1e-3)
    for _ in range(6):
        x = torch.rand(2, 3, 32, 32)
        with torch.enable_grad():
            e = t.align(x*.1)
            loss = nll_bits(*t.flow(t.vqgan.encode(x).detach(), e.cond), e.mu)
            loss.backward()
        opt.step()
        opt.zero_grad()
    return {k: o.eval().requires_grad_(False) for k, o in m.items()}

@precision
@pytest.mark.parametrize('weights', ['fresh', 'shaken', 'trained'])
@odd
@pytest.mark.slow
def test_odd_pictures_through_glare(picture, weights, bf16, glare_models):
    with autocast(bf16): out = glare_models[weights](ODD[picture], tau=.2)
    assert all(t.isfinite().all() for t in vars(out).values() if isinstance(t, torch.Tensor))
    assert out.z_tilde.abs().max() <= GlareStep.reach and 0 <= out.x.min() and out.x.max() <= 1

def test_conditional_layers_are_bounded():
    layer = shaken(ConditionalAffine(4, 8), 5.)
    t, s = layer.params(1e3*torch.randn(1, 8, 16, 16))
    assert t.abs().max() == layer.shift and s.abs().max() <= layer.bound

def test_limits_do_nothing_in_the_ordinary_range(model, pictures):
    "The flow gives to the last bit what it gives without a limit on the shift"
    e = model.align(pictures)
    u = torch.cat([e.mu, e.mu + torch.randn_like(e.mu)])
    c = e.cond.repeat(2, 1, 1, 1)
    z = model.flow.inverse(u, c)
    ConditionalAffine.shift, kept = math.inf, ConditionalAffine.shift
    try: free = model.flow.inverse(u, c)
    finally: ConditionalAffine.shift = kept
    assert torch.equal(z, free)

def test_limits_of_glares_flow_do_nothing_in_the_ordinary_range(glare_flow):
    "Neither of them, to the last bit; the inverse still undoes latents a thousand times larger"
    free = deepcopy(glare_flow)
    for m in free.modules(): m.shift = m.reach = math.inf
    c = torch.randn(2, 8, 16, 24)
    for z in c[:, :3].tanh()*2, torch.randn(2, 3, 16, 24):
        assert torch.equal(glare_flow.inverse(z, c), free.inverse(z, c)) and all(
            map(torch.equal, glare_flow(z, c), free(z, c)))
    z = 1e3*torch.randn(2, 3, 16, 24)
    # 0.5 to 1.4, by processor
    assert (glare_flow.inverse(glare_flow(z, c)[0], c) - z).abs().max() < 1e-3*z.abs().max()

@odd
def test_views_of_odd_pictures(picture):
    light = LightGrid().eval()(ODD[picture])
    v = low_light_views(ODD[picture], light.on(ODD[picture]), light.mean)
    assert v.isfinite().all() and v.abs().max() < 8

def test_views_of_a_tile_are_those_of_its_picture():
    "Light and mean are those of the whole picture, so a tile sees what the picture sees"
    x = torch.rand(1, 3, 64, 64)*0.3 + 0.1
    mean = x.mean((1, 2, 3))
    whole = low_light_views(x, 2*x, mean)
    assert torch.equal(low_light_views(x[..., :32], 2*x[..., :32], mean), whole[..., :32])

@pytest.mark.parametrize('z', [
    torch.zeros(2, 3, 4, 4), torch.ones(1, 3, 1, 1),
    torch.full((1, 3, 4, 4), 1e3)], ids=['zeros', 'one place', 'constant'])
def test_actnorm_starts_from_any_batch(z):
    layer = ActNorm(3).train()
    u, logdet = layer(z)
    assert u.isfinite().all() and logdet.isfinite().all()
    close(layer.inverse(u), z, 1e-3)


# heat
def test_no_heat_is_the_mode(model, pictures):
    e = model.align(pictures)
    z = model.flow.sample(e.mu, e.cond)
    assert torch.equal(z, model.flow.inverse(e.mu, e.cond))
    assert torch.equal(z, model.flow.sample(e.mu, e.cond, heat=0., seed=7))
    assert torch.equal(z, model.align(pictures).z_tilde)

def test_a_sample_is_that_of_align(model, pictures):
    e = model.align(pictures)
    close(model.flow.sample(e.mu, e.cond, .7, seed=3),
          model.align(pictures, heat=.7, seed=3).z_tilde, 1e-6)

def test_samples_follow_their_seed_alone(model, pictures):
    e = model.align(pictures)
    z = model.flow.sample(e.mu, e.cond, 1., seed=1)
    assert torch.equal(z, model.flow.sample(e.mu, e.cond, 1., seed=1)) and not torch.allclose(
        z, model.flow.sample(e.mu, e.cond, 1., seed=2), atol=.01)
    # alone as in the batch
    close(z[1:2], model.flow.sample(e.mu[1:2], e.cond[1:2], 1., seed=1), 1e-4)
    state = torch.random.get_rng_state()
    model.flow.sample(e.mu, e.cond, 1.)
    assert torch.equal(state, torch.random.get_rng_state())

@pytest.mark.slow
def test_spread_grows_with_heat(model, pictures):
    e = model.align(pictures[:1])
    std = [
        torch.cat([model.flow.sample(e.mu, e.cond, s, seed=i)
                   for i in range(8)]).std(0).mean().item()
        for s in (0., .25, .5, 1.)
    ]
    assert std[0] == 0 and std[0] < std[1] < std[2] < std[3]

def test_heat_is_not_negative():
    z = torch.zeros(1, 2, 1, 1)
    with pytest.raises(ValueError, match='heat'): ConditionalFlow(2, 2, 1, 8).sample(z, z, -1.)

def test_independent_noise():
    flow = shaken(ConditionalFlow(2, 1, 2, 8), .1)
    mu = torch.zeros(64, 2, 1, 1)
    c = torch.zeros(64, 1, 1, 1)
    assert flow.sample(mu, c, 1.).std(0).max() == 0 and flow.sample(mu, c, 1.,
                                                                    same=False).std(0).min() > .1


# normflows
@pytest.fixture
def nf():
    return pytest.importorskip('normflows', reason='needs normflows, the outside reference').flows

def their_coupling(nf, ours, c):
    """normflows' affine coupling around our network, whose shift comes first: (z + t)*exp(s) =
    z*exp(s) + t*exp(s)"""
    class Map(nn.Module):
        def forward(self, a):
            t, s = ours.params(torch.cat([a, c], 1))
            return torch.stack([t*s.exp(), s], 2).flatten(1, 2)
    return nf.AffineCoupling(Map())

def their_actnorm(nf, ours):
    "normflows' activation norm with our weights: z*exp(s) + t"
    theirs = nf.ActNorm(ours.bias.shape[1:])
    theirs.data_dep_init_done.fill_(1.)
    theirs.s.copy_(ours.logs)
    theirs.t.copy_(ours.bias*ours.logs.exp())
    return theirs

def their_convolution(nf, ours):
    theirs = nf.Invertible1x1Conv(len(ours.weight), use_lu=False)
    theirs.W.copy_(ours.weight)
    return theirs

def their_affine(nf, t, s):
    "normflows' constant affine layer with the shift and scale of one picture"
    layer = nf.AffineConstFlow(tuple(t.shape[1:]))
    layer.s.copy_(s)
    layer.t.copy_(t*s.exp())
    return layer

def test_actnorm_is_that_of_normflows(nf):
    z = torch.randn(4, 3, 6, 5)*2 + 1
    ours = ActNorm(3).train()
    theirs = nf.ActNorm((3, 1, 1))
    # both set themselves by the first batch, and keep that
    for z in z, torch.randn(4, 3, 6, 5):
        u, logdet = ours(z)
        v, ld = theirs(z)
        close(u, v, 1e-4)
        close(logdet, ld.expand(4), 1e-4)
        back, ld_back = theirs.inverse(v)
        close(ours.inverse(u), back, 1e-4)
        close(logdet, -ld_back.expand(4), 1e-4)

def test_invertible_convolution_is_that_of_normflows(nf):
    ours = shaken(InvConv1x1(5))
    theirs = their_convolution(nf, ours)
    z = torch.randn(2, 5, 6, 7)
    # normflows counts from the Gaussian to the data
    u, logdet = ours(z)
    v, ld = theirs.inverse(z)
    close(u, v)
    close(logdet, ld.expand(2), 1e-4)
    back, ld = theirs.forward(u)
    close(ours.inverse(u), back, 1e-4)
    close(logdet, -ld.expand(2), 1e-4)

def test_conditional_affine_is_that_of_normflows(nf):
    ours = shaken(ConditionalAffine(5, 6, hidden=8))
    z = torch.randn(2, 5, 4, 3)
    c = torch.randn(2, 6, 4, 3)
    u, logdet = ours(z, c)
    t, s = ours.params(c)
    back = ours.inverse(u, c)
    for i in range(2):
        theirs = their_affine(nf, t[i:i+1], s[i:i+1])
        v, ld = theirs(z[i:i+1])
        close(u[i:i+1], v)
        close(logdet[i], ld)
        back_i, ld_back = theirs.inverse(u[i:i+1])
        close(back[i:i+1], back_i, 1e-4)
        close(logdet[i], -ld_back)

def test_coupling_is_that_of_normflows(nf):
    ours = shaken(ConditionalCoupling(5, 6, hidden=8))
    z = torch.randn(2, 5, 4, 3)
    c = torch.randn(2, 6, 4, 3)
    theirs = their_coupling(nf, ours, c)
    u, logdet = ours(z, c)
    v, ld = theirs([z[:, :2], z[:, 2:]])
    close(u, torch.cat(v, 1))
    close(logdet, ld)
    back, ld = theirs.inverse([u[:, :2], u[:, 2:]])
    close(ours.inverse(u, c), torch.cat(back, 1), 1e-4)
    close(logdet, -ld)

def test_whole_flow_is_that_of_normflows(nf):
    "Layer after layer on its own, log-determinants summed"
    ours = shaken(ConditionalFlow(4, 6, 3, 8), .2)
    z = torch.randn(1, 4, 4, 3)
    c = torch.randn(1, 6, 4, 3)
    v = z
    total = 0
    for layer in ours.layers:
        if isinstance(layer, ActNorm): v, ld = their_actnorm(nf, layer)(v)
        elif isinstance(layer, InvConv1x1): v, ld = their_convolution(nf, layer).inverse(v)
        elif isinstance(layer, ConditionalCoupling):
            v, ld = their_coupling(nf, layer, c)([v[:, :2], v[:, 2:]])
            v = torch.cat(v, 1)
        else: v, ld = their_affine(nf, *layer.params(c))(v)
        total = total + ld
    u, logdet = ours(z, c)
    close(u, v, 1e-4)
    close(logdet, total.reshape(1), 1e-4)

def their_step(nf, step, v, c):
    """A step of GLARE's flow, one picture, by normflows: activation norm, convolution, affine map
    by the condition, coupling"""
    v, total = their_actnorm(nf, step.actnorm)(v)
    v, ld = their_convolution(nf, step.invconv).inverse(v)
    total = total + ld
    if step.affine is None: return v, total
    def params(o):
        return (lambda t, sigma: (t, sigma.log()))(*shift_scale(o, math.inf))
    v, ld = their_affine(nf, *params(step.affine.fFeatures(c)))(v)
    total = total + ld
    v, ld = their_coupling(nf, SimpleNamespace(params=lambda x: params(step.affine.fAffine(x))),
                           c)([v[:, :1], v[:, 1:]])
    return torch.cat(v, 1), total + ld

def test_glares_flow_is_that_of_normflows(nf):
    "Step after step, log-determinants summed; each step alone too"
    ours = shaken(GlareFlow(NARROW), .1)
    z = torch.randn(1, 3, 4, 5)
    c = torch.randn(1, 8, 4, 5)
    v = z
    total = 0
    for step in ours.layers:
        want, ld = their_step(nf, step, v, c)
        u, logdet = step(v, c)
        close(u, want, 1e-4)
        close(logdet, ld.reshape(1), 1e-4)
        close(step.inverse(want, c), v, 1e-4)
        v = want
        total = total + ld
    u, logdet = ours(z, c)
    close(u, v, 1e-4)
    close(logdet, total.reshape(1), 1e-3)

def test_glares_scale_is_that_of_normflows(nf):
    "Its sigmoid scale, which lacks the 1e-4; its outputs interleave in the same way"
    ours = shaken(GlareCoupling(3, 8, 16), .1)
    z = torch.randn(2, 3, 4, 5)
    c = torch.randn(2, 8, 4, 5)
    # t = 0, the scale everywhere the same
    nn.init.zeros_(ours.fFeatures[-1].weight)
    nn.init.zeros_(ours.fFeatures[-1].bias)
    class Map(nn.Module):
        def forward(self, a):
            o = ours.fAffine(torch.cat([a, c], 1)).unflatten(1, (-1, 2))
            return (o*torch.tensor([-1., 1.]).view(2, 1, 1)).flatten(1, 2)
    sigma = 1/(1 + math.exp(-2)) + 1e-4
    v, ld = nf.AffineCoupling(Map(), scale_map='sigmoid').inverse([z[:, :1]*sigma, z[:, 1:]*sigma])
    u, logdet = ours(z, c)
    close(u, torch.cat(v, 1), 5e-4)
    close(logdet, ld + 60*math.log(sigma), 1e-2)


# likelihood
def test_likelihood_in_bits():
    u = torch.randn(2, 3, 4, 5)
    mu = torch.randn(2, 3, 4, 5)
    logdet = torch.randn(2)
    logp = torch.distributions.Normal(mu, 1.).log_prob(u).sum((1, 2, 3)) + logdet
    close(nll_bits(u, logdet, mu), (-logp/60/math.log(2)).mean())

def test_density_integrates_to_one():
    "Two channels at one place, on a grid: exp(-nll) is a density"
    flow = shaken(ConditionalFlow(2, 2, 3, 8), .2)
    g = torch.linspace(-12, 12, 481)
    step = (g[1] - g[0]).item()
    z = torch.cartesian_prod(g, g)[:, :, None, None]
    c = torch.randn(1, 2, 1, 1).expand(len(z), -1, -1, -1)
    u, logdet = flow(z, c)
    logp = -.5*(u**2 + math.log(2*math.pi)).flatten(1).sum(1) + logdet
    assert logp.exp().sum().item()*step**2 == pytest.approx(1., abs=.01)


# what the chapter says
def arcs(n):
    "Answers on two opposite arcs, and their condition; both (n,2,1,1)"
    angle = 2*math.pi*torch.rand(n)
    a = angle/2 + math.pi*torch.randint(0, 2, (n,)) + 2*torch.rand(n) - 1
    z = 1.5*torch.stack([a.cos(), a.sin()], 1) + .1*torch.randn(n, 2)
    return z[..., None, None], torch.stack([angle.cos(), angle.sin()], 1)[..., None, None]

@pytest.mark.slow
def test_the_flow_learns_two_arcs():
    "Its draws lie on the arcs, and after training it still keeps both promises"
    torch.manual_seed(0)
    flow = ConditionalFlow(2, 2, steps=8, hidden=32)
    opt = torch.optim.Adam(flow.parameters(), 3e-3)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, 600)
    for _ in range(600):
        z, c = arcs(512)
        with torch.enable_grad(): nll_bits(*flow(z, c), torch.zeros_like(z)).backward()
        nn.utils.clip_grad_norm_(flow.parameters(), 1.)
        opt.step()
        opt.zero_grad()
        sched.step()
    flow.eval()
    z, c = arcs(4000)
    draws = flow.sample(torch.zeros_like(z), c, 1., same=False)
    assert ((draws.flatten(1).norm(dim=1) - 1.5).abs() < .4).float().mean() > .85
    width = z.flatten(1).std(0, correction=0)   # the regression's answer is the middle
    assert nll_bits(*flow(z, c), torch.zeros_like(z)) < .5*math.log2(2*math.pi*math.e) + width.log2().mean() - .3
    close(flow.inverse(flow(z, c)[0], c), z, 1e-4)
    with torch.enable_grad():
        for dtype, eps in (torch.float64, 1e-7), (torch.float32, 1e-3):
            assert max(check_flow(flow, 2, 2, (1, 1), shake=0., dtype=dtype)) < eps

def test_regression_and_flow_as_the_chapter_tells(root):
    "The words under the table hold for the numbers in it"
    run = json.loads((root/'nbs/figures/run/flow_vs_regression.json').read_text(encoding='utf-8'))['mean']
    regression = run['regression']
    mode = run['flow (likelihood + L1), heat 0']
    draw = run['flow (likelihood + L1), heat 1']
    gain = min(regression['bits'], regression['bits_laplace']) - run['flow (likelihood), heat 0']['bits']
    assert abs(mode['psnr_gt_mean'] - regression['psnr_gt_mean']) < .5 and gain > .5
    assert mode['gradient_energy'] < 1 and regression['gradient_energy'] < 1
    assert draw['psnr_gt_mean'] < mode['psnr_gt_mean'] - .5 and draw['gradient_energy'] > mode['gradient_energy']
    assert run['flow (likelihood), mean of 6']['psnr_gt_mean'] > run['flow (likelihood), heat 1']['psnr_gt_mean']
