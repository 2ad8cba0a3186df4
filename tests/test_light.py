"Light: grid, level, what the user may say, and the bundled checkpoint."
from dataclasses import replace

import pytest
import torch

from lowlight_nat.evaluation.fidelity import grey_mean
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.models.checkpoint import load_model, save_model
from lowlight_nat.models.config import ModelConfig
from lowlight_nat.models.light import (
    KNEE,
    Level,
    LevelRidge,
    Light,
    LightGrid,
    PictureStats,
    black_point,
    coverage,
    hold_black,
    keep_bright,
    overview,
    parse_exposure,
    picture_stats,
    quarter,
    shoulder,
    soften,
    spare_lights,
    strips,
)
from lowlight_nat.models.lowlight_nat import LowLightNAT

TOY = replace(ModelConfig.tiny(), n_codes=16, vq_channels=(8, 8), enc_channels=(8, 8, 8), cond=8,
              light_channels=(8, 8, 8), flow_steps=1, flow_hidden=8, dec_channels=(8, 8), dilations=(1, ), nat_width=16,
              nat_depth=1, feat_width=16, feat_depth=1)


def test_light_survives_its_checkpoint(tmp_path):
    torch.manual_seed(0)
    model = LowLightNAT(TOY).eval()
    x = torch.rand(2, 3, 32, 48)*0.2
    save_model(model, tmp_path/'m.safetensors', half=False)
    with torch.no_grad():
        a = model(x)
        b = load_model(tmp_path/'m.safetensors')(x)
    assert torch.equal(a.level, b.level) and torch.equal(a.level_std, b.level_std)
    assert (a.level_std > 0).all()

def test_a_picture_is_lit_by_itself_alone():
    torch.manual_seed(0)
    net = LightGrid((8, 8, 8)).eval()
    x = torch.rand(2, 3, 64, 96)
    other = x.clone()
    other[0] = other[0].flip(-1)**3
    with torch.no_grad():
        one = net(x)
        two = net(other)
    assert torch.allclose(one.field[1], two.field[1], atol=1e-6)
    assert not torch.allclose(one.field[0], two.field[0], atol=1e-3)

@pytest.mark.parametrize('size', [(4, 4), (8, 600), (1000, 16), (404, 604)])
def test_light_of_any_size(size):
    "From one place on, long and narrow, and larger than the thumbnail; the mean is as promised"
    torch.manual_seed(0)
    x = torch.rand(1, 3, *size)*0.1
    with torch.no_grad():
        light = LightGrid((8, 8, 8)).eval()(x)
        lit = light.on(x)
    assert light.field.shape == (1, 12, size[0]//4, size[1]//4)
    assert lit.isfinite().all()
    assert grey_mean(lit).item() == pytest.approx(0.4, abs=0.02)

def test_strips_change_nothing(monkeypatch):
    x = torch.rand(1, 3, 64, 96)*0.1
    mean = x.mean((1, 2, 3))
    whole = quarter(x, mean)
    monkeypatch.setattr('lowlight_nat.models.light.strips', lambda x: strips(x, 500))
    assert len(strips(x, 500)) > 1
    for a, b in zip(whole, quarter(x, mean)):
        assert torch.allclose(a, b, atol=1e-6)

def test_doubt_grows_with_distance():
    g = torch.Generator().manual_seed(0)
    f = torch.randn(200, 67, generator=g)
    y = f[:, 0]*0.1 - 1 + 0.1*torch.randn(200, generator=g)
    fitted = LevelRidge().fit(f, y, torch.ones(200), ridge=10.)
    near = fitted(0.1*f[:1])[1]
    far = fitted(4*f[:1])[1]
    assert far > near + 0.1

def test_many_pictures_of_little_weight_do_not_set_the_scale():
    g = torch.Generator().manual_seed(0)
    f = torch.randn(100, 67, generator=g)
    y = f[:, 0]*0.1 - 1
    alone = LevelRidge().fit(f, y, torch.ones(100))
    with_others = LevelRidge().fit(torch.cat([f, 50 + f]), torch.cat([y, y + 5]),
                                   torch.cat([torch.ones(100), torch.full((100,), 1e-6)]))
    assert torch.allclose(alone.mean, with_others.mean)
    assert torch.allclose(alone(f)[0], with_others(f)[0], atol=0.02)

@pytest.mark.parametrize('bad', [0, 1, -.2, 'bright', True, float('nan')])
def test_a_wish_that_cannot_be(bad):
    with pytest.raises(ValueError, match="'auto' or a number between 0 and 1"): parse_exposure(bad)

def test_the_user_overrules_the_level():
    torch.manual_seed(0)
    enhance = Enhancer(LowLightNAT(TOY).eval())
    x = torch.rand(3, 40, 56)*0.2
    auto = enhance(x)
    same = enhance(x, exposure='auto')
    dim = enhance(x, exposure='0.2')
    bright = enhance(x, exposure=0.5)
    assert torch.equal(auto.x, same.x) and auto.level == bright.level and 0.01 < auto.level_std < 3
    assert dim.x.mean() < bright.x.mean()

def test_coverage_counts():
    level = torch.tensor([0.4, 0.4, 0.4])
    log_level = level.log() + torch.tensor([0., 0.15, 0.5])
    assert coverage(log_level, torch.full((3,), 0.1).log(), level) == pytest.approx([1/3, 2/3])

def bright(lights=1000.):
    "A network whose normalised pictures are bright everywhere, so that any level clips them"
    torch.manual_seed(0)
    model = LowLightNAT(replace(TOY, lights=lights)).eval()
    with torch.no_grad(): model.fusion.conv_out[1].bias += 2
    return model

def test_lights_lower_the_level_within_its_doubt():
    x = torch.rand(2, 3, 64, 96)*0.2
    with torch.no_grad():
        out = bright()(x)
        off = bright(0.)(x)
    torch.testing.assert_close(off.gain, off.level/0.4)
    assert torch.equal(out.level, off.level) and (out.gain < off.gain
                                                  *0.9).all() and (out.gain > off.gain*
                                                                   (-4*out.level_std).exp()).all()
    u = out.x_norm*out.gain.view(-1, 1, 1, 1)
    torch.testing.assert_close(out.x, soften(u, *shoulder(u, x, grey_mean(x))))
    def clipped(o): return (o.x_norm*o.gain.view(-1, 1, 1, 1) > 1).float().mean()
    assert clipped(out) < clipped(off)

@pytest.mark.parametrize('std', [0.03, 0.2, 0.6])
def test_the_spared_level_is_the_likeliest(std):
    "Lower or higher, the sum of both terms is larger"
    g = torch.Generator().manual_seed(1)
    x = 1.2*torch.rand(2, 3, 30, 30, generator=g)
    mu = torch.tensor([0.4, 0.5]).log()
    def cost(l):
        return ((l - mu)/std)**2/2 + 1000*(
            (x*(l.exp()/0.4).view(-1, 1, 1, 1) - 1).clamp(min=0)**2).mean((1, 2, 3))
    l = spare_lights(x, mu, torch.full((2,), std).log(), every=1)
    assert (l < mu).all() and all((cost(l + d) > cost(l)).all() for d in (-0.01, 0.01))

def test_lights_of_the_whole_picture_decide_and_the_user_overrules():
    model = bright()
    x = torch.rand(3, 176, 240)*0.2
    whole, cut = Enhancer(model, tile=128, overlap=32,
                          whole=10**6)(x), Enhancer(model, tile=128, overlap=32, whole=0)(x)
    assert whole.gain < 0.9*whole.level/0.4 and cut.gain < 0.9*cut.level/0.4 and abs(
        cut.gain - whole.gain) < 0.05*whole.gain
    wish = Enhancer(model)(x, exposure=0.9)
    assert wish.x.mean() == pytest.approx(0.9, abs=0.02) and wish.level == whole.level

def test_lights_are_a_number():
    with pytest.raises(ValueError, match='lights=-1 must be a number, 0 or more'):
        replace(TOY, lights=-1)


# --- pictures that are bright already ---

def sunny(h=96, w=128, mean=0.7, seed=0):
    "A bright picture with structure, lights at 1 and a black corner"
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 7, 9, generator=g), (h, w),
                                        mode='bilinear')[0]
    x = (x + 0.3*torch.rand(3, h, w, generator=g) + mean - 0.65).clamp(0, 1)
    x[:, :8, :8] = 0.
    return x

@pytest.mark.slow
def test_a_bright_picture_never_gets_darker():
    """Whole, in tiles, in a batch, by the network alone; also where lights are spared and values
    clipped"""
    for model in bright(), load_model('small'):
        for mean in 0.55, 0.8:
            x = sunny(mean=mean)
            own = grey_mean(x).item()
            e = Enhancer(model, 'cpu')
            results = [
                e(x),
                Enhancer(model, 'cpu', tile=64, overlap=16, whole=0)(x),
                *e.batch([x, x.flip(2)], batch_size=2)
            ]
            for r in results:
                assert grey_mean(r.x).item() > own - 1e-3 and r.level == pytest.approx(
                    own, abs=1e-4)
                assert [o.startswith('already bright') for o in r.notes] == [True]
            with torch.inference_mode(): out = model(x[None])
            assert grey_mean(out.x).item() > own - 1e-3 and out.level.item() == pytest.approx(
                own, abs=1e-4)

def test_the_wish_for_a_darker_picture_is_granted():
    r = Enhancer(load_model('small'), 'cpu')(sunny(), exposure=0.3)
    assert grey_mean(r.x).item() == pytest.approx(0.3, abs=2e-3) and r.notes == []
    with torch.inference_mode(): assert load_model('small')(sunny()[None], level=0.3).level == 0.3

def test_dark_pictures_know_nothing_of_the_guard():
    model = load_model('small')
    x = torch.rand(2, 3, 64, 96)*0.15
    with torch.inference_mode():
        out = model(x)
        light = model.light(x)
        assert torch.equal(out.level, light.log_level.exp())
        assert torch.equal(out.gain, model.gain(out.x_norm, light.log_level, light.log_std))
    assert Enhancer(model, 'cpu')(x[0]).notes == []

def test_the_guard_of_the_fixed_graph_is_the_same():
    from lowlight_nat.export.static_graph import OUTPUT_NAMES, DenseModel
    model = load_model('small')
    x = sunny()[None]
    with torch.inference_mode():
        want = model(x)
        have = dict(zip(OUTPUT_NAMES, DenseModel(model)(x)))
    for k in 'gain', 'level', 'x':
        torch.testing.assert_close(have[k], getattr(want, k), atol=1e-3, rtol=1e-3)

def test_the_explorer_shows_the_same_brightness():
    import numpy as np

    from lowlight_nat.app.steps import Steps
    e = Enhancer(load_model('small'), 'cpu', bf16=False)
    shown = np.array(Steps(e, sunny()).picture())/255
    assert np.abs(shown - e(sunny(), latent_nat=True).x.permute(1, 2, 0).numpy()).max() < 0.02

def test_glares_network_stays_as_it_was_published():
    model = LowLightNAT(
        replace(ModelConfig.base(), vq_channels=(32, 64, 128), n_codes=64, flow_steps=2,
                nat_width=32, nat_depth=1, nat_heads=4, feat_width=32, feat_depth=1)).eval()
    with torch.inference_mode(): assert model(sunny(32, 32)[None]).gain == 1

def test_the_guard_lets_training_move_the_level():
    """Where the guard lifts a result that came out too dark, the gradient still reaches the
    predicted level."""
    model = LowLightNAT(replace(TOY, lights=0.)).eval()
    x = torch.full((1, 3, 16, 16), 0.5*model.cfg.norm_level)
    log_level = torch.tensor([0.7]).log().requires_grad_()      # 0.35 without the guard
    gain = model.gain(x, log_level, torch.zeros(1), own=torch.tensor([0.6]))
    assert (gain*x).mean().item() == pytest.approx(0.6, abs=1e-3)
    gain.sum().backward()
    assert log_level.grad.item() == pytest.approx(gain.item(), rel=1e-5)

def test_what_is_seen_at_a_glance():
    "Statistics, level and field of each picture, and the cut of a tile"
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 96)*torch.tensor([0.1, 0.5]).view(2, 1, 1, 1)
    stats = picture_stats(x)
    assert isinstance(stats, PictureStats)
    told = overview(stats)
    assert told.shape == (2, 17) and told[1, 0] > told[0, 0]
    with torch.no_grad():
        light = LightGrid((8, 8, 8)).eval()(x)
        assert isinstance(light, Light) and torch.equal(light.overview, told)
        part = light.cut(16, 32, 24, 40)
        inner = (..., slice(4, -4), slice(4, -4))
        cut = part.on(x[..., 16:40, 32:72])[inner]
        assert torch.allclose(cut, light.on(x)[..., 16:40, 32:72][inner], atol=1e-5)
    level = Level(light.log_level, light.log_std)
    assert level.attention is None and len(level.log_level) == 2

def test_the_level_is_fitted_to_pairs():
    "The ridge regression of a network, on pairs whose level is a number of the dark picture"
    from lowlight_nat.data.loaders import LowLightDataLoaders
    from lowlight_nat.training.pipeline import fit_level
    g = torch.Generator().manual_seed(0)
    highs = [torch.rand(3, 48, 64, generator=g)*level for level in torch.linspace(0.3, 1, 24)]
    dls = LowLightDataLoaders.from_synthetic(highs, val_images=highs[:2], size=32, bs=2,
                                             items_per_epoch=4, device='cpu', num_workers=0)
    torch.manual_seed(0)
    model = LowLightNAT(TOY).eval()
    before = model.light.level.bias.item()
    fit_level(model, dls, scenes=4)
    level = model.light.level
    assert level.bias != before and level.noise > 0 and level.spread.diagonal().min() > 0
    with torch.no_grad(): said = model.light(dls.one_batch()[0]).log_level
    assert said.isfinite().all()

def test_a_night_sky_stays_black_and_a_dark_room_does_not():
    "In the picture, not in the level of the rest"
    night = torch.rand(1, 3, 64, 96).clamp(min=0.3)
    night[..., :64] = torch.randint(0, 3, (1, 3, 64, 64))/255
    room = 0.05*torch.rand(1, 3, 64, 96)
    model = load_model('small')
    with torch.inference_mode():
        b = black_point(night, night.mean((1, 2, 3)))
        assert b.item()*255 == pytest.approx(2.5) and black_point(room, room.mean((1, 2, 3))) == 0
        assert hold_black(torch.full((1, 1, 1, 1), 1/255), b) < 0.15
        light = model.light(night)
        lit = light.on(night)
        assert lit[..., 8:56].mean() < 0.08 and grey_mean(lit).item() == pytest.approx(0.4, abs=0.02)
        assert model(night).x[..., 8:56].mean() < 0.06
        # as bright as without: the level gave way
        plain = model.light(night.clamp(min=3/255))
        bright = (..., slice(72, 96))
        def shown(l): return (l.on(night)*l.log_level.exp().view(-1, 1, 1, 1))[bright].mean().item()
        assert shown(light) == pytest.approx(shown(plain), rel=0.1)

def test_a_sky_keeps_its_texture_and_a_lamp_is_white():
    "Where the result clips much of what was not clipped; nothing gets darker than it came in"
    sky = torch.full((1, 3, 60, 60), 0.3)
    sky[:, :, :20] = torch.linspace(1, 2, 60)
    w, top = shoulder(sky, 0.3*sky)
    bent = soften(sky, w, top)
    assert w == 1 and (bent[0, 0, 0].diff() > 0).all() and bent.max() <= 1
    assert KNEE > 0.3 and torch.equal(bent[:, :, 20:], sky[:, :, 20:])      # below the knee
    assert (soften(sky, 0*w, top) == sky.clamp(max=1)).all()
    lamp = torch.full((1, 3, 300, 300), 0.3)
    lamp[:, :, :15, :15] = 3.
    assert shoulder(lamp, 0.3*lamp)[0] == 0 and shoulder(lamp, lamp)[0] == 0
    own = grey_mean(bent) + 0.5*(grey_mean(sky.clamp(0, 1)) - grey_mean(bent))
    assert grey_mean(soften(sky, *shoulder(sky, 0.3*sky, own, every=1))) >= own - 1e-4

def test_the_whole_model_bends_lights_as_the_enhancer_does():
    "A dark scene with a piece of sky, in the model, in `Enhancer` and in the fixed graph"
    from lowlight_nat.export.static_graph import DenseModel
    model = load_model('small')
    x = 0.04 + 0.02*torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    x[:, :, :12] = 0.7 + 0.25*torch.linspace(0, 1, 128)
    with torch.inference_mode():
        out = model(x)
        dense = DenseModel(model).eval()(x)[0]
    hard = (out.x_norm*out.gain.view(-1, 1, 1, 1)).clamp(0, 1)
    assert (hard - out.x).abs().max() > 0.02 and (hard == 1).float().mean() > (out.x == 1).float().mean()
    assert (Enhancer(model, 'cpu', bf16=False)(x[0]).x - out.x[0]).abs().max() < 0.01
    assert (dense - out.x).abs().max() < 1e-3

def test_black_that_no_gain_would_lift():
    "Where most is black, the gain ends at twice what would be right without clipping"
    black = torch.zeros(1, 3, 8, 8)
    black[..., :2] = 0.5
    gain = keep_bright(black, torch.ones(1), torch.tensor([0.9]))
    assert gain.item() == pytest.approx(2*0.9/0.125, abs=1e-3)
