"The experiments as a user runs them: by command, on a data set, stopped and gone on with."
import csv, json, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path

import pytest, torch
from fastcore.basics import AttrDict

from lowlight_nat.cli import EXPERIMENTS, lowlight_experiment
from lowlight_nat.experiments import Run, brightness, compare, differ_most, evaluate, pareto, scaled, table2
from lowlight_nat.images import read_image, write_image
from lowlight_nat.model import LowLightNAT, NATConfig, save_model
from lowlight_nat.pairs import find_pairs
from lowlight_nat.record import Rows, write_json


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "A data set of three validation scenes, and a checkpoint of random weights."
    root = tmp_path_factory.mktemp('experiments')
    g = torch.Generator().manual_seed(0)
    for split, n in dict(train=2, val=3).items():
        for i in range(n):
            x = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=g), (40, 56), mode='bicubic')[0].clamp(0, .9)
            for part, y in ('high', x), ('low', .12*x):
                (root/'toy'/split/part).mkdir(parents=True, exist_ok=True)
                write_image(y, root/'toy'/split/part/f'{i}.png')
    torch.manual_seed(0)
    save_model(LowLightNAT(replace(NATConfig.tiny(), n_codes=32)), root/'toy.safetensors')
    return root

@pytest.fixture
def inside(toy, tmp_path, monkeypatch):
    for o in 'toy', 'toy.safetensors': (tmp_path/o).symlink_to(toy/o)
    monkeypatch.chdir(tmp_path)
    return tmp_path

def command(line): return lowlight_experiment.main(line.split())


@pytest.mark.parametrize('name, first, figure', [('table2', 'rounds', None), ('tau', 'tau', 'figure.png'), ('brightness', 'scale', None), ('figure3', 'name', 'figure.jpg'), ('uncertainty', 'map', 'figure.png')])
@pytest.mark.slow
def test_each_experiment_writes_table_figure_and_circumstances(inside, capsys, name, first, figure):
    assert command(f'{name} --data toy --out out --weights toy.safetensors') == 0
    folder = inside/'out'/name
    d = json.loads((folder/'results.json').read_text())
    assert {'command', 'seed', 'versions', 'data', 'weights', 'device', 'seconds', 'formula', 'note', 'table'} <= set(d)
    assert d['command'] == f'lowlight_experiment {name} --data toy --out out --weights toy.safetensors' and d['data']['n'] == 3 and len(d['data']['fingerprint']) == 16
    rows = list(csv.DictReader((folder/'results.csv').open()))
    assert len(rows) == len(d['rows']) > 1 and first in rows[0] and d['table'].strip() == (folder/'table.md').read_text().strip()
    assert d['table'] in capsys.readouterr().out and str(inside) not in (folder/'results.json').read_text()
    assert not figure or (folder/figure).stat().st_size > 5000

def test_every_experiment_has_a_function():
    from lowlight_nat import cli
    for name in EXPERIMENTS:
        if name != 'cost': assert callable(cli._by_name(AttrDict(name=name, budget='small', seeds=(42,), folders=())))

@pytest.mark.parametrize('line, says', [('table2', '--data is missing'), ('table2 --data toy', '--out is missing'), ('tau a --data toy --out out', 'for compare'), ('table1 --data toy --out out --weights small', 'trains its own weights'),
    ('compare --data toy --out out', 'name at least one folder'), ('compare nowhere --data toy --out out', "no folder 'nowhere'"), ('table2 --data nowhere --out out', 'nowhere'), ('table2 --data toy --out toy.safetensors', 'is a file'), ('cost a', 'for compare'), ('tau --data toy --out out --split test', 'chosen')])
def test_bad_input_is_one_sentence(inside, capsys, line, says):
    assert command(line) == 2
    err = capsys.readouterr().err.strip()
    assert says in err and err.count('\n') == 0

@pytest.mark.slow
def test_other_settings_are_refused(inside, capsys):
    assert command('table2 --data toy --out out --weights toy.safetensors') == 0
    assert command('table2 --data toy --out out --weights toy.safetensors --seed 7') == 2 and 'seed: 42 then, 7 now' in capsys.readouterr().err

@pytest.mark.slow
def test_random_weights_are_not_called_lpips(inside, capsys):
    import torchvision
    torch.save({f'features.{k}': v for k, v in torchvision.models.alexnet().features.state_dict().items()}, 'alexnet.pth')
    assert command('table2 --data toy --out out --weights toy.safetensors --lpips alexnet.pth') == 2
    assert "isn't LPIPS" in capsys.readouterr().err and not (inside/'out').exists()

def test_lpips_is_a_column_where_it_is_measured(inside):
    run = Run('table2', 'toy', 'out', 'toy.safetensors', lpips=lambda x, y: (x-y).abs().mean()[None])
    row = table2(run, (0,)).rows[0]
    assert 0 < row['lpips'] < 1 and 'not measured' not in json.loads((run.folder/'results.json').read_text())['note']

@pytest.mark.slow
def test_test_pictures_are_read_only_when_asked_for(inside):
    (inside/'toy2').mkdir()
    for s in 'train', 'val': (inside/'toy2'/s).symlink_to((inside/'toy'/s).resolve())
    for part in 'low', 'high': (inside/'toy2/test'/part).mkdir(parents=True); (inside/'toy2/test'/part/'0.png').write_text('no picture')
    assert command('table2 --data toy2 --out out --weights toy.safetensors') == 0
    assert command('table2 --data toy2 --out out2 --weights toy.safetensors --split test') == 2

@pytest.mark.slow
def test_killed_and_gone_on(toy, tmp_path):
    "SIGKILL in the middle of a row; the run that goes on makes the same table, and no finished row twice."
    line = [sys.executable, '-c', 'from lowlight_nat.cli import lowlight_experiment; lowlight_experiment()']
    args = ['table2', '--data', str(toy/'toy'), '--weights', str(toy/'toy.safetensors'), '--out']
    rows = tmp_path/'a/table2/rows.jsonl'
    p = subprocess.Popen([*line, *args, str(tmp_path/'a')], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time() + 120
    while time.time() < end and p.poll() is None and not (rows.exists() and rows.read_text().count('\n') >= 2): time.sleep(.01)
    p.send_signal(signal.SIGKILL); p.wait()
    before = [json.loads(o)['key'] for o in rows.read_text().splitlines()]
    assert len(before) >= 2
    for out in 'a', 'b': subprocess.run([*line, *args, str(tmp_path/out)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    keys = [json.loads(o)['key'] for o in rows.read_text().splitlines()]
    assert keys[:len(before)] == before and sorted(keys) == sorted(set(keys))
    a, b = (json.loads((tmp_path/o/'table2/results.json').read_text())['rows'] for o in 'ab')
    drop = lambda r: {k: v for k, v in r.items() if k not in ('seconds', 'seconds_each', 'pictures')}
    assert [drop(r) for r in a] == [drop(r) for r in b]

def test_torn_line_and_damaged_settings(tmp_path):
    rows = Rows(tmp_path/'x', dict(a=1))
    rows.row('one', lambda: dict(v=float('inf')))
    with open(rows.path, 'a') as f: f.write('{"key": "two", "row": {"v"')
    again = Rows(tmp_path/'x', dict(a=1))
    assert again.row('one', lambda: 1/0).v == 'inf'   # not made again
    assert list(again.done) == ['one'] and again.row('two', lambda: dict(v=2)).v == 2 and list(Rows(tmp_path/'x', dict(a=1)).done) == ['one', 'two']
    (tmp_path/'x/settings.json').write_text('{')
    with pytest.raises(ValueError, match='damaged'): Rows(tmp_path/'x', dict(a=1))

def test_protocol(toy):
    "A perfect output scores infinity and 1; swapped channels never go unnoticed; a matter of level alone is none at equal mean."
    pairs = find_pairs(toy/'toy', 'val')
    def method(f):
        truths = iter([read_image(p.high) for p in pairs])
        return evaluate(lambda x: f(next(truths)), pairs)
    perfect, swapped, level = method(lambda y: y), method(lambda y: y.flip(0)), method(lambda y: .9*y)
    assert perfect.psnr == perfect.psnr_gt_mean == float('inf') and perfect.ssim == pytest.approx(1)
    assert swapped.psnr_gt_mean < 25 and level.psnr < 35 and level.psnr_gt_mean > 90
    with pytest.raises(ValueError, match='keep the size'): evaluate(lambda x: x[:, 1:], pairs)

def test_drift_of_a_method_that_ignores_exposure(toy, tmp_path):
    run = Run('brightness', toy/'toy', tmp_path, str(toy/'toy.safetensors'))
    run.__dict__['enhancer'] = type('E', (), dict(device=torch.device('cpu'), model=AttrDict(about={}), __call__=lambda self, x: type('R', (), dict(x=(.4*x/x.mean()).clamp(0, 1)))()))()
    rows = brightness(run, (.5, 1.)).rows
    assert float(rows[1]['drift']) == float('inf') and 25 < rows[0]['drift'] < 60   # rounding to 8 bit is all that differs
    assert abs(rows[0]['level'] - 1) < .02

def test_compare_reads_what_others_wrote(toy, tmp_path):
    pairs = find_pairs(toy/'toy', 'val')
    for p in pairs: (tmp_path/'m').mkdir(exist_ok=True); write_image(read_image(p.high), tmp_path/'m'/f'{p.name}.png')
    r = compare(Run('compare', toy/'toy', tmp_path/'out', None), [tmp_path/'m']).rows
    assert [o['method'] for o in r] == ['input', 'm'] and float(r[1]['psnr']) == float('inf') and r[0]['psnr'] < 30
    (tmp_path/'n/m').mkdir(parents=True)
    with pytest.raises(ValueError, match='Two methods'): compare(Run('compare', toy/'toy', tmp_path/'out2', None), [tmp_path/'m', tmp_path/'m'])
    with pytest.raises(ValueError, match='holds no pictures|lacks 3 of 3'): compare(Run('compare', toy/'toy', tmp_path/'out3', None), [tmp_path/'n/m'])

def test_pareto_and_crops():
    assert pareto([(1, 5), (2, 6), (2, 5), (3, 6), (3, 7)]) == [True, True, False, False, True]
    assert scaled(torch.full((3, 2, 2), 1.), .3).unique().tolist() == pytest.approx([76/255])
    a, b = torch.zeros(3, 30, 40), torch.zeros(3, 30, 40); b[:, 20:, 30:] = 1
    rows, cols = differ_most(a, b, 16)
    assert rows.stop - rows.start == 16 and rows.stop > 24 and cols.stop > 34

def test_tables_in_the_book_are_whole(root):
    "What the chapters show was written by the commands that they name."
    found = sorted((root/'nbs/figures/run').glob('exp_*.json'))
    assert found
    for f in found:
        d = json.loads(f.read_text())
        assert d['command'].startswith(f"lowlight_experiment {f.stem[4:]} ") and d['formula'] in d['table'] and d['rows'] and d['data']['split'] == 'val'
