"""Callbacks on toys: what counts as a step, half precision, and runs killed by SIGKILL at any
moment; the pipeline's own cases are in test_training."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fastai.callback.schedule
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import nn

from lowlight_nat.io.images import read_image
from lowlight_nat.models.config import ModelConfig, TrainPlan
from lowlight_nat.models.layers import has_bf16
from lowlight_nat.models.vqgan import VQGAN
from lowlight_nat.training import callbacks
from lowlight_nat.training.callbacks import (
    AdversarialStep,
    Autocast,
    CodebookCare,
    Curve,
    EMAWeights,
    FrozenEval,
    GiveTarget,
    MixedPrecision,
    NaNGuard,
    Preview,
    Term,
    Throughput,
    ValidateEvery,
    sum_terms,
)
from lowlight_nat.training.checkpoints import Checkpoint, Resume, load_state, random_state, set_random_state
from lowlight_nat.training.stages import StageOutput

pytestmark = pytest.mark.filterwarnings('ignore')
EPOCHS = 6
POSIX = pytest.mark.skipif(os.name != 'posix', reason='SIGKILL and fork are of POSIX')


class Toy(nn.Module):
    "One convolution, noise while training, rounds to be set"
    rounds = 4
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 3, 3, padding=1)
        self.drop = nn.Dropout(0.1)
    def forward(self, x_low, x_high):
        x = self.drop(self.body(x_low)) + 0.01*self.rounds
        return StageOutput(x, dict(l1=(x - x_high).abs().mean()), x_rec=x, x_norm=x_high)

def pairs(n=10, size=16):
    xs = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    return [(x*0.1, x) for x in xs]

def made(cls):
    "The same weights each time"
    torch.manual_seed(0)
    return cls()

def learner(cbs=(), model=None, bs=2, n=10, shuffle=True):
    torch.manual_seed(0)
    random.seed(0)
    dls = DataLoaders(DataLoader(pairs(n), bs=bs, shuffle=shuffle), DataLoader(pairs(2), bs=1),
                      device='cpu')
    return Learner(dls, model or made(Toy), loss_func=sum_terms, metrics=Term('l1'),
                   cbs=[GiveTarget(), *cbs])

def fit(learn, n=1, lr=.01, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(n, lr, **kwargs)
    return learn

def weights(learn): return [p.detach().clone() for p in learn.model.parameters()]

def same(a, b): return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))

class Steps(Callback):
    "Count the steps that were made"
    order = 90
    def before_fit(self): self.n = 0
    def after_step(self): self.n += 1


# --- what counts as a step ---

class Exact(Toy):
    def __init__(self):
        super().__init__()
        self.drop = nn.Identity()

def test_two_batches_of_two_are_one_of_four():
    """Also with clipping, which must see the sum, and with averaged weights, which must not count
    the halves."""
    out = []
    for bs, acc in (4, []), (2, [GradientAccumulation(4)]):
        cbs = [GradientClip(.05), EMAWeights(.9), Steps(), *acc]
        learn = learner(cbs, made(Exact), bs=bs, n=8, shuffle=False)
        with learn.no_bar(), learn.no_logging(): learn.fit(3, .01)
        out.append((learn.steps.n, weights(learn)))
    assert out[0][0] == out[1][0] == 6
    for a, b in zip(out[0][1], out[1][1]): torch.testing.assert_close(a, b, atol=1e-6, rtol=0)

def test_the_average_counts_steps():
    seen = []
    class Look(Callback):
        order = 95
        def after_batch(self):
            if self.training: seen.append(self.learn.ema_weights.t)
    fit(learner([EMAWeights(), GradientAccumulation(4), Look()], n=16))
    assert seen == [0, 1, 1, 2, 2, 3, 3, 4]

class Book(nn.Module):
    def __init__(self):
        super().__init__()
        self.vqgan = VQGAN((8, 8), n_codes=8, blocks=1)
    def forward(self, x_low, x_high):
        o = self.vqgan(x_high)
        return StageOutput(x=o.x_rec, x_norm=x_high, z=o.z, tokens=o.tokens,
                        terms=dict(l1=(o.x_rec - x_high).abs().mean(), commit=o.commit))

def test_codes_are_revived_while_gradients_are_gathered():
    model = made(Book)
    care = CodebookCare(model.vqgan, start=1., latest=1, every=2)
    fit(learner([care, GradientAccumulation(4)], model, n=24), lr=1e-3)     # 12 batches, 6 steps
    assert [row[0] for row in care.log] == [2, 4]

def test_curve_has_its_rows_while_gradients_are_gathered(tmp_path):
    fit(learner([Curve(tmp_path/'c.csv', every=4), GradientAccumulation(4)], n=24))
    rows = [r.split(',') for r in (tmp_path/'c.csv').read_text().splitlines()]
    assert [r[:2] for r in rows[1:]] == [['0', 'train'], ['4', 'train'], ['8', 'train'],
                                         ['12', 'val']]
    # the loss as it is, not a share of it
    assert all(abs(float(r[2]) - float(r[3])) < 1e-5 for r in rows[1:])


# --- half precision ---

class Precision(Callback):
    "The types that were computed in"
    def before_fit(self): self.seen = set()
    def after_pred(self):
        self.seen.add(torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu'))

@pytest.mark.parametrize('native', [False, True])
def test_bfloat16_is_left_to_devices_that_have_it(monkeypatch, native):
    asked = []
    monkeypatch.setattr(callbacks, 'has_bf16', lambda device: asked.append(device.type) or native)
    def seen(cb): return fit(learner([cb, Precision()], n=8)).precision.seen
    assert seen(Autocast()) == {torch.bfloat16 if native else False} and set(asked) == {'cpu'}
    # who asks for it gets it
    assert seen(Autocast(anyway=True)) == seen(MixedPrecision('bf16')) == {torch.bfloat16}
    assert seen(Autocast(torch.float16)) == {torch.float16}

@pytest.mark.parametrize('native', [False, True])
def test_a_card_that_imitates_bfloat16_does_not_have_it(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported',
                        lambda including_emulation=True: native or including_emulation)
    assert has_bf16(torch.device('cuda')) == native
    # as PyTorch had it before it could imitate
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: native)
    assert has_bf16(torch.device('cuda')) == native


# --- time ---

class Looks(Callback):
    "A callback that takes its time with each batch: 30 ms of a clock that only it moves."
    order = 30
    def __init__(self): self.now = 0.
    def clock(self): return self.now
    def before_batch(self): self.now += .03

def test_waiting_is_for_data_not_for_other_callbacks():
    looks = Looks()
    tp = Throughput(clock=looks.clock)
    learn = fit(learner([looks, tp], n=16))
    assert tp.steps == 8 and tp.seconds == pytest.approx(8*.03) and tp.waited == 0, tp.summary()
    assert [c.name for c in learn.cbs if c.order < -50] == []     # what notes the arrival is gone

def test_a_step_left_out_in_fp16_counts_nowhere():
    half = MixedPrecision('fp16', scale=2.**22)
    learn = fit(
        learner([half, EMAWeights(), Steps(),
                 NaNGuard(), GradientClip(1.)], made(Exact), n=40))
    assert 0 < half.skipped < 20 and half.skipped + learn.steps.n == 20
    assert all(w.isfinite().all() for w in weights(learn))

def test_fp16_with_gathered_gradients_is_close_to_fp32():
    def run(cbs):
        return weights(
            fit(
                learner([GradientAccumulation(4), GradientClip(1.), *cbs], made(Exact), n=16,
                        shuffle=False), 2))
    full = run([])
    half = run([MixedPrecision('fp16', scale=2.**10)])
    assert max((a - b).abs().max() for a, b in zip(full, half)) < 2e-3 and not same(full, half)

def test_the_scale_is_resumed(tmp_path):
    def run(path, stop=None, resume=False):
        back = Resume(path)
        learn = learner([
            MixedPrecision('fp16', scale=2.**22, every=3),
            EMAWeights(.9),
            Checkpoint(path, 0, stop), *([back] if resume else [])
        ])
        return weights(fit(learn, 4, start_epoch=back.epoch if resume else 0))
    whole = run(tmp_path/'a.pt')
    run(tmp_path/'b.pt', stop=2)
    assert load_state(tmp_path/'b.pt')['cbs']['mixed_precision']['scale'] != 2.**22
    assert same(run(tmp_path/'b.pt', resume=True), whole)


# --- guard, previews, speed, lr_find ---

class Poison(Callback):
    def __init__(self, step): self.step = step
    def after_loss(self):
        if self.training and self.learn.train_iter == self.step:
            self.learn.loss_grad = self.loss_grad*float('nan')

def test_guard_names_the_last_good_checkpoint(tmp_path):
    path = tmp_path/'c.pt'
    with pytest.raises(FloatingPointError, match='(?s)step 3.*There is no last checkpoint'):
        fit(learner([NaNGuard(), Checkpoint(path, 0), Poison(3)]), 4)
    learn = learner([NaNGuard(), Checkpoint(path, 0), Poison(12)])
    with pytest.raises(FloatingPointError, match='(?s)step 12.*untouched: .*c.pt, of 2 epochs'):
        fit(learn, 4)
    assert load_state(path)['epoch'] == 2
    back = Resume(path)     # and of a resumed run it is the one that was resumed from
    with pytest.raises(FloatingPointError, match='(?s)step 12.*untouched: .*c.pt, of 2 epochs'):
        fit(learner([NaNGuard(), Poison(12), back]), 4, start_epoch=2)

def test_the_guard_stops_where_the_last_step_spoilt_the_weights():
    class Spoil(Callback):
        def before_validate(self):
            if self.learn.train_iter: [p.data.fill_(float('nan')) for p in self.model.parameters()]
    with pytest.raises(
            FloatingPointError,
            match='(?s)validation loss is nan after .*no last checkpoint.*learning rate'):
        fit(learner([NaNGuard(), Spoil()]), 1)

def test_after_the_guard_the_learner_can_go_on():
    learn = learner([NaNGuard(), EMAWeights(), Poison(3)])
    with pytest.raises(FloatingPointError): fit(learn, 2)
    learn.remove_cb(learn.poison)
    fit(learn, 2)
    assert all(w.isfinite().all() for w in weights(learn))

def test_lookers_on_change_nothing(tmp_path):
    """Previews by the way, a table, a stop-watch: the same weights to the last bit, and frozen
    parts stay frozen."""
    def run(*cbs):
        model = made(Toy)
        model.frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)
        learn = fit(learner([EMAWeights(.9), FrozenEval(), *cbs], model), 3)
        return weights(learn)
    torch.manual_seed(3)
    plain = run()
    torch.manual_seed(3)
    watched = run(Preview(tmp_path, every=3), Curve(tmp_path/'c.csv', every=2), Throughput())
    assert same([w for w in plain[:2]], watched[:2])
    assert len(list(tmp_path.glob('s*.jpg'))) == 5 and len(list(tmp_path.glob('0*.jpg'))) == 3

def test_lr_find_leaves_nothing_behind(tmp_path):
    cbs = [
        EMAWeights(),
        Checkpoint(tmp_path/'c.pt', 0),
        Curve(tmp_path/'c.csv'),
        Preview(tmp_path/'p', every=2),
        Throughput()
    ]
    learn = learner(cbs)
    learn.path = tmp_path
    before = weights(learn)
    with learn.no_bar(): learn.lr_find(num_it=12, show_plot=False)
    assert same(before, weights(
        learn)) and not [p for p in tmp_path.rglob('*') if p.suffix in ('.pt', '.csv', '.jpg')]
    fit(learn, 2)
    assert (tmp_path/'c.pt').exists() and (tmp_path/'c.csv').exists()

def test_validate_after_training_measures_what_is_kept():
    learn = fit(learner([EMAWeights(.9), NaNGuard(), ValidateEvery(2)]), 2)
    with learn.no_bar(), learn.no_logging(): loss = learn.validate()[0]
    assert loss == pytest.approx(learn.recorder.values[-1][1], abs=1e-6)

def test_critic_with_gathered_gradients():
    model = made(Exact)
    gan = AdversarialStep(start=0., ramp=0., last=model.body.weight, ch=4)
    fit(learner([gan, GradientAccumulation(4)], model, n=16))
    # the term of every batch, the critic's step with ours
    assert (len(gan.terms), len(gan.log)) == (8, 4)


# --- what may be taken up ---

def test_states_of_more_gpus_than_there_are(monkeypatch):
    "Written with four, taken up with two: two are set."
    state = random_state()
    got = {}
    here = 2
    def one(new_state, device='cuda'):
        if device >= here: raise RuntimeError('invalid device ordinal')
        got[device] = new_state
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: here)
    monkeypatch.setattr(torch.cuda.random, 'set_rng_state', one)
    set_random_state({**state, 'cuda': [torch.tensor([i]) for i in range(4)]})
    assert got == {0: torch.tensor([0]), 1: torch.tensor([1])}
    here = 4
    got.clear()
    set_random_state({**state, 'cuda': [torch.tensor([0])]})
    assert list(got) == [0]

class Numbered(list):
    "Pairs with the seed that loaders of ours have"
    seed = 42

def take_up(path, cfg=ModelConfig.tiny(), plan=TrainPlan.tiny(), lr=.01, seed=42, schedule=True,
            stop=None):
    "Run a toy with a configuration, or take it up; the epochs that were trained"
    back = Resume(path)
    model = made(Toy)
    epochs = []
    class Note(Callback):
        def before_train(self): epochs.append(self.epoch)
    model.cfg = cfg
    model.plan = plan
    model.name = 'flow'
    learn = learner([Checkpoint(path, 0, stop), back, Note()], model)
    learn.dls.train.dataset = Numbered(learn.dls.train.dataset)
    learn.dls.train.dataset.seed = seed
    with learn.no_bar(), learn.no_logging():
        (learn.fit_one_cycle if schedule else learn.fit)(4, lr, start_epoch=back.epoch)
    return epochs

@pytest.mark.parametrize('schedule', [True, False])
def test_another_run_is_not_taken_up(tmp_path, schedule):
    """Each of what decides the run is named; what does not is free; and after a refusal the file is
    as it was"""
    path, tiny, plan = tmp_path/'c.pt', ModelConfig.tiny(), TrainPlan.tiny()
    take_up(path, schedule=schedule, stop=2)
    before = path.read_bytes()
    for other, words in ((dict(lr=.02), r'learning_rates \(\[0.01\] then, \[0.02\] now\)'),
                         (dict(seed=7), r'data_seed \(42 then, 7 now\)'),
                         (dict(cfg=replace(tiny, nat_width=32)),
                          r'cfg.nat_width \(96 then, 32 now\)'), (dict(plan=replace(plan, seed=7)),
                                                                  r'plan.seed \(42 then, 7 now\)'),
                         (dict(plan=plan.each_stage(crop=32)), r'plan.crop \(96 then, 32 now\)')):
        with pytest.raises(
                ValueError,
                match=f'of a run with another {words}; use that of then, or remove the file'):
            take_up(path, schedule=schedule, **other)
    assert path.read_bytes() == before
    assert take_up(path, schedule=schedule, cfg=replace(tiny, tau=.25),
                   plan=replace(plan, nat=replace(plan.nat, steps=1)), stop=3)[-1] == 2
    # and a run that was taken up can be taken up again
    assert take_up(path, schedule=schedule)[-1] == 3

def test_a_checkpoint_of_before_says_so(tmp_path):
    path = tmp_path/'c.pt'
    take_up(path, stop=2)
    s = load_state(path)
    s.pop('settings')
    torch.save(s, path)
    with pytest.raises(ValueError,
                       match='c.pt is of an older version.*remove the file to begin anew'):
        take_up(path)


# --- killed ---

def run_toy(folder, resume=True, cbs=()):
    """The run that is killed: shuffled data, noise, averaged weights, a critic, gathered gradients,
    fp16, a table"""
    model = made(Toy)
    back = Resume(Path(folder)/'run.pt')
    gan = AdversarialStep(start=.3, last=model.body.weight, ch=4)
    all_cbs = [
        gan,
        EMAWeights(.9),
        GradientAccumulation(6),
        MixedPrecision('fp16', scale=2.**18, every=4),
        NaNGuard(),
        GradientClip(1.),
        Checkpoint(Path(folder)/'run.pt', 0),
        Curve(Path(folder)/'run.csv', every=2, append=bool(back.epoch)), back, *cbs
    ]
    learn = fit(learner(all_cbs, model), EPOCHS, start_epoch=back.epoch)
    torch.save([*weights(learn), *gan.critic.parameters()], Path(folder)/'end.part')
    os.replace(Path(folder)/'end.part', Path(folder)/'end.pt')

class Die(Callback):
    "SIGKILL to oneself at an event of the training, or of the validation, at a step"
    order = 59
    def __init__(self, event, step):
        self.event = event
        self.step = step
    def __call__(self, event):
        if event == self.event and self.learn.train_iter == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(event)

def die_writing(folder, moment, nth):
    "Run, and die in the middle of the n-th checkpoint, before it is renamed, or just after"
    save = torch.save
    replace = os.replace
    n = [0]
    def kill(): os.kill(os.getpid(), signal.SIGKILL)
    def half(obj, file):
        n[0] += 1
        save(obj, file)
        if moment == 'half' and n[0] == nth:
            file.truncate(999)
            kill()
    def rename(a, b):
        if moment == 'before' and n[0] == nth: kill()
        replace(a, b)
        if moment == 'after' and n[0] == nth: kill()
    torch.save = half
    os.replace = rename
    run_toy(folder)

MOMENTS = dict(first_step=[('before_backward', 0)], before_first_checkpoint=[('after_batch', 5)],
               in_validation=[('after_pred', 10)], between_steps=[('before_backward', 13)],
               after_step=[('after_step', 17)], end_of_epoch=[('after_epoch', 20)], thrice=[
                   ('before_batch', 2), ('after_validate', 15), ('before_step', 26)
               ], half=[('half', 1),
                        ('half', 3)], before_rename=[('before', 1),
                                                     ('before', 2)], after_rename=[('after', 1),
                                                                                   ('after', 2)])

def child(job, *args):
    "Exit status of a job in a forked process; negative: killed by that signal"
    pid = os.fork()
    if pid: return pid
    try:
        torch.set_num_threads(1)
        job(*args)
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)

def status(pid):
    s = os.waitpid(pid, 0)[1]
    return -os.WTERMSIG(s) if os.WIFSIGNALED(s) else os.WEXITSTATUS(s)

def kill_at_moments(folder, moments):
    """Status of each run: one a moment, each resuming the one before, and a last one that is left
    alone"""
    runs = [
        lambda e=e, n=n: die_writing(folder, e, n)
        if e in ('half', 'before', 'after') else run_toy(folder, cbs=[Die(e, n)])
        for e, n in moments
    ]
    return [status(child(r)) for r in (*runs, lambda: run_toy(folder))]

def kill_at_random(folder, seed, kills=5):
    """As `kill_at_moments`, from outside, after times drawn at random; what lies there can be read
    each time"""
    rng = random.Random(seed)
    statuses = []
    t = time.time()
    os.makedirs(Path(folder)/'timing')
    assert status(child(run_toy, Path(folder)/'timing')) == 0
    span = time.time() - t
    while len(statuses) < kills:
        pid = child(run_toy, folder)
        time.sleep(rng.uniform(.1, .7)*span)
        os.kill(pid, signal.SIGKILL)
        statuses.append(status(pid))
        Resume(Path(folder)/'run.pt')
        if statuses[-1] == 0: break
    return statuses if statuses[-1] == 0 else [*statuses, status(child(run_toy, folder))]

def server(folder):
    "All runs, forked from this process, which has done nothing but import"
    out = {}
    folder = Path(folder)
    for name in ('whole', *MOMENTS, 'random'): (folder/name).mkdir()
    assert status(child(run_toy, folder/'whole')) == 0
    for name, m in MOMENTS.items(): out[name] = kill_at_moments(folder/name, m)
    out['random'] = kill_at_random(folder/'random', 0)
    (folder/'out.json').write_text(json.dumps(out))

@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('killed')
    code = (f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import '
            f'test_callbacks as t; t.server({str(folder)!r})')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True,
                          text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'}, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads((folder/'out.json').read_text()), done.stderr

@POSIX
@pytest.mark.parametrize('name', [*MOMENTS, 'random'])
@pytest.mark.slow
def test_killed_at_any_moment_the_run_ends_the_same(killed, name):
    folder, out, err = killed
    if name in MOMENTS: assert out[name] == [-signal.SIGKILL]*len(MOMENTS[name]) + [0], err[-2000:]
    else: assert out[name][-1] == 0 and out[name].count(-signal.SIGKILL) >= 1, out[name]
    assert same(torch.load(folder/name/'end.pt'), torch.load(folder/'whole/end.pt'))
    assert (folder/name/'run.csv').read_text() == (folder/'whole/run.csv').read_text()
    assert not list((folder/name).glob('*.part'))


# --- what the chapter does not show ---

class Infinite(Callback):
    order = 9
    def after_backward(self): self.model.body.weight.grad.fill_(float('inf'))

def test_half_precision_has_two_kinds():
    with pytest.raises(ValueError, match='must be bf16 or fp16'): MixedPrecision('fp8')

def test_a_gradient_that_overflows_at_any_scale_stops_the_run():
    learn = learner([MixedPrecision('fp16'), Infinite()])
    before = weights(learn)
    with pytest.raises(FloatingPointError, match='at any scale'): fit(learn, 4)
    assert same(before, weights(learn))

def test_without_a_ramp_the_critic_counts_at_once():
    model = made(Exact)
    torch.manual_seed(5)
    gan = AdversarialStep(start=0., ramp=0., last=model.body.weight, ch=4)
    fit(learner([gan], model))
    assert len(gan.terms) == 5 and gan.terms[0][2] > 0

def test_previews_of_skipped_validations_are_not_written(tmp_path):
    fit(learner([ValidateEvery(2), Preview(tmp_path)]), 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['0001.jpg', '0003.jpg', '0004.jpg']
    assert read_image(tmp_path/'0001.jpg').shape == (3, 16, 3*16)   # no maps, no tiles for them

def test_validating_afterwards_writes_and_counts_nothing(tmp_path):
    watch = Throughput()
    learn = fit(learner([ValidateEvery(3), Preview(tmp_path), Curve(tmp_path/'c.csv'), watch]), 3)
    def files(): return [(p.name, p.stat().st_mtime_ns) for p in sorted(tmp_path.iterdir())]
    before = files()
    steps = watch.steps
    with learn.no_bar(), learn.no_logging(): assert len(learn.validate()) == 2
    assert files() == before and watch.steps == steps
