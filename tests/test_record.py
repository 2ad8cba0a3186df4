"What is written: whole or not at all, also where several write the same file at the same time."
import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.foundation import L

from lowlight_nat.io.records import write_csv, write_json, write_text
from lowlight_nat.models.checkpoint import load_model, save_model
from lowlight_nat.models.config import ModelConfig
from lowlight_nat.models.lowlight_nat import LowLightNAT
from lowlight_nat.peers.baselines import BaselinePlan, read_baseline, save_baseline
from lowlight_nat.peers.llflow import LLFlow, LLFlowConfig
from lowlight_nat.training.checkpoints import load_state, save_beside


def at_once(jobs):
    "Run jobs in threads that all begin at the same moment: what went wrong in them"
    wrong = []
    gate = threading.Barrier(len(jobs))
    def go(job):
        gate.wait()
        try: job()
        except Exception as e: wrong.append(repr(e))
    threads = [threading.Thread(target=go, args=[j]) for j in jobs]
    for t in threads: t.start()
    for t in threads: t.join()
    return wrong

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return LowLightNAT(ModelConfig.tiny())

@pytest.mark.parametrize('kind', ['json', 'csv', 'text', 'state', 'model', 'baseline', 'onnx'])
def test_many_savers_of_one_file_lose_none(tmp_path, model, kind):
    path = tmp_path/'one'
    rows = [dict(n=i, text='x'*4000) for i in range(50)]
    if kind == 'onnx':
        onnx = pytest.importorskip('onnx', reason='needs onnx')
        from lowlight_nat.export.onnx import write_onnx
        x = onnx.helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_model(
            onnx.helper.make_graph([onnx.helper.make_node('Identity', ['x'], ['y'])], 'g', [x],
                                   [x]))
    flow = LLFlow(LLFlowConfig.small()) if kind == 'baseline' else None
    save = dict(json=lambda: write_json(path, dict(rows=rows)), csv=lambda: write_csv(path, rows),
                text=lambda: write_text(path, 'ü'*10**5),
                state=lambda: save_beside(dict(a=torch.zeros(10**5)), path),
                model=lambda: save_model(model, path),
                baseline=lambda: save_baseline(flow, BaselinePlan('llflow'), path),
                onnx=lambda: write_onnx(graph, path))[kind]
    assert at_once([save]*18) == []
    read = dict(json=lambda: json.loads(path.read_text())['rows'][-1]['n'],
                csv=lambda: path.read_text().count('\n'),
                text=lambda: path.read_text(encoding='utf-8')[-1],
                state=lambda: len(load_state(path)['a']), model=lambda: load_model(path).cfg.name,
                baseline=lambda: read_baseline(path).plan.name,
                onnx=lambda: onnx.load(path).graph.name)[kind]
    assert read() == dict(json=49, csv=51, text='ü', state=10**5, model='tiny', baseline='llflow',
                          onnx='g')[kind]
    assert [p.name for p in tmp_path.iterdir()] == ['one']
    if os.name == 'posix':
        # readable as any new file is
        assert path.stat().st_mode & 0o444 == 0o444 & ~mask()

def mask():
    m = os.umask(0)
    os.umask(m)
    return m

def test_one_writer_in_the_whole_package(root):
    "Nothing but `write_beside` renames a half-written file."
    for p in sorted((root/'lowlight_nat').rglob('*.py')):
        if p.name == 'files.py': continue
        assert not re.search(
            r"\.part['\"]|os\.replace\(|\.savefig\(path|torch\.save\((?!obj, f\))|save_file\(",
            p.read_text(encoding='utf-8')), p.name

class Shell:
    "What a pickle may ask for"
    def __reduce__(self): return os.system, ('echo ran > ran.txt',)

def test_a_state_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(epoch=1, evil=Shell()), 'a.pt')
    with pytest.raises(
            ValueError,
            match=r'a.pt cannot be read as a checkpoint of a run \(it holds \S*system, which is no part of a state\)'
    ) as e:
        load_state('a.pt')
    assert not Path('ran.txt').exists() and '\n' not in str(e.value)
    torch.save(dict(epoch=1), 'b.pt')
    Path('b.pt').write_bytes(Path('b.pt').read_bytes()[:99])
    with pytest.raises(ValueError, match='damaged or cut short') as e: load_state('b.pt')
    assert '\n' not in str(e.value)

def test_a_state_holds_what_numpy_and_fastai_put_into_it(tmp_path):
    s = dict(random=np.random.get_state(), hypers=L(dict(lr=np.float64(.1)),
                                                    dict(lr=np.float32(.5), n=np.int64(3))),
             on=np.bool_(True), a=np.arange(3.))
    save_beside(s, tmp_path/'a.pt')
    got = load_state(tmp_path/'a.pt')
    assert got['hypers'] == s['hypers'] and got['on'] == True and got['a'].tolist() == [0., 1., 2.]
    assert [np.array_equal(a, b) for a, b in zip(got['random'], s['random'])] == [True]*5
