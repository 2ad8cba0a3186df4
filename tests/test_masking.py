"""The chapters on token probabilities and on masking: against tables in double precision, and at their extremes."""
import math

import pytest
import torch

from lowlight_nat.models import masking as M
from lowlight_nat.models import uncertainty as U
from lowlight_nat.models.quantizers import squared_distances


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def close(a, b, tol=1e-5):
    torch.testing.assert_close(torch.as_tensor(a, dtype=torch.float64),
                               torch.as_tensor(b, dtype=torch.float64), rtol=tol, atol=tol)

def exact(z, codes, T):
    "Everything in double precision, with the whole table"
    d2 = (z.double().permute(0, 2, 3, 1)[..., None, :] - codes.double()).pow(2).sum(-1)
    T = T.double()[..., None] if isinstance(T, torch.Tensor) else T
    log_p = (-d2/T).log_softmax(-1)
    p = log_p.exp()
    mean = p @ codes.double()
    spread2 = (p*(codes.double() - mean[..., None, :]).pow(2).sum(-1)).sum(-1)
    return log_p, torch.special.entr(p).sum(-1)/math.log(len(codes)), spread2


# --- statistics without the table ---

@pytest.mark.parametrize('B, d, h, w, K', [
    (1, 4, 100, 150, 512), (2, 3, 7, 5, 1024), (3, 8, 1, 1, 2), (1, 1, 4, 4, 17)])
@pytest.mark.parametrize('per_place', [False, True])
@pytest.mark.slow
def test_statistics_are_those_of_the_table(B, d, h, w, K, per_place):
    z = torch.randn(B, d, h, w) + 2
    codes = torch.randn(K, d) + 2
    T = 2*(torch.rand(B, h, w) + .1)**2 if per_place else .3
    log_p, entropy, spread2 = exact(z, codes, T)
    s = U.token_statistics(z, codes, T, spread=True)
    assert torch.equal(
        s.tokens, log_p.argmax(-1)
    ) and s.tokens.dtype == torch.long and s.entropy.dtype == s.spread2.dtype == torch.float32
    close(s.entropy, entropy, 2e-5)
    close(s.spread2, spread2, 1e-4)
    mask = torch.rand(B, h, w) < .5
    got = U.prior_at(z, codes, T, mask)
    naive = U.token_log_probs(squared_distances(z, codes), T)[mask]
    close(got.exp(), naive.exp(), 1e-4)
    close(got, log_p[mask], 1e-3)

@pytest.mark.parametrize('chunk', [1, 7, 34, 35, 1000, None])
def test_statistics_do_not_depend_on_the_pieces(chunk):
    z = torch.randn(1, 4, 5, 7)
    codes = torch.randn(64, 4)
    T = torch.rand(1, 5, 7) + .1
    a = U.token_statistics(z, codes, T, spread=True)
    b = U.token_statistics(z, codes, T, chunk=chunk, spread=True)
    assert torch.equal(a.tokens, b.tokens)
    close(a.entropy, b.entropy, 1e-6)
    close(a.spread2, b.spread2, 1e-5)

def test_pictures_of_a_batch_are_independent():
    z = torch.randn(3, 4, 5, 7)
    codes = torch.randn(64, 4)
    T = torch.rand(3, 5, 7) + .1
    a = U.token_statistics(z, codes, T)
    b = U.token_statistics(z[1:2], codes, T[1:2])
    assert torch.equal(a.tokens[1:2], b.tokens)
    close(a.entropy[1:2], b.entropy, 1e-6)

def test_statistics_stay_float32_and_exact_under_autocast():
    z = torch.randn(1, 4, 6, 6)
    codes = torch.randn(64, 4)
    a = U.token_statistics(z, codes, .2, spread=True)
    p = U.prior_at(z, codes, .2, torch.ones(1, 6, 6, dtype=torch.bool))
    with torch.autocast('cpu', torch.bfloat16):
        b = U.token_statistics(z, codes, .2, spread=True)
        q = U.prior_at(z, codes, .2, torch.ones(1, 6, 6, dtype=torch.bool))
    assert torch.equal(a.entropy, b.entropy) and torch.equal(a.spread2, b.spread2) and torch.equal(
        p, q)

def test_statistics_carry_no_gradient():
    z = torch.randn(1, 4, 3, 3, requires_grad=True)
    s = U.token_statistics(z, torch.randn(8, 4), .5, spread=True)
    assert not s.entropy.requires_grad and not s.spread2.requires_grad

@pytest.mark.parametrize('T', [1e-6, 8e-4, 1e3, 1e30])
def test_extreme_temperatures_and_latents(T):
    z = torch.randn(1, 4, 6, 6)
    codes = torch.randn(64, 4)
    z[0, :, 0] = 1e3
    z[0, :, 1] = 0
    s = U.token_statistics(z, codes, T, spread=True)
    assert all(v.isfinite().all()
               for v in (s.entropy, s.spread2)) and 0 <= s.entropy.min() and s.entropy.max() <= 1
    if T == 1e30:
        close(s.entropy, torch.ones(1, 6, 6))
        close(s.spread2, torch.full((1, 6, 6), codes.var(0, correction=0).sum().item()), 1e-4)
    if T == 1e-6: assert s.entropy[:, 1:].max() < 1e-3   # one code and no other
    assert torch.equal(s.tokens[:, 1:], squared_distances(z, codes).argmin(-1)[:, 1:])

def test_a_spread_of_zero_is_certainty():
    z = torch.randn(1, 4, 3, 3)
    codes = torch.randn(8, 4)
    s = U.token_statistics(z, codes, torch.zeros(1, 3, 3))
    assert torch.equal(s.tokens, squared_distances(z, codes).argmin(-1)) and s.entropy.max() < 1e-3

def test_a_vocabulary_of_one_has_no_doubt():
    z = torch.randn(2, 4, 3, 3)
    codes = torch.randn(1, 4)
    s = U.token_statistics(z, codes, .1, spread=True)
    assert not s.tokens.any() and not s.entropy.any() and not s.spread2.any()
    assert not U.entropy_map(U.token_log_probs(squared_distances(z, codes), .1)).any()

def test_no_place_masked():
    assert U.prior_at(torch.randn(1, 4, 3, 3), torch.randn(8, 4), .1,
                      torch.zeros(1, 3, 3, dtype=torch.bool)).shape == (0, 8)

@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad):
    z = torch.randn(1, 4, 3, 3)
    codes = torch.randn(8, 4)
    T = torch.ones(1, 3, 3)
    m = torch.ones(1, 3, 3, dtype=torch.bool)
    broken = z.clone()
    broken[0, 0, 0, 0] = bad
    for f in (lambda *a: U.token_statistics(*a), lambda *a: U.prior_at(*a, m)):
        with pytest.raises(ValueError, match='NaN or infinite'): f(broken, codes, T)
        with pytest.raises(ValueError, match='positive'): f(z, codes, -1.)
        with pytest.raises(ValueError, match='positive'): f(z, codes, math.nan)
    broken = torch.rand(9)
    broken[3] = bad
    for f in (lambda: M.mask_share_threshold(broken, .5), lambda: U.check_finite('a map', broken),
              lambda: U.calibrate_temperature(broken.view(3, 3), torch.arange(3))):
        with pytest.raises(ValueError, match='NaN or infinite'): f()

def test_nan_in_a_map_is_refused_and_empty_maps_too():
    nan = torch.full((1, 2, 2), math.nan)
    with pytest.raises(ValueError, match='NaN'): M.uncertainty_mask(nan, .5)
    with pytest.raises(ValueError, match='NaN'): M.remask(nan, nan.isnan(), .5)
    with pytest.raises(ValueError, match='NaN'): M.gumbel_confidence(nan, .5)
    assert not M.remask(nan, ~nan.isnan(), .5).any()    # a NaN that nobody asks about
    with pytest.raises(ValueError, match='empty'): U.check_finite('a map', torch.zeros(0))


@pytest.mark.parametrize('kind', [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_inside(kind):
    z = torch.randn(1, 4, 6, 6)
    codes = torch.randn(16, 4)
    with torch.autocast('cpu', kind):
        assert U.token_statistics(z, codes, .2).entropy.dtype == torch.float32
        assert U.expected_code(torch.full((3, 16), -math.log(16)), codes).dtype == torch.float32

def test_the_example_with_four_codes():
    "The numbers that the chapter computes by hand."
    line = torch.arange(4.)
    log_p = U.token_log_probs((1.2 - line)**2, .5)
    close(log_p.exp(), [.045, .733, .221, .001], 1e-3)
    close(U.entropy_map(log_p), .51, 2e-3)
    s = U.token_statistics(torch.full((1, 1, 1, 1), 1.2), line[:, None], .5, spread=True)
    close(s.entropy.item(), U.entropy_map(log_p).item(), 1e-5)
    close(s.spread2.item(), .24, 5e-3)
    mean = U.expected_code(log_p, line[:, None]).item()
    close([mean, 1.2 + 2 - mean], [1.18, 2.02], 5e-3)

def test_certainty_and_ignorance():
    certain = torch.tensor([1., 0, 0, 0]).log()
    assert U.entropy_map(certain) == 0
    close(U.entropy_map(torch.full((4,), -math.log(4))), 1.)
    for T in 0., -1., math.nan:
        with pytest.raises(ValueError, match='positive'): U.token_log_probs(torch.rand(2, 4), T)


# --- temperature ---

@pytest.mark.parametrize('sigma', [.1, .3, 1.])
def test_calibration_finds_the_spread_and_beats_a_grid(sigma):
    codes = torch.randn(128, 4)
    truth = torch.randint(0, 128, (4000,))
    d2 = torch.cdist(codes[truth] + sigma*torch.randn(4000, 4), codes)**2
    T = U.calibrate_temperature(d2, truth)
    def nll(t):
        return torch.nn.functional.cross_entropy(-d2/t, truth).item()
    assert abs(T/(2*sigma**2) - 1) < .12
    assert nll(T) <= min(nll(T*f) for f in (.5, .8, .95, 1.05, 1.25, 2)) + 1e-6
    # a spread that is three times too large
    factor = U.calibrate_temperature(d2/(2*(3*sigma)**2), truth)
    close(factor*9*2*sigma**2, T, 1e-3)


# --- masks, schedules, rounds ---

def test_masks_of_all_none_and_constant_maps():
    e = torch.rand(2, 5, 6)*.8 + .1
    assert M.uncertainty_mask(e, 0.).all() and not M.uncertainty_mask(e, 1.).any()
    assert not M.uncertainty_mask(torch.full_like(e, .4), .4).any()   # above tau, not at it
    assert not M.uncertainty_mask(torch.zeros_like(e), 0.).any()
    assert torch.equal(M.uncertainty_mask(10*e, 5., top=math.inf), e > .5)
    for tau, top in (1.1, 1.), (-.1, 1.), (math.nan, 1.), (-1., math.inf), (6., 5.):
        with pytest.raises(ValueError, match='tau'): M.uncertainty_mask(e, tau, top)

@pytest.mark.parametrize('share', [0., .1, .3, 1/3, .5, .9, .999])
def test_share_threshold(share):
    e = torch.rand(2, 10, 15)
    assert (e > M.mask_share_threshold(e, share)).sum() == int(300*share + 1e-6)
    coarse = (e*5).floor()
    assert (coarse > M.mask_share_threshold(coarse, share)).sum() <= 300*share + 1e-6
    with pytest.raises(ValueError, match='share'): M.mask_share_threshold(e, 1.)

@pytest.mark.parametrize('name', ['cosine', 'linear', 'square'])
@pytest.mark.parametrize('rounds', [1, 2, 5, 12])
def test_schedules_fall_from_one_to_zero(name, rounds):
    f = M.schedule(name)
    v = [f(r, rounds) for r in range(rounds + 1)]
    assert v[0] == 1 and v[-1] == 0 and all(a > b for a, b in zip(v, v[1:]))
    formula = dict(cosine=lambda t: math.cos(math.pi*t/2), linear=lambda t: 1 - t,
                   square=lambda t: 1 - t*t)[name]
    close(v, [formula(r/rounds) for r in range(rounds + 1)], 1e-12)
    for r in -1, rounds + 1:
        with pytest.raises(ValueError, match='must lie in'): f(r, rounds)

def test_unknown_schedule():
    with pytest.raises(ValueError, match='choose one of cosine, linear, square'): M.schedule('sine')

def test_remask_counts_picture_by_picture():
    conf = torch.rand(4, 6, 7)
    mask = torch.rand(4, 6, 7) < torch.tensor([0., .2, .7, 1.1]).view(-1, 1, 1)
    for share in 0., .1, .5, .77, 1.:
        again = M.remask(conf, mask, share)
        assert again.sum(
            (1, 2)).tolist() == [int(n*share + 1e-6)
                                 for n in mask.sum((1, 2)).tolist()] and not (again & ~mask).any()
        for i in range(4):
            assert torch.equal(M.remask(conf[i:i+1], mask[i:i+1], share)[0], again[i])
            if again[i].any() and (rest := mask[i] & ~again[i]).any():
                assert conf[i][again[i]].max() <= conf[i][rest].min()

def test_remask_of_ties_infinities_none_and_all():
    flat = torch.zeros(2, 3, 4)
    every = torch.ones(2, 3, 4, dtype=torch.bool)
    # ties: reading order
    assert M.remask(flat, every, .5).flatten(1).nonzero()[:, 1].tolist() == [*range(6)]*2
    assert not M.remask(flat, ~every, 1.).any() and M.remask(
        flat, every, 1.).all() and not M.remask(flat, every, 0.).any()
    part = every.clone()
    part[:, 0, 1:] = False
    for v in math.inf, -math.inf:
        assert torch.equal(M.remask(torch.full_like(flat, v), part, 1.), part)
    assert [
        M.remask(flat[:1, :1, :5], every[:1, :1, :5], M.linear_schedule(r, 4)).sum().item()
        for r in range(5)
    ] == [4, 3, 2, 1, 0]
    for n in 3, 5, 7, 10:
        assert [
            M.remask(torch.zeros(1, 1, n), torch.ones(1, 1, n, dtype=torch.bool),
                     M.linear_schedule(r, n)).sum().item() for r in range(n + 1)
        ] == [*range(n, -1, -1)]
    for share in -.1, 1.1, math.nan:
        with pytest.raises(ValueError, match='share'): M.remask(flat, every, share)

def test_settled_places_stay():
    conf = torch.rand(2, 6, 7)
    mask = torch.rand(2, 6, 7) < .8
    todo = mask
    settled = torch.zeros_like(mask)
    for r in range(1, 5):
        new = M.remask(torch.rand(2, 6, 7), mask, M.cosine_schedule(r, 4), settled=settled)
        assert not (new & ~todo).any() and new.sum((1, 2)).tolist() == [
            int(n*M.cosine_schedule(r, 4) + 1e-6) for n in mask.sum((1, 2)).tolist()
        ]
        todo = new
        settled = mask & ~new
    assert torch.equal(M.remask(conf, mask, .5, settled=torch.zeros_like(mask)),
                       M.remask(conf, mask, .5))
    assert not M.remask(conf, mask, 1., settled=mask).any()

def test_gumbel_noise():
    conf = torch.rand(3, 6, 7)
    def gen():
        return torch.Generator().manual_seed(3)
    assert torch.equal(M.gumbel_confidence(conf, 0.), conf.log())
    assert torch.equal(M.gumbel_confidence(conf, .7, gen()), M.gumbel_confidence(conf, .7, gen()))
    assert torch.equal(
        M.gumbel_confidence(conf, .7, gen())[2:], M.gumbel_confidence(conf[2:], .7, gen()))
    noise = M.gumbel_confidence(torch.ones(1, 200, 500), 2., gen())/2
    # of the standard Gumbel distribution
    close([noise.mean().item(), noise.var().item()], [.57722, math.pi**2/6], 2e-2)
    assert (M.gumbel_confidence(torch.zeros(1, 2, 2), 1.) == -math.inf).all()
    for c, t in (conf, -1.), (conf, math.nan), (conf - 2, 1.):
        with pytest.raises(ValueError, match='gumbel_confidence'): M.gumbel_confidence(c, t)

def test_the_largest_of_logits_and_noise_is_a_draw():
    chances = torch.tensor([.1, .2, .3, .4])
    drawn = M.gumbel_confidence(chances.expand(1, 20_000, 4), 1., torch.Generator().manual_seed(1)).argmax(-1)
    close(torch.bincount(drawn.flatten(), minlength=4)/20_000, chances, 1.5e-2)

def test_gumbel_noise_without_temperature_changes_no_choice():
    conf = torch.rand(3, 6, 7)
    mask = torch.rand(3, 6, 7) < .6
    assert torch.equal(M.remask(M.gumbel_confidence(conf, 0.), mask, .5), M.remask(conf, mask, .5))
    noisy = M.gumbel_confidence(conf, 1., torch.Generator().manual_seed(1))
    assert not torch.equal(M.remask(noisy, mask, .5), M.remask(conf, mask, .5))

def test_geometric_schedule():
    close([1 - M.geometric_schedule(r, 4) for r in range(5)], [0, .001, .01, .1, 1], 1e-9)

def test_rounds_of_a_grid_of_24():
    "The counts of the drawing."
    mask = torch.ones(1, 4, 6, dtype=torch.bool)
    left = [M.remask(torch.rand(1, 4, 6), mask, M.cosine_schedule(r, 4)).sum().item() for r in range(1, 5)]
    assert left == [22, 16, 9, 0]

# --- names that have moved ---

def test_names_of_doubt_have_their_homes():
    "Probabilities, measures and masks each live in one module, and the masks' module holds no others."
    from lowlight_nat.experiments import calibration as C
    doubt = 'TokenStatistics calibrate_temperature entropy_map expected_code prior_at token_log_probs token_statistics'
    measures = 'Reliability reliability auroc rank_correlation Sparsification sparsification uncertainty_scores'
    for module, names in (U, doubt), (C, measures):
        for name in names.split():
            assert getattr(module, name).__module__ == module.__name__
            assert name not in M.__all__
