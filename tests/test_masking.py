"""The chapter on masking: its figures of merit against outside implementations, its extremes, and
the script that measures them."""
import json
import math
import sys

import pytest
import torch

from lowlight_nat.models import masking as M
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
    s = M.token_statistics(z, codes, T, spread=True)
    assert torch.equal(
        s.tokens, log_p.argmax(-1)
    ) and s.tokens.dtype == torch.long and s.entropy.dtype == s.spread2.dtype == torch.float32
    close(s.entropy, entropy, 2e-5)
    close(s.spread2, spread2, 1e-4)
    mask = torch.rand(B, h, w) < .5
    got = M.prior_at(z, codes, T, mask)
    naive = M.token_log_probs(squared_distances(z, codes), T)[mask]
    close(got.exp(), naive.exp(), 1e-4)
    close(got, log_p[mask], 1e-3)

@pytest.mark.parametrize('chunk', [1, 7, 34, 35, 1000, None])
def test_statistics_do_not_depend_on_the_pieces(chunk):
    z = torch.randn(1, 4, 5, 7)
    codes = torch.randn(64, 4)
    T = torch.rand(1, 5, 7) + .1
    a = M.token_statistics(z, codes, T, spread=True)
    b = M.token_statistics(z, codes, T, chunk=chunk, spread=True)
    assert torch.equal(a.tokens, b.tokens)
    close(a.entropy, b.entropy, 1e-6)
    close(a.spread2, b.spread2, 1e-5)

def test_pictures_of_a_batch_are_independent():
    z = torch.randn(3, 4, 5, 7)
    codes = torch.randn(64, 4)
    T = torch.rand(3, 5, 7) + .1
    a = M.token_statistics(z, codes, T)
    b = M.token_statistics(z[1:2], codes, T[1:2])
    assert torch.equal(a.tokens[1:2], b.tokens)
    close(a.entropy[1:2], b.entropy, 1e-6)

def test_statistics_stay_float32_and_exact_under_autocast():
    z = torch.randn(1, 4, 6, 6)
    codes = torch.randn(64, 4)
    a = M.token_statistics(z, codes, .2, spread=True)
    p = M.prior_at(z, codes, .2, torch.ones(1, 6, 6, dtype=torch.bool))
    with torch.autocast('cpu', torch.bfloat16):
        b = M.token_statistics(z, codes, .2, spread=True)
        q = M.prior_at(z, codes, .2, torch.ones(1, 6, 6, dtype=torch.bool))
    assert torch.equal(a.entropy, b.entropy) and torch.equal(a.spread2, b.spread2) and torch.equal(
        p, q)

def test_statistics_carry_no_gradient():
    z = torch.randn(1, 4, 3, 3, requires_grad=True)
    s = M.token_statistics(z, torch.randn(8, 4), .5, spread=True)
    assert not s.entropy.requires_grad and not s.spread2.requires_grad

@pytest.mark.parametrize('T', [1e-6, 8e-4, 1e3, 1e30])
def test_extreme_temperatures_and_latents(T):
    z = torch.randn(1, 4, 6, 6)
    codes = torch.randn(64, 4)
    z[0, :, 0] = 1e3
    z[0, :, 1] = 0
    s = M.token_statistics(z, codes, T, spread=True)
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
    s = M.token_statistics(z, codes, torch.zeros(1, 3, 3))
    assert torch.equal(s.tokens, squared_distances(z, codes).argmin(-1)) and s.entropy.max() < 1e-3

def test_a_vocabulary_of_one_has_no_doubt():
    z = torch.randn(2, 4, 3, 3)
    codes = torch.randn(1, 4)
    s = M.token_statistics(z, codes, .1, spread=True)
    assert not s.tokens.any() and not s.entropy.any() and not s.spread2.any()
    assert not M.entropy_map(M.token_log_probs(squared_distances(z, codes), .1)).any()

def test_no_place_masked():
    assert M.prior_at(torch.randn(1, 4, 3, 3), torch.randn(8, 4), .1,
                      torch.zeros(1, 3, 3, dtype=torch.bool)).shape == (0, 8)

@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad):
    z = torch.randn(1, 4, 3, 3)
    codes = torch.randn(8, 4)
    T = torch.ones(1, 3, 3)
    m = torch.ones(1, 3, 3, dtype=torch.bool)
    broken = z.clone()
    broken[0, 0, 0, 0] = bad
    for f in (lambda *a: M.token_statistics(*a), lambda *a: M.prior_at(*a, m)):
        with pytest.raises(ValueError, match='NaN or infinite'): f(broken, codes, T)
        with pytest.raises(ValueError, match='positive'): f(z, codes, -1.)
        with pytest.raises(ValueError, match='positive'): f(z, codes, math.nan)
    e = torch.rand(9)
    w = torch.arange(9) < 4
    broken = e.clone()
    broken[3] = bad
    for f in (lambda: M.auroc(broken, w), lambda: M.rank_correlation(e, broken),
              lambda: M.sparsification(broken, e), lambda: M.sparsification(e, broken),
              lambda: M.mask_share_threshold(broken, .5), lambda: M.reliability(broken, w),
              lambda: M.calibrate_temperature(broken.view(3, 3), torch.arange(3))):
        with pytest.raises(ValueError, match='NaN or infinite'): f()

def test_nan_in_a_map_is_refused_and_empty_maps_too():
    nan = torch.full((1, 2, 2), math.nan)
    with pytest.raises(ValueError, match='NaN'): M.uncertainty_mask(nan, .5)
    with pytest.raises(ValueError, match='NaN'): M.remask(nan, nan.isnan(), .5)
    with pytest.raises(ValueError, match='NaN'): M.gumbel_confidence(nan, .5)
    assert not M.remask(nan, ~nan.isnan(), .5).any()    # a NaN that nobody asks about
    with pytest.raises(ValueError, match='empty'): M.auroc(torch.zeros(0), torch.zeros(0))


# --- figures of merit, against others ---

def cases():
    g = torch.Generator().manual_seed(0)
    score = torch.rand(2000, generator=g)
    return {
        'continuous': (score, score + .5*torch.randn(2000, generator=g)
                       > .6), 'ties': ((score*7).floor(), score > torch.rand(2000, generator=g)),
        'constant': (torch.zeros(2000), score > .5), 'one wrong': (score, torch.arange(2000) == 77),
        'perfect': (score, score > .9), 'reversed': (-score, score > .9)
    }

@pytest.mark.parametrize('name', cases())
def test_auroc(name):
    score, wrong = cases()[name]
    metrics = pytest.importorskip('sklearn.metrics',
                                  reason='needs scikit-learn, the outside reference')
    close(M.auroc(score, wrong), metrics.roc_auc_score(wrong.numpy(), score.numpy()), 1e-12)

@pytest.mark.parametrize('name', ['continuous', 'ties', 'one wrong'])
def test_auroc_of_torchmetrics(name):
    tm = pytest.importorskip('torchmetrics.functional.classification',
                             reason='needs torchmetrics, the outside reference')
    score, wrong = cases()[name]
    score = (score - score.min())/(score.max() - score.min())
    close(M.auroc(score, wrong), tm.binary_auroc(score, wrong.long()).item(), 1e-5)

def test_auroc_needs_both():
    for w in torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool):
        with pytest.raises(ValueError, match='wrong and right'): M.auroc(torch.rand(5), w)

@pytest.mark.parametrize('levels', [0, 5])
def test_rank_correlation(levels):
    stats = pytest.importorskip('scipy.stats', reason='needs SciPy, the outside reference')
    a = torch.rand(500)
    b = torch.rand(500)
    b = b + a
    if levels:
        a = (a*levels).floor()
        b = (b*levels).floor()
    close(M.rank_correlation(a, b), stats.spearmanr(a.numpy(), b.numpy()).statistic, 1e-9)
    with pytest.raises(ValueError, match='constant'): M.rank_correlation(a, torch.zeros(500))

@pytest.mark.parametrize('bins', [1, 10, 15])
def test_expected_calibration_error(bins):
    tm = pytest.importorskip('torchmetrics.functional.classification',
                             reason='needs torchmetrics, the outside reference')
    conf = torch.rand(5000)
    right = torch.rand(5000) < conf**2
    r = M.reliability(conf, right, bins)
    close(r.ece, tm.binary_calibration_error(conf, right.long(), n_bins=bins).item(), 1e-5)
    assert r.count.sum() == 5000 and ((r.confidence*bins).ceil() == torch.arange(1, bins + 1)).all()

def test_reliability_at_the_ends():
    r = M.reliability(torch.tensor([0., 1., 1.]), torch.tensor([False, True, True]))
    # a bin has its upper edge
    assert len(r.count) == 15 and M.reliability(torch.tensor([.5]), torch.tensor([True]),
                                                2).count.tolist() == [1, 0]
    assert r.ece == 0 and r.count[0] == 1 and r.count[-1] == 2 and r.count[1:-1].sum() == 0
    for conf, right in (torch.tensor([1.1]), torch.tensor([True])), (torch.tensor([.1, .2]),
                                                                     torch.tensor([True])):
        with pytest.raises(ValueError, match='shape of correct'): M.reliability(conf, right)

def test_sparsification_by_hand():
    error = torch.tensor([4., 3., 2., 1.])
    score = torch.tensor([1., 4., 3., 2.])
    s = M.sparsification(score, error, steps=4)
    close(s.error, [v/2.5 for v in (2.5, 7/3, 2.5, 4.)], 1e-9)      # left out: 3, then 2, then 1
    close(s.oracle, [v/2.5 for v in (2.5, 2., 1.5, 1.)], 1e-9)
    d = (s.error - s.oracle).tolist()
    close(s.ause, sum((a + b)/2*.25 for a, b in zip(d, d[1:])), 1e-9)

def test_sparsification_of_maps_that_know_all_or_nothing():
    e = torch.rand(3, 20, 30)
    assert abs(M.sparsification(e**2, e).ause) < 1e-9
    s = M.sparsification(torch.ones_like(e), e)
    close(s.error, torch.ones(20), 1e-9)
    perm = torch.randperm(e.numel())
    coarse = (e*4).floor()
    # ties: whatever the order
    close(
        M.sparsification(coarse, e).ause,
        M.sparsification(coarse.flatten()[perm],
                         e.flatten()[perm]).ause, 1e-9)
    for bad in -e, 0*e:
        with pytest.raises(ValueError, match='positive'): M.sparsification(e, bad)


# --- temperature ---

@pytest.mark.parametrize('sigma', [.1, .3, 1.])
def test_calibration_finds_the_spread_and_beats_a_grid(sigma):
    codes = torch.randn(128, 4)
    truth = torch.randint(0, 128, (4000,))
    d2 = torch.cdist(codes[truth] + sigma*torch.randn(4000, 4), codes)**2
    T = M.calibrate_temperature(d2, truth)
    def nll(t):
        return torch.nn.functional.cross_entropy(-d2/t, truth).item()
    assert abs(T/(2*sigma**2) - 1) < .12
    assert nll(T) <= min(nll(T*f) for f in (.5, .8, .95, 1.05, 1.25, 2)) + 1e-6
    # a spread that is three times too large
    factor = M.calibrate_temperature(d2/(2*(3*sigma)**2), truth)
    close(factor*9*2*sigma**2, T, 1e-3)

def test_calibration_lowers_the_calibration_error():
    codes = torch.randn(128, 4)
    truth = torch.randint(0, 128, (8000,))
    d2 = torch.cdist(codes[truth] + .4*torch.randn(8000, 4), codes)**2
    T = M.calibrate_temperature(d2[:4000], truth[:4000])
    def ece(t):
        c, k = M.token_log_probs(d2[4000:], t).exp().max(-1)
        return M.reliability(c.clamp(max=1), k == truth[4000:]).ece
    assert ece(T) < .04 < min(ece(T/5), ece(T*5))


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


# --- the run ---

def test_the_figures_shown_are_whole(root):
    d = json.loads((root/'nbs/figures/run/uncertainty.json').read_text())
    assert d['command'].startswith('python nbs/figures/uncertainty.py --data ') and {
        'seed', 'versions', 'sha256', 'pictures'
    } <= set(d)
    assert set(d['curves']) == {*d['maps'], 'oracle'} and all(
        len(c) == len(d['share']) for c in d['curves'].values())
    for _n, c in d['calibration'].items():
        assert sum(c['count']) == d['places']
        close(
            c['ece'],
            sum(k*abs(a - b)
                for k, a, b in zip(c['count'], c['accuracy'], c['confidence']))/d['places'], 1e-6)
        close(c['top1'], 1 - d['wrong'], 2e-3)
    for m in d['maps'].values():
        assert 0 <= m['auroc_wrong'] <= 1 and 0 <= m['auroc_tenth'] <= 1 and 0 <= m[
            'auroc_fifth'] <= 1 and -1 <= m['spearman'] <= 1 and m['ause'] > 0

@pytest.mark.slow
def test_the_script_runs(root, run, tmp_path):
    from PIL import Image
    for split, n in ('train', 2), ('val', 2):
        for i in range(n):
            high = (torch.rand(8, 8, 3)*255).byte().numpy()
            for part, f in ('low', .1), ('high', 1.):
                (tmp_path/split/part).mkdir(parents=True, exist_ok=True)
                Image.fromarray((high*f).astype('uint8')).resize(
                    (68, 52)).save(tmp_path/split/part/f'{i}.png')
    run(
        f'{sys.executable} nbs/figures/uncertainty.py --data {tmp_path} --train 2 --out {tmp_path}/u.json',
        root)
    d = json.loads((tmp_path/'u.json').read_text())
    assert (tmp_path/'u.jpg').stat().st_size > 1000
    assert d['pictures'] == 2 and d['places'] == 2*12*16 and len(d['maps']) == 7
