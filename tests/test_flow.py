"The flow: every layer undone by its inverse, every log-determinant that of the Jacobian, its layers those of normflows, and nothing infinite far from home."
import math
from contextlib import nullcontext

import pytest, torch
from lowlight_nat.flow import (ActNorm, ConditionalAffine, ConditionalCoupling, ConditionalEncoder, ConditionalFlow, InvConv1x1, SpreadHead, check_flow,
                               low_light_views, nll_bits, picture_stats)
from lowlight_nat.images import list_images, read_image
from lowlight_nat.model import load_model
from torch import nn

LAYERS = dict(actnorm=lambda: ActNorm(4), invconv=lambda: InvConv1x1(4), affine=lambda: ConditionalAffine(4, 8), coupling=lambda: ConditionalCoupling(4, 8),
              coupling_odd=lambda: ConditionalCoupling(3, 8), flow=lambda: ConditionalFlow(4, 8, steps=6, hidden=16), flow_odd=lambda: ConditionalFlow(3, 8, steps=3, hidden=16))
layers = pytest.mark.parametrize('name', LAYERS)
precision = pytest.mark.parametrize('bf16', [False, True], ids=['float32', 'bfloat16'])
dim_of = lambda name: 3 if 'odd' in name else 4


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
def pictures(root):
    "Dark pictures made from samples of the project, (3,3,128,192)"
    files = list_images(root/'samples')[:3]
    x = torch.stack([nn.functional.interpolate(read_image(p)[None], size=(128, 192), mode='area')[0] for p in files])
    return (x*.12 + .005*torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)

ODD = dict(zero=torch.zeros(1, 3, 64, 64), one=torch.ones(1, 3, 64, 64), pixel=torch.zeros(1, 3, 64, 64), thousand=torch.full((1, 3, 64, 64), 1e3),
           signed=torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))*1e3)
ODD['pixel'][..., 30, 20] = 1.
odd = pytest.mark.parametrize('picture', ODD)


# the two promises
@layers
@pytest.mark.parametrize('seed', range(3))
def test_promises_at_random_weights(name, seed):
    torch.manual_seed(seed)
    shake = .1 if 'flow' in name else .3       # through six steps 0.3 would amplify the rounding of the first by 1e7
    with torch.enable_grad():
        for dtype, trip, det in (torch.float64, 1e-8, 1e-7), (torch.float32, 1e-4, 1e-3):
            got = check_flow(LAYERS[name](), dim_of(name), 8, shake=shake, dtype=dtype)
            assert got[0] < trip and got[1] < det, (dtype, got)

@layers
def test_promises_of_a_fresh_layer(name):
    layer = LAYERS[name]().train()
    layer(torch.randn(4, dim_of(name), 6, 5)*3 + 1, torch.randn(4, 8, 6, 5))   # actnorms set themselves
    with torch.enable_grad(): trip, det = check_flow(layer, dim_of(name), 8, shake=0., dtype=torch.float32)
    assert trip < 1e-4 and det < 1e-3

def test_the_checker_leaves_the_layer_alone():
    layer = ConditionalCoupling(4, 8).train(); before = {k: v.clone() for k, v in layer.state_dict().items()}
    with torch.enable_grad(): check_flow(layer)
    assert layer.training and all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in layer.state_dict().items())

class Forgetful(ConditionalCoupling):
    def forward(self, z, c): u, logdet = super().forward(z, c); return u, .5*logdet
class Askew(ConditionalCoupling):
    def inverse(self, u, c): return super().inverse(u, c.roll(1, 2))
class Mixed(ConditionalCoupling):
    def forward(self, z, c): u, logdet = super().forward(z, c); return u, logdet[:1].expand(2)
class Signed(ConditionalCoupling):
    def inverse(self, u, c): z = super().inverse(u, c); return z, super().forward(z, c)[1]
class Rounded(ConditionalCoupling):     # right in float64, wrong in float32
    def inverse(self, u, c): z = super().inverse(u, c); return z if z.dtype == torch.float64 else z.bfloat16().float()

@pytest.mark.parametrize('wrong,which', [(Forgetful, 1), (Askew, 0), (Mixed, 1), (Signed, 1), (Rounded, 0)])
def test_the_checker_notices(wrong, which):
    with torch.enable_grad(): assert check_flow(wrong(4, 8), dtype=torch.float32)[which] > 1e-3

def test_both_log_determinants_sum_to_zero():
    "For an inverse that returns its own"
    class Told(ConditionalCoupling):
        def inverse(self, u, c): z = super().inverse(u, c); return z, -super().forward(z, c)[1]
    with torch.enable_grad(): assert check_flow(Told(4, 8))[1] < 1e-8

def test_trained_flow_inverts(model, pictures):
    "The bundled model, on its own latents and on what it samples"
    e = model.encoder(pictures)
    z = model.vqgan.encode((pictures/.12).clamp(0, 1)).float()
    for z in z, model.flow.inverse(e.mu, e.cond), torch.randn_like(z):
        assert (model.flow.inverse(model.flow(z, e.cond)[0], e.cond) - z).abs().max() < 1e-4

def test_trained_layers_keep_their_promises(model):
    d, c = model.cfg.dim, model.cfg.cond
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
    if weights == 'trained': enc, flow, spread, dim = model.encoder, model.flow, model.spread, model.cfg.dim
    else: enc, flow, spread, dim = shaken(ConditionalEncoder((8, 16, 16), 4, 8), .1), shaken(ConditionalFlow(4, 8, 6, 16), .1), shaken(SpreadHead(4, 8)), 4
    x = ODD[picture]
    with autocast(bf16):
        e = enc(x)
        for u in e.mu, e.mu + torch.randn_like(e.mu), 1e3*torch.randn_like(e.mu):
            z = flow.inverse(u, e.cond)
            sigma, (v, logdet) = spread(z, e.cond), flow(z, e.cond)
            assert all(t.isfinite().all() for t in (e.cond, e.mu, *e.feats, e.summary, z, sigma, v, logdet))
            assert sigma.min() >= .0199 and sigma.max() <= 5.001
            if weights == 'trained': assert (v - u).abs().max() < 1e-3*max(1., u.abs().max(), z.abs().max())

@precision
@pytest.mark.parametrize('size', [1., 10., 100., 1e3])
def test_large_latents_and_conditions(size, bf16, model):
    z, c = size*torch.randn(2, model.cfg.dim, 16, 24), size*torch.randn(2, model.cfg.cond, 16, 24)
    with autocast(bf16):
        for z, c in (z, c), (z, c/size), (z/size, c), (torch.full_like(z, size), c), (torch.zeros_like(z), torch.full_like(c, -size)):
            u, logdet = model.flow(z, c); back = model.flow.inverse(u, c); sigma = model.spread(z, c)
            assert all(t.isfinite().all() for t in (u, logdet, back, sigma, model.flow.inverse(z, c)))
            assert (back - z).abs().max() < 1e-3*max(1., size)

@pytest.mark.parametrize('steps', [6, 24])
def test_wild_weights_stay_finite(steps):
    "Standard deviation one in every conditional layer; without a limit on the shift, 24 steps overflow"
    flow = ConditionalFlow(4, 8, steps, 16).eval()
    for l in flow.layers:
        if isinstance(l, ConditionalAffine): shaken(l, 1.)
    z, c = 1e3*torch.randn(1, 4, 8, 8), 1e3*torch.randn(1, 8, 8, 8)
    u, logdet = flow(z, c)
    assert u.isfinite().all() and logdet.isfinite().all() and flow.inverse(z, c).isfinite().all()

def test_conditional_layers_are_bounded():
    layer = shaken(ConditionalAffine(4, 8), 5.)
    t, s = layer.params(1e3*torch.randn(1, 8, 16, 16))
    assert t.abs().max() == layer.shift and s.abs().max() <= layer.bound

def test_limits_do_nothing_in_the_ordinary_range(model, pictures):
    "The flow gives to the last bit what it gives without a limit on the shift"
    e = model.encoder(pictures)
    u = torch.cat([e.mu, e.mu + torch.randn_like(e.mu)]); c = e.cond.repeat(2, 1, 1, 1)
    z = model.flow.inverse(u, c)
    ConditionalAffine.shift, kept = math.inf, ConditionalAffine.shift
    try: free = model.flow.inverse(u, c)
    finally: ConditionalAffine.shift = kept
    assert torch.equal(z, free)

@odd
def test_views_of_odd_pictures(picture):
    v = low_light_views(ODD[picture], picture_stats(ODD[picture]))
    assert v.isfinite().all() and v.abs().max() < 8

@pytest.mark.parametrize('z', [torch.zeros(2, 3, 4, 4), torch.ones(1, 3, 1, 1), torch.full((1, 3, 4, 4), 1e3)], ids=['zeros', 'one place', 'constant'])
def test_actnorm_starts_from_any_batch(z):
    layer = ActNorm(3).train()
    u, logdet = layer(z)
    assert u.isfinite().all() and logdet.isfinite().all()
    close(layer.inverse(u), z, 1e-3)


# heat
def test_no_heat_is_the_mode(model, pictures):
    e = model.encoder(pictures)
    z = model.flow.sample(e.mu, e.cond)
    assert torch.equal(z, model.flow.inverse(e.mu, e.cond))
    assert torch.equal(z, model.flow.sample(e.mu, e.cond, heat=0., seed=7))
    assert torch.equal(z, model.align(pictures).z_tilde)

def test_a_sample_is_that_of_align(model, pictures):
    e = model.encoder(pictures)
    close(model.flow.sample(e.mu, e.cond, .7, seed=3), model.align(pictures, heat=.7, seed=3).z_tilde, 1e-6)

def test_samples_follow_their_seed_alone(model, pictures):
    e = model.encoder(pictures)
    z = model.flow.sample(e.mu, e.cond, 1., seed=1)
    assert torch.equal(z, model.flow.sample(e.mu, e.cond, 1., seed=1)) and not torch.allclose(z, model.flow.sample(e.mu, e.cond, 1., seed=2), atol=.01)
    close(z[1:2], model.flow.sample(e.mu[1:2], e.cond[1:2], 1., seed=1), 1e-4)     # alone as in the batch
    state = torch.random.get_rng_state(); model.flow.sample(e.mu, e.cond, 1.)
    assert torch.equal(state, torch.random.get_rng_state())

def test_spread_grows_with_heat(model, pictures):
    e = model.encoder(pictures[:1])
    std = [torch.cat([model.flow.sample(e.mu, e.cond, s, seed=i) for i in range(8)]).std(0).mean().item() for s in (0., .25, .5, 1.)]
    assert std[0] == 0 and std[0] < std[1] < std[2] < std[3]

def test_independent_noise():
    flow = shaken(ConditionalFlow(2, 1, 2, 8), .1)
    mu, c = torch.zeros(64, 2, 1, 1), torch.zeros(64, 1, 1, 1)
    assert flow.sample(mu, c, 1.).std(0).max() == 0 and flow.sample(mu, c, 1., same=False).std(0).min() > .1


# normflows
@pytest.fixture
def nf(): return pytest.importorskip('normflows', reason='needs normflows, the outside reference').flows

def their_coupling(nf, ours, c):
    "normflows' affine coupling around our network, whose shift comes first: (z + t)*exp(s) = z*exp(s) + t*exp(s)"
    class Map(nn.Module):
        def forward(self, a): t, s = ours.params(torch.cat([a, c], 1)); return torch.stack([t*s.exp(), s], 2).flatten(1, 2)
    return nf.AffineCoupling(Map())

def their_affine(nf, t, s):
    "normflows' constant affine layer with the shift and scale of one picture"
    layer = nf.AffineConstFlow(tuple(t.shape[1:]))
    layer.s.copy_(s); layer.t.copy_(t*s.exp())
    return layer

def test_actnorm_is_that_of_normflows(nf):
    z = torch.randn(4, 3, 6, 5)*2 + 1
    ours, theirs = ActNorm(3).train(), nf.ActNorm((3, 1, 1))
    for z in z, torch.randn(4, 3, 6, 5):               # both set themselves by the first batch, and keep that
        (u, logdet), (v, ld) = ours(z), theirs(z)
        close(u, v, 1e-4); close(logdet, ld.expand(4), 1e-4)
        back, ld_back = theirs.inverse(v)
        close(ours.inverse(u), back, 1e-4); close(logdet, -ld_back.expand(4), 1e-4)

def test_invertible_convolution_is_that_of_normflows(nf):
    ours, theirs = shaken(InvConv1x1(5)), nf.Invertible1x1Conv(5, use_lu=False)
    theirs.W.copy_(ours.weight)
    z = torch.randn(2, 5, 6, 7)
    (u, logdet), (v, ld) = ours(z), theirs.inverse(z)  # normflows counts from the Gaussian to the data
    close(u, v); close(logdet, ld.expand(2), 1e-4)
    back, ld = theirs.forward(u)
    close(ours.inverse(u), back, 1e-4); close(logdet, -ld.expand(2), 1e-4)

def test_conditional_affine_is_that_of_normflows(nf):
    ours, z, c = shaken(ConditionalAffine(5, 6, hidden=8)), torch.randn(2, 5, 4, 3), torch.randn(2, 6, 4, 3)
    u, logdet = ours(z, c); t, s = ours.params(c); back = ours.inverse(u, c)
    for i in range(2):
        theirs = their_affine(nf, t[i:i+1], s[i:i+1])
        v, ld = theirs(z[i:i+1])
        close(u[i:i+1], v); close(logdet[i], ld)
        back_i, ld_back = theirs.inverse(u[i:i+1])
        close(back[i:i+1], back_i, 1e-4); close(logdet[i], -ld_back)

def test_coupling_is_that_of_normflows(nf):
    ours, z, c = shaken(ConditionalCoupling(5, 6, hidden=8)), torch.randn(2, 5, 4, 3), torch.randn(2, 6, 4, 3)
    theirs = their_coupling(nf, ours, c)
    (u, logdet), (v, ld) = ours(z, c), theirs([z[:, :2], z[:, 2:]])
    close(u, torch.cat(v, 1)); close(logdet, ld)
    back, ld = theirs.inverse([u[:, :2], u[:, 2:]])
    close(ours.inverse(u, c), torch.cat(back, 1), 1e-4); close(logdet, -ld)

def test_whole_flow_is_that_of_normflows(nf):
    "Layer after layer on its own, log-determinants summed"
    ours, z, c = shaken(ConditionalFlow(4, 6, 3, 8), .2), torch.randn(1, 4, 4, 3), torch.randn(1, 6, 4, 3)
    v, total = z, 0
    for layer in ours.layers:
        if isinstance(layer, ActNorm):
            t = nf.ActNorm((4, 1, 1)); t.data_dep_init_done.fill_(1.); t.s.copy_(layer.logs); t.t.copy_(layer.bias*layer.logs.exp())
            v, ld = t(v)
        elif isinstance(layer, InvConv1x1):
            t = nf.Invertible1x1Conv(4, use_lu=False); t.W.copy_(layer.weight)
            v, ld = t.inverse(v)
        elif isinstance(layer, ConditionalCoupling):
            v, ld = their_coupling(nf, layer, c)([v[:, :2], v[:, 2:]]); v = torch.cat(v, 1)
        else: v, ld = their_affine(nf, *layer.params(c))(v)
        total = total + ld
    u, logdet = ours(z, c)
    close(u, v, 1e-4); close(logdet, total.reshape(1), 1e-4)


# likelihood
def test_likelihood_in_bits():
    u, mu, logdet = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.randn(2)
    logp = torch.distributions.Normal(mu, 1.).log_prob(u).sum((1, 2, 3)) + logdet
    close(nll_bits(u, logdet, mu), (-logp/60/math.log(2)).mean())

def test_density_integrates_to_one():
    "Two channels at one place, on a grid: exp(-nll) is a density"
    flow = shaken(ConditionalFlow(2, 2, 3, 8), .2)
    g = torch.linspace(-12, 12, 481); step = (g[1] - g[0]).item()
    z = torch.cartesian_prod(g, g)[:, :, None, None]; c = torch.randn(1, 2, 1, 1).expand(len(z), -1, -1, -1)
    u, logdet = flow(z, c)
    logp = -.5*(u**2 + math.log(2*math.pi)).flatten(1).sum(1) + logdet
    assert logp.exp().sum().item()*step**2 == pytest.approx(1., abs=.01)
