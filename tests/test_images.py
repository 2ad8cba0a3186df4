"Reading and writing pictures: damaged files of every format, deep files made by others, the file system, imports."
import os, subprocess, sys
from io import BytesIO
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from lowlight_nat.images import *
from lowlight_nat.images import _formats, _write_beside

FORMATS = ['jpg', 'png', 'webp', 'tif', 'bmp', 'gif']


def picture(h=24, w=33, seed=0):
    return torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('ext', FORMATS)
def test_damaged_files_give_a_tensor_or_an_image_error(tmp_path, ext, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10**6)
    good = tmp_path/f'good.{ext}'
    to_pil(picture()).save(good)
    data, rng = good.read_bytes(), np.random.default_rng(0)
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
    tifffile = pytest.importorskip('tifffile', reason="needs tifffile, which comes with scikit-image, to write a 16-bit colour TIFF")
    a = np.random.default_rng(0).integers(0, 65536, (9, 14, channels), dtype=np.uint16)
    extra = dict(extrasamples=['unassalpha']) if channels==4 else {}
    tifffile.imwrite(tmp_path/'a.tif', a, byteorder=order, compression=compression, photometric='rgb', **extra)
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
    p = Image.new('P', (4, 3)); p.putpalette([255, 0, 0, 0, 255, 0]); p.save(tmp_path/'p.png', transparency=b'\x80\xff')
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
    assert (tmp_path/'link.png').is_symlink() and torch.equal(read_image(target), read_image(to_pil(picture(seed=1))))


def test_failed_write_leaves_the_old_file_alone(tmp_path):
    path = write_image(picture(), tmp_path/'a.jpg')
    old = path.read_bytes()
    with pytest.raises(ImageError, match='NaN'): write_image(picture()*float('nan'), path)
    with pytest.raises(ImageError, match="can't be written"): write_image(Image.new('RGB', (70000, 1)), path)
    assert path.read_bytes()==old and list(tmp_path.iterdir())==[path]


@pytest.mark.parametrize('ext', list(_formats))
def test_every_ending_we_write_can_be_read(tmp_path, ext):
    for x in (picture(1, 1), picture(1, 50), picture(50, 1)[:1]):
        assert read_image(write_image(x, tmp_path/f'a{ext}')).shape[1:]==x.shape[1:]


@pytest.mark.parametrize('seed', range(8))
def test_tiles_are_a_partition_of_unity(seed):
    g = np.random.default_rng(seed)
    (H, W), tile = g.integers(1, 260, 2).tolist(), int(g.integers(8, 96))
    x = torch.rand(1, 3, H, W)
    out = apply_tiled(lambda t: t, x, tile, int(g.integers(0, tile//2+1)))
    assert (out-x).abs().max()<1e-6


def test_tiles_of_a_multiple_stay_on_the_grid():
    for H in range(8, 600, 8):
        for t, l, b, r in tile_grid(H, 808, 128, 32): assert t%8==l%8==b%8==r%8==0


@pytest.mark.slow
def test_import_is_light():
    code = "import sys, lowlight_nat.images, lowlight_nat.metrics; print([m for m in ('matplotlib','fastai','IPython','lpips','pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip()=='[]'


# --- plugins, and files that are open ---

@pytest.mark.parametrize('name, module, extra', [('a.heic', 'pillow_heif', 'heif'), ('a.nef', 'rawpy', 'raw')])
def test_a_missing_plugin_is_named(tmp_path, monkeypatch, name, module, extra):
    (tmp_path/name).write_bytes((b'MM\0*' if module == 'rawpy' else b'\0\0\0\x18ftypheic')+bytes(100))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImageError, match=rf'{name}.*pip install lowlight_nat\[{extra}\]') as e: read_image(tmp_path/name)
    assert '\n' not in str(e.value)


def test_extras_are_offered():
    from configparser import ConfigParser
    cfg = ConfigParser(delimiters=['=']); cfg.read(Path(__file__).resolve().parents[1]/'settings.ini', encoding='utf-8')
    assert 'rawpy' in cfg['DEFAULT']['raw_requirements'] and 'pillow-heif' in cfg['DEFAULT']['heif_requirements']


def test_raw_files_are_known_by_their_content(tmp_path):
    "A DNG without a name is developed, and not taken for the mosaic that it is; no brightening by the histogram."
    pytest.importorskip('rawpy', reason='needs rawpy, of the raw extra'); pytest.importorskip('tifffile', reason='needs tifffile to write a DNG')
    from odd_pictures import dng
    x = read_image(BytesIO(dng()))
    (tmp_path/'a.dng').write_bytes(dng())
    assert x.shape==(3, 64, 96) and torch.equal(x, read_image(tmp_path/'a.dng'))
    r, g, b = x.mean((1, 2)).tolist()
    assert r<b<g and abs(g-.72)<.02      # green: 8000 of 16383 of the light; a brightened picture would reach 1


def test_open_files(tmp_path):
    path = write_image(picture(), tmp_path/'a.png')
    with open(path, 'rb') as f: assert torch.equal(read_image(f), read_image(path))
    with pytest.raises(ImageError, match='cut short|closed'): read_image(f)
    with open(path, encoding='latin-1') as f:
        with pytest.raises(ImageError, match="'rb'"): read_image(f)


def test_parts_of_killed_processes_are_swept_away(tmp_path):
    from lowlight_nat.files import clean_parts
    p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    part = tmp_path/f'.{p.pid}-0123456789ab.part'
    part.write_bytes(b'half')
    clean_parts(tmp_path)
    assert part.exists() or os.name=='nt'
    p.kill(); p.wait()
    clean_parts(tmp_path)
    assert not part.exists()
