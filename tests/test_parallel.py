"Two gloo processes on the CPU compute what one does with the whole batch: losses, weights, codes; and they stop, resume and write as one."
import json, os, subprocess, sys, textwrap
from pathlib import Path

import pytest, torch
pytest.importorskip('accelerate', reason='accelerate is not installed: pip install accelerate')

pytestmark = [pytest.mark.filterwarnings('ignore'), pytest.mark.slow]

COMMON = '''
import json, os, sys, warnings; warnings.simplefilter('ignore')
from dataclasses import replace
from pathlib import Path
import torch; torch.set_num_threads(1)
from torch import nn
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner
from fastai.torch_core import rank_distrib
from accelerate import PartialState
PartialState(cpu=True)
import lowlight_nat.training as T; from lowlight_nat.stages import STAGES
from lowlight_nat.data import LowLightDataLoaders
from lowlight_nat.model import LowLightNAT, ModelConfig, TrainPlan
from lowlight_nat.training_parallel import *
TOY = replace(ModelConfig.tiny(), n_codes=16, vq_channels=(8, 8), enc_channels=(8, 8, 8), cond=8, flow_steps=1, flow_hidden=8, dec_channels=(8, 8), dilations=(1, 2),
              nat_width=16, nat_depth=1, feat_width=16, feat_depth=1)
PLAN = replace(TrainPlan.tiny().each_stage(steps=12, bs=4, crop=32), context=48, bf16=False)
def pictures(n=4, size=48):
    g = torch.Generator().manual_seed(0)
    return [nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=g), size=(size, size), mode='bilinear')[0] for _ in range(n)]
def toy_dls(crop, bs, n):
    ps = pictures()
    return LowLightDataLoaders.from_synthetic(ps, val_images=ps[:3], size=crop, bs=bs, items_per_epoch=n, device='cpu')
out = Path(sys.argv[1])
'''

CURVES = COMMON + '''
class Log(Callback):
    "What the log shows of every step, and what each process ends with"
    order = 70
    def before_fit(self): self.rows = []
    def after_step(self): self.rows.append(dict(loss=self.loss_grad.item(), **{k: v.item() for k, v in self.pred.terms.items()}))
torch.manual_seed(0)
TINY = replace(TrainPlan.tiny().each_stage(crop=32), context=64, whole=0., nat_off=0.1, bf16=False)
TINY = replace(TINY, codebook=replace(TINY.codebook, crop=64))   # whole pieces are other pictures for two than for one; the preset's sizes; crops that hold as many places as there are codes, and smaller ones
model, res = LowLightNAT(), {}
for m in model.modules():
    if isinstance(m, nn.Dropout): m.p = 0.   # its draws depend on the size of the share
start = {n: torch.load(Path(sys.argv[2])/f'{n}0.pt') for n in STAGES} if len(sys.argv) > 2 else {}
for name, before in zip(STAGES, (None, *STAGES)):
    if start and before: model.load_state_dict(start[before])   # each stage from the same weights, so that rounding does not add up
    torch.manual_seed(1 + rank_distrib())   # each process starts elsewhere, on purpose
    log, dls = Log(), toy_dls(64, 4, 24)
    learn = T.stage_learner(name, dls, model, TINY, [log])
    if name == 'codebook': learn.codebook_care.every = 3
    with learn.no_bar(), learn.no_logging(), parallel(learn): learn.fit(2, 2e-3)
    res[name] = dict(rows=log.rows, val=[float(v) for v in learn.recorder.values[-1] if v is not None], draws=dls.train.draws, keys=sorted(learn.model.state_dict())[:3],
                     sum={k: v.double().sum().item() for k, v in model.state_dict().items()})
    if name == 'codebook': res['used'] = learn.codebook_care.log
    torch.save(model.state_dict(), out/f'{name}{rank_distrib()}.pt')
(out/f'rank{rank_distrib()}.json').write_text(json.dumps(res))
'''


def launch(code, folder, processes, *args, ok=True):
    "Run a script with so many processes; what it printed"
    folder.mkdir(parents=True, exist_ok=True); (folder/'script.py').write_text(textwrap.dedent(code))
    start = [sys.executable] if processes == 1 else [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', ACCELERATE_USE_CPU='true')
    r = subprocess.run([*start, str(folder/'script.py'), str(folder), *args], env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert (r.returncode == 0) == ok, r.stdout[-4000:]
    return r.stdout

def read(folder, r=0): return json.loads((folder/f'rank{r}.json').read_text())


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "One process with batches of 4, and two that share them"
    one, two = tmp_path_factory.mktemp('one'), tmp_path_factory.mktemp('two')
    launch(CURVES, one, 1); launch(CURVES, two, 2, str(one))
    return one, two

# Relative, of each step's loss. What is a mean over pictures agrees to rounding (a place between two codes may fall to either, and from then on the codes differ a little).
# The NATs' losses are means over masked places, and the threshold is a quantile of the share: they agree but roughly.
# How many places fall otherwise depends on the processor: the codebook's losses differed by less than 0.001 on one, by 0.005 on another.
TOLERANCE = dict(codebook=2e-2, flow=1e-5, nat=0.06, decoder=0.12)

@pytest.mark.parametrize('stage', TOLERANCE)
def test_curve_of_one_process(runs, stage):
    a, b = (read(f)[stage]['rows'] for f in runs)
    assert len(a) == len(b) == 12 and a[0]['loss'] != a[-1]['loss']
    worst = max(abs(x['loss'] - y['loss'])/abs(x['loss']) for x, y in zip(a, b))
    assert worst < TOLERANCE[stage], worst

def test_figures_draws_and_log(runs):
    (a, b), c = (read(f) for f in runs), read(runs[1], 1)
    for s in TOLERANCE:
        assert a[s]['draws'] == b[s]['draws'] == c[s]['draws'] == 48                       # of all processes
        assert b[s]['val'] == c[s]['val'] == pytest.approx(a[s]['val'], rel=0.1, abs=0.02)   # every process validates all pictures
        assert a[s]['keys'] == b[s]['keys']                                                # no prefix: it fits any number of processes
    for s in 'codebook', 'flow':   # each adds its terms up itself, so the last digit may differ
        for x, y in zip(b[s]['rows'], c[s]['rows'], strict=True): assert x == pytest.approx(y, rel=1e-5, abs=1e-6)

def test_weights_codes_and_averages_are_equal(runs):
    one, two = runs
    for name, most in dict(codebook=2e-3, flow=1e-4, nat=0.1, decoder=0.1).items():
        a, b, c = (torch.load(f/f'{name}{r}.pt') for f, r in ((one, 0), (two, 0), (two, 1)))
        assert [k for k in b if not torch.equal(b[k], c[k])] == []
        apart = {k: (a[k].double() - b[k].double()).abs() for k in a}
        assert {k: d for k in a if not k.startswith('vqgan.quantizer.') and (d := apart[k].max().item()) > most} == {}
        assert {k: d for k in a if k.startswith('vqgan.quantizer.') and (d := (apart[k] > 1e-3).double().mean().item()) > 0.15} == {}   # few codes differ
    assert all(v for k, v in a.items() if k.endswith('started'))
    assert read(one)['used'] and all(x == pytest.approx(y, rel=1e-2) for x, y in zip(read(one)['used'], read(two)['used'], strict=True))   # what `CodebookCare` saw: the whole batch


WRITE = COMMON + '''
from lowlight_nat.callbacks import Curve, Preview
from lowlight_nat.checkpoints import Checkpoint, Resume
what, rank = sys.argv[2], rank_distrib()
class Stop(Callback):
    order = 65
    def after_epoch(self):
        if what == 'stop' and self.epoch == 0: raise CancelFitException()
class Poison(Callback):
    order = dict(input=-3, loss=20).get(what, 0)
    def before_batch(self):
        if what == 'input' and rank == 1 and self.training and self.learn.train_iter == 2: self.learn.xb = (self.xb[0]*float('nan'), self.xb[1])
    def after_loss(self):
        if what == 'loss' and rank == 1 and self.training and self.learn.train_iter == 2: self.learn.loss_grad = self.learn.loss_grad*float('nan')
torch.manual_seed(0)
model, dls, back = LowLightNAT(TOY), toy_dls(48, 4, 12), Resume(out/'check0.pt') if what == 'resume' else None
cbs = [Stop(), Poison(), Checkpoint(out/f'check{rank}.pt', minutes=0), Preview(out/f'previews{rank}')] + ([back] if back else [])
learn = T.stage_learner('codebook', dls, model, PLAN, cbs)
try:
    with learn.no_bar(), learn.no_logging(), parallel(learn): learn.fit(3, 2e-3, start_epoch=back.epoch if back else 0, cbs=Curve(out/f'curve{rank}.csv', every=1, append=bool(back)))
except FloatingPointError as e:
    (out/f'error{rank}.json').write_text(json.dumps([str(e), dls.train.last_names, type(learn.model).__name__, getattr(dls.train, 'rank', None)]))
torch.save(model.state_dict(), out/f'{what}{rank}.pt')
'''

def test_one_writer_and_resume_by_another_number(tmp_path):
    launch(WRITE, tmp_path, 2, 'stop')
    assert (tmp_path/'check0.pt').exists() and (tmp_path/'curve0.csv').exists() and any((tmp_path/'previews0').iterdir())
    assert [p.name for p in tmp_path.iterdir() if p.name in ('check1.pt', 'curve1.csv', 'previews1')] == []
    launch(WRITE, tmp_path, 1, 'resume'); launch(WRITE, tmp_path, 2, 'whole')
    a, b = (torch.load(tmp_path/f'{n}0.pt') for n in ('resume', 'whole'))
    assert {k: d for k in a if (d := (a[k].double() - b[k].double()).abs().max().item()) > 1e-3} == {}
    assert [r.split(',')[0] for r in (tmp_path/'curve0.csv').read_text().splitlines() if 'train' in r] == [str(i) for i in range(9)]

@pytest.mark.parametrize('what', ['input', 'loss'])
def test_all_stop_at_a_nan_of_one(tmp_path, what):
    launch(WRITE, tmp_path, 2, what)
    (e0, names0, *left0), (e1, names1, *left1) = (json.loads((tmp_path/f'error{r}.json').read_text()) for r in (0, 1))
    assert e0 == e1 and 'at step 2' in e0 and ('input' if what == 'input' else 'loss is nan') in e0
    assert left0 == left1 == ['CodebookStage', None]   # model and loaders are the Learner's own again
    ds = __import__('lowlight_nat.data', fromlist=['x']).PairDataset([type('P', (), dict(name=str(i)))() for i in range(4)])
    assert f"held {', '.join(str(ds.index(k)) for k in (10, 11))}" in e0   # the poisoned half of draws 8 to 11


PIPE = COMMON + '''
from functools import partial
T.train_stage = partial(T.train_stage, epoch_steps=3, validations=1)
plan = PLAN.each_stage(steps=6)
model = train_parallel(TOY, plan, toy_dls, out/'run', minutes=0, about=dict(command='test'))
torch.save(model.state_dict(), out/f'model{rank_distrib()}.pt')
model = train_parallel(TOY, plan, toy_dls, out/'run', resume=True)
'''

def test_pipeline(tmp_path):
    launch(PIPE, tmp_path, 2)
    have = {p.name for p in (tmp_path/'run').iterdir() if p.name[0] != '.'}   # the lock is hidden
    assert {f'{s}.{e}' for s in ('codebook', 'flow', 'nat', 'decoder') for e in ('safetensors', 'csv')} | {'model.safetensors', 'previews'} == have
    a, b = (torch.load(tmp_path/f'model{r}.pt') for r in (0, 1))
    assert [k for k in a if not torch.equal(a[k], b[k])] == []

def test_entry_says_what_it_takes():
    r = subprocess.run([sys.executable, '-m', 'lowlight_nat.training_parallel', '--help'], text=True, capture_output=True)
    assert r.returncode == 0 and '--preset' in r.stdout and 'steps_scale' in r.stdout

@pytest.fixture(scope='module')
def folder_of_pairs(tmp_path_factory):
    "A few pairs of generated pictures of 64 to 96 pixels, and two to validate"
    from lowlight_nat.images import write_image
    root, g = tmp_path_factory.mktemp('pairs'), torch.Generator().manual_seed(0)
    for split, n in ('train', 4), ('val', 2):
        for i in range(n):
            x = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=g), size=(64 + 8*i, 96), mode='bilinear')[0]
            for side, y in ('low', 0.15*x), ('high', x): (root/split/side).mkdir(parents=True, exist_ok=True); write_image(y, root/split/side/f'{i}.png')
    return root

@pytest.mark.parametrize('start', [[], ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']], ids=['one process', 'two processes'])
def test_the_command_trains_and_ends_well(folder_of_pairs, tmp_path, start):
    "One step a stage of `tiny`: exit status 0, and the model is there"
    from lowlight_nat.model import read_metadata
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', ACCELERATE_USE_CPU='true')
    line = [sys.executable, *start, '-m', 'lowlight_nat.training_parallel', str(folder_of_pairs), str(tmp_path/'out'), '--preset', 'tiny', '--steps_scale', '1e-9', '--seed', '7']
    r = subprocess.run(line, env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert (tmp_path/'out'/'model.safetensors').exists() and r.returncode == 0, r.stdout[-4000:]
    meta = read_metadata(tmp_path/'out'/'model.safetensors')
    assert meta.about['processes'] == (2 if start else 1) and meta.about['seed'] == 7 and meta.about['command'].endswith('--seed 7')

def test_says_what_is_missing():
    code = "import sys; sys.modules['accelerate'] = None; import lowlight_nat.training_parallel"
    r = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    assert r.returncode and 'pip install accelerate' in r.stderr.splitlines()[-1]
