"""PSNR and SSIM held against scikit-image on pictures of many sizes and brightnesses; GT-mean
against its four formulas; all against faults of known size."""
from pathlib import Path

import pytest
import torch

from lowlight_nat.evaluation.fidelity import *
from lowlight_nat.io.images import GREY

skm = pytest.importorskip('skimage.metrics', reason="needs scikit-image, the outside reference")


@pytest.mark.parametrize('shape', [(11, 11), (11, 40), (37, 64), (128, 96)])
@pytest.mark.parametrize('level', [.01, .1, 1.])
@pytest.mark.parametrize('noise', [.002, .05])
def test_equal_to_skimage(shape, level, noise):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, *shape, generator=g)*level
    y = (x+noise*torch.randn(x.shape, generator=g)).clamp(0, 1)
    for a, b, p, s in zip(x.numpy(), y.numpy(), psnr(x, y).tolist(), ssim(x, y).tolist()):
        assert p==pytest.approx(skm.peak_signal_noise_ratio(b, a, data_range=1), abs=1e-4)
        assert s == pytest.approx(
            skm.structural_similarity(a, b, gaussian_weights=True, sigma=1.5,
                                      use_sample_covariance=False, data_range=1, channel_axis=0),
            abs=1e-4)


def test_flat_bright_pictures_keep_their_digits():
    x = torch.full((1, 3, 32, 32), .999)
    y = torch.full((1, 3, 32, 32), .998)
    assert ssim(x, y).item()==pytest.approx(ssim(x.double(), y.double()).item(), abs=1e-5)


def test_half_precision_is_measured_in_float():
    x = torch.rand(1, 3, 32, 32).bfloat16()
    y = torch.rand(1, 3, 32, 32).bfloat16()
    assert ssim(x, y).dtype==torch.float32 and torch.equal(ssim(x, y), ssim(x.float(), y.float()))
    assert torch.equal(psnr(x, y), psnr(x.float(), y.float()))


def test_gt_mean_matches_the_target():
    x = torch.rand(4, 3, 20, 20)*.2
    y = torch.rand(4, 3, 20, 20)*.5
    assert torch.allclose(grey_mean(gt_mean(x, y)), grey_mean(y), rtol=.02)
    assert gt_mean(x[0], y[0]).shape==x[0].shape
    assert torch.allclose(gt_mean(x, y)[1], gt_mean(x[1], y[1]))

def test_grey_is_that_of_pillow():
    "Red, green and blue, each with its own weight and in this order"
    from PIL import Image
    for rgb in (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 30, 90):
        x = torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, 4, 4)/255
        assert grey_mean(x).item() == pytest.approx(
            Image.new('RGB', (4, 4), rgb).convert('L').getpixel((0, 0))/255, abs=1/255)


# the four formulas called GT-mean

RGB = (.299, .587, .114)
BGR = (.114, .587, .299)
EQUAL = (1/3, 1/3, 1/3)

def mean_by(x, weights):
    return (x*torch.tensor(weights).view(1, 3, 1, 1)).sum(1).mean((1, 2)).view(-1, 1, 1, 1)

@pytest.mark.parametrize('form, of_target, of_pred', [
    ('grey', RGB, RGB), ('grey_bgr', BGR, BGR), ('channel', EQUAL, EQUAL),
    ('unclipped', BGR, EQUAL)])
def test_each_form_is_its_formula(form, of_target, of_pred):
    "On predictions above 1: all but one see them clipped"
    g = torch.Generator().manual_seed(0)
    p, t = (torch.rand(3, 3, 16, 16, generator=g)*torch.tensor([1.6, 1., .7]).view(1, 3, 1, 1)
            for _ in range(2))
    t = t.clamp(0, 1)
    seen = p if form == 'unclipped' else p.clamp(0, 1)
    want = (seen*mean_by(t, of_target)/mean_by(seen, of_pred)).clamp(0, 1)
    assert torch.allclose(gt_mean(p, t, form), want, atol=1e-6) and set(GT_MEAN_FORMULAS) == {
        'grey', 'grey_bgr', 'channel', 'unclipped'
    }
    assert torch.equal(gt_mean(p, t), gt_mean(
        p, t, 'grey')) and GT_MEAN_FORMULA == GT_MEAN_FORMULAS['grey']

def test_forms_differ_on_colour_and_agree_on_grey():
    "On colourless pictures in [0,1] the name says enough"
    g = torch.Generator().manual_seed(0)
    p, t = (torch.rand(1, 3, 16, 16, generator=g)*.5*torch.tensor([1., .8, .5]).view(1, 3, 1, 1)
            for _ in range(2))
    scores = [
        psnr(gt_mean(p*torch.tensor([.8, 1, 1.3]).view(1, 3, 1, 1), t, f), t).item()
        for f in GT_MEAN_FORMULAS
    ]
    assert len({round(o, 3) for o in scores}) == 4
    p, t = (o[:, :1].expand(-1, 3, -1, -1) for o in (p, t))
    assert all(torch.allclose(gt_mean(p, t, f), gt_mean(p, t), atol=1e-6) for f in GT_MEAN_FORMULAS)

def test_grey_bgr_is_the_grey_of_exchanged_pictures():
    p = torch.rand(1, 3, 8, 8)
    t = torch.rand(1, 3, 8, 8)
    assert torch.allclose(gt_mean(p, t, 'grey_bgr'),
                          gt_mean(p.flip(1), t.flip(1)).flip(1), atol=1e-6)

def test_only_the_unclipped_form_moves_a_perfect_output():
    t = torch.rand(1, 3, 16, 16)*torch.tensor([.9, .6, .3]).view(1, 3, 1, 1)
    moved = {f: (gt_mean(t, t, f) - t).abs().max().item() for f in GT_MEAN_FORMULAS}
    assert max(v for f, v in moved.items() if f != 'unclipped') < 1e-6 < .01 < moved['unclipped']

def test_an_unknown_form_is_refused():
    x = torch.rand(1, 3, 8, 8)
    for f in (lambda: gt_mean(x, x, 'median'), lambda: batch_mean(psnr, 'median')):
        with pytest.raises(ValueError, match='choose one of grey, grey_bgr, channel, unclipped'):
            f()


# the protocol: what is done to a perfect output, and what the figures must say

@pytest.fixture(scope='module', params=['coffee.png', 'astronaut.webp', 'rocket.webp'])
def photo(request):
    from pathlib import Path

    from lowlight_nat.io.images import read_image
    return read_image(Path(__file__).parents[1]/'samples/reference'/request.param)[None]

def test_a_perfect_output_is_perfect(photo):
    r = score_pair(photo, photo)
    assert r['psnr'] == float('inf') and r['ssim'] == pytest.approx(
        1, abs=1e-6) and r['psnr_gt_mean'] > 100 and r['ssim_gt_mean'] == pytest.approx(
            1, abs=1e-5)

def test_ten_percent_less_light_moves_raw_figures_alone(photo):
    r = score_pair(photo*.9, photo)
    assert 20 < r['psnr'] < 35 and r['psnr_gt_mean'] > 100 and r['ssim'] < .998 and r[
        'ssim_gt_mean'] == pytest.approx(1, abs=1e-5)

def test_ten_percent_more_light_is_forgiven_but_for_clipping(photo):
    # nothing above .9: nothing is clipped
    x = photo*.9
    assert score_pair(x*1.1, x)['psnr'] < 35 and score_pair(x*1.1, x)['psnr_gt_mean'] > 100
    r = score_pair((photo*1.1).clamp(0, 1), photo)
    lost = (photo*1.1 > 1).float().mean()
    assert lost > 0 and r['psnr'] + 2 < r['psnr_gt_mean'] < 80 and r['ssim'] < r['ssim_gt_mean']

def test_a_swapped_channel_is_not_hidden(photo):
    "Neither by any form of GT-mean: the loss stays within the fault's own size"
    p = photo.flip(1)
    raw = psnr(p, photo).item()
    assert raw < 25 and ssim(p, photo) < .98
    for f in GT_MEAN_FORMULAS: assert psnr(gt_mean(p, photo, f), photo).item() < raw + 1
    # the same three means, so nothing to scale
    assert psnr(gt_mean(p, photo, 'channel'), photo).item() == pytest.approx(raw, abs=1e-3)

def test_shifts_lower_the_figures_in_order(photo):
    "By interpolation, so that half the shift is half the error: 6.02 dB"
    y = photo[..., :-1]
    by = {s: torch.lerp(photo, photo.roll(-1, 3), s)[..., :-1] for s in (0., .25, .5, 1.)}
    p = [psnr(o, y).item() for o in by.values()]
    s = [ssim(o, y).item() for o in by.values()]
    assert p == sorted(p, reverse=True) and s == sorted(
        s, reverse=True) and s[0] > .9999 and s[2] < .99 and p[0] == float('inf') and 20 < p[2] < 45
    assert p[1] - p[2] == pytest.approx(6.0206, abs=1e-3) and p[2] - p[3] == pytest.approx(
        6.0206, abs=1e-3)
    # a shift is no exposure
    assert psnr(gt_mean(by[.5], y), y).item() == pytest.approx(p[2], abs=.1)


# a third measure, and fastai

def test_a_distance_has_its_own_name_in_the_scores():
    x = torch.rand(3, 32, 32)*.8
    y = torch.rand(1, 3, 32, 32)
    class D:
        name = 'own distance'
        def __call__(self, a, b):
            assert a.shape == b.shape == (1, 3, 32, 32)
            return (a - b).abs().mean((1, 2, 3))
    class Real(D): name = 'LPIPS (alex)'
    four = ['psnr', 'ssim', 'psnr_gt_mean', 'ssim_gt_mean']
    assert list(score_pair(x, x)) == four and score_pair(
        x, x, D()).keys() == {*four, 'own distance', 'own distance_gt_mean'}
    r = score_pair(y*.5, y, Real())
    assert list(r) == [*four, 'lpips', 'lpips_gt_mean'] and r['lpips'] == pytest.approx(
        (y*.5).mean().item(), rel=1e-5) and r['lpips_gt_mean'] < 1e-6
    assert {k: r[k] for k in four} == score_pair(y*.5, y)

def test_the_network_of_lpips_itself_is_refused():
    "It takes pictures in [-1,1], and would give a number for those in [0,1]"
    lpips = pytest.importorskip('lpips', reason='needs the package lpips')
    with pytest.raises(ValueError, match=r'\[-1,1\]'):
        score_pair(torch.rand(3, 32, 32), torch.rand(3, 32, 32), lpips.ScalingLayer())

@pytest.mark.filterwarnings('ignore')
def test_as_fastai_metrics_they_weigh_every_picture_alike():
    "Batches of 4 and 1: a mean of batch means would count the last picture four times"
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.torch_core import TensorImage
    torch.manual_seed(0)
    y = torch.rand(5, 3, 24, 24)
    x = y*torch.linspace(.2, .9, 5).view(5, 1, 1, 1)
    dl = torch.utils.data.DataLoader([(TensorImage(a), TensorImage(b)) for a, b in zip(x, y)],
                                     batch_size=4)
    metrics = [batch_mean(psnr), batch_mean(psnr, 'grey'), batch_mean(ssim, 'channel')]
    learn = Learner(DataLoaders(dl, dl), torch.nn.PReLU(), loss_func=torch.nn.L1Loss(),
                    metrics=metrics)
    with learn.no_bar(), learn.no_logging(): got = learn.validate()[1:]
    want = [psnr(x, y), psnr(gt_mean(x, y), y), ssim(gt_mean(x, y, 'channel'), y)]
    assert list(got) == pytest.approx([o.mean().item() for o in want], rel=1e-4)
    assert [m.__name__ for m in metrics] == ['psnr', 'psnr_gt_mean', 'ssim_gt_mean(channel)']


# --- what is no picture in [0,1] ---

def test_what_would_give_a_plausible_figure_is_refused():
    "Floats from 0 to 255, arrays, channels last: SSIM of the first was 0.997"
    from lowlight_nat.evaluation.fidelity import score_pair
    x = torch.rand(3, 24, 32)
    y = (x + .02*torch.randn_like(x)).clamp(0, 1)
    for f in psnr, ssim, gt_mean, score_pair:
        with pytest.raises(ValueError, match='divide values of 0 to 255 by 255'): f(x*255, y*255)
        with pytest.raises(ValueError, match='permute'): f(x.numpy(), y.numpy())
        with pytest.raises(ValueError, match='channels last'):
            f(x.permute(1, 2, 0), y.permute(1, 2, 0))
        with pytest.raises(ValueError, match='NaN or infinite'): f(x/0, y)
    with pytest.raises(ValueError, match='permute'): grey_mean(x.numpy())
    # a bad prediction is measured
    assert psnr(x*2, y).isfinite().all() and ssim(x - .5, y).isfinite().all()

def test_pictures_of_different_precision_are_compared_in_the_finer_one():
    x,y = torch.rand(2, 1, 3, 16, 16)
    both = ssim(x.double(), y.double())
    assert torch.equal(ssim(x, y.double()), both) and torch.equal(ssim(x.double(), y), both)


# what the chapter relies on

SAMPLES = sorted((Path(__file__).parents[1]/'samples').glob('*.*'))
PICTURES = [p for p in SAMPLES if p.suffix in ('.png', '.jpg', '.webp')]

def test_by_hand_on_two_pixels():
    "The chapter's examples: errors of 0.1 and 0.05, a factor of 2, a factor of 1.5"
    def pixels(*values): return torch.tensor(values).expand(1, 3, 1, len(values))
    truth = pixels(.4, .8)
    raw = {(.5, .7): 20, (.45, .75): 26.02, (.2, .4): 10, (.3, .5): 13.01}
    for values, decibels in raw.items():
        assert psnr(pixels(*values), truth).item() == pytest.approx(decibels, abs=.01)
    assert psnr(gt_mean(pixels(.2, .4), truth), truth) > 100
    assert psnr(gt_mean(pixels(.5, .7), truth), truth).item() == pytest.approx(20, abs=.01)
    assert psnr(gt_mean(pixels(.3, .5), truth), truth).item() == pytest.approx(26.02, abs=.01)

@pytest.mark.parametrize('path', PICTURES, ids=lambda p: p.stem)
def test_ssim_is_that_of_skimage_on_the_samples(path):
    from lowlight_nat.io.images import read_image
    x = read_image(path)[None]
    g = torch.Generator().manual_seed(0)
    for y in x*.7, (x + .05*torch.randn(x.shape, generator=g)).clamp(0, 1), x*4:
        want = skm.structural_similarity(x[0].numpy(), y[0].numpy(), gaussian_weights=True,
                                         sigma=1.5, use_sample_covariance=False, data_range=1,
                                         channel_axis=0)
        assert ssim(x, y).item() == pytest.approx(want, abs=1e-4)
    assert ssim(x, x).item() == pytest.approx(1, abs=1e-5)

def test_the_window_sums_to_one_and_is_even():
    w = gaussian_window()
    assert w.sum().item() == pytest.approx(1) and torch.allclose(w, w.flip(0))

def test_the_factors_make_the_map():
    x, y = torch.rand(2, 1, 3, 24, 24)
    parts = ssim_parts(x, y)
    assert type(parts) is SSIMParts and torch.allclose(parts.luminance*parts.structure,
                                                       ssim_map(x, y), atol=1e-6)

def test_a_picture_is_measured_without_the_rest_of_its_batch():
    x, y = torch.rand(2, 2, 3, 24, 24)
    for f in psnr, ssim:
        assert torch.allclose(f(x, y), torch.cat([f(*o) for o in zip(x, y)]), atol=1e-4)

def test_metrics_can_be_trained_on():
    x = torch.rand(1, 3, 12, 12, dtype=torch.float64, requires_grad=True)
    y = torch.rand(1, 3, 12, 12, dtype=torch.float64)
    for f in psnr, ssim: assert torch.autograd.gradcheck(lambda o: f(o, y), x)

def test_what_cannot_be_compared_is_refused():
    x = torch.rand(3, 24, 32)
    with pytest.raises(ValueError, match='different shapes'): psnr(x, x[:, 1:])
    with pytest.raises(ValueError, match='by 255'): psnr(x.byte(), x.byte())
    with pytest.raises(ValueError, match='not empty'): psnr(x[:, :0], x[:, :0])
    with pytest.raises(ValueError, match='11 pixels'): ssim(x[:, :10], x[:, :10])
    with pytest.raises(ValueError, match='one picture'): score_pair(x[None].repeat(2, 1, 1, 1), x)

def test_grey_weighs_pure_colours():
    pure = torch.eye(3)[:, :, None, None].expand(3, 3, 2, 2)
    assert torch.allclose(grey_mean(pure), torch.tensor(GREY), atol=1e-6) and tuple(GREY) == RGB
    assert gt_mean(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)).max() == 0

def test_forms_on_made_predictions(photo):
    "A cast, noise and clipped lights: the four forms differ; the target itself is moved by one"
    from lowlight_nat.data.degradations import synthesize_low_light
    dark = synthesize_low_light(photo, exposure=-3., cast=(1.12, 1., .85),
                                generator=torch.Generator().manual_seed(0))
    pred = dark*(1.3*photo.mean()/dark.mean())
    scores = [psnr(gt_mean(pred, photo, f), photo).item() for f in GT_MEAN_FORMULAS]
    assert max(scores) - min(scores) > .05
    assert psnr(gt_mean(photo, photo, 'unclipped'), photo) < 60
    with pytest.raises(ValueError, match='choose one of'): batch_mean(psnr, 'mean')

def test_mistakes_have_the_size_the_chapter_says(photo):
    import math
    from io import BytesIO

    from lowlight_nat.io.images import read_image, to_pil
    g = torch.Generator().manual_seed(0)
    noisy = (photo + .1*torch.randn(photo.shape, generator=g)).clamp(0, 1)
    far = -10*(255*(noisy - photo)).square().mean().log10().item()
    assert far == pytest.approx(psnr(noisy, photo).item() - 20*math.log10(255), abs=.01)
    two = torch.cat([noisy, photo*.999])
    all_pixels = -10*(two - torch.cat([photo, photo])).square().mean().log10()
    assert psnr(two, torch.cat([photo, photo])).mean() > all_pixels + 10
    file = BytesIO()
    to_pil(photo[0]).save(file, 'JPEG', quality=90)
    file.seek(0)
    assert psnr(read_image(file)[None], photo) < 42
