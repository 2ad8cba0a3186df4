"Reading and writing pictures: damaged files of every format, deep files made by others, the file system, imports."
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowlight_nat.inference.tiling import apply_tiled, tile_grid
from lowlight_nat.io.files import *
from lowlight_nat.io.files import WRITTEN_FORMATS
from lowlight_nat.io.images import *

FORMATS = ['jpg', 'png', 'webp', 'tif', 'bmp', 'gif']


def picture(h=24, w=33, seed=0):
    return torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('ext', FORMATS)
def test_damaged_files_give_a_tensor_or_an_image_error(tmp_path, ext, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10**6)
    good = tmp_path/f'good.{ext}'
    to_pil(picture()).save(good)
    data = good.read_bytes()
    rng = np.random.default_rng(0)
    for k in range(60):
        bad = bytearray(data)
        if k%2: bad = bad[:rng.integers(0, len(data))]
        else:
            for i in rng.integers(0, len(data), 5): bad[i] = rng.integers(256)
        path = tmp_path/f'bad{k}.{ext}'
        path.write_bytes(bad)
        try: assert read_image(path).shape[0]==3
        except ImageError as e: assert path.name in str(e) and '\n' not in str(e)


@pytest.mark.filterwarnings('ignore')
def test_damaged_exif_is_ignored(tmp_path):
    path = tmp_path/'a.jpg'
    to_pil(picture()).save(path, exif=b'Exif\0\0MM\0*\0\0\0\x08\xff\xff'+bytes(range(40)))
    assert read_image(path).shape==(3, 24, 33)


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('channels', [3, 4])
def test_deep_tiff_keeps_16_bits(tmp_path, order, compression, channels):
    tifffile = pytest.importorskip(
        'tifffile',
        reason="needs tifffile, which comes with scikit-image, to write a 16-bit colour TIFF")
    a = np.random.default_rng(0).integers(0, 65536, (9, 14, channels), dtype=np.uint16)
    extra = dict(extrasamples=['unassalpha']) if channels==4 else {}
    tifffile.imwrite(tmp_path/'a.tif', a, byteorder=order, compression=compression,
                     photometric='rgb', **extra)
    got = read_image(tmp_path/'a.tif')
    assert np.abs(got.numpy().transpose(1, 2, 0)-a[..., :3]/65535).max()<1e-6


@pytest.mark.parametrize('ext', ['png', 'tif'])
def test_deep_grey_keeps_16_bits(tmp_path, ext):
    a = np.random.default_rng(0).integers(0, 65536, (9, 14), dtype=np.uint16)
    Image.fromarray(a).save(tmp_path/f'a.{ext}')
    got = read_image(tmp_path/f'a.{ext}')
    assert all(np.abs(c.numpy()-a/65535).max()<1e-6 for c in got)


def test_transparent_palette_and_alpha(tmp_path):
    rgba = to_pil(picture()).convert('RGBA')
    rgba.putalpha(100)
    rgba.save(tmp_path/'a.png')
    assert torch.equal(read_image(tmp_path/'a.png'), read_image(to_pil(picture())))
    p = Image.new('P', (4, 3))
    p.putpalette([255, 0, 0, 0, 255, 0])
    p.save(tmp_path/'p.png', transparency=b'\x80\xff')
    assert torch.equal(read_image(tmp_path/'p.png')[:, 0, 0], torch.tensor([1., 0., 0.]))


def test_names_and_folders(tmp_path):
    x = read_image(to_pil(picture()))
    path = write_image(x, tmp_path/'dünkel bild'/'夜 #1 [a].PNG')
    assert torch.equal(read_image(path), x)
    (path.parent/'._hidden.png').write_bytes(b'')
    (path.parent/'notes.txt').write_text('')
    assert list_images(tmp_path)==[] and list_images(tmp_path, recursive=True)==[path]


@pytest.mark.skipif(os.name=='nt', reason="links need rights on Windows")
def test_writing_follows_a_link(tmp_path):
    target = write_image(picture(), tmp_path/'a.png')
    (tmp_path/'link.png').symlink_to(target)
    write_image(picture(seed=1), tmp_path/'link.png')
    assert (tmp_path/'link.png').is_symlink() and torch.equal(read_image(target),
                                                              read_image(to_pil(picture(seed=1))))


def test_failed_write_leaves_the_old_file_alone(tmp_path):
    path = write_image(picture(), tmp_path/'a.jpg')
    old = path.read_bytes()
    with pytest.raises(ImageError, match='NaN'): write_image(picture()*float('nan'), path)
    with pytest.raises(ImageError, match="can't be written"):
        write_image(Image.new('RGB', (70000, 1)), path)
    assert path.read_bytes()==old and list(tmp_path.iterdir())==[path]


@pytest.mark.parametrize('ext', list(WRITTEN_FORMATS))
def test_every_ending_we_write_can_be_read(tmp_path, ext):
    for x in (picture(1, 1), picture(1, 50), picture(50, 1)[:1]):
        assert read_image(write_image(x, tmp_path/f'a{ext}')).shape[1:]==x.shape[1:]


@pytest.mark.parametrize('seed', range(8))
def test_tiles_are_a_partition_of_unity(seed):
    g = np.random.default_rng(seed)
    H, W = g.integers(1, 260, 2).tolist()
    tile = int(g.integers(8, 96))
    x = torch.rand(1, 3, H, W)
    out = apply_tiled(lambda t: t, x, tile, int(g.integers(0, tile//2+1)))
    assert (out-x).abs().max()<1e-6


def test_tiles_of_a_multiple_stay_on_the_grid():
    for H in range(8, 600, 8):
        for t, l, b, r in tile_grid(H, 808, 128, 32): assert t%8==l%8==b%8==r%8==0


@pytest.mark.slow
def test_import_is_light():
    code = ("import sys, lowlight_nat.io.images, lowlight_nat.evaluation.fidelity; print([m for m "
            "in ('matplotlib','fastai','IPython','lpips','pandas') if m in sys.modules])")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True,
                          text=True).stdout.strip() == '[]'


# --- plugins, and files that are open ---

@pytest.mark.parametrize('name, module, extra', [('a.heic', 'pillow_heif', 'heif'), ('a.nef', 'rawpy', 'raw')])
def test_a_missing_plugin_is_named(tmp_path, monkeypatch, name, module, extra):
    (tmp_path/name).write_bytes((b'MM\0*' if module == 'rawpy' else b'\0\0\0\x18ftypheic')
                                + bytes(100))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageError,
                       match=rf'{name}.*needs {module}: run `pip install -e "\.\[{extra}\]"`') as e:
        read_image(tmp_path/name)
    assert '\n' not in str(e.value)


def test_extras_are_offered():
    from configparser import ConfigParser
    cfg = ConfigParser(delimiters=['='])
    cfg.read(Path(__file__).resolve().parents[1]/'settings.ini', encoding='utf-8')
    assert 'rawpy' in cfg['DEFAULT']['raw_requirements'] and 'pillow-heif' in cfg['DEFAULT'][
        'heif_requirements']


def test_raw_files_are_known_by_their_content(tmp_path):
    """A DNG without a name is developed, and not taken for the mosaic that it is; no brightening by
    the histogram."""
    pytest.importorskip('rawpy', reason='needs rawpy, of the raw extra')
    pytest.importorskip('tifffile', reason='needs tifffile to write a DNG')
    from odd_pictures import dng
    x = read_image(BytesIO(dng()))
    (tmp_path/'a.dng').write_bytes(dng())
    assert x.shape==(3, 64, 96) and torch.equal(x, read_image(tmp_path/'a.dng'))
    r, g, b = x.mean((1, 2)).tolist()
    # green: 8000 of 16383 of the light; a brightened picture would reach 1
    assert r<b<g and abs(g-.72)<.02


def test_open_files(tmp_path):
    path = write_image(picture(), tmp_path/'a.png')
    with open(path, 'rb') as f: assert torch.equal(read_image(f), read_image(path))
    with pytest.raises(ImageError, match='cut short|closed'): read_image(f)
    with open(path, encoding='latin-1') as f:
        with pytest.raises(ImageError, match="'rb'"): read_image(f)


def test_parts_of_killed_processes_are_swept_away(tmp_path):
    from lowlight_nat.io.files import clean_parts, part_name
    p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    part = tmp_path/part_name(p.pid)
    part.write_bytes(b'half')
    clean_parts(tmp_path)
    assert part.exists() or os.name=='nt'
    p.kill()
    p.wait()
    clean_parts(tmp_path)
    assert not part.exists()

def test_what_another_computer_writes_is_left_alone(tmp_path, monkeypatch):
    "Its processes don't run here, which says nothing. After an hour it's waste as well."
    from lowlight_nat.io import files
    with monkeypatch.context() as m:
        m.setattr(files.platform, 'node', lambda: 'another')
        part = tmp_path/files.part_name(2**22+7)
    part.write_bytes(b'half')
    files.clean_parts(tmp_path)
    assert part.exists()
    os.utime(part, (1e9, 1e9))
    files.clean_parts(tmp_path)
    assert not part.exists()


# --- what may be opened, TIFFs of odd kinds, tensors of odd types ---

POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n0 0 9 9 rectfill showpage\n%%EOF\n'

@pytest.fixture
def ghostscript(monkeypatch):
    "Pillow's call of Ghostscript, recorded and not made."
    from PIL import EpsImagePlugin
    calls = []
    def record(*a, **kw):
        calls.append(a)
        raise OSError('Ghostscript was started')
    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', record)
    return calls

@pytest.mark.parametrize('name', ['a.jpg', 'a.png', 'a.eps', 'a.tif', 'a.nef'])
def test_postscript_starts_nothing(tmp_path, ghostscript, name):
    "A program under a picture's name is no picture, by whichever door it comes in."
    from lowlight_nat.data.overlap import fingerprints
    from lowlight_nat.data.pairs import Pair, check_pairs
    from lowlight_nat.inference.hints import read_mask
    from lowlight_nat.io.metadata import read_alpha, read_picture
    path = tmp_path/name
    path.write_bytes(POSTSCRIPT)
    for f in (read_image, read_picture, read_alpha, read_mask, lambda o: fingerprints([o]),
              lambda o: check_pairs([Pair(o, o, 'a')])):
        with pytest.raises(ImageError): f(path)
    for f in (read_image, read_picture):
        with pytest.raises(ImageError): f(BytesIO(POSTSCRIPT))
        with pytest.raises(ImageError, match='EPS'): f(Image.open(BytesIO(POSTSCRIPT)))
    assert ghostscript==[]

def calls_without_formats(source):
    "Lines that open a picture without saying of which format."
    import ast
    try: tree = ast.parse(source)
    except SyntaxError: return []
    opens = [
        o for o in ast.walk(tree)
        if isinstance(o, ast.Call) and ast.unparse(o.func) in ('Image.open', 'PIL.Image.open')
    ]
    return [ast.unparse(o) for o in opens if 'formats' not in [k.arg for k in o.keywords]]

def test_every_opening_names_its_formats():
    "In modules, scripts and notebooks; the tests open what they made themselves."
    import json
    root = Path(__file__).resolve().parents[1]
    assert calls_without_formats(
        'a = Image.open(p)') and not calls_without_formats("a = Image.open(p, formats=['PNG'])")
    # the cell of chapter Files that shows what one line does to files out of order
    bad = {}
    shown = 'for name in'
    ours = [
        p for d in ('lowlight_nat', 'nbs', 'app', 'docs') for p in (root/d).rglob('*')
        if p.suffix in ('.py', '.ipynb')
    ]
    ours += root.glob('*.py')       # not the environment that a user keeps in the folder
    assert len(ours)>90
    for p in ours:
        if '_proc' in p.relative_to(root).parts: continue
        text = p.read_text(encoding='utf-8')
        parts = [
            ''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'code'
        ] if p.suffix == '.ipynb' else [text]
        found = [
            o for s in parts for o in calls_without_formats(s)
            if not (p.name == '01_files.ipynb' and s.startswith(shown))
        ]
        if found: bad[p.name] = found
    assert bad=={}


def tiff(a, **kw):
    tifffile = pytest.importorskip('tifffile',
                                   reason='needs tifffile, which comes with scikit-image')
    f = BytesIO()
    tifffile.imwrite(f, a, metadata=None, **kw)
    return f.getvalue()

@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('channels', [3, 4])
def test_planes_of_16_bits(tmp_path, order, compression, channels):
    "Channel by channel instead of pixel by pixel: all 16 bits, in the right places."
    from lowlight_nat.io.metadata import read_picture
    a = np.random.default_rng(0).integers(0, 65536, (channels, 9, 14), dtype=np.uint16)
    extra = dict(extrasamples=['unassalpha']) if channels==4 else {}
    (tmp_path/'a.tif').write_bytes(
        tiff(a, photometric='rgb', planarconfig='separate', byteorder=order,
             compression=compression, **extra))
    p = read_picture(tmp_path/'a.tif')
    assert p.depth == 16 and np.abs(p.x.numpy() - a[:3]/65535).max() < 1e-6 and torch.equal(
        p.x, read_image(tmp_path/'a.tif'))
    assert (p.alpha is None) == (channels
                                 == 3) and (channels == 3
                                            or np.abs(p.alpha.numpy() - a[3]/65535).max() < 1e-6)
    with pytest.raises(ImageError, match='plane by plane.*path'):
        read_image(Image.open(tmp_path/'a.tif'))

@pytest.mark.parametrize('kw', [dict(), dict(compression='zlib'), dict(byteorder='>', compression='zlib')])
@pytest.mark.parametrize('kind', [np.uint8, np.uint16, np.float32])
def test_white_is_zero(tmp_path, kind, kw):
    a = np.random.default_rng(0).integers(0, 256, (9, 14)).astype(kind)
    a = a*257 if kind==np.uint16 else a/np.float32(255) if kind==np.float32 else a
    (tmp_path/'a.tif').write_bytes(tiff(a, photometric='miniswhite', **kw))
    want = 1-(a if kind==np.float32 else a/np.iinfo(kind).max)
    assert np.abs(read_image(tmp_path/'a.tif').numpy()-want).max()<1e-6

def test_floats_in_colour(tmp_path):
    a = np.random.default_rng(0).random((9, 14, 3)).astype(np.float32)
    for planar in 'contig', 'separate':
        (tmp_path/'a.tif').write_bytes(
            tiff(a if planar == 'contig' else a.transpose(2, 0, 1), photometric='rgb',
                 planarconfig=planar))
        assert np.array_equal(read_image(tmp_path/'a.tif').permute(1, 2, 0), a)
    (tmp_path/'a.tif').write_bytes(tiff(a*255, photometric='rgb'))
    with pytest.raises(ImageError, match=r'a.tif.*scale them to \[0,1\]'):
        read_image(tmp_path/'a.tif')

def test_colours_multiplied_by_alpha(tmp_path):
    from lowlight_nat.io.metadata import read_picture
    a = np.full((4, 5, 4), 30000, np.uint16)
    a[..., :3] = 10000
    a[0] = 0
    (tmp_path/'a.tif').write_bytes(tiff(a, photometric='rgb', extrasamples=['assocalpha']))
    p = read_picture(tmp_path/'a.tif')
    assert torch.allclose(p.x[:, 1:], torch.tensor(
        1/3)) and torch.all(p.x[:, 0] == 0) and p.alpha[0, 0] == 0

@pytest.mark.parametrize('turn', range(1, 9))
def test_odd_tiffs_are_turned_upright(tmp_path, turn):
    from odd_pictures import PLACES, deep
    stored = np.ascontiguousarray(PLACES[turn](deep()).transpose(2, 0, 1))
    (tmp_path/'a.tif').write_bytes(
        tiff(stored, photometric='rgb', planarconfig='separate',
             extratags=[(274, 3, 1, turn, True)]))
    assert np.abs(read_image(tmp_path/'a.tif').permute(1, 2, 0).numpy()-deep()/65535).max()<1e-6

@pytest.mark.parametrize('missing', ['tifffile', 'imagecodecs'])
def test_odd_tiffs_without_the_extra(tmp_path, monkeypatch, missing):
    a = np.zeros((3, 9, 14), np.uint16)
    data = tiff(a, photometric='rgb', planarconfig='separate')
    (tmp_path/'a.tif').write_bytes(data)
    import tifffile
    if missing=='tifffile': monkeypatch.setitem(sys.modules, 'tifffile', None)
    else:
        monkeypatch.setattr(
            tifffile.TiffPage, 'asarray', lambda self:
            (_ for _ in
             ()).throw(ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")))
    with pytest.raises(
            ImageError,
            match=rf'a.tif.*plane by plane.*{missing}.*pip install -e "\.\[tiff\]"') as e:
        read_image(tmp_path/'a.tif')
    assert '\n' not in str(e.value)

def test_whole_numbers_of_32_bits_are_refused(tmp_path):
    (tmp_path/'a.tif').write_bytes(tiff(np.full((4, 5), 10**9, np.uint32),
                                        photometric='minisblack'))
    with pytest.raises(ImageError, match='a.tif.*16 bits'): read_image(tmp_path/'a.tif')


def test_whole_numbers_are_divided_by_their_maximum(tmp_path):
    from lowlight_nat.io.metadata import Picture, write_picture
    x = torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8)
    deep = torch.from_numpy(x.numpy().astype(np.uint16)*257)
    for o in x, deep:
        assert torch.equal(read_image(write_image(o, tmp_path/'a.png')), x/255)
        assert torch.equal(read_image(write_picture(o, tmp_path/'b.png', Picture(None))), x/255)
    assert read_image(to_pil(torch.ones(3, 2, 2, dtype=torch.bool))).min()==1

@pytest.mark.parametrize('bad', [
    torch.rand(3, 4, 5)*255, torch.full((3, 4, 5), -50.), torch.ones(3, 4, 5, dtype=torch.int64),
    torch.full((3, 4, 5), 1e30)])
def test_numbers_far_outside_are_refused(tmp_path, bad):
    from lowlight_nat.io.metadata import Picture, write_picture
    for f in (to_pil, lambda x: write_image(x, tmp_path/'a.png'),
              lambda x: write_picture(x, tmp_path/'a.png', Picture(None))):
        with pytest.raises(ImageError, match=r'\[0,1\]'): f(bad)
    assert list(tmp_path.iterdir())==[]

def used(data):
    f = BytesIO(data)
    f.read()
    return f

def closed(path):
    im = Image.open(path)
    im.close()
    return im

def test_what_readers_are_given(tmp_path):
    "One sentence on what is wrong, from either reader."
    from lowlight_nat.io.metadata import read_picture
    path = write_image(picture(), tmp_path/'a.png')
    (tmp_path/'a.nef').write_bytes(write_image(picture(), tmp_path/'a.jpg').read_bytes())
    loaded = Image.open(path)
    loaded.load()
    loaded.close()
    bad = {
        'download': 'https://example.org/cat.jpg', 'seek': used(path.read_bytes()),
        'closed': closed(path), r'closed ': loaded, r'\(60, 80, 3\).*permute': torch.zeros(
            60, 80, 3), r'\(3, 4, 60, 80\)': torch.zeros(3, 4, 60, 80), 'complex64': torch.zeros(
                3, 4, 5, dtype=torch.complex64), 'plain values': torch.zeros(
                    3, 4, 5).to_sparse(), r'\(80,\)': np.zeros(80), 'bytes': path.read_bytes(),
        'list': [1, 2], 'NoneType': None, 'address': 'S3://bucket/a.png'
    }
    for says, src in bad.items():
        for f in read_image, read_picture:
            with pytest.raises(ImageError, match=says.strip()) as e: f(src)
            assert '\n' not in str(e.value)
    for f in read_image, lambda o: read_picture(o).x:
        assert torch.equal(f(tmp_path/'a.nef'), f(tmp_path/'a.jpg'))
        for kind in torch.bfloat16, torch.float16, torch.float64:
            x = torch.tensor([0., .25, 1.], dtype=kind).view(3, 1, 1)
            assert torch.equal(f(x), x.float()) and torch.equal(f(x[1:2]), torch.full(
                (3, 1, 1), .25))

def test_what_readers_may_raise(tmp_path):
    "Whatever a reader or an address raises or looks like: one sentence."
    import gzip
    whole = gzip.compress(write_image(picture(), tmp_path/'a.png').read_bytes())
    class Odd:
        def read(self, n): return b''
    for src, says in ((gzip.open(BytesIO(whole[:-20])), 'binary mode'), (Odd(), 'binary mode'),
                      (Path('https://example.org/a.png'), 'download'), ('data:image/png;base64,AA',
                                                                        'download')):
        with pytest.raises(ImageError, match=says): read_image(src)
    assert read_image(np.matrix(np.full((4, 5), .5))).shape==(3, 4, 5)

@pytest.mark.parametrize('bad,says', [
    (torch.zeros(3, 4, 5).to_sparse(), 'to_dense'), (torch.zeros(3, 4, 5, device='meta'), 'meta'),
    (np.zeros((3, 4, 5)), 'from_numpy')])
def test_what_writers_are_given(tmp_path, bad, says):
    for f in (to_pil, lambda x: write_image(x, tmp_path/'a.png')):
        with pytest.raises(ImageError, match=says): f(bad)
