"""Controls of a photographer: the light's own colour, shadows, and "brighten only here", on
pictures of all kinds."""
import numpy as np
import pytest
import torch
from PIL import Image
from test_enhance import picture, toy

from lowlight_nat.inference import tone
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.inference.hints import Hint
from lowlight_nat.inference.tone import *
from lowlight_nat.io.files import ImageError
from lowlight_nat.io.images import linear_to_srgb, luma, read_image, srgb_to_linear, to_pil


@pytest.fixture(scope='module')
def enhance(): return Enhancer(toy(), 'cpu')

def chroma(x, sigma=8):
    "Low-frequency chromaticity of a picture, in light."
    light = tone._blur(srgb_to_linear(x), sigma)
    return light/luma(light)

WARM = torch.tensor([1.6, .85, .2])[:, None, None]


# --- the light's colour ---

def room(level, noise=0., h=120, w=160):
    "Grey and coloured things in warm light, as a picture at a level of light."
    g = torch.Generator().manual_seed(0)
    things = torch.rand(3, h//20, w//20, generator=g)
    things = things.repeat_interleave(20, 1).repeat_interleave(20, 2)
    light = (.3+.4*things)*level*WARM/luma(WARM)
    return things*.4+.3, linear_to_srgb(
        (light+noise*torch.randn(light.shape, generator=g)).clamp(0, 1))

def test_a_warm_lamp_stays_warm():
    """The low-frequency colour is the input's, also under noise; grey, detail and what strength 0
    gives are the result's."""
    things, dark = room(.03, .001)
    y = linear_to_srgb(things)
    truth = room(1.)[1]
    z = keep_colour(dark, y)
    off = [(chroma(o)-chroma(truth)).abs().mean().item() for o in (y, z)]
    assert off[1] < .15*off[0]
    assert (luma(z)-luma(y)).abs().mean() < .01
    flat = z[:, 2:18, 2:18]                # noise of the dark picture does not come back
    assert flat.std((1, 2)).max() < .02
    assert torch.equal(keep_colour(dark, y, 0.), y)
    half = (chroma(keep_colour(dark, y, .5))-chroma(truth)).abs().mean().item()
    assert off[1] < half < off[0]

def test_noise_in_black_has_no_colour():
    "Counts of one channel in a black half don't colour the result there."
    things, dark = room(.03)
    dark[:, :, 80:] = 0
    dark[1, ::3, 80::3] = 2/255
    y = linear_to_srgb(things)
    f = colour_factor(dark, y)
    black, lit = f[:, :, 130:].mean((1, 2)), f[:, :, :40].mean((1, 2))
    assert (black/lit-1).abs().max() < .25
    dead = colour_factor(dark*0, y)
    assert dead.isfinite().all() and keep_colour(dark*0, y).isfinite().all()

@pytest.mark.parametrize('keep', [.3, 1.])
def test_white_stays_white(keep):
    "A lamp that is clipped in both; and no value leaves the range."
    things, dark = room(.1)
    y = linear_to_srgb(things)
    dark[:, 40:60, 40:60] = y[:, 40:60, 40:60] = 1
    z = keep_colour(dark, y, keep)
    assert (z[:, 45:55, 45:55] > .995).all() and z.min() >= 0 and z.max() <= 1

def test_its_own_colour_is_kept_already():
    y = linear_to_srgb(room(1.)[0])
    assert (keep_colour(y, y)-y).abs().max() < 1e-4


# --- shadows ---

def backlit(h=120, w=160):
    "A dark half with texture, a bright one, and a lamp in the dark."
    x = .12+.02*torch.randn(3, h, w, generator=torch.Generator().manual_seed(2))
    x[:, :, w//2:] += .7
    x[:, 30:36, 20:26] = 1
    return x.clamp(0, 1)

@pytest.mark.parametrize('amount', [-1., -.4, .3, 1.])
def test_lights_stay_and_nothing_clips(amount):
    y = backlit()
    z = open_shadows(y/8, y, amount)
    bright = luma(y) > .6
    assert (luma(z)[bright].mean()-luma(y)[bright].mean()).abs() < 2e-3
    assert ((z >= 1) & (y < 1)).sum() == 0 and (z[:, 30:36, 20:26] == 1).all()
    dark = luma(z)[:, 60:, :60].mean()/luma(y)[:, 60:, :60].mean()
    assert dark > 1.2 if amount > 0 else dark < .9

def test_texture_of_shadows_stays():
    "Contrast within a shadow, as a ratio, hardly falls; a tone curve's does."
    y = backlit()
    z = open_shadows(y/8, y, 1.)
    G = shadow_gain(luma(y), 1.)
    curve = y*G/(1+(G-1)*y.amax(0, keepdim=True))
    def contrast(v):
        part = luma(v)[0, 60:, 5:60]
        return (part.std()/part.mean()).item()
    assert contrast(z) > .8*contrast(y) and contrast(z) > contrast(curve)*1.15

def test_shadows_are_kept_down_to_the_input():
    y = backlit()
    for share in .9, .5, .05:
        z = open_shadows(y*share, y, -1.)
        assert luma(z)[0, 80, 10:60].mean() > .97*min(share, 1)*luma(y)[0, 80, 10:60].mean()
    assert (open_shadows(y, y, -1.)-y).abs().mean() < 5e-3

def test_no_rims(enhance):
    "Along an edge the shadow is within 6% of what it is far away, the bright side untouched."
    y = torch.full((3, 100, 400), .1)
    y[..., 200:] = .8
    for amount in -1., .5, 1.:
        row = open_shadows(y/50, y, amount)[0, 50]
        assert (row[:200]/row[20]-1).abs().max() < .06 and (row[200:]-.8).abs().max() < 1e-6

@pytest.mark.parametrize('size', [(1, 1), (1, 40), (3, 16), (97, 131)])
def test_any_size(enhance, size):
    r = enhance(picture(*size), keep_colour=True, shadows=.7, mask=torch.ones(size))
    assert r.x.shape == (3, *size) and r.x.isfinite().all() and 0 <= r.x.min() and r.x.max() <= 1

def test_strips_and_small_copies(monkeypatch):
    "A large picture, a strip at a time, is the same as at once; and nearly so by a smaller copy."
    x, y = picture(90, 140, 1), picture(90, 140, 2, .8)
    want = open_shadows(x, keep_colour(x, y), .8)
    monkeypatch.setattr(tone, 'STRIP', 140*7)
    assert (open_shadows(x, keep_colour(x, y), .8)-want).abs().max() < 1e-5
    smooth = torch.nn.functional.interpolate(y[None], (180, 280), mode='bicubic')[0].clamp(0, 1)
    want = open_shadows(smooth/9, keep_colour(smooth/9*WARM, smooth), .8)
    monkeypatch.setattr(tone, 'SMALL_COPY', 180*280//4)
    assert (open_shadows(smooth/9, keep_colour(smooth/9*WARM, smooth), .8)-want).abs().max() < .05


# --- only here ---

def square(h=60, w=80):
    m = torch.zeros(h, w)
    m[20:40, 30:60] = 1
    return m

def test_outside_the_mask_is_the_photograph(enhance):
    "To the last bit, in 8 and 16 bits, with alpha, in tiles; inside it is the result."
    soft = feathered(square(), 8)
    g = np.random.default_rng(0)
    for kind, top in (np.uint8, 255), (np.uint16, 65535):
        a = (g.random((60, 80, 4))*top/6).astype(kind)
        r = enhance(a, mask=square(), feather=8)
        full = enhance(a)
        dark = read_image(a)
        assert torch.equal(r.x[:, soft == 0], dark[:, soft == 0]) and (soft == 0).any()
        assert torch.equal(r.x[:, soft == 1], full.x[:, soft == 1]) and (soft == 1).any()
        assert r.source.depth == (8 if top == 255 else 16)
    x = picture(200, 300)
    m = torch.zeros(200, 300)
    m[80:120, 100:160] = 1
    cut = Enhancer(enhance.model, 'cpu', tile=160, overlap=32, whole=0)
    r = cut(x, mask=m, shadows=.5, keep_colour=True)
    outside = feathered(m) == 0
    assert torch.equal(r.x[:, outside], x[:, outside])

def test_feathers(tmp_path):
    "Half way at the edge, monotonous, as wide as asked for, also by the small copy; 0 is the mask."
    for width, scale in (8, 1), (64, 8):
        m = torch.zeros(60*scale, 80*scale)
        m[:, 40*scale:] = 1
        row = feathered(m, width)[30*scale]
        between = ((row > 0) & (row < 1)).sum().item()
        assert .5*width <= between <= 1.6*width and (row.diff() >= -1e-6).all()
        assert abs(row[40*scale-1:40*scale+1].mean().item()-.5) < .02
    assert torch.equal(feathered(square(), 0), square())
    for v in 0, 1: assert torch.equal(feathered(square()*0+v), square()*0+v)

def test_greys_of_a_mask_are_opacity(enhance):
    x = picture(60, 80)
    y = enhance(x).x
    r = enhance(x, mask=torch.full((60, 80), .25), feather=0)
    assert (r.x-torch.lerp(x, y, .25)).abs().max() < 1e-6
    r = enhance(x, mask=torch.full((60, 80), .5), feather=0, strength=.5)
    assert (r.x-torch.lerp(x, y, .25)).abs().max() < 1e-6

def test_black_masks_say_so(enhance):
    r = enhance(picture(20, 24), mask=torch.zeros(20, 24))
    assert torch.equal(r.x, picture(20, 24))
    assert r.notes == ['the mask sets no place: nothing was brightened']


# --- through the Enhancer ---

def test_grey_pictures_stay_grey(enhance):
    a = (np.random.default_rng(0).random((40, 60))*40).astype(np.uint8)
    r = enhance(Image.fromarray(a), keep_colour=True, shadows=.5)
    assert r.image.mode == 'L' and torch.equal(r.x[0], r.x[1])
    deep = enhance((a.astype(np.uint16)*257), shadows=.5)
    assert deep.source.depth == 16

def test_controls_meet_film_variations_batches_and_hints(enhance):
    x = picture(48, 64)
    how = dict(keep_colour=.7, shadows=.4, mask=torch.ones(48, 64), strength=.8)
    one = enhance(x, **how)
    film = enhance(x, film=True, **how)
    assert (film.film[-1]-one.x).abs().max() < 1e-5
    for r in enhance.batch([x, x], batch_size=2, **how): assert (r.x-one.x).abs().max() < 1/255
    assert len(enhance.variations(x, 2, **how)) == 2
    told = enhance(x, hints=[Hint('bright', (0, 0, 16, 16), '+1')], **how)
    assert told.x.isfinite().all() and not torch.equal(told.x, one.x)
    for kind, value in ('neutral', None), ('colour', '#c8b090'):
        with pytest.raises(ValueError, match='keep_colour keeps .* leave out one'):
            enhance(x, hints=[Hint(kind, (0, 0, 16, 16), value)], keep_colour=True)
    enhance(x, hints=[Hint('neutral', (0, 0, 16, 16))], shadows=.5)

def test_settings_are_recorded_with_the_result(enhance):
    r = enhance(picture(20, 24), keep_colour=True, shadows=-.5, mask=torch.ones(20, 24), feather=3)
    assert (r.settings.keep_colour, r.settings.shadows, r.settings.feather) == (1., -.5, 3.)
    said = repr(r.settings)
    assert said == ('Settings(keep_colour=1.0, shadows=-0.5, mask=100.0% of the picture, '
                    'feather=3.0)')
    assert repr(enhance(picture(20, 24)).settings) == 'Settings()'
    hint = Hint('bright', (0, 0, 9, 9), '+1')
    assert '0,0,9,9:bright' in repr(enhance(picture(20, 24), hints=[hint]).settings)

@pytest.mark.parametrize('bad, says', [
    (dict(keep_colour=2), 'keep_colour=2'), (dict(keep_colour='warm'), "keep_colour='warm'"),
    (dict(shadows=1.1), 'shadows=1.1'), (dict(shadows=float('nan')), 'shadows=nan'),
    (dict(feather=3), 'give a mask'), (dict(feather=-1, mask=torch.ones(20, 24)), 'feather=-1'),
    (dict(mask=torch.ones(9, 9)), 'the mask has 9x9 pixels, and the picture 24x20'),
    (dict(refine_mask=torch.ones(9, 9)), 'the refine_mask has 9x9 pixels')])
def test_wrong_settings_are_one_sentence(enhance, bad, says):
    with pytest.raises(ValueError, match=says) as e: enhance(picture(20, 24), **bad)
    assert '\n' not in str(e.value)
    if 'mask' in bad and 'feather' not in bad:
        hints = [Hint('bright', (0, 0, 9, 9), '+1')]
        with pytest.raises(ImageError, match=says): enhance(picture(20, 24), hints=hints, **bad)

def test_nothing_asked_for_changes_nothing(enhance):
    x = picture(48, 64)
    y = enhance(x).x
    same = enhance(x, keep_colour=False, shadows=0, mask=torch.ones(48, 64), strength=1).x
    assert torch.equal(y, same) and to_pil(y).size == (64, 48)
