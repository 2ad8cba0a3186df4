"The experiments as a user runs them: by command, on a data set, stopped and gone on with."
import csv
import inspect
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fastcore.basics import AttrDict

from lowlight_nat.cli import EXPERIMENTS, lowlight_experiment, lowlight_parser
from lowlight_nat.data.pairs import find_pairs
from lowlight_nat.experiments.runs import (
    Run,
    brightness,
    compare,
    differ_most,
    evaluate,
    match_results,
    pareto,
    scaled,
    table2,
)
from lowlight_nat.io.images import read_image, write_image
from lowlight_nat.io.records import Rows, folder_lock
from lowlight_nat.models.checkpoint import save_model
from lowlight_nat.models.config import ModelConfig
from lowlight_nat.models.lowlight_nat import LowLightNAT


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "A data set of three validation scenes, and a checkpoint of random weights."
    root = tmp_path_factory.mktemp('experiments')
    g = torch.Generator().manual_seed(0)
    for split, n in dict(train=2, val=3).items():
        for i in range(n):
            x = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=g), (40, 56),
                                                mode='bicubic')[0].clamp(0, .9)
            for part, y in ('high', x), ('low', .12*x):
                (root/'toy'/split/part).mkdir(parents=True, exist_ok=True)
                write_image(y, root/'toy'/split/part/f'{i}.png')
    torch.manual_seed(0)
    model = LowLightNAT(replace(ModelConfig.tiny(), n_codes=32))
    model.vqgan.start(torch.rand(4, 3, 64, 64))   # codes among the latents, or all would be one
    save_model(model, root/'toy.safetensors')
    return root

@pytest.fixture
def inside(toy, tmp_path, monkeypatch):
    for o in 'toy', 'toy.safetensors': (tmp_path/o).symlink_to(toy/o)
    monkeypatch.chdir(tmp_path)
    return tmp_path

def command(line):
    try: return lowlight_experiment.main(line.split())
    except SystemExit as e: return e.code   # said by the parser


@pytest.mark.parametrize('name, first, figure', [
    ('table2', 'rounds', None), ('tau', 'tau', 'figure.png'), ('brightness', 'scale', None),
    ('figure3', 'name', 'figure.jpg'), ('uncertainty', 'map', 'figure.png')])
@pytest.mark.slow
def test_each_experiment_writes_table_figure_and_circumstances(inside, capsys, name, first, figure):
    assert command(f'{name} --data toy --out out --weights toy.safetensors') == 0
    folder = inside/'out'/name
    d = json.loads((folder/'results.json').read_text())
    assert {
        'command', 'seed', 'versions', 'data', 'weights', 'device', 'seconds', 'formula', 'note',
        'table'
    } <= set(d)
    assert d[
        'command'] == f'lowlight_experiment {name} --data toy --out out --weights toy.safetensors' and d[
            'data']['n'] == 3 and len(d['data']['fingerprint']) == 16
    rows = list(csv.DictReader((folder/'results.csv').open()))
    assert len(rows) == len(d['rows']) > 1 and first in rows[0] and d['table'].strip() == (
        folder/'table.md').read_text().strip()
    assert d['table'] in capsys.readouterr().out and str(inside) not in (
        folder/'results.json').read_text()
    assert not figure or (folder/figure).stat().st_size > 5000

def test_every_experiment_has_a_function():
    from lowlight_nat import cli
    for name in EXPERIMENTS:
        if name != 'cost':
            assert callable(
                cli._by_name(AttrDict(name=name, budget='small', seeds=(42, ), folders=())))

def test_each_experiment_has_its_own_options():
    """All of them are parameters of the function, each parameter is of some experiment, and a wrong
    one is refused in Python too."""
    params = list(inspect.signature(lowlight_experiment.__wrapped__).parameters)
    assert set(params) == {o
                           for _, own in EXPERIMENTS.values()
                           for o in own} and all(
                               does.endswith('.') for does, _ in EXPERIMENTS.values())
    commands = next(a for a in lowlight_parser()._actions if a.dest == 'command').choices
    subs = next(a for a in commands['experiment']._actions if a.dest == 'name').choices
    for name, (_, own) in EXPERIMENTS.items():
        assert {a.dest for a in subs[name]._actions} == {*own, 'help', 'debug'} - {'name'}
        for a in subs[name]._actions: assert a.help and len(a.help) > 5, (name, a.dest)
    with pytest.raises(ValueError, match='table2 takes no share'):
        lowlight_experiment('table2', data='toy', out='out', share=.3)
    with pytest.raises(ValueError, match='no experiment'): lowlight_experiment('mix')

@pytest.mark.parametrize('line, says', [
    ('table2', '--data is missing'), ('table2 --data toy', '--out is missing'),
    ('tau a --data toy --out out', 'lowlight_experiment tau: unrecognized arguments: a'),
    ('table1 --data toy --out out --weights small', 'table1: unrecognized arguments: --weights'),
    ('compare --data toy --out out', 'required: folders'), ('', 'required: NAME'),
    ('mix --data toy', 'invalid choice'),
    ('ablation --data toy --out out --share .3', 'unrecognized arguments: --share'),
    ('cost --data toy', 'unrecognized arguments: --data'),
    ('table2 --low toy --out out', '--high is missing'),
    ('table2 --data toy --low a --high b --out out', 'give the one or the others'),
    ('table2 --data toy --out out --split all', 'has a split'),
    ('compare nowhere --data toy --out out', "no folder 'nowhere'"),
    ('table2 --data nowhere --out out', 'nowhere'),
    ('table2 --data toy --out toy.safetensors', 'is a file'),
    ('cost a', 'unrecognized arguments: a'), ('tau --data toy --out out --split test', 'chosen')])
def test_bad_input_is_one_sentence(inside, capsys, line, says):
    assert command(line) == 2
    err = capsys.readouterr().err.strip()
    assert says in err and err.count('\n') == 0

@pytest.mark.slow
def test_other_settings_are_refused(inside, capsys):
    line = 'uncertainty --data toy --out out --weights toy.safetensors'
    assert command(line) == 0
    assert command(f'{line} --seed 7') == 2 and 'seed: 42 then, 7 now' in capsys.readouterr().err

@pytest.mark.slow
def test_random_weights_are_not_called_lpips(inside, capsys):
    import torchvision
    torch.save(
        {f'features.{k}': v
         for k, v in torchvision.models.alexnet().features.state_dict().items()}, 'alexnet.pth')
    assert command('table2 --data toy --out out --weights toy.safetensors --lpips alexnet.pth') == 2
    assert "isn't LPIPS" in capsys.readouterr().err and not (inside/'out').exists()

def test_lpips_is_a_column_where_it_is_measured(inside):
    run = Run('table2', 'toy', 'out', 'toy.safetensors', lpips=lambda x, y:
              (x - y).abs().mean()[None])
    row = table2(run, (0,)).rows[0]
    assert 0 < row['lpips'] < 1 and 'not measured' not in json.loads(
        (run.folder/'results.json').read_text())['note']

@pytest.mark.slow
def test_test_pictures_are_read_only_when_asked_for(inside):
    (inside/'toy2').mkdir()
    for s in 'train', 'val': (inside/'toy2'/s).symlink_to((inside/'toy'/s).resolve())
    for part in 'low', 'high':
        (inside/'toy2/test'/part).mkdir(parents=True)
        (inside/'toy2/test'/part/'0.png').write_text('no picture')
    assert command('table2 --data toy2 --out out --weights toy.safetensors') == 0
    assert command('table2 --data toy2 --out out2 --weights toy.safetensors --split test') == 2

def test_two_runs_in_one_folder_at_once(inside, capsys):
    with folder_lock('out/table2'):
        assert command('table2 --data toy --out out --weights toy.safetensors') == 2
    assert 'Another run is writing' in capsys.readouterr(
    ).err and not Path('out/table2/results.json').exists()

@pytest.mark.slow
def test_killed_and_gone_on(toy, tmp_path):
    """SIGKILL in the middle of a row; the run that goes on makes the same table, and no finished
    row twice."""
    line = [
        sys.executable, '-c',
        'from lowlight_nat.cli import lowlight_experiment; lowlight_experiment()'
    ]
    args = ['table2', '--data', str(toy/'toy'), '--weights', str(toy/'toy.safetensors'), '--out']
    rows = tmp_path/'a/table2/rows.jsonl'
    p = subprocess.Popen([*line, *args, str(tmp_path/'a')], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    end = time.time() + 120
    while time.time() < end and p.poll() is None and not (rows.exists()
                                                          and rows.read_text().count('\n') >= 2):
        time.sleep(.01)
    p.send_signal(signal.SIGKILL)
    p.wait()
    before = [json.loads(o)['key'] for o in rows.read_text().splitlines()]
    assert len(before) >= 2
    for out in 'a', 'b':
        subprocess.run([*line, *args, str(tmp_path/out)], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
    keys = [json.loads(o)['key'] for o in rows.read_text().splitlines()]
    assert keys[:len(before)] == before and sorted(keys) == sorted(set(keys))
    a, b = (json.loads((tmp_path/o/'table2/results.json').read_text())['rows'] for o in 'ab')
    def drop(r):
        return {
            k: v
            for k, v in r.items()
            if k not in ('seconds', 'seconds_each', 'pictures')
        }
    assert [drop(r) for r in a] == [drop(r) for r in b]

def test_torn_line_and_damaged_settings(tmp_path):
    rows = Rows(tmp_path/'x', dict(a=1))
    rows.row('one', lambda: dict(v=float('inf')))
    with open(rows.path, 'a') as f: f.write('{"key": "two", "row": {"v"')
    again = Rows(tmp_path/'x', dict(a=1))
    assert again.row('one', lambda: 1/0).v == 'inf'   # not made again
    assert list(again.done) == ['one'] and again.row('two', lambda: dict(v=2)).v == 2 and list(
        Rows(tmp_path/'x', dict(a=1)).done) == ['one', 'two']
    (tmp_path/'x/settings.json').write_text('{')
    with pytest.raises(ValueError, match='damaged'): Rows(tmp_path/'x', dict(a=1))

def test_protocol(toy):
    """A perfect output scores infinity and 1; swapped channels never go unnoticed; a matter of
    level alone is none at equal mean."""
    pairs = find_pairs(toy/'toy', 'val')
    def method(f):
        truths = iter([read_image(p.high) for p in pairs])
        return evaluate(lambda x: f(next(truths)), pairs)
    perfect = method(lambda y: y)
    swapped = method(lambda y: y.flip(0))
    level = method(lambda y: .9*y)
    assert perfect.psnr == perfect.psnr_gt_mean == float('inf') and perfect.ssim == pytest.approx(1)
    assert swapped.psnr_gt_mean < 25 and level.psnr < 35 and level.psnr_gt_mean > 90
    with pytest.raises(ValueError, match='keep the size'): evaluate(lambda x: x[:, 1:], pairs)

def test_drift_of_a_method_that_ignores_exposure(toy, tmp_path):
    run = Run('brightness', toy/'toy', tmp_path, str(toy/'toy.safetensors'))
    run.__dict__['enhancer'] = type(
        'E', (),
        dict(device=torch.device('cpu'), model=AttrDict(about={}),
             __call__=lambda self, x: type('R', (), dict(x=(.4*x/x.mean()).clamp(0, 1)))()))()
    rows = brightness(run, (.5, 1.)).rows
    # rounding to 8 bit is all that differs
    assert float(rows[1]['drift']) == float('inf') and 25 < rows[0]['drift'] < 60
    assert abs(rows[0]['level'] - 1) < .02

def test_compare_reads_what_others_wrote(toy, tmp_path):
    pairs = find_pairs(toy/'toy', 'val')
    for p in pairs:
        (tmp_path/'m').mkdir(exist_ok=True)
        write_image(read_image(p.high), tmp_path/'m'/f'{p.name}.png')
    r = compare(Run('compare', toy/'toy', tmp_path/'out', None), [tmp_path/'m']).rows
    assert [o['method'] for o in r] == ['input', 'm'] and float(
        r[1]['psnr']) == float('inf') and r[0]['psnr'] < 30
    (tmp_path/'n/m').mkdir(parents=True)
    with pytest.raises(ValueError, match='Two methods'):
        compare(Run('compare', toy/'toy', tmp_path/'out2', None), [tmp_path/'m', tmp_path/'m'])
    with pytest.raises(ValueError, match='holds no pictures|lacks 3 of 3'):
        compare(Run('compare', toy/'toy', tmp_path/'out3', None), [tmp_path/'n/m'])

@pytest.fixture
def lol2(tmp_path):
    """LOL-v2 in small: both halves call their pictures 00000 to 00002, and show other scenes; with
    perfect results of both, named as the dark pictures are."""
    g = torch.Generator().manual_seed(1)
    for half in 'Real_captured', 'Synthetic':
        for split in 'Train', 'Test':
            for i in range(3):
                x = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=g), (24, 32),
                                                    mode='bicubic')[0].clamp(0, .9)
                low, high = (f'{k}{i:05d}' if half == 'Real_captured' else f'{i:05d}'
                             for k in ('low', 'normal'))
                write_image(x, tmp_path/'lol2'/half/split/'Normal'/f'{high}.png')
                write_image(.1*x, tmp_path/'lol2'/half/split/'Low'/f'{low}.png')
                if split == 'Test': write_image(x, tmp_path/'perfect'/half/f'{low}.png')
    return tmp_path

def test_compare_takes_rightly_named_results_of_both_halves(lol2):
    "Each picture is scored against the truth of its own half: a perfect result has no error."
    run = Run('compare', lol2/'lol2', lol2/'out', None, 'test')
    r = compare(run, [lol2/'perfect']).rows[1]
    assert r['n'] == 6 and float(r['psnr']) == float('inf') and r['ssim'] == pytest.approx(1)
    for half in 'Real_captured', 'Synthetic':
        r = compare(Run('compare', lol2/'lol2'/half, lol2/half, None, 'test'),
                    [lol2/'perfect'/half]).rows[1]
        assert r['n'] == 3 and float(r['psnr']) == float('inf')
    (lol2/'deep/Real_captured/Test/Low').mkdir(parents=True)
    (lol2/'deep/Synthetic').mkdir()
    for f in (lol2/'perfect').rglob('*.png'):
        (lol2/'deep'/f.parent.name/
         ('Test/Low' if f.parent.name[0] == 'R' else '')/f.name).write_bytes(f.read_bytes())
    assert len(match_results(lol2/'deep', run.pairs)) == 6

def test_compare_never_scores_one_half_against_the_other(lol2):
    run = Run('compare', lol2/'lol2', lol2/'out', None, 'test')
    (lol2/'flat').mkdir()
    for f in (lol2/'perfect/Real_captured').glob('*.png'):
        (lol2/'flat'/f'{f.stem[3:]}.png').write_bytes(f.read_bytes())
    with pytest.raises(
            ValueError,
            match=r"00000.png' could be the result of Real_captured/00000 and of Synthetic/00000: "
                  r"put each half's results into a folder"
    ):
        compare(run, [lol2/'flat'])
    (lol2/'perfect/Synthetic/00001.png').unlink()
    with pytest.raises(ValueError, match=r'lacks 1 of 6 pictures \(first: 00001\)'):
        compare(run, [lol2/'perfect'])
    (lol2/'perfect/Real_captured/low00000.jpg').write_bytes(
        (lol2/'perfect/Real_captured/low00000.png').read_bytes())
    with pytest.raises(ValueError, match='two pictures called low00000'):
        compare(run, [lol2/'perfect'])
    assert not run.rows.done   # nothing was scored before all was found

def test_results_that_were_made_anew_are_scored_anew(toy, tmp_path):
    for p in find_pairs(toy/'toy', 'val'):
        write_image(read_image(p.low), tmp_path/'m'/f'{p.name}.png')
    dark = compare(Run('compare', toy/'toy', tmp_path/'out', None), [tmp_path/'m']).rows[1]['psnr']
    for p in find_pairs(toy/'toy', 'val'):
        write_image(read_image(p.high), tmp_path/'m'/f'{p.name}.png')
    assert dark < 30 and float(
        compare(Run('compare', toy/'toy', tmp_path/'out', None),
                [tmp_path/'m']).rows[1]['psnr']) == float('inf')

@pytest.mark.slow
def test_two_folders_without_a_split(inside, toy, capsys):
    """All pairs are used by what measures, and that is said; what looks at training pairs takes
    those that are held out."""
    for part in 'low', 'high':
        (inside/'mine'/part).mkdir(parents=True)
        for s in 'train', 'val':
            for f in (inside/'toy'/s/part).glob('*.png'):
                (inside/'mine'/part/f'{s}{f.name}').write_bytes(f.read_bytes())
    for how, name in ('--data mine', 'mine'), ('--low mine/low --high mine/high', 'low and high'):
        assert command(f'table2 {how} --out {name[:3]} --weights toy.safetensors') == 0
        assert (f"'{'mine/low and mine/high' if '--low' in how else 'mine'}' has no split: all its "
                "pairs are used") in capsys.readouterr(
        ).out
        d = json.loads((inside/name[:3]/'table2/results.json').read_text())
        assert (d['data']['n'], d['data']['split'], d['data']['name']) == (
            5, 'all', name) and d['command'].startswith(f'lowlight_experiment table2 {how} --out ')
    assert command('uncertainty --data mine --out held --weights toy.safetensors') == 0
    assert json.loads((inside/'held/uncertainty/results.json').read_text())['data']['n'] == 1
    assert command('uncertainty --data mine --out held2 --weights toy.safetensors --split all'
                   ) == 2 and 'held out' in capsys.readouterr().err

def test_pareto_and_crops():
    assert pareto([(1, 5), (2, 6), (2, 5), (3, 6), (3, 7)]) == [True, True, False, False, True]
    assert scaled(torch.full((3, 2, 2), 1.), .3).unique().tolist() == pytest.approx([76/255])
    a = torch.zeros(3, 30, 40)
    b = torch.zeros(3, 30, 40)
    b[:, 20:, 30:] = 1
    rows, cols = differ_most(a, b, 16)
    assert rows.stop - rows.start == 16 and rows.stop > 24 and cols.stop > 34

def test_tables_in_the_book_are_whole(root):
    "What the chapters show was written by the commands that they name."
    found = sorted((root/'nbs/figures/run').glob('exp_*.json'))
    assert found
    for f in found:
        d = json.loads(f.read_text())
        assert d['command'].startswith(f"lowlight_experiment {f.stem[4:]} ") and d['formula'] in d[
            'table'] and d['rows'] and d['data']['split'] == 'val'

def test_text_of_table_1_and_of_the_ablation(root):
    "What the chapter says of the measured tables; if a new run says otherwise, so must the text."
    def read(name): return json.loads((root/f'nbs/figures/run/{name}.json').read_text())
    one = {r['system']: r for r in read('exp_table1')['rows']}
    def gain(a, b, k='psnr_gt_mean'): return one[a][k] - one[b][k]
    assert .9 < gain('GLARE', 'Restormer') < 1.3
    assert 2.5 < gain('GLARE', 'LLFlow') < 3
    assert 0 < gain('LLFlow', 'gamma') < 1.2
    for other in ('Restormer', 'LLFlow'): assert gain('GLARE', other, 'ssim_gt_mean') > .09
    shared = one['GLARE']['seconds_shared']
    took = {k: r['seconds_train'] + r.get('seconds_shared', 0) for k, r in one.items()}
    assert shared == 467
    assert 2.5 < took['GLARE']/max(took['Restormer'], took['LLFlow']) < 3.5
    assert took['+NAT latent'] > 4.5*took['Restormer']
    each = {r['system']: r for r in read('exp_ablation')['rows']}
    for k in ('+NAT latent', '+NAT decoder'):
        assert each[k]['psnr_gain'] < -.05
        assert each[k]['psnr_gain_high'] < 0
    assert abs(each['+NAT latent & decoder']['psnr_gain']) < .05
    felt = {r['system']: r for r in read('perceptual')['rows']}
    assert felt['+NAT decoder']['low'] > felt['GLARE']['high']
    for k in ('+NAT latent', '+NAT latent & decoder'): assert felt[k]['low'] < felt['GLARE']['high']
    both = felt['+NAT latent & decoder']
    assert .005 < 1 - both['bundled']/felt['GLARE']['bundled'] < .015
