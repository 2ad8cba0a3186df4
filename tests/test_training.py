"""The pipeline on a toy: every stage, checkpoints, interruption by keyboard and by SIGKILL, frozen
parts, the guard, the tables."""
import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback

import lowlight_nat.training.learner as L
import lowlight_nat.training.pipeline as T
from lowlight_nat.data.loaders import LowLightDataLoaders
from lowlight_nat.io.images import write_image
from lowlight_nat.models.checkpoint import load_model, read_metadata
from lowlight_nat.models.config import ModelConfig, TrainPlan
from lowlight_nat.models.lowlight_nat import LowLightNAT
from lowlight_nat.training.callbacks import AdversarialStep
from lowlight_nat.training.checkpoints import Checkpoint, Resume, load_state

TOY = replace(ModelConfig.tiny(), n_codes=16, vq_channels=(8, 8), enc_channels=(8, 8, 8), cond=8,
              flow_steps=1, flow_hidden=8, dec_channels=(8, 8), dilations=(1, 2), nat_width=16,
              nat_depth=1, feat_width=16, feat_depth=1, light_channels=(8, 8, 16))
PLAN = replace(TrainPlan.tiny().each_stage(steps=12, bs=2, crop=32), context=(48, 48), bf16=False)
pytestmark = [pytest.mark.filterwarnings('ignore'), pytest.mark.slow]


def pictures(n=4, size=48):
    g = torch.Generator().manual_seed(0)
    return [
        torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=g), size=(size, size),
                                        mode='bilinear')[0] for _ in range(n)
    ]

def toy_dls(size, bs, n):
    ps = pictures()
    return LowLightDataLoaders.from_synthetic(ps, val_images=ps[:1], size=size, bs=bs,
                                              items_per_epoch=n, device='cpu')

@pytest.fixture(autouse=True)
def short_epochs(monkeypatch):
    "Epochs of three steps, so that there is a middle to be interrupted in"
    monkeypatch.setattr(T, 'train_stage', partial(T.train_stage, epoch_steps=3, validations=2))

def weights(path): return {k: v.clone() for k, v in load_model(path).state_dict().items()}

def same(a, b): return [k for k in a if not torch.equal(a[k], b[k])]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "An uninterrupted run"
    out = tmp_path_factory.mktemp('whole')
    mp = pytest.MonkeyPatch()
    with mp.context() as m:
        m.setattr(T, 'train_stage', partial(T.train_stage, epoch_steps=3, validations=2))
        T.train_pipeline(TOY, PLAN, toy_dls, out, minutes=0, about=dict(command='test'))
    return out

def test_all_stages_leave_their_checkpoint(whole):
    assert sorted(
        p.name
        for p in whole.glob('*.safetensors')) == sorted([f'{s}.safetensors' for s in T.STAGES]
                                                        + ['model.safetensors'])
    assert not list(whole.glob('*.pt')) and not list(whole.rglob('*.part'))
    for s in T.STAGES:
        about = read_metadata(whole/f'{s}.safetensors').about
        assert about['stage'] == s and about['figures']['gt_mean_psnr'] > 0
        assert any((whole/'previews'/s).glob('*.jpg'))
    about = load_model(whole/'model.safetensors').about
    assert set(about['stages']) == set(
        T.STAGES) and (about['seed'], about['command'], about['val']['n']) == (PLAN.seed, 'test', 1)

def test_tables(whole):
    for s in T.STAGES:
        rows = list(csv.DictReader((whole/f'{s}.csv').open()))
        assert [r['step'] for r in rows if r['split'] == 'train'] == ['0', '10']
        assert [r['step'] for r in rows if r['split'] == 'val'] == ['6', '12']
        # of the light: on pictures that are trained on, beside
        assert [r['step'] for r in rows if r['split'] == 'fit'] == ['6', '12']*(s == 'light')
        assert set(T.STAGES[s].terms) <= set(rows[0]) and all(
            float(r['loss']) == float(r['loss']) for r in rows)
        assert all(float(r['gt_mean_psnr']) > 0 for r in rows if r['split'] != 'train')

def test_later_stages_leave_the_codebook_alone(whole):
    states = {s: weights(whole/f'{s}.safetensors') for s in T.STAGES}
    book = [k for k in states['codebook'] if k.startswith('vqgan.')]
    assert {'vqgan.quantizer.codes', 'vqgan.quantizer.count', 'vqgan.mean'} <= set(book)
    for s in 'flow', 'nat', 'decoder':
        assert not [k for k in book if not torch.equal(states[s][k], states['codebook'][k])]
    def changed(a, b):
        return {k.split('.')[0] for k in same(states[a], states[b])}
    assert changed('light', 'codebook') == {'vqgan'}
    assert changed('codebook', 'flow') == {'encoder', 'flow', 'spread'}
    assert changed('flow', 'nat') == {'nat'}
    assert changed('nat', 'decoder') == {'encoder', 'flow', 'spread', 'nat', 'fusion'}

def test_same_seed_same_run(whole, tmp_path):
    T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, stages='light')
    T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, stages='codebook')
    assert not same(weights(tmp_path/'codebook.safetensors'), weights(whole/'codebook.safetensors'))


class Stop(Callback):
    "Interrupt before a step, as Ctrl-C would"
    def __init__(self, step): self.step = step
    def before_batch(self):
        if self.training and self.learn.train_iter == self.step: raise KeyboardInterrupt

def interrupted(monkeypatch, name, step):
    real = T.stage_learner
    monkeypatch.setattr(
        T, 'stage_learner', lambda n, dls, model, plan, cbs=(), make=None: real(
            n, dls, model, plan, [*cbs, *([Stop(step)] if n == name else [])], make))

@pytest.mark.parametrize('name,step', [('light', 8), ('codebook', 8), ('flow', 1), ('flow', 7),
                                       ('nat', 7), ('decoder', 8)])
def test_resumed_by_keyboard_is_the_same_run(whole, tmp_path, monkeypatch, name, step):
    before = list(T.STAGES)[:list(T.STAGES).index(name)]
    for s in before:
        (tmp_path/f'{s}.safetensors').write_bytes((whole/f'{s}.safetensors').read_bytes())
    with monkeypatch.context() as m:
        interrupted(m, name, step)
        with pytest.raises(KeyboardInterrupt):
            T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, stages=name, minutes=0)
    assert (tmp_path/f'{name}.pt').exists() == (
        step >= 3) and not (tmp_path/f'{name}.safetensors').exists()
    T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, stages=name, resume=True, minutes=0)
    assert not same(weights(tmp_path/f'{name}.safetensors'), weights(whole/f'{name}.safetensors'))
    # nor is a row lost or doubled
    assert (tmp_path/f'{name}.csv').read_text() == (whole/f'{name}.csv').read_text()
    assert not (tmp_path/f'{name}.pt').exists()

def test_stopped_while_latents_are_written(whole, tmp_path, monkeypatch):
    "What is there stays, the rest is computed, and the stage is that of a run in one go"
    import lowlight_nat.training.latents as S
    (tmp_path/'flow.safetensors').write_bytes((whole/'flow.safetensors').read_bytes())
    real = S.latents_of
    def stopped(*args):
        if len(list((tmp_path/'latents').glob('*.safetensors'))) == 3: raise KeyboardInterrupt
        return real(*args)
    with monkeypatch.context() as m:
        m.setattr(S, 'latents_of', stopped)
        with pytest.raises(KeyboardInterrupt):
            T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, stages='nat', minutes=0)
    then = {p: p.stat().st_mtime_ns for p in (tmp_path/'latents').glob('*.safetensors')}
    T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, stages='nat', resume=True, minutes=0)
    now = {p: p.stat().st_mtime_ns for p in (tmp_path/'latents').glob('*.safetensors')}
    assert len(then) == 3 and len(now) == PLAN.latents*4 and then.items() <= now.items()
    assert not same(weights(tmp_path/'nat.safetensors'), weights(whole/'nat.safetensors'))
    assert (tmp_path/'nat.csv').read_text() == (whole/'nat.csv').read_text()

def test_the_critic_is_resumed_too(tmp_path):
    def run(path, stop=None, resume=False):
        torch.manual_seed(0)
        model = LowLightNAT(TOY)
        dls = toy_dls(32, 2, 6)
        back = Resume(path) if resume else None
        learn = L.codebook_learner(dls, model, PLAN, [
            AdversarialStep(.5, model.vqgan.decoder.conv_out[1].weight, start=.1, ch=4),
            Checkpoint(path, 0, stop), *([back] if back else [])
        ])
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(4, 1e-3, start_epoch=back.epoch if back else 0)
        return {k: v.clone() for k, v in model.state_dict().items()}
    a = run(tmp_path/'a.pt')
    run(tmp_path/'b.pt', stop=2)
    b = run(tmp_path/'b.pt', resume=True)
    assert not same(a, b)

def test_skipped_epochs_are_not_written(tmp_path):
    """A checkpoint of epoch 1 with the weights of epoch 2 would repeat steps if the run died just
    then."""
    def learner(*cbs):
        torch.manual_seed(0)
        return L.flow_learner(toy_dls(32, 2, 6), LowLightNAT(TOY), PLAN, cbs)
    path = tmp_path/'a.pt'
    wrote = []
    class Log(Callback):
        order = 61
        def after_epoch(self): wrote.append(load_state(path)['epoch'])
    with (l := learner(Checkpoint(path, 0, stop_after=2))).no_bar(), l.no_logging():
        l.fit_one_cycle(4, 1e-3)
    back = Resume(path)
    with (l := learner(Checkpoint(path, 0), back, Log())).no_bar(), l.no_logging():
        l.fit_one_cycle(4, 1e-3, start_epoch=back.epoch)
    assert wrote == [2, 2, 3, 3]


SCRIPT = '''
import sys; sys.path.insert(0, {tests!r})
import torch; torch.set_num_threads({threads})
from test_training import *
T.train_stage = partial(T.train_stage, epoch_steps=3, validations=2)
T.train_pipeline(TOY, PLAN, toy_dls, {out!r}, resume={resume}, minutes=0)
'''
def test_killed_and_resumed_is_the_same_run(whole, tmp_path):
    """SIGKILL in the middle of the second stage; what is there can be read, and the run ends as if
    nothing had happened."""
    def script(resume):
        return [
            sys.executable, '-W', 'ignore', '-c',
            SCRIPT.format(tests=str(Path(__file__).parent), out=str(tmp_path), resume=resume,
                          threads=torch.get_num_threads())
        ]
    p = subprocess.Popen(script(False), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time() + 120
    while not (tmp_path/'flow.pt').exists() and p.poll() is None and time.time() < end:
        time.sleep(.002)
    assert p.poll() is None, 'the run ended before it could be killed'
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    for f in tmp_path.glob('*.pt'): assert load_state(f)['epoch'] >= 1     # whole, or not there
    assert not (tmp_path/'model.safetensors').exists()
    T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, resume=True, minutes=0)
    for s in (*T.STAGES, 'model'):
        assert not same(weights(tmp_path/f'{s}.safetensors'), weights(whole/f'{s}.safetensors')), s

def test_never_half_a_checkpoint(tmp_path, monkeypatch):
    from lowlight_nat.training.checkpoints import save_beside
    save_beside(dict(a=1), tmp_path/'c.pt')
    def half(obj, file):
        file.write(b'half')
        raise OSError('no space left')
    monkeypatch.setattr(torch, 'save', half)
    with pytest.raises(OSError): save_beside(dict(a=2), tmp_path/'c.pt')
    monkeypatch.undo()
    assert torch.load(tmp_path/'c.pt') == dict(a=1)


class Poison(Callback):
    "From a step on, spoil the input, or the gradient alone"
    def __init__(self, step, where):
        self.step = step
        self.where = where
    def _now(self): return self.training and self.learn.train_iter >= self.step
    def before_batch(self):
        if self._now() and self.where == 'input':
            self.learn.xb = tuple(x*float('nan') for x in self.xb)
    def after_backward(self):
        if self._now() and self.where == 'gradient':
            next(p for p in self.model.parameters() if p.grad is not None).grad.fill_(float('nan'))

@pytest.mark.parametrize('where', ['input', 'gradient'])
def test_guard_names_the_files_and_spares_the_checkpoint(tmp_path, where):
    torch.manual_seed(0)
    dls = toy_dls(32, 2, 6)
    model = LowLightNAT(TOY)
    path = tmp_path/'c.pt'
    learn = L.codebook_learner(dls, model, PLAN, [Checkpoint(path, 0), Poison(5, where)])
    with pytest.raises(
            FloatingPointError,
            match='(?s)step 5.*the batch held [0-3], [0-3]\\.'), learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(4, 1e-3)
    state = load_state(path)
    assert state['epoch'] == 1 and all(v.isfinite().all() for v in state['model'].values())
    assert all(p.isfinite().all() for p in model.parameters())


def test_done_stages_are_kept_and_what_stands_on_new_ones_is_not(whole, tmp_path):
    for f in whole.glob('*.safetensors'): (tmp_path/f.name).write_bytes(f.read_bytes())
    stamp = {
        f.name: f.stat().st_mtime_ns
        for f in tmp_path.glob('*.safetensors')
        if f.name != 'model.safetensors'
    }
    T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, resume=True)
    assert {n: (tmp_path/n).stat().st_mtime_ns for n in stamp} == stamp
    (tmp_path/'nat.safetensors').unlink()
    T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, resume=True)
    new = {n for n in stamp if (tmp_path/n).stat().st_mtime_ns != stamp[n]}
    assert new == {'nat.safetensors', 'decoder.safetensors'}

def copy(whole, to):
    for f in whole.glob('*.safetensors'): (to/f.name).write_bytes(f.read_bytes())
    return {f.name: f.read_bytes() for f in to.glob('*.safetensors')}

def test_a_new_codebook_makes_what_stands_on_it_stale(whole, tmp_path):
    old = copy(whole, tmp_path)
    for s in 'light', 'codebook':
        T.train_pipeline(TOY, replace(PLAN, seed=7), toy_dls, tmp_path, stages=s, overwrite=True)
    model = T.train_pipeline(TOY, replace(PLAN, seed=7), toy_dls, tmp_path, resume=True)
    assert [n for n in old if (tmp_path/n).read_bytes() == old[n]] == []
    state = model.state_dict()
    assert not [
        k for k, v in weights(tmp_path/'codebook.safetensors').items()
        if k.startswith('vqgan.') and not torch.equal(v, state[k])
    ]
    assert load_model(tmp_path/'model.safetensors').about['seed'] == 7

@pytest.mark.parametrize('change', [dict(seed=7), dict(lr=2e-3), dict(synthetic=0.5)], ids=lambda c: next(iter(c)))
def test_a_finished_stage_of_another_plan_is_refused_and_kept(whole, tmp_path, change):
    old = copy(whole, tmp_path)
    other = PLAN.each_stage(**change) if 'lr' in change else replace(PLAN, **change)
    with pytest.raises(ValueError, match=f'another {next(iter(change))}'):
        T.train_pipeline(TOY, other, toy_dls, tmp_path, resume=True)
    assert {n: (tmp_path/n).read_bytes() for n in old} == old

@pytest.mark.parametrize('name', ['flow', 'decoder'])
def test_a_finished_stage_is_not_trained_again_by_resume(whole, tmp_path, name):
    old = copy(whole, tmp_path)
    T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, stages=name, resume=True)
    assert (tmp_path/f'{name}.safetensors').read_bytes() == old[f'{name}.safetensors']

def test_a_stage_may_start_from_any_checkpoint(whole, tmp_path):
    path = whole/'model.safetensors'
    was = read_metadata(whole/'model.safetensors').config
    plan = replace(PLAN.each_stage(lr=1e-9), ema=0., nat_off=0., transpose=True)
    plan = replace(plan, decoder=replace(plan.decoder, steps=3))
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        T.train_pipeline(TOY, plan, toy_dls, tmp_path, stages='decoder',
                         start=tmp_path/'none.safetensors')
    with pytest.raises(ValueError, match='another n_codes'):
        T.train_pipeline(replace(TOY, n_codes=8), plan, toy_dls, tmp_path, stages='decoder',
                         start=path)
    seen = []
    stage = T.train_stage
    # factor and tau are those of the model that goes on, before the first step
    with pytest.MonkeyPatch().context() as m:
        m.setattr(
            T, 'train_stage', lambda name, model, plan, *args, **kw: (seen.append(
                (name, model.cfg, plan)), stage(name, model, plan, *args, **kw))[1])
        T.train_pipeline(TOY, plan, toy_dls, tmp_path, stages='decoder', start=path)
    old = weights(path)
    new = weights(tmp_path/'model.safetensors')
    assert not [
        k for k in old if not k.startswith('exposure.')
        and not torch.allclose(old[k].float(), new[k].float(), atol=1e-2)
    ]
    (name, cfg, used), = seen
    began = read_metadata(tmp_path/'model.safetensors').about['start']
    assert began['file'] == path.name and set(began['stages']) == set(
        T.STAGES) and began['steps'] == [12]*5 and began['command'] == 'test'
    assert name == 'decoder' and used == plan and (cfg.factor, cfg.tau) != (
        1., TOY.tau) and cfg.factor == pytest.approx(was.factor, rel=0.05)

def test_a_batch_that_does_not_fit_is_taken_in_parts(whole, tmp_path):
    "From the weights that the stage began with, however far it had come when memory ran out"
    step = T.StageLearner._step
    def run(out, fits): # steps that the whole batch gets before memory runs out
        shown = []
        def short(self):
            if self.dls.train.bs > 1 and len(shown) == fits:
                raise torch.cuda.OutOfMemoryError('CUDA out of memory')
            shown.append(self.dls.train.bs)
            return step(self)
        with pytest.MonkeyPatch().context() as m:
            m.setattr(T.StageLearner, '_step', short)
            out.mkdir()
            start_of('codebook', whole, out)
            T.train_pipeline(TOY, PLAN, toy_dls, out, stages='codebook')
        return shown, weights(out/'codebook.safetensors')
    early, a = run(tmp_path/'early', 0)
    late, b = run(tmp_path/'late', 5)
    assert early[-12:] == [1]*12 and late[:5] == [2]*5 and set(late[5:]) == {1}
    assert same(a, b) == [] and same(weights(whole/'codebook.safetensors'), b)
    assert all(v.isfinite().all() for v in b.values() if v.is_floating_point())

def test_a_run_that_had_halved_its_batch_is_resumed(tmp_path, monkeypatch):
    "Stopped and gone on, with the same parts of a batch, it ends as the run that was never stopped."
    def run(out, stop=None, resume=False, room=1):
        step = L.StageLearner._step
        shown = []
        def short(self):
            if self.dls.train.bs > room: raise torch.cuda.OutOfMemoryError('CUDA out of memory')
            shown.append(self.dls.train.bs)
            return step(self)
        with monkeypatch.context() as m:
            m.setattr(L.StageLearner, '_step', short)
            if stop: interrupted(m, 'flow', stop)
            T.train_pipeline(TOY, PLAN, toy_dls, out, stages='flow', resume=resume, minutes=0)
        return shown
    torch.manual_seed(0)
    book = tmp_path/'codebook.safetensors'
    T.save_model(LowLightNAT(TOY), book, half=False)
    for out in 'whole', 'stopped':
        (tmp_path/out).mkdir()
        (tmp_path/out/'codebook.safetensors').write_bytes(book.read_bytes())
    assert run(tmp_path/'whole') == [1]*12     # steps, each of two batches of one
    with pytest.raises(KeyboardInterrupt): run(tmp_path/'stopped', stop=15)
    # also where there is room for the whole batch by now: 2 of 4 epochs are left
    assert run(tmp_path/'stopped', resume=True, room=2) == [1]*6
    a, b = (tmp_path/out for out in ('whole', 'stopped'))
    assert not same(weights(a/'flow.safetensors'), weights(b/'flow.safetensors'))
    assert (a/'flow.csv').read_text() == (b/'flow.csv').read_text()

def test_the_last_stage_sees_whole_pieces_now_and_then():
    torch.manual_seed(0)
    stage = T.STAGES['decoder'](LowLightNAT(TOY), replace(PLAN, whole=0.5)).train()
    x_low = torch.rand(9, 3, 96, 96)*0.1
    x_high = torch.rand(9, 3, 96, 96)
    seen = {tuple(stage.view(x_low, x_high).x.shape) for _ in range(40)}
    assert seen == {(9, 3, 32, 32), (1, 3, 96, 96)}
    assert {
        tuple(T.STAGES['flow'](stage.model, stage.plan).train().view(x_low, x_high).x.shape)
        for _ in range(20)
    } == {(9, 3, 32, 32)}

def test_a_stage_refuses_what_does_not_fit(whole, tmp_path):
    with pytest.raises(FileNotFoundError, match='train the stage flow first'):
        T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, stages='nat')
    with pytest.raises(ValueError, match='choose one of'):
        T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, stages='last')
    with pytest.raises(ValueError, match='cond'):
        T.train_pipeline(replace(TOY, cond=16), PLAN, toy_dls, whole, stages='nat', overwrite=True)

@pytest.mark.parametrize('name', ['nat', 'decoder'])
def test_a_picture_of_nan_ends_in_a_loss_of_nan(name):
    "Not in an error from deep inside: the guard that watches the loss knows the files."
    model = LowLightNAT(TOY)
    stage = T.STAGES[name](model, PLAN).train()
    align = model.align
    def broken(*args, **kw):
        a = align(*args, **kw)
        a.z_tilde = a.z_tilde.clone()
        a.z_tilde[0] = float('nan')
        return a
    model.align = broken
    terms = stage(torch.rand(2, 3, 64, 64)*0.1, torch.rand(2, 3, 64, 64)).terms
    assert set(terms) == set(stage.terms) and all(v.isnan() for v in terms.values())

def test_without_rounds_the_nats_are_not_trained(tmp_path):
    with pytest.raises(ValueError, match='rounds'):
        T.train_pipeline(replace(TOY, rounds=0), PLAN, tmp_path, tmp_path/'out', 'nat')

def test_the_factor_mends_a_head_that_says_too_little(whole):
    """A head that says half the spread needs four times the factor; what is set depends on nothing
    but the held-out pairs."""
    model = load_model(whole/'decoder.safetensors')
    dls = toy_dls(48, 2, 4)
    # fitted at the end of the run, and kept
    assert model.cfg.factor != 1. and load_model(
        whole/'model.safetensors').cfg.factor == model.cfg.factor
    first = T.set_factor(model, dls)
    assert T.set_factor(model, dls) == first == model.cfg.factor
    with torch.no_grad(): model.spread.net[-1].bias.sub_(torch.tensor(2.).log())
    assert T.set_factor(model, dls) == pytest.approx(4*first, rel=.02)

def test_the_finished_model_knows_what_it_saw(whole):
    from lowlight_nat.data.overlap import unpack
    assert len(unpack(read_metadata(whole/'model.safetensors').about['fingerprints'])) == len(
        pictures())

@pytest.mark.parametrize('kind', ['synthetic', 'pairs'])
def test_only_the_codebook_is_given_the_bright_picture_twice(tmp_path, kind):
    "Also where one and the same loaders serve all stages."
    ps = pictures()
    dls = toy_dls(48, 2, 6)
    if kind == 'pairs':
        folders = [tmp_path/k for k in ('low', 'high')]
        for i, x in enumerate(ps):
            for f, y in zip(folders, (x*.1, x)):
                f.mkdir(exist_ok=True)
                write_image(y, f/f'{i}.png')
        dls = LowLightDataLoaders.from_folders(*folders, *folders, size=48, bs=2, items_per_epoch=6,
                                               relight=.5, device='cpu')
    ds = dls.train.dataset
    twice = []
    draw = ds.draw
    ds.draw = lambda k: (twice.append((o := draw(k))[0] is o[1]), o)[1]
    for stage, want in ('light', False), ('codebook', True), ('flow', False), ('nat', False):
        twice.clear()
        T.train_pipeline(TOY, PLAN.each_stage(steps=3), lambda size, bs, n: dls, tmp_path/'out',
                         stages=stage)
        assert twice and set(twice[:6]) == {want}, stage


# --- what a run stands on, one run a folder, lines for who watches ---

def start_of(name, whole, to):
    "A folder in which a stage could begin"
    for s in list(T.STAGES)[:list(T.STAGES).index(name)]:
        (to/f'{s}.safetensors').write_bytes((whole/f'{s}.safetensors').read_bytes())

def killed_in(name, out):
    "Train a stage in a process of its own, and kill it as soon as it has left a state"
    code = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out), resume=False,
                         threads=1).replace('resume=', f'stages={name!r}, resume=')
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    end = time.time() + 120
    while not (out/f'{name}.pt').exists() and p.poll() is None and time.time() < end:
        time.sleep(.002)
    assert p.poll() is None, 'the run ended before it could be killed'
    os.kill(p.pid, signal.SIGKILL)
    p.wait()

def test_a_resumed_stage_never_brings_back_an_old_codebook(whole, tmp_path):
    """Flow killed, codebook trained anew, resume: refused, and flow's state is as it was; what is
    made at last stands on the new codebook."""
    start_of('flow', whole, tmp_path)
    killed_in('flow', tmp_path)
    state = (tmp_path/'flow.pt').read_bytes()
    for s in 'light', 'codebook':
        T.train_pipeline(TOY, replace(PLAN, seed=7), toy_dls, tmp_path, stages=s, overwrite=True)
    for stages in 'flow', 'all':
        with pytest.raises(
                ValueError,
                match=r'flow.pt is of a run with another (plan.seed .*, )?.*checkpoint to stand on '
                      r'\(\w{16} then, \w{16} now\)'
        ):
            T.train_pipeline(TOY, replace(PLAN, seed=7), toy_dls, tmp_path, stages=stages,
                             resume=True)
    assert (tmp_path/'flow.pt').read_bytes() == state and not (tmp_path/'flow.safetensors').exists()
    T.train_pipeline(TOY, replace(PLAN, seed=7), toy_dls, tmp_path, stages='flow', overwrite=True)
    book, flow = (weights(tmp_path/f'{s}.safetensors') for s in ('codebook', 'flow'))
    assert not [k for k in book if k.startswith('vqgan.') and not torch.equal(book[k], flow[k])]
    assert read_metadata(tmp_path/'flow.safetensors').about['after'] == T.stands_on(
        tmp_path, 'flow')

def test_another_start_is_noticed(whole, tmp_path, monkeypatch):
    "A stage that goes on from a checkpoint of its own stands on that one."
    a = whole/'model.safetensors'
    b = tmp_path/'b.safetensors'
    plan = replace(PLAN, decoder=replace(PLAN.decoder, steps=6))
    model = load_model(a)
    with torch.no_grad():
        model.fusion.requires_grad_(False)
        next(model.fusion.parameters()).add_(.1)
    T.save_model(model, b)
    out = tmp_path/'out'
    with monkeypatch.context() as m:
        interrupted(m, 'decoder', 4)
        with pytest.raises(KeyboardInterrupt):
            T.train_pipeline(TOY, plan, toy_dls, out, stages='decoder', start=a, minutes=0)
    assert (out/'decoder.pt').exists()
    with pytest.raises(ValueError, match='another checkpoint to stand on'):
        T.train_pipeline(TOY, plan, toy_dls, out, stages='decoder', start=b, resume=True)
    T.train_pipeline(TOY, plan, toy_dls, out, stages='decoder', start=a, resume=True)
    with pytest.raises(ValueError, match='started from another checkpoint'):
        T.train_pipeline(TOY, plan, toy_dls, out, stages='decoder', start=b, resume=True)
    done = (out/'decoder.safetensors').read_bytes()
    T.train_pipeline(TOY, plan, toy_dls, out, stages='decoder', start=a, resume=True)
    assert (out/'decoder.safetensors').read_bytes() == done

def other_dls(crop, bs, n):
    ps = [x.flip(2) for x in pictures()]
    return LowLightDataLoaders.from_synthetic(ps, val_images=ps[:1], size=crop, bs=bs,
                                              items_per_epoch=n, device='cpu')

def test_other_data_are_noticed(whole, tmp_path, monkeypatch):
    "By a finished stage and by an unfinished one, and neither is touched."
    start_of('nat', whole, tmp_path)
    with monkeypatch.context() as m:
        interrupted(m, 'nat', 4)
        with pytest.raises(KeyboardInterrupt):
            T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, stages='nat', minutes=0)
    old = {f.name: f.read_bytes() for f in T._run_files(tmp_path)}
    with pytest.raises(
            ValueError,
            match=r'nat.pt is of a run with another set of pictures \(\w{16} then, \w{16} now\)'):
        T.train_pipeline(TOY, PLAN, other_dls, tmp_path, stages='nat', resume=True)
    with pytest.raises(
            ValueError,
            match=r'light.safetensors was trained on another set of pictures \(\w{16} then, \w{16} now\)'
    ):
        T.train_pipeline(TOY, PLAN, other_dls, tmp_path, resume=True)
    assert {f.name: f.read_bytes() for f in T._run_files(tmp_path)} == old

def test_a_folder_that_holds_a_run_is_refused_and_kept(whole, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as m:
        interrupted(m, 'codebook', 8)
        with pytest.raises(KeyboardInterrupt):
            T.train_pipeline(TOY, PLAN, toy_dls, tmp_path/'half', minutes=0)
    copy(whole, tmp_path)
    for out, stages in (tmp_path/'half',
                        'all'), (tmp_path/'half',
                                 'codebook'), (tmp_path, 'all'), (tmp_path, 'flow'), (tmp_path,
                                                                                      'decoder'):
        old = {f.name: f.read_bytes() for f in T._run_files(out)}
        with pytest.raises(
                ValueError,
                match=r'holds a run already \(.*--resume.*--overwrite.*another folder') as e:
            T.train_pipeline(TOY, PLAN, toy_dls, out, stages=stages)
        assert {f.name: f.read_bytes()
                for f in T._run_files(out)} == old and '\n' not in str(e.value)
    with pytest.raises(ValueError, match='one of them'):
        T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, resume=True, overwrite=True)
    capsys.readouterr()
    T.train_pipeline(TOY, PLAN, toy_dls, tmp_path/'half', stages='codebook', overwrite=True)
    assert 'from epoch' not in capsys.readouterr().out and not same(
        weights(tmp_path/'half/codebook.safetensors'), weights(whole/'codebook.safetensors'))
    T.train_pipeline(TOY, PLAN.each_stage(steps=3), toy_dls, tmp_path/'new', stages='light',
                     resume=True)
    assert 'holds no run to go on with' in capsys.readouterr().out

HOLD = """
import sys, time
from lowlight_nat.io.records import folder_lock
with folder_lock({out!r}): print('mine', flush=True); time.sleep(600)
"""
def test_two_runs_in_one_folder_at_once(tmp_path):
    "The second is refused and changes nothing; when the first was killed, its lock is none."
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c',
                          HOLD.format(out=str(tmp_path))], stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == 'mine\n'
    with pytest.raises(
            ValueError,
            match=rf"Another run is writing into .*process {p.pid} on .*give another folder") as e:
        T.train_pipeline(TOY, PLAN, toy_dls, tmp_path, overwrite=True)
    assert '\n' not in str(e.value) and [f.name for f in tmp_path.iterdir()] == ['.lock']
    os.kill(p.pid, signal.SIGKILL)
    p.communicate()
    T.train_pipeline(TOY, PLAN.each_stage(steps=3), toy_dls, tmp_path, stages='light')
    assert (tmp_path/'light.safetensors').exists()

def test_locks_without_fcntl(tmp_path, monkeypatch):
    "As on Windows, where msvcrt locks one byte: taken, refused to the next, given back."
    from lowlight_nat.io import records as record
    taken = []
    class Msvcrt:
        LK_NBLCK = 2
        @staticmethod
        def locking(fd, mode, n):
            if os.lseek(fd, 0, os.SEEK_CUR) != 2**30 or n != 1: raise AssertionError('another byte')
            if taken: raise OSError(13, 'Permission denied')
            taken.append(fd)
    monkeypatch.setattr(record, 'fcntl', None)
    monkeypatch.setattr(record, 'msvcrt', Msvcrt)
    with record.folder_lock(tmp_path):
        record._held.clear()   # as another process would see it
        with pytest.raises(ValueError, match=f'process {os.getpid()} on '):
            with record.folder_lock(tmp_path): pass
    taken.clear()
    with record.folder_lock(tmp_path): pass

def test_plain_lines_where_nobody_sees_a_bar(tmp_path):
    """Without a terminal: a line an epoch with the stage's name, one for each thing that takes
    long, a last one that names the result, and nothing else."""
    code = SCRIPT.format(tests=str(Path(__file__).parent), out=str(tmp_path), resume=False,
                         threads=1)
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    lines = r.stdout.splitlines()
    assert '\r' not in r.stdout and '\x1b' not in r.stdout and '\u2588' not in r.stdout and '[' not in r.stdout
    for s in T.STAGES:
        assert sum(l.startswith(f'{s}: epoch ')
                   for l in lines) == 4 and f'{s}: 4 epochs of 3 steps' in lines
    for s in 'flow', 'decoder':
        at = [
            next(i
                 for i, l in enumerate(lines)
                 if l.startswith(f'{s}: {words}'))
            for words in ('epoch 4 of 4',
                          'factor of the temperature, on 1 validation picture',
                          'threshold tau, on 16 pictures', 'tau is ')
        ]
        assert at == sorted(at)
    assert all(l.split(':')[0] in (*T.STAGES, 'model', 'done') for l in lines)
    assert lines[-1].startswith(
        f"done: '{tmp_path/'model.safetensors'}', on the validation pictures PSNR GT-mean ")

def test_what_follows_a_stage_is_scaled_with_its_steps(tmp_path, monkeypatch, capsys):
    did = {}
    factor = T.set_factor
    monkeypatch.setattr(T, 'set_factor', lambda model, dls, **kw:
                        (did.update(kw), factor(model, dls, **kw))[1])
    start = tmp_path/'start.safetensors'
    torch.manual_seed(0)
    T.save_model(LowLightNAT(TOY), start)
    T.train_pipeline(TOY, PLAN.each_stage(steps=3), toy_dls, tmp_path/'out', stages='flow',
                     start=start, scale=.01)
    assert did == dict(pictures=1, seed=PLAN.seed)
    out = capsys.readouterr().out
    assert 'tau, on 2 pictures' in out
    assert f"done: '{tmp_path/'out/flow.safetensors'}'" in out


# --- the light, and natural photographs ---

def test_the_light_that_was_best_on_new_scenes_is_kept(whole, tmp_path, monkeypatch):
    """Also when the run was stopped after it; and its figures, on new scenes and on those trained
    on, are in the checkpoint."""
    plan = replace(PLAN, light=replace(PLAN.light, lr=1e-9))
    real = T.stage_learner
    class Spoil(Callback):
        order = 30
        def after_step(self):
            if self.epoch >= 2:
                for p in self.learn.model.model.light.parameters(): p.data.add_(0.05)
    def spoilt(stop=None):
        def make(n, dls, model, plan, cbs=(), make=None):
            more = [Spoil(), *([Stop(stop)] if stop else [])]
            return real(n, dls, model, plan, [*cbs, *more], make)
        return make
    def run(out, stop=None, resume=False):
        with monkeypatch.context() as m:
            m.setattr(T, 'stage_learner', spoilt(stop))
            T.train_pipeline(TOY, plan, toy_dls, out, stages='light', resume=resume, minutes=0)
    run(tmp_path/'a')
    rows = list(csv.DictReader((tmp_path/'a/light.csv').open()))
    val = [float(r['loss']) for r in rows if r['split'] == 'val']
    figures = read_metadata(tmp_path/'a/light.safetensors').about['figures']
    assert figures['valid_loss'] == pytest.approx(min(val), abs=1e-4) and min(val) < val[-1] - .01
    assert figures['step'] == 6 and figures['fit_gt_mean_psnr'] > 0
    kept = load_model(tmp_path/'a/light.safetensors')
    x_low, x_high = next(iter(toy_dls((48, 48), 2, 6).valid))
    with torch.no_grad(): terms = T.STAGES['light'](kept, plan).eval()(x_low, x_high).terms
    assert sum(v.item() for v in terms.values()) == pytest.approx(min(val), abs=1e-3)
    with pytest.raises(KeyboardInterrupt): run(tmp_path/'b', stop=11)
    run(tmp_path/'b', resume=True)
    a, b = (weights(tmp_path/o/'light.safetensors') for o in 'ab')
    assert not same(a, b)
    assert (tmp_path/'a/light.csv').read_text() == (tmp_path/'b/light.csv').read_text()

def test_natural_photographs_train_too(tmp_path):
    "By one call on folders; and they are remembered as seen."
    from lowlight_nat.data.overlap import unpack
    for part, factor in ('low', .1), ('high', 1):
        for split in 'train', 'val':
            (tmp_path/split/part).mkdir(parents=True)
            for i, x in enumerate(pictures(3)): write_image(factor*x, tmp_path/split/part/f'{i}.png')
    (tmp_path/'natural').mkdir()
    for i, x in enumerate(pictures(5)): write_image(x[:, :40, :30], tmp_path/f'natural/n{i}.png')
    plan = replace(PLAN.each_stage(steps=3), natural_share=.4, synthetic=.5, relight=.5,
                   transpose=True)
    T.train_pipeline(TOY, plan, tmp_path, tmp_path/'out', natural=tmp_path/'natural')
    about = read_metadata(tmp_path/'out/model.safetensors').about
    assert len(unpack(about['fingerprints'])) == 3 + 5
    assert len(list((tmp_path/'out/latents').glob('*.safetensors'))) == plan.latents*8
    with pytest.raises(ValueError, match='natural is a folder'):
        T.train_pipeline(TOY, plan, toy_dls, tmp_path/'new', natural=tmp_path/'natural')

def test_glare_has_no_stage_light(tmp_path):
    cfg = replace(ModelConfig.base(), vq_channels=(32, 64, 64), n_codes=16, cond=8, flow_steps=1,
                  flow_hidden=8, nat_width=32, nat_depth=1, nat_heads=4, feat_width=16,
                  feat_depth=1)
    with pytest.raises(ValueError, match='choose one of codebook, flow'):
        T.train_pipeline(cfg, PLAN, toy_dls, tmp_path, stages='light')
    plan = PLAN.each_stage(steps=1, bs=1)
    T.train_pipeline(cfg, plan, toy_dls, tmp_path)
    assert not (tmp_path/'light.safetensors').exists()
    assert (tmp_path/'model.safetensors').exists()
    T.train_pipeline(cfg, plan, toy_dls, tmp_path, resume=True)
