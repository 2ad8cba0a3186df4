"What known tokens and rounds are worth: the experiments company, hints and rounds, by command."
import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lowlight_nat.cli import lowlight_experiment
from lowlight_nat.data.pairs import Pair
from lowlight_nat.experiments import known_tokens
from lowlight_nat.experiments.known_tokens import (
    CONTROL,
    PATCHES,
    SCALES,
    SHARES,
    company,
    generator_of,
    high_frequency,
    hints,
    mean_over,
    rounds,
    rounds_row,
    see,
    settings_of_rounds,
    shown_places,
)
from lowlight_nat.experiments.runs import Run, spread_over
from lowlight_nat.io.images import read_image, write_image
from lowlight_nat.models.checkpoint import load_model, save_model
from lowlight_nat.models.config import ModelConfig
from lowlight_nat.models.lowlight_nat import Known, LowLightNAT

SCORES = {'psnr', 'ssim', 'psnr_gt_mean', 'ssim_gt_mean'}


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "Three made-up pairs of a size that is no multiple of 8, and an untrained checkpoint."
    root = tmp_path_factory.mktemp('known')
    g = torch.Generator().manual_seed(0)
    for i in range(3):
        x = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 8, generator=g), (52, 67),
                                            mode='bicubic')[0].clamp(0, .9)
        for part, y in ('high', x), ('low', .12*x): write_image(y, root/'pairs'/part/f'{i}.png')
    torch.manual_seed(0)
    save_model(LowLightNAT(replace(ModelConfig.tiny(), n_codes=32)), root/'toy.safetensors')
    return root

@pytest.fixture
def inside(toy, tmp_path, monkeypatch):
    for o in 'pairs', 'toy.safetensors': (tmp_path/o).symlink_to(toy/o)
    monkeypatch.chdir(tmp_path)
    return tmp_path

@pytest.fixture(scope='module')
def crop(root, tmp_path_factory):
    "A piece of a sample, darkened, as a pair."
    folder = tmp_path_factory.mktemp('crop')
    for part, path in ('low', 'samples/coffee.png'), ('high', 'samples/reference/coffee.png'):
        write_image(read_image(root/path)[:, 80:208, 80:240], folder/part/'coffee.png')
    return Pair(folder/'low/coffee.png', folder/'high/coffee.png', 'coffee')

def command(line):
    try: return lowlight_experiment.main(line.split())
    except SystemExit as e: return e.code   # said by the parser

def results(name):
    "What a command wrote."
    d = json.loads(Path(f'out/{name}.json').read_text())
    rows = list(csv.DictReader(Path(f'out/{name}.csv').open()))
    return d, rows


# --- the commands ---

def check_common(name, d, rows, n=3):
    assert d['command'].startswith(f'lowlight_experiment {name} ')
    assert d['n'] == d['data']['n'] == n
    assert d['weights']['name'] == 'toy' and len(d['weights']['sha256']) == 64
    assert len(rows) == len(d['rows'])
    assert Path(f'out/{name}.png').stat().st_size > 5000
    assert (Path('out')/name/'results.json').read_bytes() == Path(f'out/{name}.json').read_bytes()
    for row in d['rows']: assert SCORES <= set(row)

def test_company_as_a_command(inside):
    assert command('company --data pairs --out out --weights toy.safetensors') == 0
    d, rows = results('company')
    check_common('company', d, rows)
    assert [o['shown'] for o in d['rows']] == [*SHARES]
    assert all(0 <= o['accuracy'] <= 1 and o['cross_entropy'] > 0 for o in d['rows'][:-1])
    assert d['rows'][-1]['cross_entropy'] is None and d['rows'][-1]['accuracy'] is None
    assert rows[-1]['cross_entropy'] == '' and d['control']['shown'] == CONTROL

def test_hints_as_a_command(inside):
    assert command('hints --data pairs --out out --weights toy.safetensors --limit 1') == 0
    d, rows = results('hints')
    check_common('hints', d, rows, 1)
    assert [o['patches'] for o in d['rows']] == [*PATCHES]
    assert d['rows'][-1]['placed'] < 16 and 'no room for' in d['note']

@pytest.mark.slow
def test_rounds_as_a_command(inside):
    assert command('rounds --data pairs --out out --weights toy.safetensors --limit 2') == 0
    d, rows = results('rounds')
    check_common('rounds', d, rows, 2)
    settings = [(o['brightness'], o['read_out'], o['schedule'], o['rounds']) for o in d['rows']]
    assert len(set(settings)) == len(settings) == len(SCALES)*len(settings_of_rounds())
    assert {r for _, _, _, r in settings} == {0, 1, 2, 4, 8, 12}
    for o in d['rows']:
        assert o['sharpness'] > 0 and o['seconds'] > 0
        assert (o['spread'] is None) == (o['read_out'] != 'sampled')

@pytest.mark.parametrize('line, says', [
    ('company', '--data is missing'), ('company --data pairs', '--out is missing'),
    ('company --data pairs --out out --limit 0', 'limit=0 must'),
    ('rounds --data pairs --out out --rounds 3', 'unrecognized arguments: --rounds'),
    ('hints --data nowhere --out out', 'nowhere'),
    ('company --data pairs --out out --weights nothing', 'nothing'),
    ('company --data pairs --out toy.safetensors', 'is a file')])
def test_bad_input_is_one_sentence(inside, capsys, line, says):
    assert command(line) == 2
    err = capsys.readouterr().err.strip()
    assert says in err and err.count('\n') == 0

def test_a_picture_that_is_too_small(toy, tmp_path):
    for part in 'low', 'high': write_image(torch.rand(3, 12, 40), tmp_path/part/'a.png')
    with pytest.raises(ValueError, match='a: 40x8 pixels are too few: 16 each way'):
        company(Run('company', tmp_path, tmp_path/'out', str(toy/'toy.safetensors')))

def test_a_stopped_run_goes_on_and_other_settings_are_refused(inside, capsys, monkeypatch):
    line = 'company --data pairs --out out --weights toy.safetensors'
    seen = []
    real = known_tokens.see
    def see(model, pair, *args):
        seen.append(pair.name)
        if len(seen) == 2: raise KeyboardInterrupt
        return real(model, pair, *args)
    monkeypatch.setattr(known_tokens, 'see', see)
    with pytest.raises(KeyboardInterrupt): company(Run('company', 'pairs', 'out', 'toy.safetensors'))
    res = company(Run('company', 'pairs', 'out', 'toy.safetensors'))
    assert seen == ['0', '1', '1', '2'] and res.n == 3   # the first picture was kept
    first = Path('out/company.csv').read_bytes()
    company(Run('company', 'pairs', 'out', 'toy.safetensors'))
    assert len(seen) == 4 and Path('out/company.csv').read_bytes() == first
    assert command(line + ' --seed 7') == 2
    assert "holds rows of other settings" in capsys.readouterr().err
    assert command(line + ' --limit 1') == 2


# --- what must hold ---

def test_places_belong_to_the_picture_and_the_seed():
    def order(name, seed): return torch.randperm(200, generator=generator_of(name, seed))
    assert order('a', 1).equal(order('a', 1))
    assert not order('a', 1).equal(order('b', 1)) and not order('a', 1).equal(order('a', 2))
    shown = [shown_places(order('a', 1), s, (10, 20)) for s in SHARES]
    assert [o.sum().item() for o in shown] == [0, 1, 1, 6, 50, 180, 200]
    for fewer, more in zip(shown, shown[1:]): assert not (fewer & ~more).any()

def test_some_pairs_are_spread_over_all():
    assert spread_over([*range(10)], 4) == [0, 2, 5, 7] and spread_over([1, 2], 5) == [1, 2]
    with pytest.raises(ValueError, match='limit=0'): spread_over([1], 0)

def test_means_keep_settings_and_gaps():
    def row(psnr, accuracy): return dict(shown=.5, psnr=psnr, accuracy=accuracy)
    assert mean_over([[row(20., None)], [row(30., .5)]], ('shown',)) == [row(25., None)]

def test_sharpness_is_of_energy():
    x = torch.rand(3, 20, 20)
    assert high_frequency(2*x) == pytest.approx(4*high_frequency(x)) and high_frequency(x*0) == 0

def test_true_tokens_tell_and_nearest_codes_do_not(crop, tmp_path):
    res = company(Run('company', [crop], tmp_path))
    rows = {o['shown']: o for o in res.rows}
    nats = [rows[s]['cross_entropy'] for s in (0, .25, .9)]
    assert nats[0] - .3 > nats[1] > nats[2]
    assert rows[.25]['accuracy'] > rows[0]['accuracy'] + .05
    assert rows[0]['psnr_gt_mean'] < rows[.25]['psnr_gt_mean'] < rows[1.]['psnr_gt_mean']
    assert res.control['cross_entropy'] > nats[0] - .1
    assert res.control['psnr_gt_mean'] < rows[.25]['psnr_gt_mean'] - .3

@pytest.mark.slow
def test_few_true_tokens_tell_of_a_real_picture(lol_data, tmp_path):
    "Three tokens of a hundred say more of the light of a real photograph than of a made-up one."
    rows = company(Run('company', lol_data, tmp_path, limit=1)).rows
    nats = [o['cross_entropy'] for o in rows if o['shown'] in (0, .03, .25, .9)]
    assert nats[0] - .2 > nats[1] > nats[2] and nats[3] < nats[1]

@pytest.mark.slow
def test_patches_of_the_truth_help(crop, tmp_path):
    rows = hints(Run('hints', [crop], tmp_path)).rows
    assert rows[-1]['psnr'] > rows[0]['psnr'] and rows[-1]['psnr_gt_mean'] > rows[0]['psnr_gt_mean']

def test_no_rounds_leave_the_latent_alone(crop):
    model = load_model()
    scene = see(model, crop)
    row = rounds_row(model, scene, None, 0)
    nothing = Known(scene.truth, torch.zeros_like(scene.truth, dtype=torch.bool))
    with torch.no_grad(): r = model.refine(scene.aligned, known=nothing, rounds=0)
    assert r.z.equal(scene.aligned.z_tilde.float())
    assert row['read_out'] == 'none' and row['spread'] is None

def test_brightness_multiplies_the_dark_picture_alone(crop):
    model = load_model()
    one = see(model, crop)
    dark = see(model, crop, .3)
    assert dark.truth.equal(one.truth) and dark.high.equal(one.high)
    assert (dark.low - .3*one.low).abs().max() < 1/255

@pytest.mark.slow
def test_rounds_are_the_same_again(crop, tmp_path):
    a, b = (rounds(Run('rounds', [crop], tmp_path/o)).rows for o in 'ab')
    def drop(rows): return [{k: v for k, v in o.items() if k != 'seconds'} for o in rows]
    assert drop(a) == drop(b)
    mean = {(o['rounds'], o['read_out']): o for o in a if o['brightness'] == 1}
    assert mean[1, 'sampled']['spread'] > 0
    # one round of a mean in place of the delta form: another picture
    assert mean[1, 'mean']['psnr'] != mean[1, 'delta']['psnr']
