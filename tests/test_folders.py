"""Folders of pictures: names, what is refused, what fails, what is skipped; and a run over 200
pictures that is killed and started again."""
import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from lowlight_nat.cli import lowlight_enhance
from lowlight_nat.inference import folders
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.inference.folders import *
from lowlight_nat.io import records
from lowlight_nat.io.files import ImageError
from lowlight_nat.io.images import read_image, to_pil, write_image
from lowlight_nat.io.records import folder_lock
from lowlight_nat.models.checkpoint import save_model
from lowlight_nat.models.config import ModelConfig
from lowlight_nat.models.lowlight_nat import LowLightNAT

TOY = dict(n_codes=64, vq_channels=(8, 16), enc_channels=(8, 12, 16), cond=8, flow_steps=2,
           flow_hidden=8, nat_width=16, nat_depth=1, nat_heads=2, dec_channels=(8, 12),
           feat_width=16, feat_depth=1)


def toy():
    "A very small model of random weights."
    torch.manual_seed(0)
    return LowLightNAT(ModelConfig(**TOY))

@pytest.fixture(scope='module')
def enhance(): return Enhancer(toy(), 'cpu')

def picture(h, w, seed=0, level=.15):
    return torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed))*level

# --- names, refusals, failures ---

@pytest.fixture
def folder(tmp_path):
    src = tmp_path/'in'
    for i, name in enumerate(['a.png', 'b.jpg', 'c.webp', 'sub/d.png']):
        write_image(picture(20, 24, i), src/name)
    (src/'broken.jpg').write_bytes(b'no picture')
    (src/'note.txt').write_text('not looked at')
    return src

def tree(path):
    return sorted(p.relative_to(path).as_posix() for p in path.rglob('*') if p.is_file())

def test_folder(enhance, folder, tmp_path):
    before = {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
    res = enhance_folder(enhance, folder, tmp_path/'out')
    assert tree(tmp_path/'out') == ['a.png', 'b.jpg', 'c.webp'] and len(res.done) == 3
    assert [p.name
            for p in res.failed] == ['broken.jpg'] and 'broken.jpg' in [*res.failed.values()][0]
    assert before == {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}

def test_folder_within_itself(enhance, folder):
    for _ in range(2):
        enhance_folder(enhance, folder, folder/'out', recursive=True, uncertainty=True)
    assert tree(folder/'out') == [
        'a.png', 'a_uncertainty.png', 'b.jpg', 'b_uncertainty.png', 'c.webp', 'c_uncertainty.png',
        'sub/d.png', 'sub/d_uncertainty.png'
    ]

def test_inputs_are_never_overwritten(enhance, folder, tmp_path):
    link = tmp_path/'link'
    link.symlink_to(folder)
    for out in folder, folder/'..'/'in', link:
        with pytest.raises(ValueError, match='would be overwritten'):
            enhance_folder(enhance, folder, out)
    other = tmp_path/'other'
    other.mkdir()
    (other/'a.png').symlink_to(folder/'a.png')
    with pytest.raises(ValueError, match='would be overwritten'):
        enhance_folder(enhance, folder, other)

def test_results_that_would_collide_are_refused(enhance, folder):
    with pytest.raises(ValueError, match='would both be written'):
        check_jobs(make_jobs([folder/'a.png', folder/'sub/a.png'], 'out'))
    check_jobs(make_jobs([folder/'a.png', folder/'a.jpg'], 'out', uncertainty=True))

def test_formats_we_only_read(enhance, tmp_path):
    to_pil(picture(12, 12)).save(tmp_path/'a.gif')
    res = enhance_files(enhance, make_jobs([tmp_path/'a.gif'], tmp_path/'out'))
    assert [p.name for p in res.done] == ['a.gif.png']

def test_an_error_in_one_picture_stops_none(folder, tmp_path):
    "Neither those after it nor those of its batch."
    first = read_image(folder/'a.png').mean((1, 2))
    class Odd(Enhancer):
        def _once(self, x, *args):
            if (x[..., :20, :24].mean((2, 3)) == first).all(1).any():
                raise RuntimeError('wrong\nnumbers')
            return super()._once(x, *args)
    res = enhance_folder(Odd(toy(), 'cpu'), folder, tmp_path/'out', batch_size=8)
    assert len(res.done) == 2 and res.failed[folder/'a.png'] == 'wrong'

def test_an_empty_or_missing_folder(enhance, tmp_path):
    with pytest.raises(ImageError, match='no pictures'):
        enhance_folder(enhance, tmp_path, tmp_path/'out')
    with pytest.raises(ImageError, match='no folder'):
        enhance_folder(enhance, tmp_path/'nothing', tmp_path/'out')


# --- what is skipped, replaced, noted ---

def test_skip_does_what_is_missing(enhance, folder, tmp_path):
    out = tmp_path/'out'
    first = enhance_folder(enhance, folder, out, recursive=True)
    (out/'sub/d.png').unlink()
    (out/'a.png').write_bytes(b'kept')
    r = enhance_folder(enhance, folder, out, recursive=True, existing='skip')
    assert [p.name for p in r.done] == ['d.png'] and sorted(
        p.name for p in r.skipped) == ['a.png', 'b.jpg', 'c.webp'] and len(r.failed) == 1
    assert (out/'a.png').read_bytes() == b'kept'
    assert len(enhance_folder(enhance, folder, out, recursive=True).done) == len(
        first.done) == 4 and (out/'a.png').read_bytes() != b'kept'

def test_skip_redoes_what_is_older_or_half(enhance, folder, tmp_path):
    out = tmp_path/'out'
    enhance_folder(enhance, folder, out)
    later = time.time()+60
    os.utime(folder/'b.jpg', (later, later))
    assert [p.name for p in enhance_folder(enhance, folder, out, existing='skip').done] == ['b.jpg']
    # the maps are missing
    r = enhance_folder(enhance, folder, out, existing='skip', uncertainty=True)
    assert len(r.done) == 3 and len(tree(out)) == 6

def test_films_beside_the_results(enhance, folder, tmp_path):
    "One for each picture, kept and made anew as the maps are."
    out = tmp_path/'out'
    r = enhance_folder(enhance, folder, out, history=True, rounds=2)
    assert tree(out) == [
        'a.png', 'a_history.webp', 'b.jpg', 'b_history.webp', 'c.webp', 'c_history.webp'
    ] and len(r.done) == 3
    film = Image.open(out/'a_history.webp')
    # before the first round and after each; equal neighbours are one
    assert 2 <= film.n_frames <= 3 and film.format == 'WEBP'
    (out/'b_history.webp').unlink()
    r = enhance_folder(enhance, folder, out, history=True, rounds=2, existing='skip')
    assert [p.name for p in r.done] == ['b.jpg'] and len(
        r.skipped) == 2 and (out/'b_history.webp').exists()
    first = hashes(out)
    assert len(enhance_folder(enhance, folder, tmp_path/'plain', rounds=2).done) == 3 and all(
        first[n] == h for n, h in hashes(tmp_path/'plain').items())

@pytest.mark.parametrize('size', [1, 3, 8])
@pytest.mark.slow
def test_batches_give_the_same_files(enhance, tmp_path, size):
    "Pictures of several sizes, one at a time and in batches."
    sizes = [(20, 24), (17, 31), (24, 32), (40, 24), (20, 24), (9, 12), (24, 27), (330, 340)]
    for i, (h, w) in enumerate(sizes):
        write_image(picture(h, w, i, .02+.12*i), tmp_path/f'in/{i}.png')
    batches = []
    class Counting(Enhancer):
        def _once(self, x, *args):
            batches.append(len(x))
            return super()._once(x, *args)
    r = enhance_folder(Counting(enhance.model, 'cpu'), tmp_path/'in', tmp_path/'out',
                       batch_size=size)
    assert len(r.done) == len(sizes) and sum(batches) == len(sizes) and max(batches) == min(size, 3)
    for i in range(len(sizes)):
        a = read_image(tmp_path/f'out/{i}.png')
        b = enhance(tmp_path/f'in/{i}.png').x
        assert a.shape == b.shape and (a-b).abs().max() <= 1.01/255, 'more than rounding'

def test_mask_and_strength(enhance, folder, tmp_path):
    "The mask is read once, and fits the pictures or is named; strength 0 is the input."
    m = tmp_path/'mask.png'
    to_pil(torch.ones(1, 20, 24)).save(m)
    write_image(picture(30, 24), folder/'e.png')
    r = enhance_folder(enhance, folder, tmp_path/'out', mask=m, strength=0)
    assert len(
        r.done) == 3 and 'mask has 24x20 pixels, and the picture 24x30' in r.failed[folder/'e.png']
    assert torch.equal(read_image(tmp_path/'out/a.png'), read_image(folder/'a.png'))
    for bad, says in (dict(mask=tmp_path/'nothing.png'),
                      'mask: .*nothing.png'), (dict(strength=2),
                                               'strength=2'), (dict(batch_size=0),
                                                               'batch_size=0'), (dict(mask=3),
                                                                                 'mask: '):
        with pytest.raises(ValueError, match=says):
            enhance_folder(enhance, folder, tmp_path/'none', **bad)
    assert not (tmp_path/'none').exists() or tree(tmp_path/'none') == []

def test_shards_share_the_work(enhance, folder, tmp_path):
    "Each picture is in one shard, and names are those of the whole run."
    for name in 'a.jpg e.png f.png g.png h.png'.split(): write_image(picture(20, 24), folder/name)
    whole = enhance_folder(enhance, folder, tmp_path/'whole', recursive=True, uncertainty=True)
    results = []
    for i in 1, 2, 3:
        r = enhance_folder(enhance, folder, tmp_path/'out', recursive=True, uncertainty=True,
                           shard=f'{i}/3')
        assert r.total == 10 and r.shard == Shard(i, 3)
        results += [o.relative_to(tmp_path/'out') for o in r.done]
        last = summary(r, 'out')[-1]
        assert f'(shard {i}/3 of 10 pictures)' in last and ('left alone' in last) == (i == 1)
    assert sorted(results) == sorted(o.relative_to(tmp_path/'whole') for o in whole.done)
    kept = [o for o in tree(tmp_path/'out') if not o.startswith('.shard')]
    assert kept == tree(tmp_path/'whole') and 'a.png_uncertainty.png' in kept

def test_a_shard_depends_on_the_name_only():
    jobs = make_jobs([f'in/{i}.jpg' for i in range(400)], 'out', root='in')
    fewer = make_jobs([f'elsewhere/{i}.jpg' for i in range(399, 0, -3)], 'there', root='elsewhere')
    for n in 1, 2, 7:
        parts = [{j.name for j in shard_jobs(jobs, Shard(i+1, n))} for i in range(n)]
        assert sum(map(len, parts)) == 400
        assert set().union(*parts) == {f'{i}.jpg' for i in range(400)}
        assert min(map(len, parts)) > .6*400/n
        for i in range(n): assert {j.name for j in shard_jobs(fewer, Shard(i+1, n))} <= parts[i]
    # one name, written as Linux and as macOS write it
    one, two = (make_jobs([f'{o}.jpg'], 'out') for o in ('caf\u00e9', 'cafe\u0301'))
    assert [bool(shard_jobs(one, Shard(i, 9))) for i in range(1, 10)] == [
        bool(shard_jobs(two, Shard(i, 9))) for i in range(1, 10)]

@pytest.mark.parametrize('bad, says', [
    ('0/4', 'counted from 1/4 to 4/4'), ('5/4', 'counted from 1/4 to 4/4'), ('a/b', 'written i/n'),
    ('3', 'written i/n'), ('1/0', 'written i/n'), (3, 'written i/n'), ((1, 2), 'written i/n')])
def test_bad_shards_are_one_sentence(enhance, folder, tmp_path, bad, says):
    with pytest.raises(ValueError, match=says):
        enhance_folder(enhance, folder, tmp_path/'o', shard=bad)
    assert not (tmp_path/'o').exists()

def test_a_shard_runs_once_at_a_time(enhance, folder, tmp_path):
    "The same shard again is refused while it runs; another is not, nor is it once the first ended."
    out = tmp_path/'out'
    with folder_lock(out, '.shard-1-of-2.lock'):
        with pytest.raises(ValueError, match='Another run'):
            enhance_folder(enhance, folder, out, shard='1/2')
        enhance_folder(enhance, folder, out, shard='2/2')
    enhance_folder(enhance, folder, out, shard='1/2')
    assert [o for o in tree(out) if not o.startswith('.')] == ['a.png', 'b.jpg', 'c.webp']

def test_a_folder_without_locks(enhance, folder, tmp_path, monkeypatch):
    "File systems of clusters may have none: the work is done all the same."
    def none(f): raise OSError(errno.ENOLCK, 'No locks available')
    monkeypatch.setattr(records, '_take', none)
    for i in 1, 2: enhance_folder(enhance, folder, tmp_path/'out', shard=f'{i}/2')
    found = tree(tmp_path/'out')
    assert [o for o in found if not o.startswith('.')] == ['a.png', 'b.jpg', 'c.webp']

@pytest.mark.slow
def test_shards_at_the_same_time(tmp_path):
    "Four processes on one folder, as an array of jobs: each picture once, no part left behind."
    save_model(toy(), tmp_path/'toy.safetensors')
    for i in range(40): write_image(picture(20, 24, i), tmp_path/f'in/{i}.png')
    def start(i):
        line = ['in', '-o', 'out', '--shard', f'{i}/4', '--weights', 'toy.safetensors']
        code = f'from lowlight_nat.cli import lowlight_enhance\nexit(lowlight_enhance.main({line}))'
        return subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, stdout=subprocess.PIPE,
                                text=True)
    runs = [start(i) for i in (1, 2, 3, 4)]
    said = [p.communicate()[0] for p in runs]
    assert [p.returncode for p in runs] == [0]*4
    assert sum(int(o.split()[0]) for o in said) == 40
    left = tree(tmp_path/'out')
    assert sorted(o for o in left if not o.startswith('.')) == sorted(f'{i}.png' for i in range(40))
    assert not [o for o in left if o.endswith('.part')]

def test_in_place(enhance, folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    r = enhance_folder(enhance, folder, folder, in_place=True)
    assert len(r.done) == 3 and tree(folder) == [
        'a.png', 'b.jpg', 'broken.jpg', 'c.webp', 'note.txt', 'sub/d.png'
    ]
    assert {p.name
            for p in folder.iterdir()
            if p.is_file() and p.read_bytes() != before[p.name]} == {'a.png', 'b.jpg', 'c.webp'}
    with pytest.raises(ValueError, match='in_place'):
        enhance_folder(enhance, folder, folder, in_place=True, existing='skip')
    with pytest.raises(ValueError, match='is an input'):
        jobs = [Job(folder/'a.png', folder/'b.jpg'), Job(folder/'b.jpg', folder/'b.jpg')]
        enhance_files(enhance, jobs, in_place=True)

@pytest.mark.slow
def test_maps_and_films_of_a_run_in_place_are_no_input_of_the_next(enhance, folder):
    # beside no picture called lonely: somebody's own
    write_image(picture(20, 24), folder/'lonely_uncertainty.png')
    first = enhance_folder(enhance, folder, folder, in_place=True, uncertainty=True, history=True)
    second = enhance_folder(enhance, folder, folder, in_place=True, uncertainty=True, history=True)
    assert (folder/'a_uncertainty.png').exists() and (folder/'a_history.webp').exists()
    assert first.done == second.done and len(first.done) == 4 and list(first.failed) == list(
        second.failed)

def test_notes_and_summary(enhance, tmp_path):
    frames = [to_pil(picture(12, 12, i)) for i in range(3)]
    (tmp_path/'in').mkdir()
    frames[0].save(tmp_path/'in/a.gif', save_all=True, append_images=frames[1:])
    (tmp_path/'in/b.png').touch()
    r = enhance_folder(enhance, tmp_path/'in', tmp_path/'out')
    lines = summary(r, 'out')
    assert len(lines) == 3 and 'note: ' in lines[0] and '3 pictures' in lines[
        0] and 'b.png' in lines[1] and lines[2] == "1 of 2 pictures enhanced into 'out', 1 failed"

def test_progress_tells_rate_and_remaining_time(enhance, folder, tmp_path, monkeypatch):
    class Console(io.StringIO):
        def isatty(self): return True
    monkeypatch.setattr(sys, 'stderr', Console())
    enhance_folder(enhance, folder, tmp_path/'out')
    said = sys.stderr.getvalue()
    assert '4/4' in said and 'picture' in said and 'failed=1' in said and '<' in said
    monkeypatch.setattr(sys, 'stderr', Console())
    enhance_folder(enhance, folder, tmp_path/'out', progress=False)
    assert sys.stderr.getvalue() == ''


# --- no room, no permission ---

def test_a_full_disk_ends_the_run_and_keeps_what_is_done(enhance, folder, tmp_path, monkeypatch,
                                                         capsys):
    from lowlight_nat.io import files
    from lowlight_nat.io import metadata as pictures
    real = files.write_beside
    def write(path, save):
        if path.name == 'c.webp':
            def full(f):
                f.write(b'half')
                raise OSError(errno.ENOSPC, 'No space left on device')
            save = full
        return real(path, save)
    monkeypatch.setattr(pictures, 'write_beside', write)
    with pytest.raises(
            ImageError,
            match="no room left for .*c.webp.*2 of 4 pictures are finished.*existing='skip'"):
        enhance_folder(enhance, folder, tmp_path/'out')
    assert tree(tmp_path/'out') == ['a.png', 'b.jpg']
    save_model(enhance.model, tmp_path/'toy.safetensors', dict(seed=0))
    assert lowlight_enhance.main(
        [str(folder), '-o',
         str(tmp_path/'out2'), '--weights',
         str(tmp_path/'toy.safetensors')]) == 2 and 'no room left' in capsys.readouterr().err

@pytest.mark.parametrize('ext', ['bmp', 'png', 'tif', 'jpg', 'webp'])
@pytest.mark.parametrize('depth', [8, 16])
def test_a_write_that_fails_in_the_middle_leaves_nothing(tmp_path, monkeypatch, ext, depth):
    "A disk with room for 2,000 bytes: the old file stays, and nothing is beside it."
    from lowlight_nat.io import files
    from lowlight_nat.io.metadata import Picture, write_picture
    class SmallDisk(io.FileIO):
        def fileno(self): raise io.UnsupportedOperation       # Pillow would go round `write`
        def write(self, data):
            if self.tell()+len(data) > 2000:
                super().write(bytes(data)[:2000-self.tell()])
                raise OSError(errno.ENOSPC, 'No space left on device')
            return super().write(data)
    x = picture(60, 60, level=1)
    path = tmp_path/f'a.{ext}'
    path.write_bytes(b'old')
    monkeypatch.setattr(files, 'open', SmallDisk, raising=False)
    with pytest.raises(ImageError, match=f"a.{ext}' can't be written .*space"):
        write_picture(x, path, Picture(x, depth=depth))
    assert path.read_bytes() == b'old' and list(tmp_path.iterdir()) == [path]

def test_a_target_that_cannot_be_written_is_refused_first(enhance, folder, tmp_path, monkeypatch):
    (tmp_path/'file').touch()
    monkeypatch.setattr(folders, '_write', lambda *a: pytest.fail('work was begun'))
    with pytest.raises(ImageError, match="can't be written"):
        enhance_folder(enhance, folder, tmp_path/'file'/'out')
    def denied(**kw): raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(folders.tempfile, 'TemporaryFile', denied)
    with pytest.raises(ImageError, match='Permission denied'):
        enhance_folder(enhance, folder, tmp_path/'out')


# --- 200 pictures ---

N = 200

@pytest.fixture(scope='module')
def many(tmp_path_factory, enhance):
    "A tree of 200 small pictures, the weights, and the results of an undisturbed run as hashes."
    top = tmp_path_factory.mktemp('many')
    for i in range(N): write_image(picture(32, 32, i), top/f'in/{i%3}/{i:03}.png')
    save_model(enhance.model, top/'toy.safetensors', dict(seed=0), half=False)
    assert command(top, 'whole') == 0
    return top, hashes(top/'whole')

def hashes(folder):
    return {n: hashlib.sha256((folder/n).read_bytes()).hexdigest() for n in tree(folder)}
def line(top, out, src='in', *more):
    return [
        str(top/src), '-o',
        str(top/out), '--recursive', '--device', 'cpu', '--weights',
        str(top/'toy.safetensors'), *more
    ]
def command(top, out, src='in', *more): return lowlight_enhance.main(line(top, out, src, *more))

KILLED = """
import os, signal, sys
from lowlight_nat.io import metadata as pictures
from lowlight_nat.cli import lowlight_enhance
real, n = pictures.write_beside, 0
def write(path, save):
    global n; n += 1
    def half(f): f.write(b'half a picture'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)
    real(path, half if n == 101 else save)
pictures.write_beside = write
sys.exit(lowlight_enhance())
"""

@pytest.mark.skipif(sys.platform == 'win32', reason='there is no SIGKILL on Windows')
@pytest.mark.slow
def test_a_killed_run_started_again_ends_as_an_unbroken_one(many):
    "SIGKILL in the middle of writing the 101st of 200 pictures."
    top, want = many
    assert len(want) == N
    p = subprocess.run([sys.executable, '-c', KILLED, *line(top, 'killed')],
                       env=dict(os.environ, OMP_NUM_THREADS='1'), capture_output=True)
    assert p.returncode == -signal.SIGKILL
    left = tree(top/'killed')
    kept = {n: (top/'killed'/n).stat().st_mtime_ns for n in left if not n.endswith('.part')}
    assert len(kept) == 100 and len(left) == 101 and {
        n: h
        for n, h in hashes(top/'killed').items()
        if n in kept
    } == {n: want[n]
          for n in kept}
    assert command(top, 'killed', 'in', '--existing', 'skip') == 0
    assert hashes(top/'killed') == want
    assert all((top/'killed'/n).stat().st_mtime_ns == t
               for n, t in kept.items()), 'what was finished was done again'

@pytest.mark.slow
def test_five_corrupted_files_stop_none_of_the_others(many, capsys):
    top, want = many
    bad = [f'{i%3}/{i:03}.png' for i in (3, 50, 77, 120, 199)]
    for i in range(N):
        (top/f'bad/{i%3}').mkdir(parents=True, exist_ok=True)
        (top/f'bad/{i%3}/{i:03}.png').write_bytes(
            (top/f'in/{i%3}/{i:03}.png').read_bytes()[:60 if f'{i%3}/{i:03}.png' in bad else None])
    assert command(top, 'most', 'bad') == 1
    out, err = capsys.readouterr()
    assert hashes(top/'most') == {n: h
                                  for n, h in want.items()
                                  if n not in bad} and len(tree(top/'most')) == 195
    assert f"195 of 200 pictures enhanced into '{top/'most'}', 5 failed" in out and 'Traceback' not in err
    assert [b for b in bad if sum(b in l for l in err.splitlines()) != 1] == [] and len(
        err.splitlines()) == 5

@pytest.mark.slow
def test_command_in_place(many, tmp_path, capsys):
    top, _ = many
    path = write_image(picture(20, 20), tmp_path/'a.png')
    args = [str(path), '-o', str(path), '--device', 'cpu', '--weights', str(top/'toy.safetensors')]
    before = path.read_bytes()
    assert lowlight_enhance.main(args) == 2 and path.read_bytes(
    ) == before and 'would be overwritten' in capsys.readouterr().err
    assert lowlight_enhance.main([*args, '--in-place']) == 0 and path.read_bytes() != before


# --- endings, patterns, names given twice ---

def test_jpegs_by_other_names_are_read(enhance, tmp_path):
    "And written as JPEG where the ending means JPEG, else as PNG"
    x = picture(20, 24)
    for e in 'jfif', 'jpe', 'jif', 'mpo', 'tga', 'JFIF':
        (tmp_path/'in').mkdir(exist_ok=True)
        to_pil(x).save(tmp_path/f'in/{e}_.{e}', 'TGA' if e == 'tga' else 'JPEG')
    r = enhance_folder(enhance, tmp_path/'in', tmp_path/'out', progress=False)
    assert not r.failed and tree(tmp_path/'out') == [
        'JFIF_.JFIF', 'jfif_.jfif', 'jif_.jif', 'jpe_.jpe', 'mpo_.mpo.png', 'tga_.tga.png'
    ]
    assert Image.open(tmp_path/'out/jpe_.jpe').format == 'JPEG' and Image.open(
        tmp_path/'out/tga_.tga.png').format == 'PNG'

def test_other_endings_are_counted(enhance, folder, tmp_path):
    (folder/'clip.mov').write_bytes(b'0')
    (folder/'more.MOV').write_bytes(b'0')
    (folder/'.hidden.txt').write_text('')
    (folder/'LICENSE').write_text('')
    (folder/'sub/deep.txt').write_text('')
    r = enhance_folder(enhance, folder, tmp_path/'out', progress=False)
    assert r.left == {'.mov': 2, 'no ending': 1, '.txt': 1}
    assert summary(
        r, 'out')[-1].endswith('4 files of other endings left alone (.mov 2, .txt 1, no ending 1)')
    assert enhance_folder(enhance, folder, tmp_path/'out', recursive=True,
                          progress=False).left['.txt'] == 2
    # what lies among the results doesn't count
    assert other_files(folder, folder/'sub',
                       recursive=True) == {'.mov': 2, 'no ending': 1, '.txt': 1}

def test_a_file_named_twice_is_done_once(enhance, folder, tmp_path):
    jobs = make_jobs([folder/'a.png', str(folder/'sub/../a.png'), folder/'b.jpg'], tmp_path/'out',
                     uncertainty=True)
    assert [j.uncertainty.name for j in jobs] == ['a_uncertainty.png', 'b_uncertainty.png']
    both = make_jobs([folder/'a.png'], tmp_path/'out') + folder_jobs(folder, tmp_path/'out')
    assert len(both) == 5 and len(unique_jobs(both)) == 4
    r = enhance_files(enhance, both, progress=False)
    assert sorted(p.name for p in r.done) == ['a.png', 'b.jpg', 'c.webp']
    # another name in the folder: another picture
    (folder/'link.png').symlink_to(folder/'a.png')
    assert len(unique_jobs(folder_jobs(folder, tmp_path/'out'))) == 5

def test_a_folder_of_folders_says_so(tmp_path):
    write_image(picture(8, 8), tmp_path/'in/one/a.png')
    with pytest.raises(
            ImageError,
            match='holds no pictures itself, but the folders inside it hold 1: add --recursive'):
        folder_jobs(tmp_path/'in', tmp_path/'out')
    (tmp_path/'none/one').mkdir(parents=True)
    with pytest.raises(ImageError, match='holds no pictures: endings read'):
        folder_jobs(tmp_path/'none', tmp_path/'out')

def test_patterns_that_no_shell_expanded(folder, tmp_path, capsys):
    save_model(toy(), tmp_path/'m.safetensors')
    def run(*a):
        return lowlight_enhance.main([
            *map(str, a), '-o',
            str(tmp_path/'out'), '--weights',
            str(tmp_path/'m.safetensors'), '--device', 'cpu'
        ])
    assert run(folder/'[ab].*', folder/'a.png', folder/'*.webp') == 0 and tree(
        tmp_path/'out') == ['a.png', 'b.jpg', 'c.webp']
    assert run(folder/'*.gif') == 2 and 'fits no file' in capsys.readouterr().err
    write_image(picture(8, 8), folder/'[odd].png')             # a name that looks like a pattern
    assert expand([folder/'[odd].png']) == [folder/'[odd].png']

def test_bad_quality_is_one_sentence_before_anything_is_done(enhance, folder, tmp_path):
    for bad in 'high', 0, 500, None, 95.5:
        with pytest.raises(ValueError, match='quality='):
            enhance_folder(enhance, folder, tmp_path/'out', quality=bad)
        with pytest.raises(ValueError, match=r'quality=.* must be a whole number in \[1, 100\]'):
            enhance(folder/'a.png').save(tmp_path/'x.jpg', bad)
        with pytest.raises(ValueError, match='quality='):
            write_image(picture(8, 8), tmp_path/'x.png', bad)
    assert not (tmp_path/'out').exists() and not (tmp_path/'x.jpg').exists()
