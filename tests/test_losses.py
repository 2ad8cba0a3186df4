"Losses: what only guards, and the limits of each; what teaches stands in the chapter."
import pytest
import torch
import torch.nn.functional as F
from torch.nn.functional import avg_pool2d

from lowlight_nat.models.vqgan import VQGAN
from lowlight_nat.training.losses import (
    PerceptualLoss,
    exposure_nll,
    gt_mean_loss,
    l1_loss,
    ms_ssim_loss,
    perceptual_loss,
    ssim_loss,
)


@pytest.fixture
def x():
    "A smooth picture with some noise"
    g = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(1, 3, 8, 8, generator=g), size=(128, 128), mode='bilinear')
    return (smooth + 0.1*torch.rand(1, 3, 128, 128, generator=g))/1.1

@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return VQGAN((16, 32), n_codes=64).encoder

def blur(x, s): return F.interpolate(avg_pool2d(x, s), size=x.shape[2:], mode='bilinear')


def test_far_from_the_true_level_the_gt_mean_form_is_the_loss_itself(x):
    assert gt_mean_loss(l1_loss, 0.3*x, x) == l1_loss(0.3*x, x)

def test_each_picture_has_a_weight_of_its_own(x):
    both = gt_mean_loss(l1_loss, torch.cat([0.3*x, 0.85*x]), torch.cat([x, x])).item()
    apart = gt_mean_loss(l1_loss, 0.3*x, x) + gt_mean_loss(l1_loss, 0.85*x, x)
    assert both == pytest.approx(apart.item()/2, abs=1e-6)

def test_too_dark_a_picture_is_made_brighter(x):
    a = (0.8*x).requires_grad_()
    gt_mean_loss(l1_loss, a, x).backward()
    assert (a.grad*x).sum() < 0

def test_clipping_changes_little_where_little_is_clipped(x):
    clipped = gt_mean_loss(l1_loss, 1.1*x, x, limit=1.).item()
    assert clipped == pytest.approx(gt_mean_loss(l1_loss, 1.1*x, x).item(), abs=1e-2)

def test_the_gt_mean_form_is_computed_in_float32(x):
    with torch.autocast('cpu', torch.bfloat16):
        assert gt_mean_loss(ssim_loss, 0.85*x, x).dtype == torch.float32

def test_black_and_negative_predictions_give_finite_losses(x):
    assert gt_mean_loss(l1_loss, torch.zeros_like(x), x).isfinite()
    assert gt_mean_loss(l1_loss, -x, x).isfinite()

def test_ms_ssim_of_a_picture_of_one_scale_has_a_finite_gradient(x):
    small = blur(x, 4)[..., :20, :20].clone().requires_grad_()
    ms_ssim_loss(small, x[..., :20, :20]).backward()
    assert small.grad.isfinite().all()

def test_a_perceptual_loss_carries_its_name(x):
    named = PerceptualLoss('twice L1', lambda a, b: 2*l1_loss(a, b))
    assert named.name == 'twice L1' and named(x + 0.1, x) == 2*l1_loss(x + 0.1, x)

def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match='choose one of'): perceptual_loss('vgg')

def test_without_a_backbone_auto_takes_the_encoder(encoder, tmp_path, monkeypatch):
    "An empty hub folder: nothing may be called LPIPS"
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path))
    assert perceptual_loss('auto', encoder).name == 'encoder features'
    with pytest.raises(FileNotFoundError, match='lpips'): perceptual_loss('lpips')

def test_a_wrong_level_costs_more_the_surer_it_is_claimed():
    level = torch.tensor([0.25])
    sure = torch.tensor([-1.])
    wrong = exposure_nll(torch.tensor([0.5]).log(), sure, level)
    assert wrong > exposure_nll(level.log(), sure, level)

def test_structure_pulls_harder_at_noise_than_l1(x):
    def pull(loss, a):
        a = a.clone().requires_grad_()
        loss(a, x).backward()
        return a.grad.norm()
    noisy = x + 0.05*torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert pull(ssim_loss, noisy) > 2*pull(l1_loss, noisy)
