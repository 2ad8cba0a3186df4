"""Large pictures quickly: the local transform of colour from a small copy, carried to full size; and
what the Enhancer and the command make of it."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_enhance import bundled, smooth, toy

from lowlight_nat.cli import lowlight_enhance
from lowlight_nat.inference import enhancer as module
from lowlight_nat.inference.enhancer import Enhancer, Settings
from lowlight_nat.inference.guided import *
from lowlight_nat.inference.hints import Hint
from lowlight_nat.io.files import ImageError
from lowlight_nat.io.images import read_image
from lowlight_nat.models.checkpoint import save_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def quick(): return Enhancer(toy(), 'cpu', reduced=4096)

def edge(h=60, w=96):
    "A dark wall and a window, both with a pattern; and both as bright as they should be."
    wall = torch.arange(w) < w//2
    x = torch.where(wall, .05, .3)*(1 + .1*torch.sin(torch.arange(w)*.9))
    x = x.expand(3, h, w).contiguous()
    return x, torch.where(wall, 6., 2.)*x

# --- the formula

def test_the_small_result_is_met_exactly_and_strips_change_nothing():
    x = smooth(97, 130)
    u = reduced(x[None], (32, 40))[0]
    v = (u.flip(0)**.5).contiguous()
    c = fit_colour(u, v)
    torch.testing.assert_close(c.apply(u), v)
    torch.testing.assert_close(carry(u, c), v)
    y = carry(x, c)
    assert all(torch.equal(y, carry(x, c, n)) for n in (1, 999, 10**7))

def test_carry_is_bilinear_enlarging_of_twelve_numbers():
    x = smooth(97, 130)
    c = fit_colour(reduced(x[None], (32, 40))[0], smooth(32, 40, 1))
    maps = torch.cat([c.A.flatten(0, 1), c.b])[None]
    maps = F.interpolate(maps, x.shape[-2:], mode='bilinear')[0]
    want = AffineColour(maps[:9].unflatten(0, (3, 3)), maps[9:]).apply(x)
    torch.testing.assert_close(carry(x, c), want, atol=1e-5, rtol=1e-5)
    taps = linear_taps(40, 130)
    assert isinstance(taps, LinearTaps) and taps.t.min() >= 0 and taps.t.max() <= 1

def test_slopes_are_those_of_a_solver():
    u = smooth(20, 30)
    v = smooth(20, 30, 1)
    a = colour_slopes(u, v)
    exact = colour_slopes(u.double(), v.double())
    torch.testing.assert_close(a, exact.float(), atol=1e-3, rtol=1e-3)
    # one window that is the picture
    du, dv = (o.double().flatten(1) - o.double().flatten(1).mean(1, keepdim=True) for o in (u, v))
    want = dv@du.T@torch.linalg.inv(du@du.T + 600*3e-4*torch.eye(3))
    a = colour_slopes(u.double(), v.double(), 40)
    torch.testing.assert_close(a, want[..., None, None].expand_as(a))
    assert window_mean(u, 40)[:, 0, 0].allclose(u.mean((1, 2)))

def test_at_an_edge_it_leaves_no_halo():
    x, wanted = edge()
    size = 10, 16
    u = reduced(x[None], size)[0]
    v = reduced(wanted[None], size)[0]
    y = carry(x, fit_colour(u, v))
    by_gain = x*F.interpolate((v/u)[None], x.shape[-2:], mode='bilinear')[0]
    def worst(y): return (y - wanted).abs().max()
    assert worst(y) < .2*worst(by_gain)

def test_grey_lamps_in_the_dark_do_not_break_the_inverse():
    u = .02*torch.ones(1, 24, 36)
    u[:, 8:16, 10:20] = 1                                    # fifty times as bright
    u = (u + .001*smooth(24, 36)[:1]).expand(3, -1, -1).contiguous()
    v = 12*u/(1 + 11*u)
    exact = fit_colour(u.double(), v.double())
    torch.testing.assert_close(fit_colour(u, v).A, exact.A.float(), atol=1e-2, rtol=1e-2)
    x = F.interpolate(u[None], (120, 180), mode='nearest')[0]
    wanted = 12*x/(1 + 11*x)
    assert (carry(x, fit_colour(u, v)) - wanted).abs().mean() < .02

@pytest.mark.parametrize('x', [torch.zeros(3, 64, 80), torch.ones(3, 64, 80), smooth(64, 80)*1e-6])
def test_flat_and_black_pictures_stay_finite(x):
    u = reduced(x[None], (16, 24))[0]
    for v in torch.zeros_like(u), -torch.ones_like(u), u*30:
        assert carry(x, fit_colour(u, v)).isfinite().all()

def test_how_large_the_copy_is():
    assert reduced_size((4000, 6000)) == (683, 1025) and reduced_size((30, 40)) == (30, 40)
    for size in (2000, 3001), (9000, 500), (5, 2_000_000), (2, 900_000):
        h, w = reduced_size(size)
        assert 0 < h <= size[0] and 0 < w <= size[1] and h*w < 1.3*REDUCED
    assert REDUCED < 1_000_000 < FAST_ABOVE

# --- the Enhancer

def test_which_pictures_are_computed_small(quick):
    e = Enhancer(quick.model, 'cpu')
    assert e.is_fast((2001, 3000), Settings()) and not e.is_fast((2000, 3000), Settings())
    assert e.is_fast((1000, 1000), Settings(fast=True))
    assert not e.is_fast((4000, 6000), Settings(fast=False))
    assert not e.is_fast((300, 400), Settings(fast=True))    # there is nothing to make smaller
    x = smooth(48, 64)
    assert torch.equal(quick(x, fast=True).x, quick(x).x)
    with pytest.raises(ValueError, match="fast='yes' must be True or False"): quick(x, fast='yes')
    with pytest.raises(ValueError, match='reduced='): Enhancer(quick.model, 'cpu', reduced=9)

def test_by_itself_above_the_limit_and_with_a_note(quick, monkeypatch):
    monkeypatch.setattr(module, 'FAST_ABOVE', 9000)
    x = smooth(96, 120)
    r = quick(x)
    assert torch.equal(r.x, quick(x, fast=True).x) and 'noise' in r.notes[0]
    full = quick(x, fast=False)
    assert not full.notes and not torch.equal(full.x, r.x)
    a, b = [r for _, r in quick.stream([smooth(40, 50), x])]
    assert torch.equal(b.x, r.x) and not a.notes

def test_fields_have_the_size_of_the_picture(quick):
    x = smooth(97, 131)
    fast = quick(x, fast=True, film=True, latent_nat=True)
    full = quick(x, fast=False, film=True, latent_nat=True)
    for k in 'x', 'entropy', 'sigma', 'mask':
        assert getattr(fast, k).shape == getattr(full, k).shape, k
    assert [o.shape for o in fast.film] == [o.shape for o in full.film]
    for k in 'history', 'feature_history':
        for a in getattr(fast, k): assert a.masked.shape == getattr(full, k)[0].masked.shape
    torch.testing.assert_close(fast.film[-1], fast.x, atol=.1, rtol=0)
    assert fast.level == pytest.approx(full.level, rel=.02)

def test_settings_go_on_working(quick, tmp_path):
    x = smooth(97, 131)
    r = quick(x, fast=True)
    assert torch.equal(quick(x, fast=True, strength=0).x, x)
    torch.testing.assert_close(quick(x, fast=True, strength=.5).x, (x + r.x)/2)
    from lowlight_nat.evaluation.fidelity import grey_mean
    assert grey_mean(quick(x, fast=True, exposure=.3).x).item() == pytest.approx(.3, abs=2e-3)
    none = quick(x, fast=True, refine_mask=torch.zeros(97, 131))
    assert not none.mask.any() and torch.equal(
        none.x, quick(x, fast=True, rounds=0).x)
    left = torch.zeros(97, 131)
    left[:, :60] = 1
    assert not quick(x, fast=True, refine_mask=left).mask[:, 18:].any()
    here = quick(x, fast=True, mask=left, feather=2)     # brighten only here
    assert torch.equal(here.x[..., 80:], x[..., 80:])
    torch.testing.assert_close(here.x[..., :40], r.x[..., :40])
    for name in 'mask', 'refine_mask':
        with pytest.raises(ImageError, match='mask'):
            quick(x, fast=True, **{name: torch.ones(5, 5)})
    quick(x, fast=True, film=True).save_history(tmp_path/'film.gif')

def test_noise_is_not_taken_for_lights(quick, monkeypatch):
    """The gain is that of the copy, whose result has no noise finer than its pixels; `exposure` is
    the mean of what comes out."""
    seen = []
    gain = quick.model.gain
    monkeypatch.setattr(quick.model, 'gain', lambda x, *a, **k: seen.append(x.shape) or gain(x, *a, **k))
    x = smooth(97, 131)
    quick(x, fast=True)
    quick(x, fast=True, hints=[Hint('right', (0, 0, 60, 60))])
    small = reduced_size((97, 131), 4096)
    assert seen[-1][-2:] == small and all(o[-2:] != (97, 131) for o in seen)

def test_hints_and_variations(quick):
    x = smooth(97, 131)
    plain = quick(x, fast=True)
    told = quick(x, fast=True, hints=[Hint('bright', (0, 0, 60, 60), '+1')], record=True)
    assert told.x.shape == x.shape and told.level > plain.level
    assert [o for o in told.notes if 'computed at' in o]
    assert all(o.masked.shape == told.entropy.shape for o in told.history)
    several = quick.variations(x, 2, fast=True)
    assert torch.equal(quick(x, fast=True, hints=[several[0]]).x, several[0].x)
    with pytest.raises(ValueError, match='same fast'): quick(x, hints=[several[0]])

def test_files_keep_what_they_hold(quick, tmp_path):
    x = smooth(97, 131)
    rgba = Image.fromarray((255*x).byte().permute(1, 2, 0).numpy()).convert('RGBA')
    rgba.putalpha(Image.linear_gradient('L').resize(rgba.size))
    exif = Image.Exif()
    exif[0x010f] = 'a maker'
    rgba.save(tmp_path/'a.png', exif=exif)
    quick(tmp_path/'a.png', fast=True).save(tmp_path/'b.png')
    with Image.open(tmp_path/'b.png') as im:
        assert im.mode == 'RGBA' and im.getexif()[0x010f] == 'a maker'
        assert np.array_equal(np.asarray(im)[..., 3], np.asarray(rgba)[..., 3])
    deep = Image.fromarray((65535*x[0]).numpy().astype(np.uint16))
    deep.save(tmp_path/'deep.png')
    r = quick(tmp_path/'deep.png', fast=True)
    r.save(tmp_path/'out.png')
    with Image.open(tmp_path/'out.png') as im: assert im.mode.startswith('I')
    assert torch.equal(r.x[0], r.x[1])                       # grey in, grey out

# --- the command

def test_fast_and_full_as_options(quick, tmp_path, capsys):
    save_model(quick.model, tmp_path/'m.safetensors')
    large = torch.nn.functional.interpolate(smooth(60, 80)[None], (900, 1200))[0]
    Image.fromarray((255*large).byte().permute(1, 2, 0).numpy()).save(tmp_path/'a.png')
    args = [str(tmp_path/'a.png'), '-o', str(tmp_path/'b.png'), '--weights',
            str(tmp_path/'m.safetensors')]
    assert lowlight_enhance.main([*args, '--fast', '--full']) == 2
    said = capsys.readouterr().err
    assert 'leave out one of them' in said and said.count('\n') == 1
    assert lowlight_enhance.main([*args, '--fast']) == 0
    assert 'note:' in (said := capsys.readouterr().err) and 'noise' in said and '--full' in said
    fast = read_image(tmp_path/'b.png')
    assert lowlight_enhance.main([*args, '--full']) == 0
    assert 'note' not in capsys.readouterr().err
    assert not torch.equal(fast, read_image(tmp_path/'b.png'))

# --- near enough, and small enough

@bundled
def test_near_the_full_result():
    from lowlight_nat.evaluation.fidelity import psnr
    x = read_image(ROOT/'samples/rocket.webp')
    e = Enhancer.from_pretrained(device='cpu', reduced=x[0].numel()//4)
    full = e(x).x
    v = reduced(full[None], [n//2 for n in x.shape[-2:]])
    plain = F.interpolate(v, x.shape[-2:], mode='bilinear')[0]
    fast = psnr(e(x, fast=True).x, full)
    assert fast > 30 and fast > psnr(plain, full)

@bundled
@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='memory is read from /proc')
def test_memory_of_24_megapixels(tmp_path):
    make = 'from big_picture import make; import sys; make(sys.argv[1], 4000, 6000)'
    path = tmp_path/'large.jpg'
    figures = ROOT/'nbs/figures'
    subprocess.run([sys.executable, '-c', make, str(path)], cwd=figures, check=True)
    run = subprocess.run([sys.executable, 'guided.py', '--cost', str(path)], cwd=figures, check=True,
                         capture_output=True, text=True)
    assert json.loads(run.stdout.splitlines()[-1])['over_gb'] < 1.5
