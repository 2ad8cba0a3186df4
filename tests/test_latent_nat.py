"The latent NAT: what it hears of kept tokens, what it reads out, and what decoding in rounds promises."
import pytest
import torch
import torch.nn.functional as F

from lowlight_nat.models.latent_nat import (
    WINDOWS,
    DecodingRound,
    FarBlock,
    LatentNAT,
    Look,
    Messages,
    NearBlock,
    ParallelDecoded,
    Resolved,
    affine_error,
    code_logits,
    masked_token_bound,
    mean_prior_code,
    messages,
    most_in_a_picture,
    parallel_decode,
    per_chunk,
    random_kept,
    resolve,
    shared_error,
    stretched,
)
from lowlight_nat.models.masking import cosine_schedule
from lowlight_nat.models.uncertainty import token_log_probs, token_statistics

K = 64


class Scene:
    "Two grids of 13x18 latents, about half of them masked, and a small NAT with opinions of its own."
    def __init__(self):
        torch.manual_seed(42)
        self.codes = torch.randn(K, 4)
        self.nat = LatentNAT(K, 4, cond=8, width=32, depth=2).eval()
        torch.nn.init.normal_(self.nat.head.weight, std=.5)
        self.z = torch.randn(2, 4, 13, 18)
        self.cond = torch.randn(2, 8, 13, 18)
        self.sigma = torch.rand(2, 13, 18) + .1
        self.mask = torch.rand(2, 13, 18) < .5
        self.tokens = token_statistics(self.z, self.codes, 2*self.sigma**2).tokens
        self.e = F.embedding(self.tokens, self.codes).permute(0, 3, 1, 2)

    def look(self, b=slice(None), **kw):
        return self.nat(self.z[b], self.e[b], ~self.mask[b], self.cond[b], self.sigma[b], **kw)

    def decode(self, mask=None, b=slice(None), **kw):
        mask = self.mask if mask is None else mask
        return parallel_decode(self.nat, self.z[b], self.tokens[b], mask[b], self.codes, self.cond[b],
                               self.sigma[b], **kw)

@pytest.fixture
def scene():
    with torch.no_grad(): yield Scene()

def close(a, b, eps=1e-5): torch.testing.assert_close(a, b, atol=eps, rtol=eps)


# --- what kept tokens say ---

def test_affine_error_is_ridge_regression_of_the_kept_places():
    torch.manual_seed(0)
    z = torch.randn(1, 2, 30, 30)
    r = torch.einsum('ij,bjhw->bihw', torch.tensor([[.3, .1], [0., -.2]]), z) + .5
    few = torch.rand(1, 30, 30) < .3
    x = torch.cat([z, torch.ones(1, 1, 30, 30)], 1).flatten(2)[0].T            # (N,3)
    inside = x[few.flatten()]
    gram = inside.T @ inside + torch.diag(torch.tensor([20., 20., 1.5]))
    by_torch = x @ torch.linalg.solve(gram, inside.T @ r.flatten(2)[0].T[few.flatten()])
    close(affine_error(z, r, few).flatten(2)[0].T, by_torch, 1e-4)
    assert affine_error(z, torch.where(few[:, None], r, 1e6), few).equal(affine_error(z, r, few))

def test_messages_weigh_as_a_tent_and_hear_kept_places_alone():
    residual = torch.zeros(1, 1, 13, 13)
    residual[0, 0, 6, 6] = 2.
    residual[0, 0, 6, 8] = 1.
    kept = residual[:, 0] > 0
    told = messages(residual, kept)
    far = 1 - 2/17   # of the tent of 33 places
    assert isinstance(told, Messages) and WINDOWS == (9, 33)
    close(told.count[0, :, 6, 6], torch.tensor([1 + 3/5, 1 + far, 2]))
    close(told.mean[0, :, 0, 6, 6], torch.tensor([(2 + 3/5)/(1 + 3/5), (2 + far)/(1 + far), 1.5]))
    assert messages(torch.where(kept[:, None], residual, 1e6), kept).mean.equal(told.mean)
    assert messages(residual, torch.zeros_like(kept)).mean.abs().max() == 0

def test_one_error_everywhere_is_suggested_whole():
    far = messages(torch.full((1, 1, 40, 40), 3.), torch.ones(1, 40, 40, dtype=torch.bool))
    assert shared_error(far, torch.full((1, 2, 40, 40), 1.))[0, 0, 20, 20].item() == pytest.approx(3, abs=.1)


# --- the network ---

def test_blocks_keep_the_shape_and_stretch_in_training_alone():
    x = torch.randn(2, 13, 18, 32)
    far = FarBlock(32, 4, 4, 48)
    assert far(x).shape == NearBlock(32)(x).shape == x.shape
    rows = [far.positions((8, 2), None)[-1, 0].item() for _ in range(1000)]
    assert 7 <= min(rows) < 8 and 47 < max(rows) <= 48
    assert all(1 <= stretched((8, 3), 48) <= 48/7 for _ in range(100))
    assert far.eval().positions((8, 2), None)[-1, 0] == 7

def test_a_look_hears_the_overview_and_no_other_picture(scene):
    look = scene.look()
    assert isinstance(look, Look) and look.vectors.shape == (2, 13, 18, 32)
    assert (scene.look(overview=torch.ones(2, 17)).vectors - look.vectors).abs().max() > 1e-3
    close(scene.look(slice(1)).vectors, look.vectors[:1])

@pytest.mark.parametrize('sizes, says', [((4, 512), 'exchanged'), ((64, 4, 8, 30), r'multiple of 4\*heads')])
def test_sizes_that_cannot_be(sizes, says):
    with pytest.raises(ValueError, match=says): LatentNAT(*sizes)


# --- reading out ---

def test_reading_in_pieces_is_reading_at_once(scene):
    at = scene.look().each(lambda t: t[scene.mask])
    whole = resolve(scene.nat, at, scene.codes, keep=True)
    pieces = resolve(scene.nat, at, scene.codes, chunk=50)
    assert isinstance(whole, Resolved) and whole.log_q.shape == (len(at.z), K) and pieces.log_q is None
    assert pieces.tokens.equal(whole.tokens)
    close(pieces.mean, whole.mean)
    p = whole.log_q.exp()
    mean = p @ scene.codes
    variance = (p[..., None]*(scene.codes - mean[:, None])**2).sum(1).mean(1)
    close(whole.mean, mean, 1e-3)
    close(whole.sigma, variance.clamp(min=1e-6).sqrt(), 1e-3)
    assert per_chunk(torch.zeros(8192, 3)) == 32

def test_the_prior_is_a_softmax_of_distances(scene):
    z = scene.z.permute(0, 2, 3, 1)[scene.mask]
    T = 2*scene.sigma[scene.mask]**2
    p = token_log_probs(torch.cdist(z, scene.codes)**2, T).exp()
    close(code_logits(z, scene.codes, T).softmax(-1), p, 1e-4)
    close(mean_prior_code(z, scene.codes, T, chunk=50), p @ scene.codes, 1e-4)


# --- training ---

def test_the_share_shown_is_spread():
    torch.manual_seed(0)
    share = torch.cat([random_kept((100, 24, 24)) for _ in range(10)]).float().mean((1, 2))
    assert .1 < (share == 0).float().mean() < .6 and .1 < (share > .5).float().mean() < .4

def test_nothing_masked_costs_nothing(scene):
    kept = torch.ones_like(scene.mask)
    args = scene.z, scene.tokens, kept, scene.codes, scene.cond, scene.sigma
    assert masked_token_bound(scene.nat, *args) == 0


# --- decoding in rounds ---

def test_counts_follow_the_schedule_whatever_the_noise(scene):
    n = scene.mask.sum((1, 2))
    assert most_in_a_picture(scene.mask) == n.max()
    wanted = [(n*cosine_schedule(r, 6)).floor().long().tolist() for r in range(6)]
    for temperature in 0., 4.:
        out = scene.decode(rounds=6, record=True, temperature=temperature)
        assert isinstance(out, ParallelDecoded) and isinstance(out.history[0], DecodingRound)
        assert [h.masked.sum((1, 2)).tolist() for h in out.history] == wanted

def test_nothing_to_do_changes_nothing(scene):
    none = scene.decode(torch.zeros_like(scene.mask))
    assert none.history == [] and none.tokens.equal(scene.tokens)
    assert none.z.equal(scene.z) and none.sigma.equal(scene.sigma)
    zero = scene.decode(rounds=0)
    assert zero.tokens.equal(scene.tokens) and zero.z.equal(scene.z)

@pytest.mark.parametrize('output', ['delta', 'argmax', 'expectation'])
def test_kept_places_keep_their_latent(scene, output):
    z = scene.decode(output=output).z.permute(0, 2, 3, 1)
    assert z[~scene.mask].equal(scene.z.permute(0, 2, 3, 1)[~scene.mask])

def test_known_tokens_stay(scene):
    known = torch.zeros_like(scene.mask)
    known[:, 6] = True
    out = scene.decode(torch.ones_like(known), known=known, sample=1.)
    assert out.tokens[known].equal(scene.tokens[known])
    close(out.z.permute(0, 2, 3, 1)[known], scene.codes[scene.tokens[known]])

def test_no_noise_whatever_the_seed_and_masks_within_masks(scene):
    assert scene.decode(seed=5).z.equal(scene.decode().z)
    history = scene.decode(rounds=6, record=True, revise=False, temperature=4.).history
    assert not any((b.masked & ~a.masked).any() for a, b in zip(history, history[1:]))

@pytest.mark.parametrize('bad', [dict(output='soft'), dict(rounds=-1), dict(sample=-1), dict(temperature=-1)])
def test_bad_settings_are_named(scene, bad):
    with pytest.raises(ValueError, match=[*bad][0]): scene.decode(**bad)

def test_a_batch_has_the_sum_of_the_gradients():
    scene = Scene()
    mask = torch.zeros_like(scene.mask)   # of very different sizes
    mask[0] = True
    mask[1, :3, :3] = True
    def grads(b):
        "Gradients of all weights for some pictures of the batch"
        scene.nat.zero_grad()
        scene.decode(mask, b).z.square().sum().backward()
        return torch.cat([p.grad.flatten() for p in scene.nat.parameters() if p.grad is not None])
    parts = grads([0]) + grads([1])
    assert (grads([0, 1]) - parts).norm() < 1e-3*parts.norm()
