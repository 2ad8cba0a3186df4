"What `LowLightNAT` promises: sizes, independence, determinism, switches, half precision, gradients, files."
import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from fastcore.basics import AttrDict
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from lowlight_nat.models.checkpoint import load_model, read_metadata, save_model
from lowlight_nat.models.config import ModelConfig, StagePlan, TrainPlan
from lowlight_nat.models.light import picture_stats
from lowlight_nat.models.lowlight_nat import KNOWN_SIGMA, Known, LowLightNAT, Refined
from lowlight_nat.training.stages import STAGES, align_terms, trainable

TOY = replace(ModelConfig.tiny(), n_codes=64, vq_channels=(8, 16), enc_channels=(8, 16, 16), cond=8,
              flow_steps=2, flow_hidden=8, dec_channels=(8, 16), nat_width=32, feat_width=32,
              deform=True)


def pair(n=2, size=32, seed=0):
    "Smooth bright pictures and dark, noisy copies"
    g = torch.Generator().manual_seed(seed)
    high = torch.nn.functional.interpolate(torch.rand(n, 3, 5, 5, generator=g), size=(size, size),
                                           mode='bilinear')*.8 + .1
    return (high*.1 + .01*torch.randn(high.shape, generator=g)).clamp(0, 1), high

def train(model, name, steps=4):
    """A few steps of one stage; the gradients of eight more, which may switch one or the other NAT
    off, are left in place"""
    trainable(model, name)
    stage = STAGES[name](model).train()
    opt = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    for i in range(steps + 8):
        sum(stage(*pair(4, 64, seed=i)).terms.values()).backward()
        if i < steps:
            opt.step()
            opt.zero_grad()

@pytest.fixture(scope='module')
def model():
    "A toy model after a few steps of every stage"
    torch.manual_seed(0)
    m = LowLightNAT(TOY)
    m.vqgan.start(pair(8, 64)[1])
    for name in STAGES: train(m, name, 6)
    m.requires_grad_(False)
    return m.eval()


@pytest.mark.parametrize('shape', [(16, 16), (16, 24), (24, 16), (40, 200), (72, 56), (136, 16)])
@pytest.mark.slow
def test_any_multiple_of_eight(model, shape):
    x = torch.rand(1, 3, *shape)*.1
    out = model(x, tau=0.)
    assert out.x.shape == x.shape and out.x.isfinite().all() and 0 <= out.x.min() and out.x.max(
    ) <= 1
    h = shape[0]//4
    w = shape[1]//4
    assert [tuple(getattr(out, k).shape) for k in ('entropy', 'mask', 'tokens', 'sigma')] == [(1, h, w)]*4
    assert out.mask.float().mean() > .9   # all is masked, and it still works

def test_alone_or_in_a_batch(model):
    x = torch.cat([pair(2, 64)[0], torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)])
    together = model(x)
    for i in range(len(x)):
        alone = model(x[i:i+1])
        assert torch.allclose(alone.x[0], together.x[i], atol=2e-5) and torch.equal(
            alone.mask[0], together.mask[i])
    assert torch.allclose(model(x.flip(0)).x.flip(0), together.x, atol=2e-5)

def test_half_masked_neighbours_do_not_matter(model):
    x = torch.cat([pair(1, 64)[0], torch.zeros(1, 3, 64, 64)])
    e = model(x).entropy.flatten(1)
    # one picture is masked, the other hardly
    tau = (e[0].median().item() + e[1].median().item())/2
    together = model(x, tau=tau)
    for i in 0, 1: assert torch.allclose(model(x[i:i+1], tau=tau).x[0], together.x[i], atol=2e-5)

def test_same_input_same_output(model):
    x = pair(2, 48)[0]
    for kw in {}, dict(heat=.7, seed=3): assert torch.equal(model(x, **kw).x, model(x, **kw).x)
    state = torch.get_rng_state()
    model(x, heat=.7)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(model(x, heat=.7, seed=3).x, model(x, heat=.7, seed=4).x)

def test_evaluation_changes_nothing(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(pair(2, 48)[0], record=True)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

def test_four_systems(model):
    x = pair(1, 64)[0]
    tau = 0.
    outs = {(a, b): model(x, tau=tau, latent_nat=a, decoder_nat=b, record=True)
            for a in (False, True)
            for b in (False, True)}
    xs = list(outs.values())
    assert all((p.x - q.x).abs().max() > 1e-5 for i, p in enumerate(xs) for q in xs[:i])
    for (a, b), o in outs.items():
        assert (len(o.history), len(o.feature_history)) == (TOY.rounds*a, TOY.rounds*b)
    assert torch.equal(outs[False, True].z, outs[False, True].z_tilde)
    assert torch.equal(model(x, tau=tau, rounds=0).x, outs[False, False].x)
    # nothing is uncertain: no round of either, and all that is left is the look at kept cells
    sure = model(x, tau=1., record=True)
    assert torch.equal(sure.z, sure.z_tilde) and not sure.history and not sure.feature_history
    assert torch.equal(model(x, tau=1., decoder_nat=False).x, outs[False, False].x)
    assert torch.equal(sure.x, outs[False, False].x) == (not model.cfg.feat_kept)

def rounds_of(model, R=5):
    "The history of both NATs with everything masked, and how sure each was after each round"
    out = model(pair(2, 64)[0], tau=0., rounds=R, record=True)
    assert (out.mask | ~out.history[0].masked).all()
    return [(out.history, [o.confidence for o in out.history]),
            (out.feature_history, [-o.logvar for o in out.feature_history])]

def check_rounds(h, sure):
    """Each round masks the schedule's number of the first mask's least sure places, picture by
    picture"""
    first = h[0].masked
    R = len(h)
    assert R == 5 and first.flatten(1).any(1).all()
    for r, (b, s) in enumerate(zip(h[1:], sure), 1):
        for m, again, c in zip(first, b.masked, s):
            assert again.sum() == int(m.sum()*math.cos(math.pi/2*r/R)
                                      + 1e-6) < m.sum() and not (again & ~m).any()
            assert c[again].max() <= c[m & ~again].min()

def test_rounds_mask_less_and_less(model):
    for h, sure in rounds_of(model): check_rounds(h, sure)

def test_settled_places_may_be_doubted_again(model):
    """With heads that change their mind at random and grow surer from round to round; what is not
    masked keeps its token"""
    torch.manual_seed(0)
    surer = iter(range(1, 6)), iter(range(1, 6))
    hooks = [
        model.nat.head.register_forward_hook(
            lambda mod, args, out: next(surer[0])*torch.randn_like(out)),
        model.fusion.nat.to_logvar.register_forward_hook(
            lambda mod, args, out: torch.randn_like(out) - next(surer[1]))
    ]
    try: both = rounds_of(model)
    finally: [k.remove() for k in hooks]
    for h, sure in both:
        check_rounds(h, sure)
        assert any((b.masked & ~a.masked).any()
                   for a, b in zip(h, h[1:])), 'what was settled once is never masked again'
    tokens = both[0][0]
    for a, b in zip(tokens, tokens[1:]):
        assert torch.equal(a.tokens[~b.masked],
                           b.tokens[~b.masked]) and not torch.equal(a.tokens, b.tokens)

def test_mix(model):
    x = pair(1, 48)[0]
    assert (model(x, mix=0.).x - model(x, mix=1.).x).abs().max() > 1e-3

def test_level_is_a_gain(model):
    x = pair(1, 48)[0]
    a, b, c = (model(x, level=l) for l in (.1, .2, 2.))
    assert torch.equal(a.x_norm, b.x_norm)
    inside = (b.x > 0) & (b.x < 1)
    assert inside.float().mean() > .9 and torch.allclose(2*a.x[inside], b.x[inside], atol=1e-6)
    for o, l in (a, .1), (b, .2), (c, 2.):
        assert torch.allclose(o.x, (o.x_norm*l/TOY.norm_level).clamp(0, 1),
                              atol=1e-6) and o.level.item() == pytest.approx(l)
    assert c.x.max() == 1   # the last one clips

def test_light_of_the_whole_picture_counts(model):
    x = pair(1, 48)[0]
    assert torch.equal(model(x, light=model.light(x)).x, model(x).x)
    assert (model(x, light=model.light(3*x)).x - model(x).x).abs().max() > 1e-3

def test_statistics_count_large_pictures():
    stats = picture_stats(torch.zeros(1, 3, 2048, 3000))    # 18 million values, all in one bin
    assert stats.cdf[0, -1] == 1 and stats.cdf[0, 0] == 1

def test_bfloat16_stays_close(model):
    x = pair(2, 64)[0]
    whole = model(x)
    with torch.autocast('cpu', dtype=torch.bfloat16): half = model(x)
    assert half.x.dtype == torch.float32 and half.z_tilde.dtype == torch.float32
    assert (half.x - whole.x).abs().mean() < .02
    assert (half.z_tilde - whole.z_tilde).abs().mean() < .1*whole.z_tilde.std()

def spot():
    x = torch.zeros(1, 3, 32, 32)
    x[..., 13, 17] = 1.
    return x
@pytest.mark.parametrize('x', [
    torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32), spot(), torch.full((1, 3, 32, 32), 1e3),
    torch.full((1, 3, 32, 32), -1e3),
    1e3*torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))],
    ids=['zero', 'one', 'spot', '1e3', '-1e3', 'noise'])
def test_nothing_overflows(model, x):
    for kw in dict(tau=0.), dict(heat=1.):
        out = model(x, **kw)
        for k in 'x', 'z_tilde', 'z', 'sigma', 'entropy', 'level', 'level_std':
            assert getattr(out, k).isfinite().all(), k

def test_flow_inverts_far_outside(model):
    c = model.align(pair(1, 32)[0]).cond
    for z in (torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8), 1e3*torch.randn(1, 4, 8, 8)):
        u, logdet = model.flow(z, c)
        assert u.isfinite().all() and logdet.isfinite().all()
        assert ((model.flow.inverse(u, c) - z).abs() <= 1e-4*(1 + z.abs().max())).all()

def test_bad_input_is_refused(model):
    x = torch.rand(1, 3, 16, 16)
    for bad, word in ((x[0], 'batch axis'), (x[:, :1], 'B,3,H,W'), (x[..., :12], 'multiples of 8'),
                      (x[..., :0], 'multiples of 8'), (x*float('nan'), 'NaN'), ((x*255).byte(),
                                                                                'divide')):
        with pytest.raises(ValueError, match=word): model(bad)
    for kw, word in (dict(tau=1.5), 'tau'), (dict(mix=-1), 'mix'), (dict(rounds=-1), 'rounds'):
        with pytest.raises(ValueError, match=word): model(x, **kw)

@pytest.mark.parametrize('name', STAGES)
@pytest.mark.slow
def test_a_gradient_reaches_everything_a_stage_trains(name):
    torch.manual_seed(1)
    m = LowLightNAT(TOY)
    m.vqgan.start(pair(8, 64)[1])
    frozen = {n: p.detach().clone() for n, p in m.named_parameters()}
    # zero-initialised layers pass a gradient only after a step
    train(m, name, 8)
    for n, p in m.named_parameters():
        if not p.requires_grad:
            assert p.grad is None and torch.equal(p, frozen[n]), f'{n} is frozen, but moved'
        else:
            assert p.grad is not None and p.grad.abs().sum() > 0, f'no gradient reaches {n}'

def test_low_band_of_each_round_keeps_its_own_claim(model):
    "Mean and variance of a cell come from one and the same round."
    nat = model.fusion.nat
    seen = []
    look = nat.look
    try:
        def noted(state, see, masked, angles, changed=None, memory=None):
            x, memory = look(state, see, masked, angles, changed, memory)
            at = torch.arange(state.shape[1])[None] if changed is None else changed.at
            meant = torch.ones_like(at, dtype=torch.bool) if changed is None else changed.meant
            seen.append((at[meant], x[meant]))
            return x, memory
        nat.look = noted
        with torch.no_grad():
            out = nat(torch.randn(1, 16, 32, 32), torch.randn(1, 16, 32, 32),
                      torch.ones(1, 32, 32, dtype=torch.bool), rounds=3, record=True)
    finally: del nat.look
    assert len(seen) == 3
    latent = out.latent.flatten(1, 2)[0]
    logvar = out.logvar.flatten(1)[0]
    for at, x in seen:
        from_mean = torch.isclose(latent[at], nat.to_latent(x), atol=1e-6).all(-1)
        from_logvar = torch.isclose(logvar[at], nat.to_logvar(x)[:, 0].clamp(-8, 4), atol=1e-6)
        assert torch.equal(from_mean, from_logvar)

def test_work_follows_the_mask(model):
    """Cells and patches that a round need not touch are not touched, and nothing is where nothing
    is masked."""
    x = torch.rand(1, 3, 128, 192)*0.3
    with torch.no_grad():
        a = model.align(x)
        r = model.refine(a, tau=1.)
        places = []
        cells = []
        hooks = [
            model.nat.head.register_forward_hook(lambda m, args, out: places.append(len(args[0]))),
            model.fusion.nat.to_feature.register_forward_hook(
                lambda m, args, out: cells.append(args[0].shape[1]))
        ]
        model.decode(a, model.refine(a, tau=1.))
        assert places == [], 'nothing masked, and yet something was computed'
        cells.clear()
        e = r.entropy.flatten()
        model.decode(a, model.refine(a, tau=e.kthvalue(len(e) - 8).values.item(), rounds=4),
                     rounds=4)
        for h in hooks: h.remove()
    assert places == [8, 7, 5, 3] and all(k <= 9 for k in cells[1:]), (places, cells)

@pytest.mark.parametrize('cfg', [
    dict(vq_channels=(8, 16, 16), vq_stem=1, vq_groups=4),
    dict(dim=3, vq_groups=8),
    dict(deform=False, nat_patch=1)], ids=['as base: three levels', 'groups',
                                           'no deformable layer, patches of one place'])
def test_other_sizes_run(cfg):
    m = LowLightNAT(replace(TOY, **cfg)).eval()
    with torch.no_grad(): assert m(torch.rand(1, 3, 24, 40), tau=0.).x.isfinite().all()

@pytest.mark.parametrize('quantizer', ['cosine', 'fsq'])
@pytest.mark.slow
def test_every_stage_trains_with_other_quantizers(quantizer):
    torch.manual_seed(0)
    m = LowLightNAT(replace(TOY, n_codes=100, quantizer=quantizer))
    m.vqgan.start(pair(8, 64)[1])
    for name in STAGES:
        trainable(m, name)
        stage = STAGES[name](m).train()
        params = [p for p in m.parameters() if p.requires_grad]
        opt = torch.optim.Adam(params, 1e-3)
        before = [p.detach().clone() for p in params]
        for i in range(2):
            terms = stage(*pair(4, 64, seed=i)).terms
            assert all(v.isfinite() for v in terms.values()), f'{name}, step {i}: {terms}'
            sum(terms.values()).backward()
            opt.step()
            opt.zero_grad()
        assert all(p.isfinite().all()
                   for p in params) and not all(torch.equal(p, b)
                                                for p, b in zip(params, before)), name
    x = pair(1, 48)[0]
    with torch.no_grad(): out = m.eval()(x, tau=m.doubt(m.align(x)).map.median().item())
    moved = (out.z - m.vqgan.quantizer.place(out.z_tilde)).abs().amax(1) > 0
    # the refined latent lies among the codes
    assert out.x.isfinite().all() and moved.any() and not (moved & ~out.mask).any()



@pytest.mark.parametrize('quantizer', ['ema', 'cosine', 'fsq'])
def test_sigma_is_an_error_among_the_codes(quantizer):
    """T = 2 sigma^2 divides distances of the placed latent to the codes, so sigma must be trained
    on errors of the placed latent.
    For `cosine` and `fsq`, two latents of which one is twice the other, far out, have one place: no error."""
    torch.manual_seed(0)
    m = LowLightNAT(replace(TOY, n_codes=100, quantizer=quantizer)).eval()
    with torch.no_grad():
        a = m.align(pair(2, 64)[0])
        a.z_tilde = 20.*torch.randn_like(a.z_tilde).sign()
        for z in 2*a.z_tilde, torch.randn_like(a.z_tilde):
            spread = align_terms(m, a, AttrDict(z=z, level=torch.full((2,), .4)))['spread']/.2
            place = m.vqgan.quantizer.place
            error = place(a.z_tilde) - place(z)
            assert spread.item() == pytest.approx(
                (error.pow(2).mean(1)/(2*a.sigma**2) + a.sigma.log()).mean().item(), rel=1e-4)
        if quantizer != 'ema': assert (place(2*a.z_tilde) - place(a.z_tilde)).abs().max() < 1e-4

def test_presets_can_be_built():
    with torch.device('meta'):
        for name in 'tiny', 'small', 'base': LowLightNAT(ModelConfig.preset(name))

@pytest.mark.parametrize('half', [False, True])
def test_files_keep_everything(model, tmp_path, half):
    save_model(model, tmp_path/'m.safetensors', dict(seed=1), half=half)
    again = load_model(tmp_path/'m.safetensors')
    x = pair(1, 48)[0]
    assert again.cfg == model.cfg and again.about == dict(seed=1) and not again.training
    assert all(v.dtype == model.state_dict()[k].dtype for k, v in again.state_dict().items())
    with torch.no_grad():
        a = again(x).x
        b = model(x).x
    assert (a - b).abs().mean() < .01 if half else torch.equal(a, b)
    assert not list(tmp_path.glob('*.part'))
    with pytest.raises(ValueError, match='do not fit'):
        other = LowLightNAT(TOY)
        other.cfg = replace(TOY, n_codes=32)
        save_model(other, tmp_path/'o.safetensors')
        load_model(tmp_path/'o.safetensors')

def test_mixup_weighs_the_photograph_against_the_codebook():
    from lowlight_nat.models.fusion import MixUp
    torch.manual_seed(0)
    m = MixUp(3, 3, w=-1.)
    h = torch.rand(2, 3, 4, 4)
    f = torch.rand(2, 3, 4, 4)
    assert torch.equal(m(h, f, 0.), h) and torch.equal(m(h, f, 1.), f)
    assert torch.allclose(m(h, f),
                          torch.sigmoid(torch.tensor(-1.))*f + torch.sigmoid(torch.tensor(1.))*h)

def test_a_fresh_latent_nat_adds_nothing():
    """Its head starts at zero: evidence is flat, the expected code that of the prior, and the delta
    form exactly z_tilde, as long as nothing is kept"""
    torch.manual_seed(0)
    m = LowLightNAT(TOY).eval()
    with torch.no_grad():
        a = m.align(pair(1, 64)[0])
        r = m.refine(a, tau=0., rounds=1)
        far = m.refine(a, tau=0., rounds=1, output='expectation').z
    assert r.mask.all() and torch.allclose(r.z, a.z_tilde,
                                           atol=1e-5) and (far - a.z_tilde).abs().max() > 1e-2

def test_read_out_is_that_of_softmax():
    "Also where the logits lie thousands apart, and where many are near the best"
    from lowlight_nat.models.latent_nat import read_out
    torch.manual_seed(0)
    codes = torch.randn(64, 4)
    for size in 0.1, 1., 10., 3e3:
        logits = size*torch.randn(50, 64)
        q = read_out(logits, codes)
        best, confidence, mean = q.tokens, q.confidence, q.mean
        p = logits.double().softmax(-1)
        assert torch.equal(best, logits.argmax(-1)) and torch.allclose(
            confidence.double(),
            p.max(-1).values, atol=1e-6)
        assert torch.allclose(mean.double(), p @ codes.double(), atol=1e-5)

def test_the_factor_scales_the_variance(model):
    """A factor of 4 is a head that says twice the spread: the same entropies, the same predictions
    of the latent NAT."""
    x = pair()[0]
    old = model.cfg
    with torch.no_grad():
        a = model.align(x)
        b = replace(a, sigma=2*a.sigma)
        model.nat.head.weight.normal_(0, .02) if hasattr(model.nat.head, 'weight') else None
        twice = model.refine(b, tau=0.)
        try:
            model.cfg = replace(old, factor=4.)
            four = model.refine(a, tau=0.)
        finally: model.cfg = old
        one = model.refine(a, tau=0.)
    assert torch.equal(four.entropy, twice.entropy) and torch.allclose(four.z, twice.z, atol=1e-5)
    assert (four.entropy > one.entropy).float().mean() > .9
    for bad in 0., -1., math.inf, math.nan:
        with pytest.raises(ValueError, match='factor'): replace(old, factor=bad)


# --- what a configuration may be ---

BAD = [(ModelConfig, bad)
       for bad in (dict(decay=3), dict(decay=-.1), dict(n_codes=0), dict(n_codes=2.5),
                   dict(n_codes='512'), dict(n_codes=4, dim=16), dict(dim=1), dict(rounds=-1),
                   dict(rounds='4'), dict(vq_channels=(32, 0)), dict(vq_channels=(32, )),
                   dict(vq_channels=8), dict(vq_stem=1),
                   dict(vq_groups=5), dict(enc_channels=(8, 8)), dict(dilations=()),
                   dict(dilations=(0, )), dict(cond=0), dict(flow_steps=0), dict(flow_hidden=0),
                   dict(bound=0), dict(norm_level=0), dict(norm_level=4), dict(nat_heads=5),
                   dict(nat_width=90), dict(nat_depth=0), dict(nat_patch=0), dict(feat_width=40),
                   dict(feat_depth=0), dict(dec_channels=(8, 8, 8)), dict(dec_blocks=-1),
                   dict(deform=(True, )), dict(deform='yes'), dict(light_channels=(8, 8)),
                   dict(deform=True, vq_channels=(6, 6)), dict(quantizer='vq'),
                   dict(n_codes=16, quantizer='fsq'), dict(arch='unet'), dict(mask_by='luck'),
                   dict(light_bins=1), dict(beta=-1), dict(lights=float('inf')),
                   dict(frozen=2), dict(name=3), dict(tau=True))]
BAD += [(TrainPlan, bad)
        for bad in (dict(context=(100, 96)), dict(ema=2), dict(ema=1), dict(seed=1.5), dict(seed=-1),
                    dict(structure='l2'), dict(structure_weight=-1),
                    dict(heard=float('nan')), dict(latents=0), dict(align='no'), dict(transpose='no'), dict(bf16=None),
                    dict(synthetic=1.1), dict(flow=(96, 8, 400, 1e-3)))]
BAD += [(StagePlan, bad) for bad in (dict(bs=0), dict(bs='8'), dict(bs=(8, 8)), dict(steps=1.5),
                                     dict(lr=0), dict(lr='a'), dict(crop=100), dict(crop=8))]

@pytest.mark.parametrize('kind,bad', BAD, ids=str)
def test_a_configuration_that_cannot_train_is_refused_at_once(kind, bad):
    with pytest.raises(ValueError) as e: kind(**bad)
    assert [*bad][0] in str(e.value) and '\n' not in str(e.value) and str(e.value).startswith(
        (kind.__name__, 'fsq_levels'))
    with pytest.raises(ValueError): replace(kind(), **bad)

def test_every_field_has_its_range():
    from dataclasses import fields
    free = {'name', 'light', 'codebook', 'flow', 'nat', 'decoder'}
    for kind in ModelConfig, TrainPlan, StagePlan:
        assert all(
            {'interval', 'words'} & {*f.metadata} or isinstance(f.default, bool) or f.name in free
            for f in fields(kind))
    for name in 'tiny', 'small', 'base':
        for kind in ModelConfig, TrainPlan:
            assert kind.from_json(kind.preset(name).to_json()) == kind.preset(name)

def test_a_checkpoint_of_version_0_1_is_refused(tmp_path):
    "In one sentence; the plan was part of its configuration, and its exposure had a head"
    path = tmp_path/'old.safetensors'
    model = LowLightNAT(ModelConfig.tiny())
    state = dict(model.state_dict())
    first = asdict(model.cfg) | dict(seed=43, crop=[64, 96, 256, 128])
    last = asdict(model.cfg) | dict(exposure_head='statistics')
    for config, version in (first, {}), (last, dict(version='0.2')):
        told = dict(format='lowlight_nat', config=json.dumps(config), about='{}', **version)
        save_file(state, path, metadata=told)
        for read in load_model, read_metadata:
            with pytest.raises(ValueError, match='version 0.1.*train again') as e: read(path)
            assert 'old.safetensors' in str(e.value) and '\n' not in str(e.value)

def test_a_checkpoint_keeps_configuration_and_plan(model, tmp_path):
    plan = replace(TrainPlan.small(), seed=7)
    save_model(model, tmp_path/'a.safetensors', plan=plan)
    save_model(model, tmp_path/'b.safetensors')
    a, b = (read_metadata(tmp_path/f'{n}.safetensors') for n in 'ab')
    assert (a.config, a.plan) == (model.cfg, plan) and (b.config, b.plan) == (model.cfg, None)

@pytest.mark.parametrize('edge', [
    dict(rounds=0), dict(n_codes=4), dict(dim=2), dict(vq_blocks=0), dict(enc_blocks=0),
    dict(dec_blocks=0), dict(flow_steps=1), dict(dilations=(1,)), dict(nat_patch=1),
    dict(nat_heads=1), dict(vq_groups=4), dict(deform=True),
    dict(vq_channels=(8, 8, 8), vq_stem=1), dict(cond=1), dict(flow_hidden=1)], ids=str)
def test_what_is_allowed_runs(edge):
    small = dict(n_codes=16, vq_channels=(8, 8), enc_channels=(8, 8, 8), cond=8, flow_steps=1,
                 flow_hidden=8, dec_channels=(8, 8), nat_width=16, nat_depth=1, feat_width=16,
                 feat_depth=1)
    with torch.inference_mode():
        assert LowLightNAT(ModelConfig(**(small | edge))).eval()(
            torch.rand(1, 3, 16, 24)*.2).x.isfinite().all()

def test_a_network_refuses_settings_in_one_sentence(model):
    x = torch.rand(1, 3, 16, 16)*.2
    for bad in dict(rounds='2'), dict(rounds=1.5), dict(tau='x'), dict(tau=2), dict(heat=-1), dict(
            mix='all'), dict(level=0), dict(level='bright'):
        with pytest.raises(ValueError, match=[*bad][0]): model(x, **bad)

def test_exchanged_sizes_are_noticed():
    from lowlight_nat.models.latent_nat import LatentNAT
    from lowlight_nat.models.quantizers import CosineQuantizer, NearestQuantizer, VectorQuantizer, make_quantizer
    for make in LatentNAT, VectorQuantizer, NearestQuantizer, CosineQuantizer, lambda n, d: make_quantizer(
            'ema', n, d):
        with pytest.raises(ValueError, match='exchanged'): make(4, 512)
        make(512, 4)
    for bad in dict(n_codes='8'), dict(decay=3), dict(beta=-1), dict(dim=0):
        with pytest.raises(ValueError, match=[*bad][0]): VectorQuantizer(**bad)

class Waits(TorchDispatchMode):
    "Counts what a GPU would be waited for: a number read from a tensor, or an index made of a mask"
    def __init__(self):
        super().__init__()
        self.n = 0
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        name = f.overloadpacket.__name__
        by_mask = name.strip('_') in ('index', 'index_put', 'index_put_impl') and any(
            i is not None and i.dtype == torch.bool for i in args[1])
        self.n += by_mask or name in ('_local_scalar_dense', 'item', 'nonzero', 'is_nonzero',
                                      'masked_select')
        return f(*args, **(kwargs or {}))

def waits(model, x, **kwargs):
    with torch.no_grad(), Waits() as w: model(x, **kwargs)
    return w.n

@pytest.mark.parametrize('rounds', [1, 4, 8])
def test_each_nat_waits_for_a_gpu_once(model, monkeypatch, rounds):
    "How many places are masked is asked for once; what the rounds do follows from it"
    # as on a GPU
    monkeypatch.setattr('lowlight_nat.models.layers.counting_is_free', lambda device: False)
    x = pair(2, 48)[0]
    without = waits(model, x, tau=.3, latent_nat=False, decoder_nat=False)
    assert without <= 4 and waits(model, x, tau=.3, rounds=rounds) <= without + 2

def test_counting_changes_nothing(model, monkeypatch):
    "On a CPU as many places are computed as are masked, on a GPU as many as can be"
    x = pair(2, 48)[0]
    with torch.no_grad():
        counted = model(x, tau=.3)
        monkeypatch.setattr('lowlight_nat.models.layers.counting_is_free', lambda device: False)
        bounded = model(x, tau=.3)
    assert torch.equal(counted.tokens,
                       bounded.tokens) and (counted.x - bounded.x).abs().max() < 1e-5

def test_known_tokens_of_one_picture_leave_the_others():
    "Of two pictures one has a known token: it is kept, and the other picture is the default's."
    torch.manual_seed(42)
    model = LowLightNAT(ModelConfig.tiny()).eval()
    x_low = torch.rand(2, 3, 64, 96)*0.1
    tokens = torch.randint(512, (2, 16, 24))
    where = torch.zeros(2, 16, 24, dtype=torch.bool)
    where[0, 3, 4] = True
    with torch.no_grad():
        default = model(x_low)
        told = model(x_low, known=Known(tokens, where))
        nothing = model(x_low, known=Known(tokens, torch.zeros_like(where)))
        a = model.align(x_low)
        r, d = model.decode_known(a, Known(tokens, where), model.refine(a))
        same = model.follow(d.x, d.x, r, r)
    assert told.tokens[0, 3, 4] == tokens[0, 3, 4]
    assert abs(told.sigma[0, 3, 4].item() - KNOWN_SIGMA) < 1e-6
    assert torch.allclose(told.x_norm[1], default.x_norm[1], atol=1e-6)
    assert torch.allclose(nothing.x, default.x, atol=1e-6)
    assert (told.x_norm[0] - default.x_norm[0]).abs().max() > 1e-3
    assert isinstance(r, Refined) and same.shape == d.x.shape
    assert torch.allclose(d.x, told.x_norm, atol=1e-5)
