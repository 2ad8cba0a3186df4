"What guards the chapters on checkpoints, processes, graphs, experiments and GLARE, and does not teach."
import json
import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastcore.foundation import L
from fastcore.test import test_close as assert_close
from fastcore.test import test_eq as assert_eq
from fastcore.test import test_fail as assert_fails

from lowlight_nat.data.loaders import LowLightDataLoaders
from lowlight_nat.export.static_graph import DenseModel
from lowlight_nat.io.images import read_image
from lowlight_nat.models.checkpoint import load_model
from lowlight_nat.models.fusion import FeatureNAT
from lowlight_nat.models.glare import GlareActNorm, GlareFlow, GlareNorm, GlareSizes, to_channels_last
from lowlight_nat.models.glare_weights import read_weights
from lowlight_nat.training.checkpoints import Resume, load_state

ROOT = Path(__file__).resolve().parents[1]
SIZES = GlareSizes(ch=32, n_codes=64, flow_steps=3)


def test_what_a_state_may_hold(tmp_path):
    path = tmp_path/'a.pt'
    path.write_bytes(b'half')
    assert_fails(lambda: Resume(path), contains='remove it to begin anew')
    assert_eq(Resume(tmp_path/'none.pt').epoch, 0)
    held = dict(a=np.random.get_state(), b=L(1, 2.), c=np.float64(.1), d=random.getstate())
    torch.save(held, path)
    s = load_state(path)
    assert_eq((s['b'], s['c'], s['d'], s['a'][1].tolist()), (L(1, 2.), .1, held['d'], held['a'][1].tolist()))
    torch.save(dict(a=print), path)
    assert_fails(lambda: load_state(path), contains='it holds print, which is no part of a state')

def test_shares_of_two_ranks_go_on_in_the_next_epoch():
    distributed = pytest.importorskip('lowlight_nat.training.distributed')
    picture = read_image(ROOT/'samples/reference/coffee.png')
    def loaders(): return LowLightDataLoaders.from_synthetic([picture], size=32, bs=4, items_per_epoch=8, device='cpu')
    whole = loaders()
    shares = [distributed.RankDL(loaders().train, r, 2) for r in (0, 1)]
    for dl in whole.train, *shares: list(dl)
    assert_eq(torch.cat([next(iter(s))[0] for s in shares]), next(iter(whole.train))[0])

def test_dense_model_leaves_the_model_alone():
    model = load_model('small')
    assert_fails(lambda: DenseModel(model, rounds=-1), contains='rounds=-1')
    assert_fails(lambda: DenseModel(model, rounds=1.5), contains='whole number')
    DenseModel(model)
    same = load_model('small').state_dict()
    assert all((v == same[k]).all() for k, v in model.state_dict().items())
    assert_eq(type(model.fusion.nat), FeatureNAT)

def test_what_the_chapter_says_about_tau():
    rows = json.loads((ROOT/'nbs/figures/run/exp_tau.json').read_text())['rows']
    r = {(round(o['tau'], 2), o['rounds']): o for o in rows}
    v, s = ([o[k] for o in r.values()] for k in ('psnr_gt_mean', 'ssim_gt_mean'))
    assert max(v) - min(v) < .1 and max(s) - min(s) < .002
    assert abs(r[1., 1]['psnr_gt_mean'] - r[.55, 4]['psnr_gt_mean']) < .05


def test_what_the_chapter_says_about_the_critic():
    r = json.loads((ROOT/'nbs/figures/run/critic.json').read_text())
    def of(rows, **which): return next(r for r in rows if which.items() <= r.items())
    for rows in r['mask'], r['picture']:
        for name in 'sigma', 'spread':      # the error is found better by both than by the entropy
            assert of(rows, map=name)['auroc_tenth'] > of(rows, map='entropy')['auroc_tenth'] + .03
        gain = of(rows, map='critic: error')['auroc_tenth'] - of(rows, map='spread')['auroc_tenth']
        assert abs(gain) < .03              # and not much better by the critic
    truth = of(r['rounds'], answer='arg max', rounds=8, by='truth')
    others = [o['right'] for o in r['rounds'] if o['answer'] == 'arg max' and o['by'] != 'truth']
    assert truth['right'] > .05 + max(others)


# --- GLARE ---

def test_group_norm_of_channels_last_is_exact():
    norm = GlareNorm(64).eval()
    x = torch.randn(2, 64, 96, 128, generator=torch.Generator().manual_seed(42))*2 + 3
    exact = F.group_norm(x.double(), 32, eps=1e-6)
    with torch.no_grad(): assert (norm(to_channels_last(x)) - exact).abs().max() < 5e-6

def test_limits_do_nothing_in_the_ordinary_range():
    torch.manual_seed(42)
    flow = GlareFlow(replace(SIZES, cond=8, hidden=16))
    with torch.no_grad():
        for p in flow.parameters(): p.add_(torch.randn_like(p)*.02)
    flow.eval()
    free = deepcopy(flow)
    for m in free.modules(): m.shift = m.reach = torch.inf
    z = torch.randn(2, 3, 6, 6)
    c = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        assert_eq(flow.inverse(z, c), free.inverse(z, c))
        assert_eq(flow(z, c)[0], free(z, c)[0])

def test_start_of_the_activation_norm():
    n = GlareActNorm(3).train()
    z = torch.randn(4, 3, 6, 6)*3 + 2
    y, _ = n(z)
    assert_close(y.mean((0, 2, 3)).detach(), torch.zeros(3), eps=1e-4)
    assert_close(y.std((0, 2, 3), correction=0).detach(), torch.ones(3), eps=1e-4)
    started = GlareActNorm(3).train()
    started.bias.data.fill_(.5)
    was = started.logs.clone()
    started(z)
    assert_eq(started.logs.detach(), was.detach())
    assert_eq([o.affine is not None for o in GlareFlow(SIZES).layers], [False, False, True, True, True]*2)

def test_files_that_are_no_weights(tmp_path):
    assert_fails(lambda: read_weights(tmp_path/'absent.pth'), contains='no such file')
    torch.save({'a': torch.zeros(10_000)}, tmp_path/'whole.pth')
    (tmp_path/'cut.pth').write_bytes((tmp_path/'whole.pth').read_bytes()[:1000])
    assert_fails(lambda: read_weights(tmp_path/'cut.pth'), contains='cut short')
    torch.save([1, 2], tmp_path/'list.pth')
    assert_fails(lambda: read_weights(tmp_path/'list.pth'), contains='state dict')
