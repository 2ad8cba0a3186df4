"PSNR and SSIM held against scikit-image on pictures of many sizes and brightnesses."
import pytest, torch
from lowlight_nat.metrics import *

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
        assert s==pytest.approx(skm.structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, channel_axis=0), abs=1e-4)


def test_flat_bright_pictures_keep_their_digits():
    x, y = torch.full((1, 3, 32, 32), .999), torch.full((1, 3, 32, 32), .998)
    assert ssim(x, y).item()==pytest.approx(ssim(x.double(), y.double()).item(), abs=1e-5)


def test_half_precision_is_measured_in_float():
    x, y = torch.rand(1, 3, 32, 32).bfloat16(), torch.rand(1, 3, 32, 32).bfloat16()
    assert ssim(x, y).dtype==torch.float32 and torch.equal(ssim(x, y), ssim(x.float(), y.float()))
    assert torch.equal(psnr(x, y), psnr(x.float(), y.float()))


def test_gt_mean_matches_the_target():
    x, y = torch.rand(4, 3, 20, 20)*.2, torch.rand(4, 3, 20, 20)*.5
    assert torch.allclose(grey_mean(gt_mean(x, y)), grey_mean(y), rtol=.02)
    assert gt_mean(x[0], y[0]).shape==x[0].shape
    assert torch.allclose(gt_mean(x, y)[1], gt_mean(x[1], y[1]))

def test_grey_is_that_of_pillow():
    "Red, green and blue, each with its own weight and in this order"
    from PIL import Image
    for rgb in (255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 30, 90):
        x = torch.tensor(rgb).view(1, 3, 1, 1).expand(1, 3, 4, 4)/255
        assert grey_mean(x).item() == pytest.approx(Image.new('RGB', (4, 4), rgb).convert('L').getpixel((0, 0))/255, abs=1/255)
