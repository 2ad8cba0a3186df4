"""Fingerprints of scenes on real pairs, in JSON, in other processes; and that nothing which trains
or selects opens a test picture."""
import ast
import io
import json
import random
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowlight_nat.data.overlap import (
    LEAST,
    THRESHOLD,
    Overlap,
    agreement,
    data_fingerprint,
    fingerprint,
    fingerprints,
    overlap_note,
    overlaps,
    pack,
    same_scene,
    signs,
    unpack,
)
from lowlight_nat.data.pairs import Pair, check_pairs, find_pairs
from lowlight_nat.io.files import ImageError
from lowlight_nat.io.images import read_image, to_pil, write_image

ROOT = Path(__file__).resolve().parents[1]


def scene(seed, h=320, w=480):
    "A picture of soft blobs at several scales, (3,H,W)."
    g = torch.Generator().manual_seed(seed)
    x = torch.zeros(1, 3, h, w)
    for n in (3, 6, 12, 24):
        x += torch.nn.functional.interpolate(torch.randn(1, 3, n, n*3//2, generator=g), (h, w),
                                             mode='bicubic')
    return (x[0]*.12 + .5).clamp(.02, .98)

def reshot(x, rng, quality=60):
    "Another exposure: gain, gamma, noise, compression."
    x = (x*rng.uniform(.5, 1.6)).clamp(0, 1)**rng.uniform(.7, 1.4)
    g = torch.Generator().manual_seed(rng.getrandbits(32))
    buf = io.BytesIO()
    to_pil((x + .04*torch.randn(x.shape, generator=g)).clamp(0,
                                                             1)).save(buf, 'JPEG', quality=quality)
    return torch.tensor(np.asarray(Image.open(buf))).permute(2, 0, 1).float()/255

def crop(x, rng, size=256):
    t, l = (rng.randint(0, n - size) for n in x.shape[1:])
    return x[:, t:t+size, l:l+size]

def said(name, a):
    print(
        f'{name}: {len(a)} pairs, least {a.min():.3f}, 1% {a.quantile(.01):.3f}, median '
        f'{a.median():.3f}, 99% {a.quantile(.99):.3f}, most {a.max():.3f}'
    )


# --- fingerprints ---

def test_crops_of_the_same_scene_and_no_others():
    rng = random.Random(0)
    scenes = [scene(i) for i in range(24)]
    fps = [fingerprint(crop(x, rng)) for x in scenes]
    a = torch.stack([agreement(reshot(x, rng), fps) for x in scenes])
    own = torch.eye(len(scenes), dtype=torch.bool)
    said('others', a[~own])
    said('the same', a[own])
    assert a[own].min() > THRESHOLD + .03 and a[~own].max() < THRESHOLD - .05

@pytest.mark.parametrize('dy, dx', [(0, 0), (1, 3), (7, 9), (8, 8), (13, 2), (-5, 11), (40, -23)])
@pytest.mark.slow
def test_shift(dy, dx):
    "A tripod moved by some pixels: the crop comes from one shot, the whole picture is the next."
    big = scene(5, 420, 580)
    a = big[:, 50:370, 50:530]
    b = big[:, 50+dy:370+dy, 50+dx:530+dx]
    assert same_scene(a[:, 20:276, 100:356], b) and same_scene(b, a[:, 20:276,
                                                                    100:356]) and same_scene(a, b)

def test_a_block_over_the_border_is_still_found():
    x = scene(7)
    # 50 px of the crop are outside
    assert agreement(x[:, :, 150:], [fingerprint(x[:, 32:288, 100:356])]).item() >= THRESHOLD

def test_monotone_curves_change_no_sign_of_means_but_a_negative_changes_all():
    x = scene(3)
    assert torch.equal(signs(fingerprint(x)), signs(fingerprint(x*.3 + .1)))
    assert torch.equal(signs(fingerprint(x)), -signs(fingerprint(1 - x)))

def test_smooth_ramps_are_not_all_one_scene():
    """Skies and walls get brighter to one side: as long as something else is in the picture, that
    alone is no match."""
    ramp = torch.linspace(0, .5, 320)[:, None] + torch.linspace(0, .3, 480)
    a, b = ((ramp*.5 + scene(i)*.5).clamp(0, 1) for i in (11, 12))
    assert not same_scene(a, b) and same_scene(a, a[:, 30:286, 60:316])

def test_a_fingerprint_holds_signs_and_nothing_else():
    f = fingerprint(scene(1), 'a')
    assert len(f.bits) == 60 and len(f) == 480 and set(vars(f)) == {'h', 'w', 'bits', 'name'}
    assert not any(o in repr(f) for o in ('tensor', 'Path'))
    assert set(signs(f).unique().tolist()) == {-1., 0., 1.}

@pytest.mark.slow
def test_json_round_trip_in_another_process(tmp_path):
    for i in range(3): write_image(scene(i), tmp_path/f'{i}.png')
    packed = pack(fingerprints(tmp_path))
    text = json.dumps(packed)
    assert str(tmp_path) not in text and unpack(json.loads(text)) == fingerprints(
        sorted(tmp_path.glob('*.png')))
    (tmp_path/'packed.json').write_text(text)
    code = ("import json, sys; from lowlight_nat.data.overlap import overlaps; "
            "print([tuple(o) for o in overlaps(sys.argv[1:2], json.load(open(sys.argv[2])))])")
    out = subprocess.run(
        [sys.executable, '-c', code,
         str(tmp_path/'1.png'),
         str(tmp_path/'packed.json')], capture_output=True, text=True, check=True).stdout
    (found,) = ast.literal_eval(out)
    assert found[:3] == ('1', '1', 1) and found[3] >= THRESHOLD

@pytest.mark.slow
def test_340_pictures_take_40_kb():
    g = np.random.default_rng(0)
    fps = [type(fingerprint(scene(0)))(16, 16, g.bytes(60), str(i))
           for i in range(339)] + [fingerprint(scene(0)[:, :256, :256], 'this')]
    assert len(json.dumps(pack(fps))) < 40_000
    queries = [scene(i, 400, 600) for i in range(11)] + [scene(0)]
    assert [(o.query, o.train, o.index)
            for o in overlaps(queries, pack(fps))] == [('11', 'this', 339)]

def test_damaged_fingerprints_are_one_sentence():
    packed = pack([fingerprint(scene(0), 'a')])
    for bad in (dict(packed, bits=packed['bits'][:20]), dict(packed, names=['a', 'b']),
                dict(packed, kind='x'), {}, 'text'):
        with pytest.raises(ValueError, match='make them anew') as e: unpack(bad)
        assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match=r'one picture \(3,H,W\)'):
        fingerprint(torch.rand(1, 3, 64, 64))
    with pytest.raises(ImageError, match='nowhere.png'): overlaps(['nowhere.png'], packed)

def test_small_pictures_are_said_to_be_too_small():
    packed = pack([fingerprint(scene(0)), fingerprint(scene(1)[:, :60, :60], 'tiny')])
    with pytest.warns(UserWarning) as w:
        assert overlaps([Pair(None, scene(2)[:, :90, :90], 'little')], packed) == []
    assert [str(o.message)[:20]
            for o in w] == ['1 of 2 training pict', '1 of 1 test pictures'] and 'tiny' in str(
                w[0].message) and 'little' in str(w[1].message)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert overlaps([scene(2)], pack([fingerprint(scene(0))])) == []

def test_note():
    assert overlap_note([], 15) == ''
    text = overlap_note(
        [Overlap('22', '21', 3, .9),
         Overlap('22', '23', 4, .85),
         Overlap('1', '2', 0, .88)], 15)
    assert text == ('2 of 15 pictures show scenes of the training data, so the figures may '
                    'flatter: 22 (training picture 21), 1 (training picture 2).')

def test_checksum_of_data(tmp_path):
    for n in 'ab':
        for k in ('low', 'high'): write_image(scene(ord(n), 24, 32), tmp_path/k/f'{n}.png')
    pairs = [Pair(tmp_path/'low'/f'{n}.png', tmp_path/'high'/f'{n}.png', n) for n in 'ab']
    first = data_fingerprint(pairs)
    assert len(first) == 16 and int(first, 16) >= 0 and data_fingerprint(pairs[::-1]) == first
    (tmp_path/'moved').mkdir()
    for k in ('low', 'high'): (tmp_path/k).rename(tmp_path/'moved'/k)
    moved = [
        Pair(tmp_path/'moved/low'/f'{n}.png', tmp_path/'moved/high'/f'{n}.png', n) for n in 'ab'
    ]
    assert data_fingerprint(moved) == first and data_fingerprint(moved[:1]) != first
    # the same contents on both sides here ...
    assert data_fingerprint([Pair(p.high, p.low, p.name) for p in moved]) == first
    data = bytearray(moved[1].low.read_bytes())
    data[-1] ^= 1
    moved[1].low.write_bytes(data)
    # ... and one bit that is not
    assert data_fingerprint(moved) != first
    assert data_fingerprint([Pair(p.high, p.low, p.name) for p in moved]) != data_fingerprint(moved)


# --- real pairs ---

@pytest.fixture(scope='module')
def real(lol_data):
    train = find_pairs(lol_data, 'train')
    val = find_pairs(lol_data, 'val')
    return fingerprints(train), val, {p.name: read_image(p.high) for p in val}

@pytest.mark.slow
def test_real_scenes(real):
    """Crops of a validation scene are found in it re-shot and in its dark partner; other scenes are
    not."""
    fps, val, bright = real
    rng = random.Random(0)
    other = torch.stack([agreement(bright[p.name], fps) for p in val])
    crops = [(p, fingerprint(crop(bright[p.name], rng))) for p in val for _ in range(4)]
    again, dark = (torch.cat([agreement(f(p), [c])
                              for p, c in crops])
                   for f in (lambda p: reshot(bright[p.name], rng), lambda p: read_image(p.low)))
    said('training and validation', other.flatten())
    said('the same, re-shot', again)
    said('the same, dark', dark)
    assert again.min() > THRESHOLD and dark.min() > THRESHOLD
    assert other.flatten().quantile(.99) < THRESHOLD - .08

@pytest.mark.slow
def test_no_validation_scene_is_in_training(real, lol_data):
    "And one that is in training is found: by eye 484 and 488 are one table from two near places."
    fps, val, _ = real
    assert overlaps(val, pack(fps)) == [] and overlap_note([], len(val)) == ''
    (table,) = [p for p in find_pairs(lol_data, 'train') if p.name == '488']
    found = overlaps([table], pack([f for f in fps if f.name != '488']))
    assert {o.train for o in found} == {'484'}
    assert overlap_note(found, 1).startswith('1 of 1 pictures shows a scene')

@pytest.mark.slow
def test_real_fingerprints_are_small(real):
    fps, *_ = real
    text = json.dumps(pack(fps))
    print(f'{len(fps)} pictures: {len(text)} bytes of JSON')
    assert len(text) < 40_000 and unpack(json.loads(text)) == fps and all(
        len(f) > 2*LEAST for f in fps)


# --- who opens test pictures ---

V2 = 'Real_captured', 'Synthetic'
TESTS = dict(lol1=['eval15/low',
                   'eval15/high'], lol2=[f'{h}/Test/{k}' for h in V2 for k in ('Low', 'Normal')],
             ours=['test/low', 'test/high'])

def lay_out(root, kind, n=24):
    """A data set of n pairs for training and 3 for test, LOL-v2 of twice as many; the test files
    are no pictures."""
    trains = dict(lol1=['our485/low', 'our485/high'],
                  lol2=[f'{h}/Train/{k}' for h in V2
                        for k in ('Low', 'Normal')], ours=['train/low', 'train/high'])[kind]
    for d in trains:
        for i in range(n):
            write_image(
                scene(i, 48, 48)*(.1 if d.lower().endswith('low') else 1), root/d/f'{i:05}.png')
    for d in TESTS[kind]:
        (root/d).mkdir(parents=True)
        for i in range(3): (root/d/f'{i:05}.png').write_bytes(b'poison')
    return root

WATCH = """
import os, sys
seen = set()
def watch(event, args):
    if event in ('open', 'os.scandir', 'os.listdir') and isinstance(args[0], (str, bytes, os.PathLike)):
        seen.add(os.path.abspath(os.fsdecode(args[0])))
sys.addaudithook(watch)
root, out = sys.argv[1:]
try:
    exec(sys.stdin.read())
finally:
    ours = (o for o in seen if o.startswith(os.path.abspath(root) + os.sep))
    print('SEEN', *sorted(os.path.relpath(o, root).replace(os.sep, '/') for o in ours), sep='\\n')
"""

def opened(root, code, out='', timeout=600):
    """Exit status and messages of `code` in a process of its own, and what it opened or listed
    under `root`."""
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', WATCH,
                        str(root), str(out)], input=code, capture_output=True, text=True,
                       timeout=timeout)
    return r.returncode, r.stderr, r.stdout.partition('SEEN')[2].split('\n')

def is_test(kind, path): return any(path == t or path.startswith(t + '/') for t in TESTS[kind])

LOADERS = """
from lowlight_nat.data.loaders import LowLightDataLoaders
dls = LowLightDataLoaders.from_folder(root, bs=4, size=32, device='cpu')
for b in [*dls.train, *dls.valid]: assert len(b) == 2
"""

@pytest.mark.parametrize('kind', TESTS)
@pytest.mark.slow
def test_loaders_open_no_test_picture(tmp_path, kind):
    status, err, seen = opened(lay_out(tmp_path, kind), LOADERS)
    assert status == 0, err
    # all training pairs, for training or for validation
    assert sum(o.endswith('.png') for o in seen) == (96 if kind == 'lol2' else 48)
    assert [o for o in seen if is_test(kind, o)] == []

@pytest.mark.parametrize('kind', TESTS)
@pytest.mark.slow
def test_who_asks_for_the_test_pictures_does_open_them(tmp_path, kind):
    "The control: the poison works, and the watch sees it."
    lay_out(tmp_path, kind)
    with pytest.raises(ImageError, match='00000.png'): check_pairs(find_pairs(tmp_path, 'test'))
    code = "from lowlight_nat.data.pairs import *\ncheck_pairs(find_pairs(root, 'test'))"
    status, err, seen = opened(tmp_path, code)
    assert status != 0 and 'ImageError' in err and all(
        any(o.startswith(t) for o in seen) for t in TESTS[kind])

def test_a_split_of_training_pairs_is_what_is_validated_on(tmp_path):
    "LOL-v1 and LOL-v2 have no validation pairs: a part of the training pairs is held out."
    for kind in ('lol1', 'lol2'):
        root = lay_out(tmp_path/kind, kind)
        train, val = ({p.high for p in find_pairs(root, s)} for s in ('train', 'val'))
        assert val and not train & val and not any(
            is_test(kind,
                    p.relative_to(root).as_posix()) for p in train | val)

TRAIN = """
import torch; torch.set_num_threads(1)
from lowlight_nat.cli import lowlight_train
assert lowlight_train.main(['--data', root, '--out', out, '--preset', 'tiny', '--steps-scale', '1e-9']) == 0
"""

@pytest.mark.slow
def test_training_opens_no_test_picture(tmp_path):
    "The command itself, all stages, with validation, the choice of tau, and the final figures."
    root = lay_out(tmp_path/'lol1', 'lol1', 8)
    start = time.perf_counter()
    status, err, seen = opened(root, TRAIN, tmp_path/'run')
    print(f'{time.perf_counter() - start:.0f} s')
    assert status == 0, err[-2000:]
    assert (tmp_path/'run/model.safetensors').exists()
    assert sum(o.endswith('.png')
               for o in seen) == 16 and [o for o in seen if is_test('lol1', o)] == []

# these hand on the split that a user asks for
MEASURE = {('cli.py', 'lowlight_evaluate'), ('runs.py', 'Run')}

def strings(node):
    return {
        o.value
        for o in ast.walk(node)
        if isinstance(o, ast.Constant) and isinstance(o.value, str)
    }

def splits(node):
    "The split of each call of `find_pairs`; None where it is no word of the code."
    for c in ast.walk(node):
        if isinstance(c, ast.Call) and 'find_pairs' in (getattr(
                c.func, 'id', None), getattr(c.func, 'attr', None)):
            split = c.args[1] if len(c.args) > 1 else next(
                (k.value for k in c.keywords if k.arg == 'split'), ast.Constant('train'))
            yield split.value if isinstance(split, ast.Constant) else None

@pytest.mark.slow
def test_no_code_that_trains_or_selects_names_the_test_split():
    """Test folders are named in `pairs` alone; all others ask for 'train' or 'val', but for what
    measures at a user's wish."""
    open_split = set()
    folders = set()
    words = set()
    for p in [*(ROOT/'lowlight_nat').rglob('*.py'), *(ROOT/'nbs/figures').glob('*.py')]:
        tree = ast.parse(p.read_text(encoding='utf-8'))
        if any(o.startswith(('eval15', 'Test/')) or '/Test' in o for o in strings(tree)):
            folders.add(p.name)
        if 'test' in strings(tree): words.add(p.name)
        open_split |= {(p.name, o.name)
                       for o in tree.body if isinstance(o, (ast.FunctionDef, ast.ClassDef))
                       for s in splits(o) if s not in ('train', 'val')}
    assert folders == {'pairs.py'} and 'pairs.py' in words and words <= {'pairs.py', 'cli.py'}
    assert ('cli.py', 'lowlight_evaluate') in open_split
    assert open_split <= MEASURE
