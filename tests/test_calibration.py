"""The chapter on calibration: its measures of a map's worth against outside implementations and by hand, and the
script that measures them on whole pictures."""
import json
import math
import sys

import pytest
import torch

from lowlight_nat.experiments import calibration as C
from lowlight_nat.models import uncertainty as U


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def close(a, b, tol=1e-5):
    torch.testing.assert_close(torch.as_tensor(a, dtype=torch.float64),
                               torch.as_tensor(b, dtype=torch.float64), rtol=tol, atol=tol)

# --- measures of a map's worth, against others ---

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
    close(C.auroc(score, wrong), metrics.roc_auc_score(wrong.numpy(), score.numpy()), 1e-12)

@pytest.mark.parametrize('name', ['continuous', 'ties', 'one wrong'])
def test_auroc_of_torchmetrics(name):
    tm = pytest.importorskip('torchmetrics.functional.classification',
                             reason='needs torchmetrics, the outside reference')
    score, wrong = cases()[name]
    score = (score - score.min())/(score.max() - score.min())
    close(C.auroc(score, wrong), tm.binary_auroc(score, wrong.long()).item(), 1e-5)

def test_auroc_needs_both():
    for w in torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool):
        with pytest.raises(ValueError, match='wrong and right'): C.auroc(torch.rand(5), w)

@pytest.mark.parametrize('levels', [0, 5])
def test_rank_correlation(levels):
    stats = pytest.importorskip('scipy.stats', reason='needs SciPy, the outside reference')
    a = torch.rand(500)
    b = torch.rand(500)
    b = b + a
    if levels:
        a = (a*levels).floor()
        b = (b*levels).floor()
    close(C.rank_correlation(a, b), stats.spearmanr(a.numpy(), b.numpy()).statistic, 1e-9)
    with pytest.raises(ValueError, match='constant'): C.rank_correlation(a, torch.zeros(500))

@pytest.mark.parametrize('bins', [1, 10, 15])
def test_expected_calibration_error(bins):
    tm = pytest.importorskip('torchmetrics.functional.classification',
                             reason='needs torchmetrics, the outside reference')
    conf = torch.rand(5000)
    right = torch.rand(5000) < conf**2
    r = C.reliability(conf, right, bins)
    close(r.ece, tm.binary_calibration_error(conf, right.long(), n_bins=bins).item(), 1e-5)
    assert r.count.sum() == 5000 and ((r.confidence*bins).ceil() == torch.arange(1, bins + 1)).all()

def test_reliability_at_the_ends():
    r = C.reliability(torch.tensor([0., 1., 1.]), torch.tensor([False, True, True]))
    # a bin has its upper edge
    assert len(r.count) == 15 and C.reliability(torch.tensor([.5]), torch.tensor([True]),
                                                2).count.tolist() == [1, 0]
    assert r.ece == 0 and r.count[0] == 1 and r.count[-1] == 2 and r.count[1:-1].sum() == 0
    for conf, right in (torch.tensor([1.1]), torch.tensor([True])), (torch.tensor([.1, .2]),
                                                                     torch.tensor([True])):
        with pytest.raises(ValueError, match='shape of correct'): C.reliability(conf, right)

def test_sparsification_by_hand():
    error = torch.tensor([4., 3., 2., 1.])
    score = torch.tensor([1., 4., 3., 2.])
    s = C.sparsification(score, error, steps=4)
    close(s.error, [v/2.5 for v in (2.5, 7/3, 2.5, 4.)], 1e-9)      # left out: 3, then 2, then 1
    close(s.oracle, [v/2.5 for v in (2.5, 2., 1.5, 1.)], 1e-9)
    d = (s.error - s.oracle).tolist()
    close(s.ause, sum((a + b)/2*.25 for a, b in zip(d, d[1:])), 1e-9)

def test_sparsification_of_maps_that_know_all_or_nothing():
    e = torch.rand(3, 20, 30)
    assert abs(C.sparsification(e**2, e).ause) < 1e-9
    s = C.sparsification(torch.ones_like(e), e)
    close(s.error, torch.ones(20), 1e-9)
    perm = torch.randperm(e.numel())
    coarse = (e*4).floor()
    # ties: whatever the order
    close(
        C.sparsification(coarse, e).ause,
        C.sparsification(coarse.flatten()[perm],
                         e.flatten()[perm]).ause, 1e-9)
    for bad in -e, 0*e:
        with pytest.raises(ValueError, match='positive'): C.sparsification(e, bad)

@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad):
    e = torch.rand(9)
    w = torch.arange(9) < 4
    broken = e.clone()
    broken[3] = bad
    for f in (lambda: C.auroc(broken, w), lambda: C.rank_correlation(e, broken),
              lambda: C.sparsification(broken, e), lambda: C.sparsification(e, broken),
              lambda: C.reliability(broken, w)):
        with pytest.raises(ValueError, match='NaN or infinite'): f()
    with pytest.raises(ValueError, match='empty'): C.auroc(torch.zeros(0), torch.zeros(0))

def test_five_places_by_hand():
    "The numbers that the chapter computes by hand."
    score = torch.tensor([.9, .7, .6, .3, .1])
    error = torch.tensor([.8, .1, .5, .3, .2])
    wrong = torch.tensor([True, False, True, False, False])
    close(C.auroc(score, wrong), 5/6, 1e-9)
    close(C.rank_correlation(score, error), .4, 1e-9)
    s = C.sparsification(score, error, steps=5)
    close(s.error*.38, [.38, .275, 1/3, .25, .2], 1e-6)
    close(s.oracle*.38, [.38, .275, .2, .15, .1], 1e-6)
    close(s.ause, .149, 1e-3)
    r = C.reliability(torch.tensor([.85, .85, .25, .25]), torch.tensor([True, False, False, False]), bins=10)
    close(r.ece, .5*.35 + .5*.25, 1e-6)
    assert r.count.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 2, 0]

def test_scores_are_those_of_their_parts():
    error = torch.rand(500)
    score = error + .3*torch.randn(500)
    wrong = torch.rand(500) < error
    got = C.uncertainty_scores(score, error, wrong)
    assert list(got) == ['auroc_wrong', 'auroc_tenth', 'auroc_fifth', 'spearman', 'ause']
    for share, key in (.1, 'auroc_tenth'), (.2, 'auroc_fifth'):
        worst = torch.zeros(500, dtype=torch.bool)
        worst[error.argsort(descending=True)[:int(500*share)]] = True
        assert got[key] == C.auroc(score, worst)
    assert got['auroc_wrong'] == C.auroc(score, wrong)
    assert got['spearman'] == C.rank_correlation(score, error)
    assert got['ause'] == C.sparsification(score, error).ause

def test_worse_than_chance():
    e = torch.rand(1000)
    assert abs(C.sparsification(e.exp(), e).ause) < 1e-9   # any rising function of the error is an oracle
    assert C.sparsification(-e, e).ause > C.sparsification(torch.rand(1000), e).ause > .1


# --- temperature ---

def test_calibration_lowers_the_calibration_error():
    codes = torch.randn(128, 4)
    truth = torch.randint(0, 128, (8000,))
    d2 = torch.cdist(codes[truth] + .4*torch.randn(8000, 4), codes)**2
    T = U.calibrate_temperature(d2[:4000], truth[:4000])
    def ece(t):
        c, k = U.token_log_probs(d2[4000:], t).exp().max(-1)
        return C.reliability(c.clamp(max=1), k == truth[4000:]).ece
    assert ece(T) < .04 < min(ece(T/5), ece(T*5))


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

def test_what_the_chapter_says_of_the_run(root):
    "If a new run says otherwise, so must the text."
    d = json.loads((root/'nbs/figures/run/uncertainty.json').read_text())
    m = d['maps']
    one = m['entropy, one T, calibrated']
    each = m['entropy, T = 2 sigma^2']
    assert max(one['auroc_tenth'], one['auroc_fifth']) < .4 and one['spearman'] < 0 < one['auroc_wrong'] - .5
    assert min(each['auroc_wrong'], each['auroc_tenth'], each['auroc_fifth']) > .5
    assert m['sigma']['spearman'] > each['spearman'] > 0 and m['sigma']['ause'] < each['ause']
    assert all(abs(o['within']) < abs(o['spearman']) for o in m.values())
    c = d['calibration']
    for family in 'one T', 'T = 2 sigma^2':
        on_train = c[f'{family}, fitted on training pairs']
        on_half = c[f'{family}, fitted on the other half']
        assert on_train['scale'] < on_half['scale'] and on_train['ece'] < on_half['ece']
    assert on_half['nll'] < on_train['nll']
