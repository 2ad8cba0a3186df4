"The four commands: what they write, what they print, what they return, and what they refuse."
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowlight_nat.cli import *
from lowlight_nat.cli import _short
from lowlight_nat.evaluation.fidelity import GT_MEAN_FORMULA
from lowlight_nat.io.images import write_image
from lowlight_nat.models.checkpoint import save_model
from lowlight_nat.models.config import ModelConfig, TrainPlan
from lowlight_nat.models.lowlight_nat import LowLightNAT

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT/'samples'
TOY = dict(n_codes=64, vq_channels=(8, 16), enc_channels=(8, 12, 16), cond=8, flow_steps=2,
           flow_hidden=8, nat_width=16, nat_depth=1, nat_heads=2, dec_channels=(8, 12),
           feat_width=16, feat_depth=1)


def picture(h=20, w=24, seed=0, level=.15):
    return torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed))*level

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "The file of a very small model of random weights."
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('weights')/'toy.safetensors'
    save_model(LowLightNAT(ModelConfig(**TOY)), path, dict(note='random weights'))
    return str(path)

@pytest.fixture
def place(tmp_path, monkeypatch):
    "We stand in an empty folder with two folders of pictures."
    for i, name in enumerate(['in/a.png', 'in/b.jpg', 'in/sub/c.png', 'more/d.webp', 'more/a.png']):
        write_image(picture(seed=i), tmp_path/name)
    monkeypatch.chdir(tmp_path)
    return tmp_path

def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob('*') if p.is_file())
def complaint(capsys):
    "What was said on the error stream: one line."
    err = capsys.readouterr().err.strip()
    assert err and '\n' not in err and 'Traceback' not in err
    return err


# --- lowlight_enhance ---

def test_folder(place, toy, capsys):
    assert lowlight_enhance.main(['in', '-o', 'out', '--weights', toy]) == 0
    assert names('out') == ['a.png', 'b.jpg'] and Image.open('out/b.jpg').size == (24, 20)
    assert '2 of 2 pictures' in capsys.readouterr().out

def test_files_and_folders(place, toy):
    assert lowlight_enhance.main(['in/b.jpg', 'more', '-o', 'out', '--weights', toy]) == 0
    assert names('out') == ['a.png', 'b.jpg', 'd.webp']

def test_recursive(place, toy):
    assert lowlight_enhance.main(['in', '-o', 'out', '--recursive', '--weights', toy]) == 0
    assert names('out') == ['a.png', 'b.jpg', 'sub/c.png']

def test_one_file(place, toy):
    assert lowlight_enhance.main(
        ['in/a.png', '-o', 'new/bright.jpg', '--save-uncertainty', '--weights', toy]) == 0
    assert names('new') == ['bright.jpg', 'bright_uncertainty.png']
    assert lowlight_enhance.main(['in/a.png', '-o', 'there', '--weights', toy
                                  ]) == 0 and names('there') == ['a.png']

def test_all_options(place, toy):
    line = ('in -o out --tau .3 --rounds 2 --mix .5 --heat .2 --seed 3 --device cpu --exposure .4 '
            '--save-uncertainty --weights').split(
    )
    assert lowlight_enhance.main([*line, toy]) == 0
    assert names('out') == ['a.png', 'a_uncertainty.png', 'b.jpg', 'b_uncertainty.png']

@pytest.mark.slow
def test_quality(place, toy, capsys):
    "Less quality, a smaller file; a WebP that was lossless stays so."
    from lowlight_nat.io.metadata import _is_lossless
    Image.open('in/a.png').convert('RGB').save('l.webp', lossless=True)
    sizes = []
    for q in '30', '95':
        args = ['-o', 'out', '--quality', q, '--weights', toy]
        assert lowlight_enhance.main(['in/a.png', '-o', f'q{q}.jpg', *args[2:]]) == 0
        assert lowlight_enhance.main(['l.webp', *args]) == 0
        assert _is_lossless(Path('out/l.webp').read_bytes())
        sizes.append(Path(f'q{q}.jpg').stat().st_size)
    assert sizes[0] < sizes[1]*.8

@pytest.mark.slow
def test_mask_strength_and_films(place, toy, capsys):
    write_image(torch.zeros(3, 20, 24), 'black.png')
    assert lowlight_enhance.main(
        ['in', '-o', 'out', '--refine-mask', 'black.png', '--save-history', '--weights', toy]) == 0
    out, err = capsys.readouterr()
    assert names('out') == ['a.png', 'a_history.webp', 'b.jpg', 'b_history.webp'
                            ] and err.count('the refine mask sets no place') == 2
    assert lowlight_enhance.main(
        ['in/a.png', '-o', 'same.png', '--strength', '0', '--save-history', '--weights', toy]) == 0
    assert Image.open('same.png').tobytes() == Image.open('in/a.png').tobytes() and Image.open(
        'same_history.webp').format == 'WEBP'
    write_image(torch.zeros(3, 9, 9), 'small.png')
    assert lowlight_enhance.main(['in', '-o', 'two', '--mask', 'small.png', '--weights', toy]) == 1
    assert capsys.readouterr().err.count('mask has 9x9 pixels, and the picture 24x20') == 2
    (place/'out/a_history.webp').unlink()
    assert lowlight_enhance.main(
        ['in', '-o', 'out', '--save-history', '--existing', 'skip', '--weights', toy]) == 0
    assert '1 of 2 pictures' in capsys.readouterr().out and len(names('out')) == 4

def test_colour_shadows_and_place(place, toy, capsys):
    "Every control changes the file; outside the mask it is the photograph, to the last bit."
    def run(out, *more):
        assert lowlight_enhance.main(['in/a.png', '-o', out, *more, '--weights', toy]) == 0
        return np.array(Image.open(out))
    plain = run('plain.png')
    # without its number the option doesn't take the picture for one
    kept = run('kept.png', '--keep-colour')
    line = ['--keep-colour', 'in/a.png', '-o', 'k.png', '--weights', toy]
    assert lowlight_enhance.main(line) == 0
    assert np.array_equal(kept, np.array(Image.open('k.png'))) and not np.array_equal(kept, plain)
    assert np.array_equal(kept, run('one.png', '--keep-colour', '1'))
    assert not np.array_equal(plain, run('open.png', '--shadows', '-.5'))
    mask = torch.zeros(1, 20, 24)
    mask[..., 12:] = 1
    write_image(mask, 'mask.png')
    here = run('here.png', '--mask', 'mask.png', '--feather', '4')
    dark = np.array(Image.open('in/a.png'))
    assert np.array_equal(here[:, :9], dark[:, :9]) and np.array_equal(here[:, 16:], plain[:, 16:])

def test_shards_of_a_folder(place, toy, capsys):
    "Three commands, as three machines would give them, and one again."
    for i in range(20): write_image(picture(seed=i), place/f'in/sub/{i}.png')
    for i in (2, 3, 1, 2):
        line = ['in', '-o', 'out', '--recursive', '--shard', f'{i}/3', '--existing', 'skip']
        assert lowlight_enhance.main([*line, '--weights', toy]) == 0
    found = [n for n in names('out') if not n.startswith('.')]
    assert found == sorted(['a.png', 'b.jpg', 'sub/c.png', *(f'sub/{i}.png' for i in range(20))])
    said = capsys.readouterr().out.splitlines()
    line = r"(\d+) of (\d+) pictures enhanced into 'out' \(shard (./3) of 23 pictures\)"
    done = [re.match(line, o) for o in said]
    assert [o[3] for o in done] == ['2/3', '3/3', '1/3', '2/3']
    assert sum(int(o[1]) for o in done) == 23 and done[3][1] == '0'

HELP_GROUPS = ['light and colour', 'where', 'hints', 'output', 'many pictures', 'speed', 'research']

def test_the_help_is_sorted(capsys):
    """Every option but --debug stands in a group; --quality under output, the NATs' under research,
    with what was measured of them."""
    with pytest.raises(SystemExit): lowlight_enhance.main(['--help'])
    text = capsys.readouterr().out
    heads = [text.index(f'\n{g}:\n') for g in HELP_GROUPS]
    assert heads == sorted(heads)
    parts = dict(zip(HELP_GROUPS, (text[a:b] for a, b in zip(heads, [*heads[1:], None]))))
    assert '--quality' in parts['output'] and '--out' in parts['output']
    assert '--shard' in parts['many pictures'] and '--refine-mask' in parts['where']
    for o in 'tau', 'rounds', 'heat', 'mix', 'refine-mask':
        own = re.split(r'\n  -', parts['research'].partition(f'\n  --{o} ')[2])[0]
        assert re.search(r'[-+]\d\.\d\d\s+dB', own), o
    alone = text[:heads[0]]
    assert set(re.findall(r'^  (--?[a-z][a-z-]*)', alone, re.M)) <= {'-h', '--debug'}

def test_the_measured_controls_are_of_these_weights():
    """`python nbs/figures/controls.py --data DIR` measures them anew; a help with figures of other
    weights would be wrong."""
    run = json.loads((ROOT/'lowlight_nat/weights/controls.json').read_text())
    own = hashlib.sha256((ROOT/'lowlight_nat/weights/small.safetensors').read_bytes()).hexdigest()
    assert run['weights']['sha256'] == own, 'run python nbs/figures/controls.py --data DIR'
    assert {r['name'] for r in run['rows']} == {'tau', 'rounds', 'heat', 'mix', 'refine_mask'}

def test_broken_files_are_named_and_the_rest_is_done(place, toy, capsys):
    Path('in/broken.png').write_text('no picture')
    assert lowlight_enhance.main(['in', 'missing.png', '-o', 'out', '--weights', toy]) == 1
    out, err = capsys.readouterr()
    assert names('out') == ['a.png', 'b.jpg'] and '2 of 4 pictures' in out
    assert len([l for l in err.splitlines() if 'broken.png' in l or 'missing.png' in l
                ]) == 2 and 'Traceback' not in err

bad = {
    'missing': (['nothing.jpg', '-o',
                 'out'], "doesn't exist"), 'overwrites': (['in', '-o',
                                                           'in'], 'would be overwritten'),
    'same file': (['in/a.png', '-o', 'in/a.png'], 'would be overwritten'), 'collides': ([
        'in', 'more', '-o', 'out'
    ], 'would both be written'), 'folder into file': (['in', '-o', 'a.png'], 'give a folder'),
    'two into file': (['in/a.png', 'in/b.jpg', '-o', 'c.png'], 'give a folder'), 'format': ([
        'in/a.png', '-o', 'a.gif'
    ], "can't be written"), 'out is a file': (['in', '-o', 'note'], 'is a file'), 'empty folder': ([
        'empty', '-o', 'out'
    ], 'no pictures'), 'tau': (['in', '-o', 'out', '--tau', '3'], 'tau=3'), 'rounds': ([
        'in', '-o', 'out', '--rounds', '-1'
    ], 'rounds=-1'), 'strength': (['in', '-o', 'out', '--strength', '1.2'], 'strength=1.2'),
    'shadows': (['in', '-o', 'out', '--shadows', '2'], 'shadows=2'), 'keep colour': ([
        'in', '-o', 'out', '--keep-colour', '7'
    ], 'keep_colour=7'), 'feather': (['in', '-o', 'out', '--feather', '7'], 'give a mask'),
    'shard 0': (['in', '-o', 'out', '--shard', '0/4'], 'counted from 1/4 to 4/4'), 'shard 5': ([
        'in', '-o', 'out', '--shard', '5/4'
    ], 'counted from 1/4 to 4/4'), 'shard': (['in', '-o', 'out', '--shard', 'a/b'], 'written i/n'),
    'refine mask': (['in', '-o', 'out', '--refine-mask', 'no.png'], "mask: 'no.png' doesn't exist"),
    'batch': (['in', '-o', 'out', '--batch-size', '0'], 'batch_size=0'), 'mask': ([
        'in', '-o', 'out', '--mask', 'nothing.png'
    ], "mask: 'nothing.png' doesn't exist"), 'mask of something': ([
        'in', '-o', 'out', '--mask', 'note'
    ], 'mask: '),
    'weights': (['in', '-o', 'out', '--weights', 'nothing'], 'checkpoint'), 'damaged weights': ([
        'in', '-o', 'out', '--weights', 'note.safetensors'
    ], 'safetensors'), 'device': (['in', '-o', 'out', '--device', 'toaster'], 'toaster')
}

@pytest.mark.parametrize('args, says', bad.values(), ids=bad)
def test_refused_in_one_sentence(place, toy, capsys, args, says):
    Path('note').write_text('a file')
    Path('note.safetensors').write_text('no weights')
    Path('empty').mkdir()
    before = names('.')
    assert lowlight_enhance.main([*args, *([] if '--weights' in args else ['--weights', toy])]) == 2
    assert says in complaint(capsys) and names('.') == before

@pytest.mark.parametrize('args', [
    [], ['in'], ['in', '-o', 'out', '--tau', 'much'], ['in', '-o', 'out', '--no-such-option']])
def test_usage_errors(place, capsys, args):
    with pytest.raises(SystemExit) as e: lowlight_enhance.main(args)
    assert e.value.code == 2 and 'lowlight_enhance' in complaint(capsys)

def test_debug_raises(place):
    with pytest.raises(ValueError, match='overwritten'):
        lowlight_enhance.main(['in', '-o', 'in', '--debug'])

def test_python_function(place, toy):
    res = lowlight_enhance(['in'], 'out', weights=toy)
    assert [p.name for p in res.done] == ['a.png', 'b.jpg'] and res.failed == {}
    with pytest.raises(ValueError, match="doesn't exist"): lowlight_enhance('nothing.jpg', 'out')

@pytest.mark.slow
def test_as_a_process(place, toy):
    """The command itself: exit code, no traceback, and neither fastai nor lpips nor matplotlib
    loaded."""
    code = (
        "import sys; from lowlight_nat.cli import lowlight_enhance; c = lowlight_enhance(); "
        "print(*[o for o in 'fastai lpips matplotlib IPython'.split() if o in sys.modules], sep=','); sys.exit(c)"
    )
    def go(*args):
        return subprocess.run([sys.executable, '-c', code, *args, '--weights', toy],
                              capture_output=True, text=True)
    r = go('in', '-o', 'out')
    assert r.returncode == 0 and r.stdout.splitlines()[-1] == '', r.stderr
    r = go('nothing.png', '-o', 'out')
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and 'Traceback' not in r.stderr

@pytest.mark.slow
def test_installed_command(place, toy):
    exe = shutil.which('lowlight_enhance',
                       path=os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]))
    if not exe: pytest.skip('the package is not installed, so there is no command')
    r = subprocess.run([exe, 'in', '-o', 'out', '--weights', toy], capture_output=True, text=True)
    assert r.returncode == 0 and names('out') == ['a.png', 'b.jpg'], r.stderr
    r = subprocess.run([exe, 'in', '-o', 'in', '--weights', toy], capture_output=True, text=True)
    assert r.returncode == 2 and 'Traceback' not in r.stderr


# --- the parser ---

SIX = 'enhance train evaluate experiment export app'.split()

def parser_of(name, joint=' '):
    "The part of the one parser that reads this command."
    return next(a for a in lowlight_parser(joint)._actions if a.dest == 'command').choices[name]

def test_one_command_for_all(place, toy, capsys):
    "`lowlight enhance` is `lowlight_enhance`: flags, results, sentences and exit codes."
    assert lowlight(['enhance', 'in', '-o', 'out', '--weights', toy
                     ]) == 0 and names('out') == ['a.png', 'b.jpg']
    capsys.readouterr()
    assert lowlight(['enhance', 'nothing.jpg', '-o', 'out'
                     ]) == 2 and "doesn't exist" in complaint(capsys)
    for line in ['enhance', 'in', '-o', 'out', '--nope'], ['experiment', 'tau', '--share',
                                                           '.4'], ['nope'], []:
        with pytest.raises(SystemExit) as e: lowlight(line)
        assert e.value.code == 2 and complaint(capsys).startswith('lowlight')

@pytest.mark.parametrize('name', COMMANDS)
def test_both_names_have_the_same_options(name):
    alone = parser_of(name, '_')
    inside = parser_of(name)
    assert [(a.option_strings, a.dest, a.help) for a in alone._actions
            ] == [(a.option_strings, a.dest, a.help) for a in inside._actions]
    assert (alone.prog, inside.prog) == (f'lowlight_{name}', f'lowlight {name}')

def test_the_scripts_are_the_commands():
    scripts = re.findall(r'^    (lowlight\w*)=lowlight_nat.cli:(\w+)$', (ROOT/'settings.ini').read_text(), re.M)
    assert scripts == [(o, o) for o in ('lowlight', *(f'lowlight_{name}' for name in SIX))]
    assert sorted(COMMANDS) == sorted(SIX)

def test_pairs_of_switches():
    p = parser_of('evaluate')
    # what nobody says is left to the model
    wanted = {'': None, '--no-latent-nat': False, '--latent-nat': True,
              '--no-latent-nat --latent-nat': True}
    for line, want in wanted.items():
        assert p.parse_args(['--data', 'd', *line.split()]).latent_nat is want, line
    assert p.parse_args(['--data', 'd']).decoder_nat is True
    assert parser_of('export').parse_args(['a.onnx']).latent_nat is None

@pytest.mark.parametrize('name', ['enhance', 'evaluate', 'train'])
def test_every_option_is_explained(name):
    for a in parser_of(name)._actions: assert a.help and len(a.help) > 5, a.dest

def test_no_machine_paths_in_commands():
    assert _short('/data/sets/lol') == 'lol' and _short('../data/lol') == '../data/lol'
    assert command_line(lowlight_evaluate, data='/data/sets/lol', latent_nat=False,
                        rounds=2) == 'lowlight_evaluate --data lol --no-latent-nat --rounds 2'


# --- lowlight_evaluate ---

@pytest.fixture
def pairs(tmp_path, monkeypatch):
    for s, n in dict(train=1, val=3, test=1).items():
        for i in range(n):
            high = picture(29, 37, i, .9)
            write_image(high, tmp_path/f'data/{s}/high/{s}{i}.png')
            write_image(high*.1, tmp_path/f'data/{s}/low/{s}{i}.png')
    monkeypatch.chdir(tmp_path)

def test_evaluate(pairs, toy, capsys):
    assert lowlight_evaluate.main([
        '--data', 'data', '--split', 'val', '--json', 'new/val.json', '--weights', toy,
        '--no-decoder-nat', '--rounds', '2', '--tau', '.2'
    ]) == 0
    out = capsys.readouterr().out
    d = json.loads(Path('new/val.json').read_text())
    assert {
        'psnr', 'ssim', 'psnr_gt_mean', 'ssim_gt_mean', 'n', 'settings', 'versions', 'rows',
        'command', 'seconds', 'device', 'input'
    } <= set(d)
    assert d['n'] == 3 and [r['name'] for r in d['rows']] == ['val0', 'val1', 'val2'
                                                              ] and GT_MEAN_FORMULA in out
    for k in 'psnr', 'ssim', 'psnr_gt_mean', 'ssim_gt_mean':
        assert d[k] == pytest.approx(np.mean([r[k] for r in d['rows']]))
    assert {o: d['settings'][o]
            for o in ('split', 'latent_nat', 'decoder_nat', 'rounds', 'tau')} == dict(
                split='val', latent_nat=True, decoder_nat=False, rounds=2, tau=.2)
    assert d['settings']['weights']['about'] == dict(
        note='random weights') and d['settings']['weights']['name'] == 'toy.safetensors'
    assert d[
        'command'] == ('lowlight_evaluate --data data --split val --no-decoder-nat --rounds 2 '
                       '--tau 0.2 --weights toy.safetensors')
    assert str(Path.cwd()) not in json.dumps(d) and str(Path(toy).parent) not in json.dumps(d)
    assert names('new') == ['val.json']

def test_evaluate_equals_skimage(pairs, toy):
    from lowlight_nat.inference.enhancer import Enhancer
    from lowlight_nat.io.images import read_image
    skm = pytest.importorskip('skimage.metrics', reason='needs scikit-image, the outside reference')
    res = lowlight_evaluate('data', weights=toy)
    enhance = Enhancer.from_pretrained(toy, 'cpu')
    for r in res.rows:
        x, y = [
            o.numpy() for o in (enhance(f"data/val/low/{r['name']}.png").x,
                                read_image(f"data/val/high/{r['name']}.png"))
        ]
        assert r['psnr'] == pytest.approx(skm.peak_signal_noise_ratio(y, x, data_range=1), abs=1e-3)
        assert r['ssim'] == pytest.approx(
            skm.structural_similarity(x, y, gaussian_weights=True, sigma=1.5,
                                      use_sample_covariance=False, data_range=1, channel_axis=0),
            abs=1e-3)

@pytest.mark.slow
def test_evaluate_says_which_scenes_were_trained_on(tmp_path, monkeypatch, capsys):
    """A crop of one test picture, exposed otherwise, was trained on: the note names that one and no
    other."""
    from lowlight_nat.data.overlap import fingerprints, pack
    from lowlight_nat.io.images import write_image
    from lowlight_nat.models.checkpoint import save_model
    from lowlight_nat.models.lowlight_nat import LowLightNAT
    monkeypatch.chdir(tmp_path)
    g = torch.Generator().manual_seed(0)
    xs = [
        sum(
            torch.nn.functional.interpolate(torch.rand(1, 3, 2**k, 2**k, generator=g),
                                            (256, 320), mode='bilinear')/2**(k/2)
            for k in range(1, 6))[0]
        for _ in range(3)
    ]
    for i, x in enumerate(x/x.amax() for x in xs):
        write_image(x, f'data/val/high/{i}.png')
        write_image(.1*x, f'data/val/low/{i}.png')
    seen = [(.8*xs[1]/xs[1].amax())[:, 20:230, 50:290]**.8]
    model = LowLightNAT(ModelConfig.tiny())
    save_model(model, 'knows.safetensors', dict(fingerprints=pack(fingerprints(seen))))
    save_model(model, 'new.safetensors', dict(fingerprints=pack([])))
    assert lowlight_evaluate.main(
        '--data data --json a.json --weights knows.safetensors --no-latent-nat'.split()) == 0
    out = capsys.readouterr()
    d = json.loads(Path('a.json').read_text())
    assert d['trained_on'] == [
        '1'
    ] and d['note'] in out.out and d['note'] in out.err and '1 of 3 pictures' in d[
        'note'] and 'fingerprints' not in d['settings']['weights']['about']
    res = lowlight_evaluate('data', weights='new.safetensors', latent_nat=False)
    assert res.trained_on == [] and res.note == ''

def test_evaluate_reads_only_its_split(pairs, toy):
    for s in 'train', 'test':
        for p in Path(f'data/{s}').rglob('*.png'): p.write_text('no picture')
    assert lowlight_evaluate('data', weights=toy).n == 3

@pytest.mark.parametrize('damage, says', [('val/low/val1.png', 'val1.png'), ('val/high/val2.png', 'val2.png')])
def test_evaluate_refuses_broken_files(pairs, toy, capsys, damage, says):
    Path('data', damage).write_text('no picture')
    assert lowlight_evaluate.main(['--data', 'data', '--json', 'val.json', '--weights', toy]) == 2
    assert says in complaint(capsys) and not Path('val.json').exists()

def test_evaluate_refuses_missing_partners(pairs, toy, capsys):
    Path('data/val/high/val1.png').unlink()
    assert lowlight_evaluate.main(['--data', 'data', '--weights', toy
                                   ]) == 2 and 'val1.png' in complaint(capsys)

@pytest.mark.slow
def test_real_pairs(lol_data, toy):
    "The dark pictures themselves score what everybody measures for them."
    res = lowlight_evaluate(str(lol_data), weights=toy, latent_nat=False, decoder_nat=False)
    assert res.n == 20 and res.input['psnr'] == pytest.approx(
        8.47, abs=.1) and res.input['psnr_gt_mean'] == pytest.approx(18.57, abs=.1)
    assert res.command.startswith(f'lowlight_evaluate --data {lol_data.name} ')

@pytest.mark.slow
def test_bundled_checkpoint_on_real_pairs(lol_data):
    if not (ROOT/'lowlight_nat/weights/small.safetensors').exists():
        pytest.skip('there is no bundled checkpoint')
    res = lowlight_evaluate(str(lol_data))
    assert res.psnr_gt_mean >= 26.3 and res.ssim_gt_mean >= .845 and res.psnr >= 20


# --- lowlight_train ---

bad_training = [(['--data', 'nowhere', '--out', 'run'], 'nowhere'),
                (['--data', 'data', '--out', 'run', '--steps-scale', '0'], 'steps_scale'),
                (['--data', 'data', '--out', 'data/val/low/val0.png'], 'is a file'),
                (['--data', 'data'], '--out is missing'), (['--out', 'run'], '--data is missing'),
                (['--low', 'data/val/low', '--out', 'run'], '--high is missing'),
                (['--data', 'data', '--low', 'a', '--high', 'b', '--out',
                  'run'], 'give the one or the others'),
                (['--data', 'data', '--out', 'run', '--lr', '1',
                  '2'], 'one number for all stages, or five'),
                (['--data', 'data', '--out', 'run', '--bs', '0'], 'bs=0 must be positive'),
                (['--data', 'data', '--out', 'run', '--crop', '-8'], 'crop=-8 must be positive'),
                (['--data', 'data', '--out', 'run', '--device', 'abacus'], 'abacus')]

@pytest.mark.parametrize('args, says', bad_training)
def test_train_refuses(pairs, capsys, args, says):
    for kind in 'low', 'high':
        Path(f'data/train/{kind}/train1.png').write_bytes(
            Path(f'data/train/{kind}/train0.png').read_bytes())
    assert lowlight_train.main(args) == 2 and says in complaint(capsys) and not Path('run').exists()

def test_train_hands_over(pairs, monkeypatch):
    "Preset, scale, seed, stage and command reach the pipeline."
    import lowlight_nat.training.pipeline as training
    got = {}
    monkeypatch.setattr(
        training, 'train_pipeline',
        lambda cfg, plan, *args, **kw: got.update(cfg=cfg, plan=plan, args=args, **kw))
    assert lowlight_train.main(
        '--preset small --data data --out run --stage flow --resume --steps-scale .01 --seed 7'.
        split()) == 0
    assert (got['cfg'], got['plan']) == (ModelConfig.small(),
                                         replace(TrainPlan.small().scaled(.01), seed=7))
    assert got['args'] == ('data', 'run', 'flow', True)
    assert got['about'][
        'command'] == 'lowlight_train --data data --out run --preset small --stage flow --steps-scale 0.01 --seed 7'

def two_folders(n=12, size=48):
    "Folders `mine/low` and `mine/high`, without a split"
    for i in range(n):
        high = torch.nn.functional.interpolate(
            torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(i)), size=(size, size),
            mode='bilinear')[0]
        write_image(high, f'mine/high/{i}.png')
        write_image(high*.1, f'mine/low/{i}.png')

SMALL = '--preset tiny --stage light --steps-scale 1e-9 --bs 2 --crop 32 --lr 1e-3 --device cpu'

def test_train_takes_its_plan_from_the_command(place, monkeypatch):
    import lowlight_nat.training.pipeline as training
    got = {}
    monkeypatch.setattr(
        training, 'train_pipeline',
        lambda cfg, plan, *args, **kw: got.update(cfg=cfg, plan=plan, args=args, **kw))
    two_folders()
    assert lowlight_train.main(
        '--low mine/low --high mine/high --out run --lr 3e-4 --bs 8 2 4 6 8 --crop 32 --natural bright '
        '--steps-scale .01 --overwrite --device cpu'
        .split()) == 0
    own = list(got['plan'].stages().values())
    assert [(o.lr, o.bs, o.crop) for o in own] == [
        (3e-4, bs, 32) for bs in (8, 2, 4, 6, 8)
    ] and got['plan'].context == TrainPlan.tiny().context
    assert got['args'] == (('mine/low', 'mine/high'), 'run', 'all',
                           False) and got['overwrite'] and got['natural'] == 'bright' and str(
                               got['device']) == 'cpu' and got['scale'] == .01
    assert got['about'][
        'command'] == ('lowlight_train --out run --low mine/low --high mine/high --natural bright '
                       '--steps-scale 0.01 --lr 0.0003 --bs 8 2 4 6 8 --crop 32')

@pytest.mark.slow
def test_a_folder_with_low_and_high_is_trained_on(place, capsys):
    """Some pairs are held out, always the same; that is said in the first line, and the last one
    names the result."""
    two_folders()
    for how in '--data mine', '--low mine/low --high mine/high':
        assert lowlight_train.main(f'{how} --out run{len(how)} {SMALL}'.split()) == 0
        lines = capsys.readouterr().out.splitlines()
        assert '11 pairs to train on, 1 to validate with: they are held out' in lines[0] and lines[
            -1].startswith(f"done: 'run{len(how)}/light.safetensors'")
    a, b = (Path(f'run{n}/light.safetensors')
            for n in (len('--data mine'), len('--low mine/low --high mine/high')))
    from lowlight_nat.models.checkpoint import load_model
    assert all(
        torch.equal(x, y)
        for x, y in zip(load_model(a).state_dict().values(),
                        load_model(b).state_dict().values()))
    assert lowlight_train.main(f'--data mine --out run{len("--data mine")} {SMALL}'.split()) == 2
    assert 'holds a run already' in complaint(capsys)
    assert lowlight_train.main(f'--data mine --out new --resume {SMALL}'.split()
                               ) == 0 and 'holds no run to go on with' in capsys.readouterr().out

def test_evaluate_takes_two_folders(place, toy, capsys):
    two_folders(4)
    assert lowlight_evaluate.main(['--data', 'mine', '--json', 'a.json', '--weights', toy]) == 0
    assert "'mine' has no split: all its pairs are used" in capsys.readouterr().out
    assert lowlight_evaluate.main(
        ['--low', 'mine/low', '--high', 'mine/high', '--json', 'b.json', '--weights', toy]) == 0
    a, b = (json.loads(Path(f).read_text()) for f in ('a.json', 'b.json'))
    assert [r['name'] for r in a['rows']] == [*'0123'] and a['psnr'] == b['psnr']
    assert (a['settings']['split'], a['settings']['data'],
            b['settings']['data']) == ('all', 'mine', 'mine/low and mine/high')
    assert b[
        'command'] == 'lowlight_evaluate --low mine/low --high mine/high --weights toy.safetensors'
    assert lowlight_evaluate('mine', split='val', weights=toy).n == 1 and lowlight_evaluate(
        'mine', split='train', weights=toy).n == 3
    capsys.readouterr()
    assert lowlight_evaluate.main(['--data', 'mine', '--split', 'test', '--weights', toy
                                   ]) == 2 and 'no split' in complaint(capsys)

def test_nan_in_training_is_one_sentence(place, capsys):
    "A rate that is far too high: the guard's sentence, and no traceback."
    two_folders()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert lowlight_train.main(
            '--data mine --out run --preset tiny --stage light --steps-scale .1 --bs 2 --crop '
            '32 --lr 1e30 --device cpu'
            .split()) == 2
    said = complaint(capsys)
    assert said.startswith(
        'lowlight_train: The '
    ) and 'the batch held' in said and 'lower the learning rate and resume' in said


# --- lowlight_export ---

@pytest.fixture
def release(place, monkeypatch):
    "GLARE's two files, in small, and a base preset of that size"
    from dataclasses import replace

    from lowlight_nat.models.glare_weights import glare_names, glare_parts
    from lowlight_nat.models.lowlight_nat import glare_sizes
    mini = replace(ModelConfig.base(), vq_channels=(32, 64, 128), n_codes=64, flow_steps=3,
                   nat_width=32, nat_depth=1, nat_heads=4, feat_width=32, feat_depth=1)
    monkeypatch.setattr(ModelConfig, 'base', classmethod(lambda cls: mini))
    torch.manual_seed(0)
    parts = glare_parts(glare_sizes(mini))
    sizes = glare_sizes(mini)
    for f, names in glare_names(sizes).items():
        torch.save(
            {official: vars(parts)[part].state_dict()[k]
             for official, (part, k, _) in names.items()},
            {'net_G': 'net_G.pth', 'vqgan': 'vqgan.pkl'}[f])
    return place

@pytest.mark.slow
def test_glares_weights_become_a_checkpoint(release, capsys):
    from lowlight_nat.models.checkpoint import load_model
    from lowlight_nat.models.glare_weights import GLARE_RELEASE
    assert lowlight_export.main('--glare net_G.pth vqgan.pkl glare.safetensors'.split()) == 0
    assert '--weights glare.safetensors' in capsys.readouterr().out
    model = load_model('glare.safetensors')
    own = LowLightNAT.from_glare('net_G.pth', 'vqgan.pkl')
    assert all(
        torch.equal(model.state_dict()[k], v)
        for k, v in own.state_dict().items()
        if not k.startswith(('nat.', 'fusion.nat.', 'spread.', 'exposure.')))
    assert model.about['release'] == GLARE_RELEASE and set(
        model.about['files']) == {'net_G.pth', 'vqgan.pkl'}
    x = picture(32, 48)[None]
    with torch.no_grad(): assert torch.equal(model(x).x, own(x).x)
    assert lowlight_enhance.main(
        'in/a.png -o out --weights glare.safetensors'.split()) == 0 and names('out') == ['a.png']

@pytest.mark.parametrize('line, says', [
    ('--glare net_G.pth vqgan.pkl glare.onnx', 'must end in .safetensors'),
    ('--glare vqgan.pkl net_G.pth glare.safetensors', 'in the order net_G, vqgan'),
    ('--glare nowhere.pth vqgan.pkl glare.safetensors', 'github.com/LowLevelAI/GLARE'),
    ('--glare evil.pth vqgan.pkl glare.safetensors', 'holding more than tensors'),
    ('--glare net_G.pth vqgan.pkl glare.safetensors --dtype int8', 'float16')])
@pytest.mark.slow
def test_glares_weights_refused(release, capsys, line, says):
    class Shell:
        def __reduce__(self): return os.system, ('echo ran > ran.txt',)
    torch.save(dict(a=Shell()), 'evil.pth')
    assert lowlight_export.main(line.split()) == 2
    assert says in capsys.readouterr(
    ).err and not Path('glare.safetensors').exists() and not Path('ran.txt').exists()

def test_the_help_says_where_the_release_is():
    from lowlight_nat.models.glare_weights import GLARE_RELEASE
    assert GLARE_RELEASE in parser_of('export').format_help()
