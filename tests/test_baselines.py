"""Restormer, LLFlow and the classics: sizes, invertibility, training through the Learner, any size
of picture, files and their errors."""
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from safetensors.torch import load_file, save_file

import lowlight_nat.peers.baselines as B
from lowlight_nat.data.loaders import LowLightDataLoaders
from lowlight_nat.evaluation.fidelity import grey_mean
from lowlight_nat.io.records import folder_lock
from lowlight_nat.models.flow import check_flow
from lowlight_nat.peers.baselines import (
    Baseline,
    BaselinePlan,
    baseline_learner,
    baseline_plan,
    build_baseline,
    clahe,
    gamma,
    load_baseline,
    save_baseline,
    train_baseline,
)
from lowlight_nat.peers.llflow import ImageFlow, LLFlow, LLFlowConfig, colour_map, noise_map, squeeze
from lowlight_nat.peers.plain import PlainConfig, PlainUNet
from lowlight_nat.peers.restormer import ChannelNorm, Restormer, RestormerConfig, channel_attention
from lowlight_nat.training.checkpoints import Checkpoint

pytestmark = pytest.mark.filterwarnings('ignore')
NAMES = ('restormer', 'llflow', 'plain')
TINY = dict(
    restormer=RestormerConfig(dim=8, blocks=(1, 1, 1), heads=(1, 2, 4), refinement=1, expansion=2.),
    llflow=LLFlowConfig(channels=(8, 8, 8), blocks=(0, 0, 1), growth=4, cond=4, steps=1, hidden=8,
                        l1=1.),
    plain=PlainConfig((8, 8, 8)))
by_name = pytest.mark.parametrize('name', NAMES)


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

@pytest.fixture
def tiny(monkeypatch):
    "Networks of a few thousand weights in the place of `small`"
    monkeypatch.setattr(B, 'build_baseline', lambda name, preset='small': B.NETWORKS[name]
                        (TINY[name]))

def millions(m): return sum(p.numel() for p in m.parameters())/1e6
def scene(h, w): return F.interpolate(torch.rand(1, 3, 5, 5), (h, w), mode='bilinear')[0]*0.2
def started(model):
    "The network after one batch in training, as a Baseline"
    x = scene(32, 32)[None]
    model.train().pair(x, (4*x).clamp(0, 1))
    return model.eval()
def toy_dls(size, bs, n):
    ps = [scene(40, 48)*4 for _ in range(3)]
    return LowLightDataLoaders.from_synthetic(ps, val_images=ps[:1], size=size, bs=bs,
                                              items_per_epoch=n, device='cpu')


# --- sizes and formulas ---

@pytest.mark.slow
def test_parameter_counts():
    assert abs(millions(Restormer.full())/26.1 - 1) < 0.005
    assert abs(millions(LLFlow.full())/17.4 - 1) < 0.05 and abs(millions(LLFlow.small())/1.7
                                                                - 1) < 0.05
    assert 1 < millions(Restormer.small()) < 1.8
    assert 0.045 < millions(PlainUNet.small()) < 0.1

def test_channel_attention_is_attention_of_the_transpose():
    q, k, v = torch.randn(3, 2, 3, 4, 50).unbind(0)
    mixed = channel_attention(q, k, v, torch.full((3, 1, 1), 2.5))
    out, A = mixed.values, mixed.weights
    ref = F.scaled_dot_product_attention(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v,
                                         scale=2.5)
    torch.testing.assert_close(out, ref, rtol=1e-5, atol=1e-5)
    assert A.shape == (2, 3, 4, 4)

def test_norm_is_torchs():
    n = ChannelNorm(6)
    ref = torch.nn.LayerNorm(6)
    x = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(n(x),
                               ref(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)

def test_colour_map_ignores_brightness():
    x = 0.05 + 0.9*torch.rand(2, 3, 9, 7)
    torch.testing.assert_close(colour_map(x), colour_map(0.03*x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(colour_map(x).mean(1), torch.ones(2, 9, 7))
    torch.testing.assert_close(noise_map(x), noise_map(0.03*x), rtol=1e-3, atol=1e-4)
    assert colour_map(torch.zeros(1, 3, 2, 2)).eq(0).all()
    assert noise_map(x)[:, :, -1, -1].eq(0).all()   # no neighbour there

@by_name
def test_a_picture_does_not_see_its_batch(name):
    m = started(build_baseline(name))
    x = torch.stack([scene(32, 48), 3*scene(32, 48)])
    with torch.no_grad(): torch.testing.assert_close(m(x)[1:], m(x[1:]), rtol=1e-4, atol=1e-5)


# --- the flow ---

class OneCondition(torch.nn.Module):
    "An ImageFlow whose conditions are pooled from one, as the checker gives it"
    def __init__(self, flow):
        super().__init__()
        self.flow = flow
    def conds(self, c): return [F.avg_pool2d(c, 2**(i+1)) for i in range(3)]
    def forward(self, x, c): return self.flow(x, self.conds(c))
    def inverse(self, u, c): return self.flow.inverse(u, self.conds(c))

@pytest.mark.slow
def test_flow_keeps_both_promises():
    back, det = check_flow(OneCondition(ImageFlow(cond=3, steps=2, hidden=6)), dim=3, cond=3,
                           shape=(8, 8), shake=0.1)
    assert back < 1e-8 and det < 1e-7

@pytest.mark.parametrize('preset', ('small', 'full'))
@pytest.mark.slow
def test_llflow_there_and_back(preset):
    m = build_baseline('llflow', preset).train()
    x = torch.stack([scene(32, 40) for _ in range(2)])
    high = (4*x + 0.02*torch.randn_like(x)).clamp(0, 1)
    with torch.no_grad():
        m.pair(x, high)   # sets the activation normalisation
        for p in m.flow.parameters(): p.add_(0.01*torch.randn_like(p))
        conds = m.eval().encoder(x).conds
        u, logdet = m.flow(high, conds)
        assert u.shape == squeeze(high).shape == (2, 192, 4, 5) and logdet.isfinite().all()
        assert (m.flow.inverse(u, conds) - high).abs().max() < 1e-3

def test_heat():
    m = started(LLFlow.small())
    x = scene(16, 24)[None]
    with torch.no_grad():
        assert torch.equal(m(x, 1., 3), m(x, 1., 3)) and not torch.equal(m(x, 1., 3), m(x, 1., 4))
        assert torch.equal(m(x), m(x, 0., 5))
    with pytest.raises(ValueError, match='heat=-1 is negative'): m(x, -1)

def test_half_precision_leaves_the_flow_alone():
    m = LLFlow.small().train()
    x = scene(32, 32)[None]
    with torch.autocast('cpu', dtype=torch.bfloat16): terms = m.pair(x, (4*x).clamp(0, 1)).terms
    assert set(terms) == {'nll', 'l1'} and all(v.dtype == torch.float32 and v.isfinite()
                                               for v in terms.values())


# --- training ---

class Losses(Callback):
    "Keeps the loss of every step"
    def __init__(self): self.seen = []
    def after_loss(self):
        if self.training: self.seen.append(self.loss_grad.item())

@by_name
@pytest.mark.slow
def test_twenty_steps_on_real_pairs(name, lol_data):
    dls = LowLightDataLoaders.from_folder(lol_data, size=64, val_size=96, bs=2, val_bs=4,
                                          items_per_epoch=40, device='cpu')
    losses = Losses()
    learn = baseline_learner(name, dls, cbs=losses)
    with learn.no_bar(), learn.no_logging():
        before = learn.validate()
        learn.fit_one_cycle(1, 1e-3)
        after = learn.validate()
    assert len(losses.seen) == 20 and torch.tensor(losses.seen).isfinite().all()
    assert after[0] < before[0], f'validation loss {before[0]} before, {after[0]} after'
    assert sum(losses.seen[-5:]) < sum(losses.seen[:5])
    assert all(p.isfinite().all() for p in learn.model.parameters())
    assert {'EMAWeights', 'NaNGuard', 'GradientClip', 'Autocast',
            'GiveTarget'} <= {type(o).__name__
                              for o in learn.cbs}

@by_name
def test_learner_predicts_any_size(name):
    learn = baseline_learner(name, toy_dls(32, 1, 1), plan=baseline_plan(name, bf16=False),
                             model=started(build_baseline(name)))
    x = scene(19, 26)
    _, y, _ = learn.predict(x)
    assert y.shape == x.shape and torch.equal(y, learn.model.eval()(x[None]).x[0].detach())

@by_name
def test_guard_names_what_is_not_finite(name, tiny):
    learn = baseline_learner(name, toy_dls(32, 1, 2))
    next(learn.model.parameters()).data.fill_(float('nan'))
    with learn.no_bar(), learn.no_logging(), pytest.raises(FloatingPointError,
                                                           match='Look at these files'):
        learn.fit(1)

@by_name
@pytest.mark.slow
def test_resumed_run_is_the_unbroken_run(name, tiny, tmp_path, monkeypatch):
    run = partial(train_baseline, name, toy_dls, steps=6, bs=1, crop=32, epoch_steps=2, minutes=0)
    whole = run(tmp_path/'a')
    with monkeypatch.context() as m:
        class Kill(Checkpoint):
            def after_epoch(self):
                super().after_epoch()
                if self.epoch == 1: raise KeyboardInterrupt()
        m.setattr(B, 'Checkpoint', Kill)
        with pytest.raises(KeyboardInterrupt): run(tmp_path/'b')
    assert (tmp_path/f'b/{name}.pt').exists() and not (tmp_path/f'b/{name}.safetensors').exists()
    run(tmp_path/'b', resume=True)
    a, b = (load_file(tmp_path/o/f'{name}.safetensors') for o in 'ab')
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    assert not (tmp_path/f'b/{name}.pt').exists()
    assert (tmp_path/f'a/{name}.csv').read_text() == (tmp_path/f'b/{name}.csv').read_text()
    assert whole.about['figures']['gt_mean_psnr'] > 0 and whole.plan == baseline_plan(
        name, steps=6, bs=1, crop=32)

def test_finished_run_is_kept_and_another_plan_refused(tiny, tmp_path, capsys):
    run = partial(train_baseline, 'restormer', toy_dls, tmp_path, bs=1, crop=32, epoch_steps=2)
    run(steps=2)
    then = (tmp_path/'restormer.safetensors').stat().st_mtime_ns
    run(steps=2, resume=True)
    assert (tmp_path/'restormer.safetensors'
            ).stat().st_mtime_ns == then and 'kept' in capsys.readouterr().out
    with pytest.raises(ValueError, match=r'another steps \(2 then, 4 now\)'):
        run(steps=4, resume=True)

def test_a_run_is_not_lost(tiny, tmp_path):
    "A finished run is kept unless it is said to go; a folder in which one is going on is refused."
    def run(**kwargs):
        return train_baseline('llflow', toy_dls, tmp_path, steps=2, bs=1, crop=32, epoch_steps=2,
                              **kwargs)
    run(seed=1)
    before = (tmp_path/'llflow.safetensors').read_bytes()
    with pytest.raises(ValueError, match='holds a run of llflow: give resume=True'): run(seed=2)
    with folder_lock(tmp_path, '.llflow.lock'), pytest.raises(ValueError,
                                                              match='Another run is writing'):
        run(seed=2, overwrite=True)
    assert (tmp_path/'llflow.safetensors').read_bytes() == before
    run(seed=2, overwrite=True)
    assert (tmp_path/'llflow.safetensors').read_bytes() != before

@pytest.mark.slow
def test_seed_decides(tiny, tmp_path):
    w = [
        load_file(tmp_path/d/'llflow.safetensors')
        for d, s in (('a', 1), ('b', 1), ('c', 2))
        if train_baseline('llflow', toy_dls, tmp_path
                          /d, steps=2, bs=1, crop=32, epoch_steps=2, seed=s)
    ]
    assert all(torch.equal(w[0][k], w[1][k])
               for k in w[0]) and any(not torch.equal(w[0][k], w[2][k]) for k in w[0])


# --- pictures and files ---

@pytest.mark.parametrize('size', ((17, 23), (400, 600)), ids=str)
@pytest.mark.parametrize('name', ('clahe', 'gamma', *NAMES))
@pytest.mark.slow
def test_same_size_out(name, size):
    if name == 'clahe': pytest.importorskip('skimage', reason='clahe needs scikit-image')
    method = Baseline(name, started(build_baseline(name)) if name in NAMES else None)
    x = scene(*size)
    y = method(x)
    assert y.shape == x.shape and y.dtype == torch.float32 and y.isfinite().all() and 0 <= y.min(
    ) and y.max() <= 1
    assert torch.equal(y, method.enhance(x))

@by_name
def test_file_gives_the_same_picture(name, tmp_path):
    m = started(build_baseline(name))
    x = scene(33, 41)
    save_baseline(m, baseline_plan(name, steps=9), tmp_path/'m.safetensors', dict(data='toy'))
    again = load_baseline(tmp_path/'m.safetensors')
    assert torch.equal(again(x), Baseline(name, m)(x))
    assert (again.name, again.plan.steps,
            again.about) == (name, 9, dict(data='toy')) and again.model.cfg == m.cfg

def test_gamma_reaches_its_level():
    for level in (0.2, 0.4, 0.8):
        assert abs(grey_mean(gamma(scene(20, 30), level)).item() - level) < 1e-3
    assert gamma(torch.zeros(3, 4, 4)).eq(0).all() and gamma(torch.ones(3, 4, 4)).eq(1).all()
    x = scene(20, 30)
    assert (gamma(x).flatten()[x.flatten().argsort()].diff() >= -1e-6).all()   # keeps the order

def test_clahe_is_scikit_images():
    exposure = pytest.importorskip('skimage.exposure', reason='clahe needs scikit-image')
    x = scene(64, 80)
    ref = torch.from_numpy(exposure.equalize_adapthist(x.permute(1, 2, 0).numpy(),
                                                       clip_limit=0.01)).permute(2, 0, 1)
    torch.testing.assert_close(clahe(x).double(), ref.double(), rtol=1e-6, atol=1e-6)

def test_clahe_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, 'skimage.exposure', None)
    with pytest.raises(ImportError,
                       match=r'clahe needs skimage: run `pip install -e "\.\[classical\]"`'):
        clahe(scene(8, 8))

def test_errors_are_one_sentence(tmp_path):
    x = scene(16, 16)
    f = tmp_path/'m.safetensors'
    f.write_bytes(b'no tensors here')
    save_file(dict(a=torch.ones(1)), tmp_path/'other.safetensors', metadata=dict(format='other'))
    save_baseline(Restormer(TINY['restormer']), BaselinePlan(), tmp_path/'cut.safetensors')
    bad = load_file(tmp_path/'cut.safetensors')
    bad.pop('stem.weight')
    good = B.read_baseline(tmp_path/'cut.safetensors')
    # sizes that are not its own
    model = Restormer(replace(good.cfg, dim=16))
    model.cfg = good.cfg
    save_baseline(model, good.plan, tmp_path/'wrong.safetensors')
    cases = [
        (lambda: load_baseline('retinex'), FileNotFoundError, 'no file retinex'),
        (lambda: load_baseline(tmp_path), FileNotFoundError, 'no file'),
        (lambda: load_baseline(f), ValueError, 'is damaged'),
        (lambda: load_baseline(tmp_path/'other.safetensors'), ValueError, 'not one of lowlight_nat_baseline'),
        (lambda: load_baseline(tmp_path/'wrong.safetensors'), ValueError, 'do not fit'),
        (lambda: load_baseline('llflow'), ValueError, 'has to be trained'),
        (lambda: build_baseline('retinex'), ValueError, 'choose one of restormer, llflow'),
        (lambda: build_baseline('llflow', 'big'), ValueError, 'small, full'),
        (lambda: train_baseline('clahe', toy_dls, tmp_path), ValueError, "no baseline 'clahe'"),
        (lambda: train_baseline('llflow', tmp_path/'none', tmp_path), Exception, 'none'),
        (lambda: train_baseline('llflow', toy_dls, tmp_path, lr=-1), ValueError,
         'lr=-1 must be more than 0'), (lambda: gamma(x, 2.), ValueError, 'level=2.0'),
        (lambda: gamma(x[None]), ValueError, '(3,H,W)'),
        (lambda: gamma((255*x).byte()), ValueError, '8-bit'),
        (lambda: gamma(x*float('inf')), ValueError, 'NaN'),
        (lambda: RestormerConfig(blocks=(1, 2)), ValueError, 'one a level'),
        (lambda: LLFlowConfig(p_ref=2), ValueError, 'it is a share')
    ]
    for call, kind, says in cases:
        with pytest.raises(kind) as e: call()
        assert says in str(e.value) and '\n' not in str(e.value), str(e.value)


def test_restormer_takes_any_size():
    from lowlight_nat.peers.restormer import Restormer, RestormerConfig
    torch.manual_seed(0)
    net = Restormer(
        RestormerConfig(dim=8, blocks=(1, 1, 1), heads=(1, 2, 4), refinement=1,
                        unshuffle=2)).eval()
    with torch.no_grad():
        for h, w in (1, 1), (7, 30), (33, 41), (64, 48):
            assert net(torch.rand(2, 3, h, w)).shape == (2, 3, h, w)
    for bad in torch.rand(3, 16, 16), torch.rand(1, 4, 16, 16), torch.rand(1, 3, 0, 16):
        with pytest.raises(ValueError, match=r'\(B,3,H,W\)'): net(bad)


# --- the control ---

def test_the_control_is_given_the_data_of_a_plan(tiny, tmp_path):
    "Whole pictures, scenes, natural photographs; kept, and gone on with"
    from lowlight_nat.io.images import write_image
    from lowlight_nat.models.config import TrainPlan
    for split in 'train', 'val':
        for part, factor in ('low', .1), ('high', 1):
            for i in range(3):
                write_image(factor*4*scene(40, 48), tmp_path/f'data/{split}/{part}/{i}.png')
    for i in range(2): write_image(4*scene(30, 40), tmp_path/f'natural/n{i}.png')
    seen = []
    kw = dict(steps=4, bs=2, crop=(32, 48), like=replace(TrainPlan.small(), natural_share=.5),
              natural=tmp_path/'natural', epoch_steps=2, minutes=0)
    with pytest.MonkeyPatch().context() as m:
        real = B.folder_dls
        m.setattr(B, 'folder_dls', lambda *args, **kw: (seen.append(o := real(*args, **kw)), o)[1])
        b = train_baseline('plain', tmp_path/'data', tmp_path/'out', **kw)
    ds = seen[0].train.dataset
    assert (ds.own, len(ds.pairs), ds.natural_share) == (3, 5, .5)
    assert (ds.synthetic, ds.relight, ds.size) == (.2, .5, (32, 48))
    assert (b.plan.crop, b.plan.ema, b.plan.natural_share) == ((32, 48), .998, .5)
    assert load_baseline(tmp_path/'out/plain.safetensors').plan == b.plan
    again = train_baseline('plain', tmp_path/'data', tmp_path/'out', resume=True, **kw)
    x = scene(17, 23)
    assert torch.equal(again(x), b(x))
    assert baseline_plan('plain').crop == (400, 600)


@pytest.mark.parametrize('call, says', [
    (lambda: baseline_plan('retinex'), "no baseline 'retinex'; choose one of restormer, llflow, plain"),
    (lambda: baseline_plan('llflow', 'huge'), "no preset 'huge'"),
    (lambda: baseline_plan('llflow', stpes=3), 'unknown field stpes'),
    (lambda: baseline_plan('llflow', steps=0), 'steps=0 must be'),
    (lambda: B.Baseline('magic'), 'clahe, gamma, restormer, llflow, plain'),
])
def test_wrong_plan_or_name_is_refused(call, says):
    with pytest.raises(ValueError) as e: call()
    assert says in str(e.value)

def test_plan_of_a_preset():
    assert [*B.NETWORKS] == [*B.CONFIGS]
    assert [*B.CLASSICS] == ['clahe', 'gamma']
    assert BaselinePlan('llflow', steps=7) == baseline_plan('llflow', steps=7)
    assert isinstance(build_baseline('llflow').cfg, B.CONFIGS['llflow'])
    assert BaselinePlan(crop=[32, 48]).crop == (32, 48)   # JSON has lists

def test_clahe_raises_contrast_within_range():
    x = scene(64, 96)
    y = clahe(x)
    assert y.shape == x.shape
    assert y.std() > x.std()
    assert 0 <= y.min() and y.max() <= 1

def test_stage_keeps_odd_sides():
    stage = B.BaselineStage(started(build_baseline('plain')), baseline_plan('plain')).eval()
    odd = torch.rand(1, 3, 17, 23)
    with torch.no_grad():
        assert stage(odd).x.shape == odd.shape
        assert stage(odd, odd).x.shape == odd.shape
