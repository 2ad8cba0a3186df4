"""Pictures of any size and kind through the Enhancer: sizes, tiles, odd files, memory that runs
out, alpha, batches, time and memory."""
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_pictures import pictures, run_one, write
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from lowlight_nat.evaluation.fidelity import grey_mean
from lowlight_nat.inference.enhancer import *
from lowlight_nat.inference.hints import read_mask
from lowlight_nat.inference.tiling import tile_grid
from lowlight_nat.io.files import ImageError, list_images
from lowlight_nat.io.images import read_image, to_pil
from lowlight_nat.models import flow, light, masking
from lowlight_nat.models.checkpoint import load_model, save_model
from lowlight_nat.models.config import ModelConfig
from lowlight_nat.models.lowlight_nat import LowLightNAT

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT/'samples'
BUNDLED = ROOT/f'lowlight_nat/weights/{DEFAULT_WEIGHTS}.safetensors'
bundled = pytest.mark.skipif(not BUNDLED.exists(), reason='there is no bundled checkpoint')
TOY = dict(n_codes=64, vq_channels=(8, 16), enc_channels=(8, 12, 16), cond=8, flow_steps=2,
           flow_hidden=8, nat_width=16, nat_depth=1, nat_heads=2, dec_channels=(8, 12),
           feat_width=16, feat_depth=1)


def toy(seed=0):
    """A very small model of random weights, whose every part does something, and whose pictures are
    bright in the middle of the range."""
    torch.manual_seed(seed)
    model = LowLightNAT(ModelConfig(**TOY))
    for p in model.parameters(): p.data.add_(torch.randn_like(p)*.02)
    model.fusion.conv_out[1].bias.data.zero_()   # nothing is added to the lit picture, on average
    with torch.no_grad(): e = model.eval()(torch.rand(1, 3, 64, 64)*.1).entropy
    model.cfg = replace(model.cfg, tau=e.median().item())
    return model

@pytest.fixture(scope='module')
def enhance(): return Enhancer(toy(), 'cpu')

def picture(h, w, seed=0, level=.15):
    return torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed))*level

def smooth(h, w, seed=0):
    "A dark picture with structure at all scales."
    g = torch.Generator().manual_seed(seed)
    x = sum(
        torch.nn.functional.interpolate(torch.rand(1, 3, 2**k, 2**k, generator=g),
                                        (h, w), mode='bilinear')/2**(k/2) for k in range(1, 7))[0]
    return x/x.amax()*.3


# --- sizes ---

sizes = [(1, 1), (1, 50), (3, 16), (15, 17), (16, 16), (16, 2000), (2000, 16), (23, 57), (64, 129),
         (400, 600), (401, 599), (997, 1009), (1203, 2000)]

@pytest.mark.parametrize('size', sizes, ids=lambda s: f'{s[0]}x{s[1]}')
@pytest.mark.slow
def test_any_size_comes_out_as_it_went_in(enhance, size):
    h, w = size
    res = enhance(picture(h, w))
    assert res.x.shape == (3, h, w) and res.image.size == (w, h) == res.entropy_image().size
    assert res.entropy.shape == res.mask.shape == res.sigma.shape == (-(-h//4), -(-w//4))
    assert res.x.isfinite().all() and 0 <= res.x.min() and res.x.max(
    ) <= 1 and 0 <= res.entropy.min() and res.entropy.max() <= 1

@pytest.mark.slow
def test_random_sizes(enhance):
    rng = np.random.default_rng(0)
    for h, w in rng.integers(16, 300, (12, 2)).tolist():
        assert enhance(picture(h, w)).x.shape == (3, h, w)

def test_results_are_ordinary_tensors(enhance):
    res = enhance(picture(32, 32))
    res.x.requires_grad_()
    (res.x*res.x).sum().backward()

@pytest.mark.parametrize('level', [0., 1/255, 1.])
def test_flat_pictures(enhance, level):
    assert enhance(torch.full((3, 40, 40), level)).x.isfinite().all()


# --- tiles ---

def test_tiles_are_close_to_the_whole(enhance):
    x = smooth(321, 487)
    tiled = Enhancer(enhance.model, 'cpu', tile=192, overlap=64, whole=0)
    # with the NAT on the latent, what is kept in a tile says nothing to the next
    a, b = (e(x, latent_nat=False) for e in (enhance, tiled))
    assert 0 < (a.x-b.x).abs().mean() < .01 and (a.x-b.x).abs().flatten()[::4].quantile(.99) < .1
    assert (a.entropy-b.entropy).abs().mean() < .01 and (a.mask == b.mask).float().mean() > .95
    assert b.level == pytest.approx(a.level, rel=.05)
    a, b = (e(x, record=True, latent_nat=True) for e in (enhance, tiled))
    assert [r.tokens.shape
            for r in a.history] == [r.tokens.shape
                                    for r in b.history] == [a.entropy.shape]*len(a.history)
    assert (a.history[0].masked == b.history[0].masked).float().mean() > .9
    assert a.feature_history[0].masked.shape == b.feature_history[0].masked.shape

def test_one_large_tile_is_the_whole(enhance):
    x = smooth(96, 112)
    assert torch.equal(
        enhance(x).x,
        Enhancer(enhance.model, 'cpu', tile=112, overlap=16, whole=0)(x).x)

def test_tiles_have_no_seams(enhance):
    "Where tiles meet, neighbouring pixels differ no more than they do elsewhere."
    x = smooth(64, 640)
    y = Enhancer(enhance.model, 'cpu', tile=128, overlap=32, whole=0)(x).x.mean(0)
    step = (y[:, 1:]-y[:, :-1]).abs().mean(0)
    assert step.max() < 4*step.mean()+.01

def test_light_strip_by_strip(enhance, monkeypatch):
    "A large picture is looked at in parts, which changes nothing."
    x = picture(120, 80)[None]
    whole = enhance.model.light(x)
    parts = light.strips(x, 999)
    assert len(parts) == 10 and torch.equal(torch.cat(parts, 2), x)
    monkeypatch.setattr(light, 'strips', lambda x: list(x.split(12, 2)))
    b = enhance.model.light(x)
    for k, v in vars(whole).items(): torch.testing.assert_close(getattr(b, k), v)

def test_all_tiles_have_the_light_of_the_whole(enhance):
    "Level and grid of the whole picture, and of the field each tile its part."
    x = smooth(96, 160)
    seen = []
    hook = enhance.model.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append((args[0], kwargs['light'])), with_kwargs=True)
    try: res = Enhancer(enhance.model, 'cpu', tile=64, overlap=32, whole=0)(x)
    finally: hook.remove()
    whole = enhance.model.light(x[None])
    assert Level(res.level, res.level_std).floor == 1   # no result falls below its input
    assert len(seen) == 8 and math.log(res.level) == pytest.approx(whole.log_level.item(), abs=1e-5)
    lit = whole.on(x[None])
    for (top, left, bottom, right), (tile, cut) in zip(tile_grid(96, 160, 64, 32), seen):
        assert torch.equal(cut.grid, whole.grid)
        # to a pixel of the tile's border, beyond which it sees nothing of the field
        want = lit[..., top+2:bottom-2, left+2:right-2]
        torch.testing.assert_close(cut.on(tile)[..., 2:-2, 2:-2], want)

def test_a_tile_is_as_far_as_training_goes(enhance):
    """Cells and patches of a tile lie no farther apart than the positions that the NATs meet in
    training, and just as far."""
    m = enhance.model
    assert enhance.tile == 4*m.fusion.nat.cell*m.fusion.nat.reach == 4*m.nat.far[0].patch*m.nat.far[0].reach

def test_what_is_cut_into_tiles(enhance):
    """More than `whole` pixels and a side longer than `tile`; smaller pictures are whole, however
    long."""
    def tiles(h, w, **kw):
        n = []
        e = Enhancer(enhance.model, 'cpu', **kw)
        hook = e.model.register_forward_hook(lambda *a: n.append(1))
        try: e(picture(h, w))
        finally: hook.remove()
        return len(n)
    assert tiles(32, 2000) == 1 and tiles(32, 2000, whole=0) == 3 and tiles(64, 768, whole=0) == 1

@pytest.mark.parametrize('bad', [dict(tile=100), dict(overlap=8), dict(tile=64, overlap=64)])
def test_bad_tiles_are_refused(enhance, bad):
    with pytest.raises(ValueError, match='multiples of 16'): Enhancer(enhance.model, 'cpu', **bad)


# --- odd pictures ---

ODD = pictures()

def test_there_are_many_odd_pictures():
    assert len({o.name for o in ODD}) == len(ODD) >= 60 and sum(o.x is None for o in ODD) >= 20

@pytest.mark.parametrize('odd', ODD, ids=lambda o: o.name)
@pytest.mark.slow
def test_odd_pictures(enhance, odd, tmp_path):
    """The right picture, with its transparency, depth and metadata, or one clear sentence; see
    `odd_pictures.py`."""
    (tmp_path/'in').mkdir()
    r = run_one(odd, write(odd, tmp_path/'in'), enhance, tmp_path/'out')
    assert r['outcome'] == ('error' if odd.x is None else 'picture'), r['says']

def test_the_checks_of_odd_pictures_can_fail(enhance, tmp_path, monkeypatch):
    """Readers that forget the rotation, the alpha channel, the lower eight bits or the profile are
    noticed."""
    from lowlight_nat.io import images
    from lowlight_nat.io import metadata as P
    named = {o.name: o for o in ODD}
    def wrong(name):
        return run_one(named[name], write(named[name], tmp_path), enhance,
                       tmp_path/'out')['outcome'] == 'wrong'
    for target, attr, broken, seen in [(images, 'upright', lambda im: im, 'turned_3.png'),
                                       (P, '_pil_alpha', lambda im: None, 'alpha.png'),
                                       (images, '_is_deep', lambda im: False, 'deep.png'),
                                       (P, '_exif', lambda *a: None, 'all.jpg'),
                                       (P, '_frames', lambda *a: [], 'moving.gif'),
                                       (P, '_dpi', lambda *a: None, 'all.png')]:
        assert not wrong(seen)
        with monkeypatch.context() as m:
            m.setattr(target, attr, broken)
            assert wrong(seen), f'{attr} was broken, and {seen} did not show it'


# --- memory that runs out, devices ---

def short_of_memory(enhance, limit, error):
    "The enhancer on a machine on which tiles of more than `limit` pixels a side fail."
    e = Enhancer(enhance.model, 'cpu', tile=512, whole=100_000)
    sides = []
    run = e._tiles
    def _tiles(x, light, tile, *args):
        sides.append(tile)
        if tile > limit: raise error
        return run(x, light, tile, *args)
    e._tiles = _tiles
    return e, sides

@pytest.mark.parametrize('error', [
    torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'), MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")],
    ids=lambda e: type(e).__name__)
@pytest.mark.slow
def test_memory_that_runs_out_is_answered_by_smaller_tiles(enhance, error):
    x = smooth(300, 530)
    e, sides = short_of_memory(enhance, 256, error)
    res = e(x, record=True)
    assert sides == [512, 256
                     ] and res.notes == ['memory ran out: enhanced in tiles of 256x256 pixels']
    assert torch.equal(res.x,
                       Enhancer(enhance.model, 'cpu', tile=256, overlap=64, whole=0)(x).x) and len(
                           res.history) > 0
    e, sides = short_of_memory(enhance, 200, error)
    # one that would have been whole
    assert e(smooth(300, 300)).notes == ['memory ran out: enhanced in tiles of 144x144 pixels'
                                         ] and sides == [304, 144]
    e, sides = short_of_memory(enhance, 100, error)
    with pytest.raises(ImageError, match="isn't enough memory for a tile of 128x128"): e(x)
    assert sides == [512, 256, 128]
    assert enhance(x).notes == []

def test_other_errors_are_not_taken_for_lack_of_memory(enhance):
    e, sides = short_of_memory(enhance, 0,
                               RuntimeError('mat1 and mat2 shapes cannot be multiplied'))
    with pytest.raises(RuntimeError, match='shapes'): e(smooth(300, 530))
    assert len(sides) == 1

def test_devices_in_their_order(monkeypatch):
    for cuda, mps, want in (True, True, 'cuda'), (False, True, 'mps'), (False, False, 'cpu'):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: int(cuda))
        monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: mps)
        assert pick_device().type == want
    with pytest.raises(ValueError, match='Apple'): pick_device('mps')
    with pytest.raises(ValueError, match='supported'): pick_device('meta')

@pytest.mark.parametrize('error', [
    NotImplementedError('not implemented for the MPS device'),
    TypeError('Cannot convert a MPS Tensor to float64 dtype')])
def test_what_the_gpu_of_apple_cannot_do_is_done_on_the_cpu(enhance, error):
    e = Enhancer(toy(), 'cpu')
    e.device = torch.device('mps')
    look = e._look
    def _look(x):
        if e.device.type == 'mps': raise error
        return look(x)
    e._look = _look
    res = e(picture(32, 40))
    assert e.device.type == 'cpu' and 'CPU' in res.notes[0] and torch.equal(
        res.x,
        enhance(picture(32, 40)).x)

class NoFloat64(TorchDispatchMode):
    "A device that has no float64: an operator that makes some is refused, as Apple's GPU does"
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for o in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(o, torch.Tensor) and o.dtype == torch.float64:
                raise TypeError(f'{func} made a tensor of float64')
        return out

@pytest.mark.parametrize('weights', ['toy', 'small'])
def test_the_network_needs_no_float64(monkeypatch, weights):
    model = toy() if weights == 'toy' else load_model('small')
    x = picture(48, 64)[None]*.2
    with NoFloat64(), torch.inference_mode(), pytest.raises(TypeError, match='float64'):
        # where there is some, it is used
        model(x)
    # and where there is none, none is asked for
    for module in flow, light: monkeypatch.setattr(module, 'wide', torch.Tensor.float)
    monkeypatch.setattr(
        masking, '_share_of',
        lambda n, share: torch.tensor([[math.floor(c*share + 1e-6)] for c in n[:, 0].tolist()]))
    with torch.inference_mode(): want = model(x).x
    with NoFloat64(), torch.inference_mode(): assert torch.equal(model(x).x, want)


# --- the same again ---

def test_deterministic(enhance):
    x = picture(72, 88)
    for kw in {}, dict(heat=.8, seed=3): assert torch.equal(enhance(x, **kw).x, enhance(x, **kw).x)
    assert not torch.equal(enhance(x, heat=.8, seed=3).x, enhance(x, heat=.8, seed=4).x)

def test_heat_leaves_the_random_state_alone(enhance):
    torch.manual_seed(1)
    enhance(picture(32, 32), heat=.5)
    a = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(a, torch.rand(1))

def test_batch_is_one_by_one(enhance):
    xs = [picture(40, 48, s) for s in range(3)]+[picture(16, 90)]
    for x, r in zip(xs, enhance.batch(xs)):
        assert torch.equal(r.x, enhance(x).x) and torch.equal(r.mask, enhance(x).mask)
    assert len(enhance.batch(torch.stack(xs[:3]))) == 3

def test_model_result_does_not_depend_on_the_batch():
    model = toy()
    x = picture(64, 64)[None]
    bright = picture(64, 64, 1, .9)[None]
    with torch.no_grad():
        a = model(x)
        b = model(torch.cat([bright, x, bright*0]))
    assert torch.allclose(a.x[0], b.x[1], atol=1e-4) and torch.allclose(
        a.level, b.level[1:2], atol=1e-5)


# --- what goes in ---

def forms(tmp_path):
    im = to_pil(picture(30, 44))
    im.save(tmp_path/'a.png')
    a = np.array(im)
    return dict(path=tmp_path/'a.png', str=str(tmp_path/'a.png'), pil=im, array=a,
                tensor=torch.from_numpy(a.transpose(2, 0, 1)/255).float())

def test_every_form_of_a_picture_is_the_same(enhance, tmp_path):
    f = forms(tmp_path)
    want = enhance(f['path']).x
    for o in f.values(): assert torch.allclose(enhance(o).x, want, atol=1e-5)
    with open(f['path'], 'rb') as file: assert torch.equal(enhance(file).x, want)

def test_turned_pictures_come_out_upright_with_their_alpha(enhance, tmp_path):
    im = to_pil(picture(20, 32)).convert('RGBA')
    im.putalpha(Image.linear_gradient('L').resize(im.size))
    exif = Image.Exif()
    exif[274] = 6
    im.save(tmp_path/'a.png', exif=exif)
    res = enhance(tmp_path/'a.png').image
    assert res.size == (20, 32) and res.mode == 'RGBA'
    assert np.array_equal(
        np.array(res)[..., 3], np.array(im.getchannel('A').transpose(Image.Transpose.ROTATE_270)))

@pytest.mark.parametrize('mode', ['L', 'P', 'LA', 'RGBA', 'I;16', 'CMYK', '1'])
def test_modes(enhance, mode):
    im = Image.fromarray(
        (np.random.default_rng(0).random((18, 26))
         *65535).astype(np.uint16)) if mode == 'I;16' else to_pil(picture(18, 26)).convert(mode)
    res = enhance(im)
    assert res.x.shape == (3, 18, 26) and res.image.mode == {
        'L': 'L', 'I;16': 'L', '1': 'L', 'LA': 'LA', 'RGBA': 'RGBA'
    }.get(mode, 'RGB')

def test_transparent_palette():
    im = to_pil(picture(8, 8)).convert('P')
    im.info['transparency'] = 0
    from lowlight_nat.io.metadata import read_alpha
    assert read_alpha(im).size == (8, 8)

def test_jpeg_drops_alpha_png_keeps_it(enhance, tmp_path):
    res = enhance(np.random.default_rng(0).integers(0, 40, (20, 20, 4), dtype=np.uint8))
    assert Image.open(res.save(tmp_path/'a.png')).mode == 'RGBA' and Image.open(
        res.save(tmp_path/'a.jpg')).mode == 'RGB'
    assert res._repr_png_()[:4] == b'\x89PNG'

@pytest.mark.parametrize('src, says', [
    ('nothing.jpg', "doesn't exist"), (SAMPLES, 'folder'), (np.zeros((4, 4, 3))*np.nan, 'NaN'),
    (3, "can't be read"), (torch.rand(3, 0, 4), 'pixels')])
def test_bad_pictures_give_one_sentence(enhance, src, says):
    with pytest.raises(ImageError, match=says) as e: enhance(src)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('bad', [
    dict(tau=-.1), dict(tau=float('nan')), dict(mix=2), dict(rounds=-1), dict(heat=-1),
    dict(exposure=0), dict(exposure=1.5)])
def test_bad_settings_give_one_sentence(enhance, bad):
    with pytest.raises(ValueError, match=[*bad][0]): enhance(picture(16, 16), **bad)


# --- the knobs ---

@pytest.mark.parametrize('size', [(80, 96), (300, 300)])
def test_exposure_is_the_mean(enhance, size):
    tiled = Enhancer(enhance.model, 'cpu', tile=160, overlap=32, whole=10_000)
    for e in .2, .5:
        assert grey_mean(tiled(smooth(*size), exposure=e).x).item() == pytest.approx(e, abs=2e-3)

def test_switches_do_something(enhance):
    x = smooth(96, 96)
    base = enhance(x).x
    for kw in dict(latent_nat=False), dict(decoder_nat=False), dict(mix=1.), dict(mix=0.), dict(
            tau=1.), dict(rounds=1):
        assert not torch.equal(enhance(x, **kw).x, base), kw
    assert enhance(x, tau=1.).mask.sum() == 0 and enhance(x, tau=0.).mask.all()
    assert torch.equal(enhance(x, rounds=0).x, enhance(x, latent_nat=False, decoder_nat=False).x)

def test_history_is_kept_on_request(enhance):
    assert enhance(smooth(64, 64)).history is None
    res = enhance(smooth(64, 72), record=True, rounds=3)
    assert [r.round
            for r in res.history] == [1, 2, 3] and torch.equal(res.history[0].masked, res.mask)
    assert all(b.masked.sum() <= a.masked.sum() for a, b in zip(res.history, res.history[1:]))

def reach(enhance):
    """How far, in pixels, the decoder carries a change of the latent or of its features; the toy
    has two blocks at each scale."""
    x = picture(8, 400)[None]
    a = enhance.model.align(x.clone())
    r = enhance.model.refine(a, rounds=0)
    b = enhance.model.decode(a, r, rounds=0).x
    r.z = r.z.clone()
    r.z[..., 50] += 1e3   # so that no rounding hides how far it is felt
    r.tokens = r.tokens.clone()
    r.tokens[..., 50] = (r.tokens[..., 50]+1) % 64
    changed = (enhance.model.decode(a, r, rounds=0).x-b).abs().amax((0, 1, 2)).nonzero().flatten()
    return max(200-changed.min().item(), changed.max().item()-203)

@pytest.mark.parametrize('kept', [False, True])
@pytest.mark.parametrize('depth', ['8 bits', '16 bits', 'tensor'])
def test_outside_the_mask_no_nat_had_a_hand(kept, depth):
    """Beyond the reach of the decoder's convolutions the picture is that of rounds=0, to the last
    bit; inside it isn't."""
    torch.manual_seed(0)
    model = LowLightNAT(ModelConfig(**TOY, feat_kept=kept))
    for p in model.parameters(): p.data.add_(torch.randn_like(p)*.02)
    model.fusion.conv_out[1].bias.data.zero_()   # nothing is added to the lit picture, on average
    e = Enhancer(model, 'cpu')
    x = smooth(48, 400)
    if depth == '8 bits': x = np.array(to_pil(x))
    if depth == '16 bits': x = (x.permute(1, 2, 0).numpy()*65535).astype(np.uint16)
    m = torch.zeros(48, 400, dtype=torch.bool)
    m[:, 230:] = True
    with torch.no_grad(): n = reach(e)
    assert 8 <= n < 120
    on = e(x, tau=0.)
    off = e(x, rounds=0)
    part = e(x, tau=0., refine_mask=m)
    left = 228-n                       # the first cell that is allowed begins at 228
    assert torch.equal(part.x[..., :left],
                       off.x[..., :left]) and not torch.equal(part.x[..., 260:], off.x[..., 260:])
    assert not torch.equal(on.x[..., :left],
                           off.x[..., :left]), 'without a mask something happens there'
    assert part.mask[:, 57:].all() and not part.mask[:, :57].any() and part.source.depth == (
        16 if depth == '16 bits' else 8)
    assert torch.equal(e(x, tau=0., refine_mask=m | True).x, on.x)
    none = e(x, tau=0., refine_mask=m & False)
    assert torch.equal(
        none.x, off.x) and none.notes == ['the refine mask sets no place: the NATs refined nothing']

@pytest.mark.slow
def test_the_mask_is_cut_with_the_tiles(enhance):
    x = smooth(200, 420)
    cut = Enhancer(enhance.model, 'cpu', tile=160, overlap=48, whole=0)
    m = torch.zeros(200, 420, dtype=torch.bool)
    m[60:130, 100:330] = True
    a = cut(x, tau=0., refine_mask=m, record=True)
    off = cut(x, rounds=0)
    assert torch.equal(a.mask,
                       torch.nn.functional.max_pool2d(m[None].float(), 4)[0] > 0) and torch.equal(
                           a.history[0].masked, a.mask)
    far = torch.nn.functional.max_pool2d(m[None].float(), 121, 1, 60)[0] == 0
    assert far.sum() > 5000 and torch.equal(a.x[:, far],
                                            off.x[:, far]) and (a.x - off.x)[:, m].abs().max() > 0
    assert torch.equal(cut(x, refine_mask=torch.ones(200, 420)).x, cut(x).x)

@pytest.mark.parametrize('form', [
    'png', 'transparent', 'pil', 'palette', 'bool', 'bytes', 'ones', 'float', 'tensor', 'file'])
def test_every_form_of_a_mask_is_the_same(tmp_path, form):
    m = torch.zeros(13, 22, dtype=torch.bool)
    m[3:9, 5:20] = True
    im = to_pil(m[None].float())
    clear = im.convert('RGBA')
    clear.putalpha(im)
    im.save(tmp_path/'m.png')
    clear.save(tmp_path/'c.png')
    src = dict(png=tmp_path/'m.png', transparent=str(tmp_path/'c.png'), pil=im,
               palette=im.convert('P'), bool=m.numpy(), bytes=np.array(im), ones=m.numpy().astype(
                   np.uint8), float=m.numpy().astype(float), tensor=m[None].half(), file=open(
                       tmp_path/'m.png', 'rb'))[form]
    assert torch.equal(read_mask(src), m)

@pytest.mark.parametrize('mask, says', [
    (torch.ones(20, 16), 'mask has 16x20 pixels, and the picture 20x16'),
    (3, "mask: a picture can't be read from int"), ('no.png', "mask: 'no.png' doesn't exist"),
    (np.full((16, 20), np.nan), 'mask: .*NaN'), (torch.ones(2, 3, 4, 5), 'mask: '),
    (torch.full((16, 20), 3.), 'mask: '), (torch.zeros(0, 4), 'mask: ')])
def test_bad_masks_give_one_sentence(enhance, mask, says):
    for name in 'mask', 'refine_mask':
        with pytest.raises(ImageError, match=says) as e: enhance(picture(16, 20), **{name: mask})
        assert '\n' not in str(e.value)

def test_strength(enhance, tmp_path):
    """1 is the result and 0 the input, bit for bit, in 8 and 16 bits, with alpha, in tiles; between
    lie both."""
    g = np.random.default_rng(0)
    for kind, top in (np.uint8, 255), (np.uint16, 65535):
        a = (g.random((40, 60, 4))*top).astype(kind)
        res = enhance(a)
        none = enhance(a, strength=0)
        half = enhance(a, strength=.5)
        assert torch.equal(enhance(a, strength=1).x, res.x) and not torch.equal(res.x, none.x)
        assert torch.equal(none.x, read_image(a)) and torch.allclose(half.x,
                                                                     (res.x + none.x)/2, atol=1e-6)
        back = enhance(none.save(tmp_path/f'{top}.png'), strength=0)
        assert back.source.depth == (8 if top == 255 else 16) and torch.equal(
            back.x, none.x) and torch.equal(back.source.alpha, none.source.alpha)
        assert np.array_equal(
            torch.cat([back.x, back.source.alpha[None]]).permute(
                1, 2, 0).mul(top).round().numpy().astype(kind), a)
    x = smooth(200, 300)
    tiled = Enhancer(enhance.model, 'cpu', tile=160, overlap=32, whole=0)
    assert torch.equal(tiled(x, strength=0).x, x) and torch.equal(
        tiled(x, strength=1.).x,
        tiled(x).x)
    assert torch.equal(enhance(x, strength=0, exposure=.3, heat=.5).x, x)
    for bad in -.1, 1.5, float('nan'), 'half':
        with pytest.raises(ValueError, match='strength='): enhance(x, strength=bad)


# --- the film ---

@pytest.mark.parametrize('kw', [
    {}, dict(rounds=2), dict(rounds=0), dict(latent_nat=False), dict(decoder_nat=False),
    dict(strength=.4), dict(mix=.8, exposure=.4), dict(tau=1.)], ids=str)
def test_the_film_begins_without_a_nat_and_ends_with_the_result(enhance, kw):
    x = smooth(60, 70)
    res = enhance(x, film=True, **kw)
    assert torch.equal(res.x,
                       enhance(x, **kw).x) and len(
                           res.film) == kw.get('rounds', 4) + 1 and res.history is not None
    assert torch.allclose(res.film[-1], res.x, atol=1e-6)
    if 'exposure' not in kw:
        assert torch.allclose(res.film[0], enhance(x, **(kw | dict(rounds=0))).x, atol=1e-6)
    if not kw:
        assert len({o.numpy().tobytes() for o in res.film}) == 5, 'every round does something'

@pytest.mark.slow
def test_the_film_of_tiles(enhance):
    "Small pictures, blended as the result is."
    x = smooth(190, 310)
    cut = Enhancer(enhance.model, 'cpu', tile=160, overlap=48, whole=0)
    res = cut(x, film=True)
    assert [o.shape for o in res.film] == [(3, 190, 310)]*5 and torch.allclose(
        res.film[-1], res.x, atol=1e-6)
    big = enhance(smooth(700, 800), film=True)
    assert big.film[-1].shape == (3, 350, 400) and torch.allclose(
        big.film[-1], torch.nn.functional.avg_pool2d(big.x, 2), atol=.02)

@pytest.mark.parametrize('ending', ['gif', 'webp'])
@pytest.mark.slow
def test_save_history(enhance, tmp_path, ending):
    res = enhance(smooth(61, 83), film=True)
    path = res.save_history(tmp_path/f'deep/a.{ending}', seconds=.5)
    film = Image.open(path)
    assert film.format == ending.upper() and film.n_frames == 5 and [
        o.name for o in path.parent.iterdir()
    ] == [f'a.{ending}']
    shots = [np.array((film.seek(i), film.convert('RGB'))[1]).astype(int) for i in range(5)]
    assert all(abs(a-b).max() > 40 for a, b in zip(shots, shots[1:]))
    with pytest.raises(ImageError, match='.gif or .webp'): res.save_history(tmp_path/'a.png')
    with pytest.raises(ValueError, match='film=True'):
        enhance(smooth(61, 83), record=True).save_history(tmp_path/'b.gif')
    assert not (tmp_path/'b.gif').exists()

def test_batches_keep_their_history(enhance):
    """A picture of which nothing is asked has no rounds in a batch either, and each gets its own
    film."""
    xs = [smooth(40, 48, s)*(.2+s/3) for s in range(4)]
    for x, r in zip(xs, enhance.batch(xs, film=True, rounds=3, batch_size=4)):
        alone = enhance(x, film=True, rounds=3)
        assert r.level == pytest.approx(alone.level, rel=1e-5) and torch.allclose(
            r.x, alone.x, atol=1e-4)
        assert len(r.history) == len(alone.history) and all(
            torch.equal(p.masked, q.masked) for p, q in zip(r.history, alone.history))
        assert all(torch.allclose(p, q, atol=1e-4) for p, q in zip(r.film, alone.film))

def test_many_sizes_do_not_fill_the_memory(enhance):
    "At most a few batches are held back; what fails is given in its place."
    held = [0]
    most = [0]
    def sources():
        for i in range(60):
            held[0] += 1
            most[0] = max(most[0], held[0])
            yield picture(16+i, 16) if i != 30 else torch.full((3, 8, 8), float('nan'))
    seen = {}
    for i, r in enhance.stream(sources(), batch_size=2):
        held[0] -= 1
        seen[i] = r
    assert sorted(seen) == [*range(60)] and isinstance(seen[30], ImageError) and most[0] <= 10
    assert all(seen[i].x.shape == (3, 16+i, 16) for i in seen if i != 30)

def test_bf16_is_close(enhance):
    x = smooth(96, 128)
    assert (Enhancer(enhance.model, 'cpu', bf16=True)(x, rounds=0).x
            - enhance(x, rounds=0).x).abs().mean() < .02

def test_checkpoint_by_path(tmp_path, enhance):
    save_model(enhance.model, tmp_path/'toy.safetensors', dict(seed=1), half=False)
    again = Enhancer.from_pretrained(tmp_path/'toy.safetensors', 'cpu', bf16=False)
    assert torch.equal(again(smooth(40, 40)).x,
                       enhance(smooth(40, 40)).x) and again.model.about == dict(seed=1)
    with pytest.raises(FileNotFoundError, match='bundled'): Enhancer.from_pretrained('enormous')


# --- the bundled checkpoint ---

@bundled
@pytest.mark.parametrize('path', list_images(SAMPLES), ids=lambda p: p.stem)
@pytest.mark.slow
def test_samples_become_brighter(path):
    from lowlight_nat.evaluation.fidelity import psnr
    low = read_image(path)
    high = read_image(SAMPLES/'reference'/path.name)
    res = Enhancer.from_pretrained(device='cpu')(path)
    assert grey_mean(res.x) > 1.5*grey_mean(low) and .15 < grey_mean(res.x) < .8
    assert psnr(res.x, high).item() > psnr(low, high).item()

@bundled
@pytest.mark.slow
def test_tiles_against_the_whole_at_800x1200():
    """At least 45 dB, and where tiles overlap a smooth gradient has no larger step than elsewhere,
    but for one level of 255."""
    from lowlight_nat.evaluation.fidelity import psnr
    whole = Enhancer.from_pretrained(device='cpu')
    cut = Enhancer(whole.model, 'cpu', whole=0, bf16=whole.bf16)
    x = torch.nn.functional.interpolate(
        read_image(SAMPLES/'chelsea.jpg')[None], (800, 1200), mode='bicubic')[0].clamp(0, 1)
    a = whole(x)
    b = cut(x)
    assert psnr(b.x, a.x).item() >= 45 and b.level == pytest.approx(a.level, rel=1e-3)
    sky = torch.linspace(.02, .12, 1500).expand(3, 64, 1500)*torch.tensor([.8, .9, 1.])[:, None,
                                                                                        None]
    def steps(e):
        step = e(sky).x[:, 16:-16].diff(dim=-1).abs().amax((0, 1))*255
        # at the border of any picture the model makes larger steps
        return torch.cat([torch.zeros(16), step[16:-16], torch.zeros(16)])
    step = steps(cut)
    of_whole = steps(whole)
    lefts = sorted({l for _, l, *_ in tile_grid(64, 1504, cut.tile, cut.overlap)})
    near = torch.zeros(1499, dtype=torch.bool)
    for l, r in zip(lefts, lefts[1:]): near[r-1:l+cut.tile] = True
    assert near.sum() > 100 and step[near].max() <= step[~near].max() + 1 and step[near].max(
    ) <= of_whole[near].max() + 1

def test_memory_of_24_megapixels_was_measured():
    "What `nbs/figures/big_picture.py` wrote: at most 2 GB over the loaded picture."
    run = json.loads((ROOT/'nbs/figures/run/big_picture.json').read_text())
    assert run['size'] == [4000, 6000] and run['threads'] == 2 and run[
        'over_loaded_gb'] <= 2 and run['over_loaded_gb'] == pytest.approx(
            run['peak_gb'] - run['loaded_gb'], abs=2e-3)

def test_memory_of_100_megapixels_was_measured():
    """What grows with the picture are a few copies of it: at most four times the picture, and what
    24 megapixels took besides theirs."""
    small, run = (json.loads((ROOT/f'nbs/figures/run/big_picture{o}.json').read_text())
                  for o in ('', '_100'))
    assert run['size'][0]*run['size'][1] == 100_000_000 and run['tile'] == small['tile']
    assert run['over_loaded_gb'] - 4*run['picture_gb'] <= small['over_loaded_gb'] - small[
        'picture_gb'] and run['over_loaded_gb'] <= 5

@bundled
def test_bundled_metadata():
    about = Enhancer.from_pretrained(device='cpu').model.about
    assert {'trained', 'data', 'seed', 'val', 'note'} <= set(about)

MEASURE = """
import json, resource, sys, torch
from lowlight_nat.inference.enhancer import Enhancer
torch.set_num_threads(2)
enhance, x = Enhancer.from_pretrained(device='cpu'), torch.rand(3, 400, 600)*.1
for _ in range(2): enhance(x)
# ru_maxrss would count the parent's, too
try: peak = next(int(o.split()[1])*1024 for o in open('/proc/self/status') if o.startswith('VmHWM'))
except OSError: peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == 'darwin' else 1024)
print(json.dumps(dict(peak=peak)))
"""

@bundled
@pytest.mark.skipif(sys.platform == 'win32', reason='the module resource is not on Windows')
@pytest.mark.slow
def test_memory_of_one_picture():
    """The process that enhances a picture of 400x600 holds at most 1.2 GB on two threads; its
    seconds are in tests/benchmarks.py."""
    pytest.importorskip('resource')
    out = subprocess.run([sys.executable, '-c', MEASURE], cwd=ROOT, env=dict(
        os.environ, OMP_NUM_THREADS='2'), capture_output=True, text=True, check=True).stdout
    assert json.loads(out.splitlines()[-1])['peak'] <= 1.2e9


# --- one contract: a ValueError of one sentence that names what is wrong ---

@pytest.mark.parametrize('bad', [
    dict(rounds='2'), dict(rounds=1.5), dict(rounds=True), dict(seed=1.5), dict(seed=2**70),
    dict(seed='0'), dict(tau='0.5'), dict(mix=[.5]), dict(heat=None), dict(strength='all'),
    dict(latent_nat='False'), dict(film='no'), dict(exposure='bright')], ids=str)
def test_settings_of_the_wrong_kind_are_one_sentence(enhance, bad):
    for call in lambda: enhance(picture(16, 16), **bad), lambda: enhance.batch([picture(
            16, 16)], **bad), lambda: enhance.stream([picture(16, 16)], **bad):
        with pytest.raises(ValueError, match=[*bad][0]) as e: call()
        assert '\n' not in str(e.value)

def test_numbers_of_other_kinds_are_taken(enhance):
    "JSON and sliders give 2.0, arrays give their own numbers"
    x = picture(40, 48)
    want = enhance(x, rounds=2, seed=3, heat=.5).x
    for two, three in (2.0, 3.0), (np.int64(2), np.int32(3)), (torch.tensor(2), torch.tensor(3)):
        assert torch.equal(enhance(x, rounds=two, seed=three, heat=np.float32(.5)).x, want)
    e = Enhancer(enhance.model, 'cpu', tile=64.0, overlap=np.int64(16), whole=0.)
    assert (e.tile, e.overlap, e.whole) == (64, 16, 0) and torch.equal(
        e(smooth(90, 100)).x,
        Enhancer(enhance.model, 'cpu', tile=64, overlap=16, whole=0)(smooth(90, 100)).x)
    for bad in dict(tile='64'), dict(tile=64.5), dict(overlap=None), dict(whole=-1), dict(
            whole='all'):
        with pytest.raises(ValueError, match=[*bad][0]): Enhancer(enhance.model, 'cpu', **bad)
    with pytest.raises(ValueError, match='from_pretrained'): Enhancer('small')

@pytest.mark.parametrize('srcs', [
    'a.jpg', Path('a.jpg'), b'bytes', np.zeros((20, 30, 3), np.uint8), torch.rand(3, 20, 30),
    np.zeros((20, 30)), Image.new('RGB', (8, 8)), None, 3], ids=lambda o: type(o).__name__)
def test_one_picture_is_no_batch(enhance, srcs):
    for call in enhance.batch, enhance.stream:
        with pytest.raises(ValueError, match='several pictures are expected'): call(srcs)
    with pytest.raises(ValueError, match='batch_size'): enhance.stream([], batch_size='2')
    assert len(enhance.batch(np.zeros(
        (2, 20, 30, 3), np.uint8))) == 2 and enhance.batch([]) == [] == enhance.batch(o for o in ())

def test_a_mistake_in_the_program_is_not_swallowed(enhance, monkeypatch):
    "Out of memory a batch is done one by one; a NameError is raised, by a batch and by a stream"
    xs = [picture(24, 32, s) for s in range(3)]
    want = [enhance(picture(24, 32, s)).x for s in range(3)]
    def fails(error):
        def _together(*args): raise error
        return _together
    for error in MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"):
        monkeypatch.setattr(Enhancer, '_together', fails(error))
        assert all(torch.equal(r.x, w) for r, w in zip(enhance.batch(xs, batch_size=4), want))
    for error in NameError("name 'nothing' is not defined"), RuntimeError(
            'mat1 and mat2 shapes cannot be multiplied'), TypeError('unexpected'):
        monkeypatch.setattr(Enhancer, '_together', fails(error))
        with pytest.raises(type(error)): enhance.batch(xs, batch_size=4)
    monkeypatch.setattr(Enhancer, '_alone', fails(NameError("name 'nothing' is not defined")))
    with pytest.raises(NameError): list(enhance.stream(xs))

def test_settings_come_by_name_and_in_one_order():
    "picture, tau, rounds, heat, mix, exposure (or level), wherever several of them are"
    import inspect

    from lowlight_nat import cli
    from lowlight_nat.app import steps as explore
    order = ['tau', 'rounds', 'heat', 'mix', 'exposure', 'level']
    said = (Enhancer.__call__, check_settings, LowLightNAT.forward, LowLightNAT.refine, LowLightNAT.decode,
            LowLightNAT.align, explore.Steps.picture, explore.Steps.decode, cli.lowlight_enhance)
    for f in said:
        ps = [p for p in inspect.signature(f).parameters.values() if p.name in order]
        assert [p.name for p in ps] == sorted((p.name for p in ps), key=order.index), f
        if f is not cli.lowlight_enhance: assert all(p.kind == p.KEYWORD_ONLY for p in ps), f

@pytest.mark.parametrize('setting', ['dtype', 'device'])
@pytest.mark.slow
def test_defaults_of_the_rest_of_the_program_do_not_matter(setting, tmp_path):
    """A new Enhancer, its pictures and its film, under set_default_dtype(float64) and
    set_default_device"""
    save_model(toy(), tmp_path/'m.safetensors', half=False)
    x = smooth(60, 70)
    want = Enhancer(load_model(tmp_path/'m.safetensors'), 'cpu', tile=48, overlap=16,
                    whole=0)(x, heat=.5, refine_mask=torch.ones(60, 70), film=True)
    try:
        if setting == 'dtype': torch.set_default_dtype(torch.float64)
        else: torch.set_default_device('meta')
        e = Enhancer.from_pretrained(tmp_path/'m.safetensors', 'cpu', bf16=False, tile=48,
                                     overlap=16, whole=0)
        got = e(x, heat=.5, refine_mask=want.mask.new_ones(60, 70), film=True)
        two = e.batch([x[:, :32, :40], x[:, 20:52, :40]], batch_size=2)
        assert (torch.get_default_dtype() == torch.float64) == (setting == 'dtype')
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(got.x, want.x) and got.x.dtype == torch.float32 and torch.equal(
        got.film[1], want.film[1]) and len(two) == 2
    # a model made under that default
    assert torch.allclose(
        Enhancer(toy().double(), 'cpu')(x).x,
        Enhancer(toy(), 'cpu')(x).x, atol=1e-4)
