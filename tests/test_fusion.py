"The fusion decoder: mix-up, alignment, the NAT on the features, and that every source reaches the picture."
import pytest
import torch
import torch.nn.functional as F

from lowlight_nat.models.fusion import (
    Decoded,
    DeformAlign,
    FeatureNAT,
    FeatureRefined,
    FeatureRound,
    FusionDecoder,
    MixUp,
    carry_light,
    smooth,
    smooth_light,
)


def close(a, b, eps=1e-5): torch.testing.assert_close(a, b, atol=eps, rtol=eps)

class Scene:
    "Features of two pictures with six cells of doubt each, and a small NAT."
    def __init__(self):
        torch.manual_seed(42)
        self.nat = FeatureNAT(16, 8, width=32, cell=4).eval()
        self.h = torch.randn(2, 16, 22, 30)
        self.f_low = torch.randn(2, 8, 22, 30)
        self.mask = torch.zeros(2, 22, 30, dtype=torch.bool)
        self.mask[:, 4:12, 8:20] = True

    def refine(self, b=slice(None), mask=None, nat=None, **kw):
        mask = self.mask if mask is None else mask
        return (nat or self.nat)(self.h[b], self.f_low[b], mask[b], **kw)

@pytest.fixture
def scene():
    with torch.no_grad(): yield Scene()

@pytest.fixture
def decoder():
    torch.manual_seed(42)
    dec = FusionDecoder(4, (16, 24), low=(8, 12), vq=16, nat=dict(width=32))
    low = [torch.randn(2, 12, 8, 12), torch.randn(2, 8, 16, 24)]
    return dec, (torch.randn(2, 4, 8, 12), low, [torch.randn(2, 16, 8, 12)], torch.rand(2, 8, 12) < .5)


# --- mix-up and alignment ---

def test_mix_at_its_ends_is_one_source():
    h, f = torch.randn(2, 2, 8, 6, 6)
    mixer = MixUp(8, 8)
    assert mixer(h, f, mix=0.).equal(h) and mixer(h, f, mix=1.).equal(f)
    with pytest.raises(ValueError, match='mix'): mixer(h, f, mix=2)

def test_a_fresh_alignment_is_a_convolution_at_half_strength():
    x = torch.randn(2, 8, 12, 10)
    align = DeformAlign(8, 16)
    with torch.no_grad():
        plain = F.conv2d(x, .5*align.weight, align.bias, padding=1)
        close(align(x, torch.randn(2, 16, 12, 10)), plain)


# --- the NAT on the features ---

def test_cells_and_what_passes_them_by():
    x = torch.rand(1, 3, 72, 112)
    nat = FeatureNAT(3, 8, width=32)
    low = nat.spread(nat.cells(x), x.shape[2:])
    close(low + (x - low), x, 1e-6)
    assert nat.cells(torch.ones(1, 3, 7, 9)).equal(torch.ones(1, 2, 3, 3))   # a border cell too

def test_what_is_recorded(scene):
    out = scene.refine(record=True)
    assert isinstance(out, FeatureRefined) and isinstance(out.history[0], FeatureRound)
    assert [x.masked.sum().item() for x in out.history] == [12, 10, 8, 4]
    assert out.latent.shape == (2, 6, 8, 4) and scene.refine().latent is None

def test_kept_cells_are_corrected_from_zero_on(scene):
    out = scene.refine()
    both = FeatureNAT(16, 8, width=32, cell=4, kept=True).eval()
    both.load_state_dict(scene.nat.state_dict(), strict=False)
    assert scene.refine(nat=both).h.equal(out.h)   # it starts at zero
    torch.nn.init.normal_(both.to_change.weight)
    moved = scene.nat.cells(scene.refine(nat=both).h - out.h).abs().amax(-1) > 1e-4
    far = ~scene.nat.cells(F.max_pool2d(scene.mask[:, None].float(), 17, 1, 8)).bool()[..., 0]
    assert moved[far].all()                        # every cell that is kept, and far from the masked ones
    empty = scene.refine(mask=torch.zeros_like(scene.mask), nat=both, record=True)
    assert empty.logvar is None and empty.history == [] and not empty.h.equal(scene.h)
    assert scene.refine(nat=both, rounds=0).h.equal(scene.h)

def test_alone_or_in_a_batch(scene): close(scene.refine(slice(1)).h, scene.refine().h[:1])

def test_a_batch_has_the_sum_of_the_gradients():
    scene = Scene()
    uneven = scene.mask.clone()
    uneven[0] = True
    def grads(b):
        "Gradients of all weights for some pictures of the batch"
        scene.nat.zero_grad()
        scene.refine(b, uneven).h.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in scene.nat.parameters() if p.grad is not None])
    parts = grads([0]) + grads([1])
    assert (grads([0, 1]) - parts).norm() < 1e-3*parts.norm()

def test_positions_are_stretched_in_training_up_to_a_tile():
    nat = FeatureNAT(16, 8, width=32)
    def last_row(n): return nat.angles(torch.zeros(1, n, 8, 32))[-1, 0].item()   # its angle is the row
    rows = [last_row(8) for _ in range(1000)]
    assert 7 <= min(rows) < 8 and 47 < max(rows) <= 48
    assert last_row(60) == 59   # a larger grid isn't stretched
    nat.eval()
    assert last_row(8) == 7


# --- the decoder ---

def test_a_gradient_reaches_all_but_the_heads_with_a_loss_of_their_own(decoder):
    dec, inputs = decoder
    out = dec(*inputs)
    assert isinstance(out, Decoded) and isinstance(out.nat, FeatureRefined)
    out.x.square().mean().backward()
    without = {n for n, p in dec.named_parameters() if p.grad is None}
    assert without == {n for n, _ in dec.named_parameters() if 'to_latent' in n or 'to_logvar' in n}

def test_places_that_may_not_change_do_not(decoder):
    dec, (z, low, vq, mask) = decoder
    with torch.no_grad():
        none = dec(z, low, vq, mask, allow=torch.zeros_like(mask)).x
        close(none, dec(z, low, vq, mask, rounds=0).x)

def test_smooth_light_keeps_what_is_even_and_blurs_keep_the_mean():
    close(smooth_light(torch.full((1, 3, 8, 8), .4)), torch.full((1, 3, 8, 8), .4))
    close(smooth(torch.ones(1, 1, 8, 8)), torch.ones(1, 1, 8, 8), 1e-6)

def test_nothing_known_moves_nothing():
    x_0 = .4 + .05*torch.randn(1, 3, 40, 40)
    d_0 = torch.full_like(x_0, .38)
    close(carry_light(x_0, x_0, d_0, d_0, torch.zeros(1, 10, 10)), x_0, 1e-6)
