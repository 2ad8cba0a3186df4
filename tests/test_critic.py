"""The critic of tokens: what it returns, what it may see, and that it learns."""
import pytest
import torch
from torch.nn import functional as F

from lowlight_nat.experiments.calibration import auroc
from lowlight_nat.models.critic import TokenCritic, critic_loss, proposed, token_odds
from lowlight_nat.models.latent_nat import LatentNAT
from lowlight_nat.models.uncertainty import token_statistics


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)

def toy(n=2, h=12, w=20, K=32):
    "z, true tokens, codes, cond, sigma; the first channel of cond is how far z is off"
    codes = torch.randn(K, 4, generator=torch.Generator().manual_seed(1))
    tokens = torch.randint(K, (n, h, w))
    noise = torch.linspace(0.1, 1.2, w).expand(n, h, w)
    cond = torch.randn(n, 8, h, w)
    cond[:, 0] = noise
    z = codes[tokens].permute(0, 3, 1, 2) + noise[:, None]*torch.randn(n, 4, h, w)
    return z, tokens, codes, cond, torch.full_like(noise, 0.6)

def awake(critic):
    "An untrained critic that says something: its head begins at zero"
    for p in critic.head.parameters(): torch.nn.init.normal_(p, std=0.3)
    torch.nn.init.normal_(critic.maps.weight, std=0.3)
    return critic.eval()

def small(): return TokenCritic(4, 8, width=16, depth=1)


def test_size():
    n = sum(p.numel() for p in TokenCritic().parameters())
    assert 50_000 < n < 150_000

@pytest.mark.parametrize('h, w', [(1, 1), (3, 70), (12, 20), (17, 9)])
def test_shapes(h, w):
    z, tokens, codes, cond, sigma = toy(2, h, w)
    said = awake(small())(z, tokens, codes, cond, sigma)
    assert said.wrong.shape == said.error.shape == (2, h, w)
    assert said.wrong.isfinite().all() and (said.error > 0).all()

def test_untrained_says_what_the_prior_says():
    z, tokens, codes, cond, sigma = toy()
    said = small()(z, tokens, codes, cond, sigma)
    spread2 = token_statistics(z, codes, 2*sigma**2, spread=True).spread2
    places = z.permute(0, 2, 3, 1).flatten(0, 2)
    p = token_odds(places, tokens.flatten(), codes, 2*sigma.flatten()**2).log_p.exp().view_as(sigma)
    likely = (p > 1e-4) & (p < 0.999)
    assert (said.wrong.sigmoid() - (1 - p))[likely].abs().max() < 1e-4
    assert (said.error - (spread2/4).sqrt()).abs().max() < 2e-3

def test_pictures_of_a_batch_are_apart():
    z, tokens, codes, cond, sigma = toy(3)
    critic = awake(small())
    overview = torch.randn(3, 17)
    both = critic(z, tokens, codes, cond, sigma, overview)
    one = critic(z[1:2], tokens[1:2], codes, cond[1:2], sigma[1:2], overview[1:2])
    assert torch.allclose(both.wrong[1:2], one.wrong, atol=1e-5)
    assert torch.allclose(both.error[1:2], one.error, atol=1e-5)
    assert (both.wrong - critic(z, tokens, codes, cond, sigma).wrong).abs().max() > 1e-4

def test_every_input_is_heard():
    z, tokens, codes, cond, sigma = toy()
    critic = awake(small())
    def says(z=z, tokens=tokens, cond=cond, sigma=sigma):
        return critic(z, tokens, codes, cond, sigma).wrong
    others = [dict(z=z + 0.1), dict(tokens=(tokens + 1) % 32), dict(cond=cond + 1),
              dict(sigma=2*sigma)]
    assert all((says(**o) - says()).abs().max() > 1e-3 for o in others)

def test_a_token_is_judged_by_its_company():
    z, tokens, codes, cond, sigma = toy(1)
    other = tokens.clone()
    other[0, 0, 0] = (other[0, 0, 0] + 7) % 32
    critic = awake(small())
    before, after = (critic(z, t, codes, cond, sigma).wrong for t in (tokens, other))
    assert (after - before)[0, -1, -1].abs() > 1e-6   # as far away as can be

@pytest.mark.parametrize('nearest', [False, True])
def test_proposed(nearest):
    z, tokens, codes, cond, sigma = toy(8)
    nat = LatentNAT(32, 4, 8, width=32, depth=1).eval()
    given = proposed(nat, z, tokens, codes, cond, sigma, nearest=nearest)
    assert (given.tokens[given.shown] == tokens[given.shown]).all()
    assert (given.tokens != tokens).any() and given.tokens.dtype == tokens.dtype
    if nearest:
        assert not given.shown.any()
        assert (given.tokens == token_statistics(z, codes, 1.).tokens).all()

def test_tokens_that_are_not_shown_are_unknown():
    "Neither draws nor the critic's words change with them"
    z, tokens, codes, cond, sigma = toy(8)
    nat = LatentNAT(32, 4, 8, width=32, depth=1).eval()
    torch.nn.init.normal_(nat.head.weight, std=0.3)
    critic = awake(small())
    def drawn(tokens):
        torch.manual_seed(3)
        return proposed(nat, z, tokens, codes, cond, sigma)
    first = drawn(tokens)
    again = drawn(torch.where(first.shown, tokens, (tokens + 5) % 32))
    assert first.shown.any() and not first.shown.all()
    assert (first.tokens == again.tokens).all()
    said = [critic(z, o.tokens, codes, cond, sigma).wrong for o in (first, again)]
    assert torch.equal(*said)

def test_shown_places_are_not_asked():
    z, tokens, codes, cond, sigma = toy(4)
    nat = LatentNAT(32, 4, 8, width=32, depth=1).eval()
    given = proposed(nat, z, tokens, codes, cond, sigma)
    critic = awake(small())
    lied = torch.where(given.shown, (tokens + 3) % 32, tokens)
    losses = [critic_loss(critic, given, z, t, codes, cond, sigma) for t in (tokens, lied)]
    assert given.shown.any() and torch.equal(*losses)

def test_odds():
    z, tokens, codes, _, sigma = toy()
    places = z.permute(0, 2, 3, 1).flatten(0, 2)
    T = 2*sigma.flatten()**2
    odds = token_odds(places, tokens.flatten(), codes, T)
    p = F.log_softmax(-torch.cdist(places, codes)**2/T[:, None], -1)
    assert torch.allclose(odds.log_p, p.gather(1, tokens.flatten()[:, None])[:, 0], atol=1e-3)
    assert torch.allclose(odds.entropy, -(p.exp()*p).sum(-1), atol=1e-3)
    mean = p.exp() @ codes
    spread2 = (p.exp()*torch.cdist(mean, codes)**2).sum(-1)
    assert torch.allclose(odds.spread, spread2.sqrt(), atol=2e-3)

def test_it_learns():
    "Thirty steps: wrong tokens and large errors are found better than by chance or the entropy"
    nat = LatentNAT(32, 4, 8, width=32, depth=1).eval()
    critic = TokenCritic(4, 8, width=32, depth=1)
    optimizer = torch.optim.AdamW(critic.parameters(), 2e-2)
    for step in range(30):
        z, tokens, codes, cond, sigma = toy(4)
        given = proposed(nat, z, tokens, codes, cond, sigma, nearest=step % 2 > 0)
        optimizer.zero_grad()
        critic_loss(critic, given, z, tokens, codes, cond, sigma).backward()
        optimizer.step()
    z, tokens, codes, cond, sigma = toy(8)
    given = proposed(nat, z, tokens, codes, cond, sigma, nearest=True)
    with torch.no_grad(): said = critic.eval()(z, given.tokens, codes, cond, sigma)
    wrong = given.tokens != tokens
    entropy = token_statistics(z, codes, 2*sigma**2).entropy
    assert auroc(said.wrong, wrong) > max(0.6, auroc(entropy, wrong) + 0.01)
    error = (z - codes[tokens].permute(0, 3, 1, 2)).pow(2).mean(1)
    assert auroc(said.error, error > error.median()) > 0.6

def test_width_must_fit_the_heads():
    with pytest.raises(ValueError, match=r'multiple of 4\*heads=16'): TokenCritic(width=60)
