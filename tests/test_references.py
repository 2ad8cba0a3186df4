"Our layers and losses held against independent implementations of the same formulas."
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowlight_nat.models import glare
from lowlight_nat.models.fusion import DeformAlign
from lowlight_nat.models.latent_nat import (
    WINDOWS,
    LatentNAT,
    Look,
    Messages,
    code_logits,
    masked_token_bound,
    messages,
    most_in_a_picture,
)
from lowlight_nat.models.layers import TransformerBlock, apply_rope, grid_positions, rope_angles
from lowlight_nat.models.quantizers import VectorQuantizer, squared_distances, usage_stats
from lowlight_nat.models.uncertainty import entropy_map, expected_code, token_log_probs
from lowlight_nat.training.losses import gaussian_nll, hinge_d_loss, ms_ssim_loss, ssim_loss


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def close(a, b, tol=1e-5): torch.testing.assert_close(a, b, rtol=tol, atol=tol)


# vector-quantize-pytorch
@pytest.fixture
def quantizers():
    vqp = pytest.importorskip('vector_quantize_pytorch',
                              reason='needs vector-quantize-pytorch, the outside reference')
    ours = VectorQuantizer(32, 4, decay=.9, beta=.25)
    ours.started.fill_(True)
    theirs = vqp.VectorQuantize(dim=4, codebook_size=32, decay=.9, commitment_weight=.25,
                                accept_image_fmap=True, rotation_trick=False)
    theirs._codebook.embed.data.copy_(ours.codes[None])
    theirs._codebook.embed_avg.data.copy_(ours.codes[None])
    theirs._codebook.cluster_size.data.fill_(1.)
    return ours, theirs

def test_quantizer_same_tokens_and_codes(quantizers):
    ours, theirs = (q.eval() for q in quantizers)
    z = torch.randn(2, 4, 9, 7)
    a = ours(z)
    zq, tokens, _ = theirs(z)
    assert torch.equal(a.tokens, tokens)
    close(a.zq, zq)

def test_quantizer_same_commitment_loss_and_gradient(quantizers):
    ours, theirs = (q.train() for q in quantizers)
    za = torch.randn(2, 4, 9, 7, requires_grad=True)
    zb = za.detach().clone().requires_grad_()
    a = ours(za)
    zq, _, loss = theirs(zb)
    close(a.loss, loss.squeeze())
    w = torch.randn_like(za)
    ((a.zq*w).sum() + a.loss).backward()
    ((zq*w).sum() + loss.sum()).backward()
    close(za.grad, zb.grad)

def test_quantizer_same_moving_averages(quantizers):
    ours, theirs = (q.train() for q in quantizers)
    for _ in range(5):
        z = torch.randn(4, 4, 16, 16)
        ours(z)
        theirs(z)
    book = theirs._codebook
    close(ours.count, book.cluster_size[0], 1e-4)
    close(ours.total, book.embed_avg[0], 1e-3)
    close(ours.codes, book.embed[0], 1e-3)   # theirs smooths the counts a little


def test_distances_and_perplexity():
    z = torch.randn(2, 4, 5, 6)*3
    codes = torch.randn(64, 4)
    close(
        squared_distances(z, codes).flatten(0, 2),
        torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 4), codes)**2, 1e-4)
    tokens = torch.randint(0, 10, (500,))
    p = torch.bincount(tokens, minlength=16)/500
    assert usage_stats(tokens, 16).perplexity == pytest.approx(
        torch.distributions.Categorical(p).entropy().exp().item(), rel=1e-4)


# attention
@pytest.mark.parametrize('masked', [False, True])
def test_attention_is_that_of_torch(masked):
    ours = TransformerBlock(32, 4)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict({
        'in_proj_weight': ours.qkv.weight, 'in_proj_bias': ours.qkv.bias,
        'out_proj.weight': ours.proj.weight, 'out_proj.bias': ours.proj.bias
    })
    x = torch.randn(2, 15, 32)
    keep = torch.rand(2, 15) < .7 if masked else None
    ours.norm1 = nn.Identity()
    for p in ours.mlp.parameters(): nn.init.zeros_(p)
    got = ours(x, torch.zeros(15, 4), keep) - x     # attention alone, and no turn: no position
    close(got,
          theirs(x, x, x, key_padding_mask=None if keep is None else ~keep, need_weights=False)[0])

@pytest.mark.parametrize('bf16', [False, True])
@pytest.mark.parametrize('allowed', [False, True])
def test_attention_of_glare_on_processors_with_and_without_bfloat16(monkeypatch, bf16, allowed):
    q, k, v = torch.randn(3, 2, 300, 32)
    exact = F.scaled_dot_product_attention(q, k, v)
    if not allowed:
        # as without AVX-512, where oneDNN refuses
        monkeypatch.setattr(torch.ops.mkldnn, '_is_mkldnn_bf16_supported', lambda: False)
    with torch.no_grad():
        got = glare.glare_attention(*(t.bfloat16() if bf16 else t for t in (q, k, v)), chunk=128)
    assert got.dtype == (torch.bfloat16 if bf16 else torch.float32) and (
        got.float() - exact).abs().max() < (.03 if bf16 else 1e-5)

def test_rotary_code_is_a_turn_of_complex_numbers():
    x = torch.randn(3, 12, 16)
    pos = grid_positions(3, 4)
    theta = 100.**(-torch.arange(4)/4)
    turn = torch.polar(torch.ones(12, 8), torch.cat([pos[:, :1]*theta, pos[:, 1:]*theta], 1))
    want = torch.complex(x[..., :8], x[..., 8:])*turn
    close(apply_rope(x, rope_angles(pos, 16)), torch.cat([want.real, want.imag], -1))


# deformable convolution
def still(ci=4, co=6):
    align = DeformAlign(ci, co, groups=2)
    with torch.no_grad():  # modulation one
        align.offset[-1].bias[36:] = 30.
        align.bias.copy_(torch.randn(co))
    return align, torch.randn(2, ci, 9, 11), torch.randn(2, co, 9, 11)

def test_alignment_without_offsets_is_a_convolution():
    align, x, h = still()
    close(align(x, h), F.conv2d(x, align.weight, align.bias, padding=1), 1e-4)

@pytest.mark.parametrize('dy,dx', [(1, 0), (0, 1), (-1, 2)])
def test_alignment_reads_where_its_offsets_point(dy, dx):
    align, x, h = still()
    with torch.no_grad():
        align.offset[-1].bias[0:36:2] = dy
        align.offset[-1].bias[1:36:2] = dx
    want = F.conv2d(x, align.weight, align.bias, padding=1).roll((-dy, -dx), (2, 3))
    close(align(x, h)[..., 3:-3, 3:-3], want[..., 3:-3, 3:-3], 1e-4)

@pytest.mark.parametrize('value', [float('nan'), 1e30])
@pytest.mark.slow
def test_absurd_offsets_do_not_end_the_process(value):
    """torchvision's operator reads outside the picture where an offset is not a number, and takes
    Python with it."""
    code = f'''import torch; from lowlight_nat.models.fusion import DeformAlign
a = DeformAlign(8, 16, groups=1); a.offset[-1].bias.data[:18] = float("{value}")
a(torch.randn(1, 8, 64, 64), torch.randn(1, 16, 64, 64))'''
    assert subprocess.run([sys.executable, '-W', 'ignore', '-c', code],
                          capture_output=True).returncode == 0


# losses and distributions
def test_hinge_is_torchs_margin_loss():
    real = torch.randn(2, 1, 7, 7)
    fake = torch.randn(2, 1, 7, 7)
    def margin(s, y):
        return F.margin_ranking_loss(s, torch.zeros_like(s), torch.full_like(s, y),
                                                    margin=1.)
    close(hinge_d_loss(real, fake), .5*(margin(real, 1.) + margin(fake, -1.)))

def test_ssim_loss_is_torchmetrics():
    tm = pytest.importorskip('torchmetrics.functional.image',
                             reason='needs torchmetrics, the outside reference')
    x = torch.rand(2, 3, 40, 33)
    y = (x + .1*torch.randn_like(x)).clamp(0, 1)
    full = tm.structural_similarity_index_measure(x, y, sigma=1.5, kernel_size=11, data_range=1.,
                                                  return_full_image=True)[1]
    close(ssim_loss(x, y), 1 - full[..., 5:-5, 5:-5].mean(), 1e-4)   # where the window lies inside

def test_ms_ssim_loss_is_torchmetrics():
    """One channel, since torchmetrics takes the mean over channels before the product over scales,
    and we, as pytorch-msssim, after it"""
    tm = pytest.importorskip('torchmetrics.functional.image',
                             reason='needs torchmetrics, the outside reference')
    x = torch.nn.functional.interpolate(torch.rand(2, 1, 30, 30), (192, 208),
                                        mode='bicubic').clamp(0, 1)
    y = (x + .1*torch.randn_like(x)).clamp(0, 1)
    theirs = tm.multiscale_structural_similarity_index_measure(x, y, sigma=1.5, kernel_size=11,
                                                               data_range=1., normalize='relu')
    close(ms_ssim_loss(x, y), 1 - theirs, 1e-4)
    assert ms_ssim_loss(x, y) > 1e-3 and ms_ssim_loss(x, y) < ssim_loss(x, y)

def test_gaussian_likelihood_is_torchs():
    pred = torch.randn(20, 1)
    target = torch.randn(20, 1)
    logvar = torch.randn(20)
    close(
        gaussian_nll(pred, target, logvar).mean(),
        F.gaussian_nll_loss(pred, target,
                            logvar.exp()[:, None]))

def test_the_masked_token_bound_is_torchs_cross_entropy():
    "Each picture's mean over its hidden places, and the mean of the pictures"
    torch.manual_seed(0)
    nat = LatentNAT(8, 3, cond=5, width=16, depth=1)
    torch.nn.init.normal_(nat.head.weight, std=.3)
    z = torch.randn(2, 3, 4, 4)
    codes = torch.randn(8, 3)
    tokens = torch.randint(8, (2, 4, 4))
    kept = torch.rand(2, 4, 4) < .4
    cond = torch.randn(2, 5, 4, 4)
    sigma = torch.rand(2, 4, 4) + .2
    got = masked_token_bound(nat, z, tokens, kept, codes, cond, sigma)
    assert most_in_a_picture(~kept) == max((~kept[0]).sum(), (~kept[1]).sum())
    look = nat(z, codes[tokens].permute(0, 3, 1, 2), kept, cond, sigma)
    assert isinstance(look, Look)
    d2 = (look.z[..., None, :] - codes).pow(2).sum(-1)
    logits = -d2/look.T[..., None] + nat.head(look.vectors)
    close(got, torch.stack([F.cross_entropy(logits[i][~kept[i]], tokens[i][~kept[i]])
                            for i in range(2)]).mean())

def test_messages_are_means_over_windows():
    r = torch.randn(2, 3, 7, 9)
    kept = torch.rand(2, 7, 9) < .3
    got = messages(r, kept)
    assert isinstance(got, Messages) and got.mean.shape == (2, len(WINDOWS) + 1, 3, 7, 9)
    for b in range(2):
        for y in range(7):
            for x in range(9):
                for i, side in enumerate([*WINDOWS, 99]):
                    k = (side + 1)//2
                    def tent(n, at):
                        away = (torch.arange(n) - at).abs()
                        return (1 - away/k).clamp(min=0) if i < len(WINDOWS) else torch.ones(n)
                    weight = tent(7, y)[:, None]*tent(9, x)*kept[b]
                    heard = weight.sum()
                    close(got.count[b, i, y, x], heard, 1e-3)
                    if heard > 1e-3:
                        close(got.mean[b, i, :, y, x], (r[b]*weight).sum((1, 2))/heard, 1e-4)

def test_logits_are_distances_over_temperatures():
    z = torch.randn(6, 3)
    codes = torch.randn(8, 3)
    T = torch.rand(6) + .1
    close(code_logits(z, codes, T).log_softmax(-1),
          (-torch.cdist(z, codes)**2/T[:, None]).log_softmax(-1), 1e-4)

def test_distribution_entropy_and_mean_are_those_of_torch():
    d2 = torch.rand(2, 3, 4, 8)
    sigma = torch.rand(2, 3, 4) + .1
    codes = torch.randn(8, 5)
    p = torch.distributions.Categorical(logits=-d2/(2*sigma[..., None]**2))
    log_p = token_log_probs(d2, 2*sigma**2)
    close(log_p.exp(), p.probs)
    close(entropy_map(log_p), p.entropy()/math.log(8))
    close(expected_code(log_p, codes), torch.einsum('bhwk,kd->bhwd', p.probs, codes))
