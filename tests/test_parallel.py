"Two processes on the CPU share the batches of one training, end with the same weights, and one of them writes."
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip('accelerate', reason="accelerate isn't installed: pip install -e '.[parallel]'")

PROGRAM = '''
import json, sys, warnings
warnings.simplefilter('ignore')
from dataclasses import replace
from pathlib import Path
import torch
from accelerate import PartialState
PartialState(cpu=True)
from fastai.torch_core import rank_distrib
from lowlight_nat.training.checkpoints import Checkpoint
from lowlight_nat.data.loaders import LowLightDataLoaders
from lowlight_nat.models.config import ModelConfig, TrainPlan
from lowlight_nat.models.lowlight_nat import LowLightNAT
from lowlight_nat.training.stages import STAGES
from lowlight_nat.training.learner import stage_learner
from lowlight_nat.training.distributed import parallel

torch.set_num_threads(1)
out, rank = Path(sys.argv[1]), rank_distrib()
cfg = replace(ModelConfig.tiny(), n_codes=16, vq_channels=(8, 8), enc_channels=(8, 8, 8), cond=8,
              flow_steps=1, flow_hidden=8, dec_channels=(8, 8),
              dilations=(1, 2), nat_width=16, nat_depth=1, feat_width=16, feat_depth=1)
plan = replace(TrainPlan.tiny().each_stage(crop=32), context=(48, 48), bf16=False)
pictures = [torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(i)) for i in range(4)]
torch.manual_seed(rank)   # each process starts elsewhere, on purpose
model, res = LowLightNAT(cfg), {}
for name in STAGES:
    dls = LowLightDataLoaders.from_synthetic(
        pictures, val_images=pictures[:2], size=48, bs=4, items_per_epoch=16, device='cpu')
    learn = stage_learner(name, dls, model, plan, [Checkpoint(out/f'{name}{rank}.pt', minutes=0)])
    with learn.no_bar(), learn.no_logging(), parallel(learn): learn.fit(2, 2e-3)
    keys = {k: v.double().sum().item() for k, v in learn.model.state_dict().items()}
    res[name] = dict(draws=dls.train.draws, names=list(dls.train.last_names),
                     wrapped=type(learn.model).__name__, weights=keys)
(out/f'rank{rank}.json').write_text(json.dumps(res))
torch.distributed.destroy_process_group()
'''

@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    (tmp_path/'train.py').write_text(PROGRAM)
    line = [
        sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
        str(tmp_path/'train.py'),
        str(tmp_path)
    ]
    env = dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', ACCELERATE_USE_CPU='true')
    r = subprocess.run(line, env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, timeout=600)
    assert r.returncode == 0, r.stdout[-4000:]
    a, b = (json.loads((tmp_path/f'rank{i}.json').read_text()) for i in (0, 1))
    for name in a:
        assert a[name]['draws'] == b[name]['draws'] == 32 and a[name]['wrapped'] == b[name][
            'wrapped'] != 'DistributedDataParallel'
        assert [k for k, v in a[name]['weights'].items() if v != b[name]['weights'][k]] == []
        # one writer
        assert (tmp_path/f'{name}0.pt').exists() and not (tmp_path/f'{name}1.pt').exists()

def test_says_what_is_missing():
    code = "import sys; sys.modules['accelerate'] = None; import lowlight_nat.training.distributed"
    r = subprocess.run([sys.executable, '-c', code], text=True, capture_output=True)
    assert r.returncode and 'needs accelerate: run `pip install -e ".[parallel]"`' in r.stderr.splitlines(
    )[-1]
