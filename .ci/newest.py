"""What the newest releases make of us: `python .ci/newest.py`, where the run-time requirements and
`[train]` are installed.

The tests run on the pinned versions of `[dev]`; whoever installs the package gets the newest that its ranges allow.
Here every module is imported, and a toy model goes through all stages, is written, read again,
and enhances a picture.
"""
import contextlib
import importlib
import io
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import matplotlib
import torch

ROOT = Path(__file__).resolve().parents[1]
TOY = dict(n_codes=16, vq_channels=(8, 8), enc_channels=(8, 8, 8), cond=8, flow_steps=1,
           flow_hidden=8, dec_channels=(8, 8), dilations=(1, 2), nat_width=16, nat_depth=1,
           feat_width=16, feat_depth=1)

# module: the extra it needs beyond `train`
EXTRAS = {'training.distributed': 'parallel', 'app.widgets': 'app'}


def modules():
    "Import every module of the package."
    files = (p for p in (ROOT/'lowlight_nat').rglob('*.py') if p.name[0] != '_')
    names = sorted('.'.join(p.relative_to(ROOT/'lowlight_nat').with_suffix('').parts) for p in files)
    for o in names:
        try: importlib.import_module(f'lowlight_nat.{o}')
        except ImportError as e:   # an extra's, which is not installed here: it has to say so
            if f'".[{EXTRAS.get(o)}]"' not in str(e): raise
    return names

def toy(out):
    "Train a toy through all stages; the model as read from its checkpoint."
    from lowlight_nat.data.loaders import LowLightDataLoaders
    from lowlight_nat.models.checkpoint import load_model
    from lowlight_nat.models.config import ModelConfig, TrainPlan
    from lowlight_nat.training.pipeline import train_pipeline
    def dls(crop, bs, n):
        return LowLightDataLoaders.from_synthetic(ROOT/'samples/reference', [torch.rand(3, 32, 40)],
                                                  size=crop, bs=bs, items_per_epoch=n, device='cpu')
    plan = replace(TrainPlan.tiny().each_stage(steps=6, bs=2, crop=32), bf16=False)
    train_pipeline(replace(ModelConfig.tiny(), **TOY), plan, dls, out)
    return load_model(out/'model.safetensors')

def learner(out):
    "A Learner of its own, with the DataBlock, exported and read again."
    from fastai.learner import Learner, load_learner

    from lowlight_nat.data.loaders import LowLightBlock
    from lowlight_nat.data.pairs import Pair
    from lowlight_nat.io.files import list_images
    files = list_images(ROOT/'samples/reference')
    dls = LowLightBlock(32).dataloaders([Pair(f, f, f.stem) for f in files], bs=2, num_workers=0,
                                        device=torch.device('cpu'))
    learn = Learner(dls, torch.nn.Conv2d(3, 3, 1), loss_func=torch.nn.L1Loss(), path=out)
    learn.fit(1, 1e-2)
    learn.export(out/'learner.pkl')
    x = dls.one_batch()[0]
    assert torch.equal(load_learner(out/'learner.pkl').model(x), learn.model(x))

def stage_learner(out):
    """A Learner of a stage, as a fastai user has it: fitted, exported, read again, asked for a
    picture."""
    from fastai.learner import load_learner

    from lowlight_nat.data.loaders import LowLightDataLoaders
    from lowlight_nat.models.config import ModelConfig, TrainPlan
    from lowlight_nat.training.learner import flow_learner
    dls = LowLightDataLoaders.from_synthetic(ROOT/'samples/reference', [torch.rand(3, 32, 40)],
                                             size=32, bs=2, items_per_epoch=4, device='cpu')
    learn = flow_learner(dls, replace(ModelConfig.tiny(), **TOY),
                         replace(TrainPlan.tiny().each_stage(crop=32), bf16=False), path=out)
    learn.fit_one_cycle(1, 1e-3)
    learn.export(out/'stage.pkl')
    x = dls.valid.one_batch()[0]
    a, b = (o.model.eval()(x).x for o in (learn, load_learner(out/'stage.pkl')))
    assert a.isfinite().all() and torch.equal(a, b)

def main():
    matplotlib.use('Agg')
    warnings.simplefilter('ignore')
    start = time.time()
    said = io.StringIO()
    packages = 'fastai fastcore fasttransform plum-dispatch fastprogress torch'.split()
    print(', '.join(f'{o} {version(o)}' for o in packages), flush=True)
    major = int(version('fastcore').split('.')[0])
    assert major >= 2, "this is no newest set; run it where only `pip install -e '.[train]'` was done"
    names = modules()
    from lowlight_nat.inference.enhancer import Enhancer
    with tempfile.TemporaryDirectory() as tmp:
        try:
            with contextlib.redirect_stdout(said):
                model = toy(Path(tmp))
                learner(Path(tmp))
                stage_learner(Path(tmp))
        except BaseException:
            print(said.getvalue()[-2000:], file=sys.stderr)
            raise
    assert Enhancer(model, device='cpu')(torch.rand(3, 24, 40)*0.1).image.size == (40, 24)
    print(
        f'{len(names)} modules imported; a toy trained, written, read and used, in {time.time()-start:.0f} s'
    )


if __name__ == '__main__': main()
