"""A set of odd pictures, made as files, each with what must become of it: formats, modes, depths,
rotations, sizes, metadata, animations, damage.

`python tests/odd_pictures.py FOLDER` writes them into a folder, the same bytes every time.
`run_all(enhancer)` puts all of them through an
`Enhancer` and says what became of each. What is expected is computed here, without the readers of the package.
"""
import importlib.util
import os
import struct
import sys
import tempfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, features

H = 18
W = 26
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
# how an upright
PLACES = {
    1: lambda u: u,
    2: lambda u: u[:, ::-1],
    3: lambda u: u[::-1, ::-1],
    4: lambda u: u[::-1],
    5: lambda u: u.swapaxes(0, 1),
    # picture is stored
    6: lambda u: np.rot90(u),
    7: lambda u: np.rot90(u)[:, ::-1],
    8: lambda u: np.rot90(u, -1)
}

@lru_cache
def scene(h=H, w=W):
    "A dark scene of few colours, (h,w,3) uint8, in which every turn and mirroring can be told."
    y = np.arange(h, dtype=np.int32)[:, None]
    x = np.arange(w, dtype=np.int32)
    out = np.empty((h, w, 3), np.uint8)
    out[..., 0] = x*5//w*12
    out[..., 1] = y*4//h*15
    out[..., 2] = np.where(x+y > (h+w)*.6, 50, 10)
    return out

def deep(h=H, w=W):
    return scene(h, w).astype(np.uint16)*257+np.arange(h*w, dtype=np.uint16).reshape(h, w, 1)*3
def ramp(h=H, w=W, top=255):
    return np.linspace(0, top, h*w).reshape(h, w).astype(np.uint8 if top == 255 else np.uint16)
def pil(a): return Image.fromarray(np.ascontiguousarray(a))
def grey(a): return np.repeat(a[..., None], 3, -1)

@dataclass
class Odd:
    "A file, and what must become of it."
    name: str                # of the file
    # its bytes; None: there is no file; a function of the path that makes it
    data: object
    # colours (H,W,3), uint8, uint16, or float in [0,1]; None: it must be refused
    x: object = None
    # how far the mean over the picture may be off, in levels of 255 (lossy formats)
    tol: float = 0
    alpha: object = None     # (H,W), uint8 or uint16
    depth: int = 8           # bits a channel
    keeps: str = ''          # metadata that must be handed on
    note: str = ''           # what a note must say
    says: str = ''           # what the error must say
    grey: bool = False       # one channel, in the file and in the result
    lossless: bool = False   # a WebP without loss


# --- ways to write a file ---

def saved(im, fmt, **kw):
    "A Pillow picture as the bytes of a file."
    f = BytesIO()
    im.save(f, fmt, **kw)
    return f.getvalue()

def png(a, kind=2, size=None, bits=16, crc=0):
    """An array (H,W,C) as PNG of 16 bits; `size` is what the header claims, `crc` is added to its
    checksum."""
    def chunk(k, d, off=0):
        return struct.pack('>I', len(d))+k+d+struct.pack('>I', (zlib.crc32(k+d)+off) % 2**32)
    w, h = size or a.shape[1::-1]
    rows = b''.join(b'\0'+r.astype('>u2').tobytes() for r in a)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, bits, kind, 0, 0, 0),
                                        crc) + chunk(b'IDAT', zlib.compress(rows)) + chunk(
                                            b'IEND', b'')

def tif(a, **kw):
    import tifffile
    f = BytesIO()
    tifffile.imwrite(f, a, metadata=None, software='', **kw)
    return f.getvalue()

def dng():
    "A raw picture of one flat colour: a Bayer mosaic (red, green / green, blue) in a DNG."
    a = np.zeros((64, 96), np.uint16)
    a[::2, ::2] = 2000
    a[::2, 1::2] = 8000
    a[1::2, ::2] = 8000
    a[1::2, 1::2] = 4000
    # XYZ to linear sRGB, in 10,000ths
    matrix = [32405, -15371, -4985, -9693, 18760, 416, 556, -2040, 10572]
    signed = sum(([o, 10000] for o in matrix), [])
    extra = [(50706, 1, 4, bytes([1, 4, 0, 0]), True), (50708, 2, 0, 'Toy Camera', True),
             (33421, 3, 2, (2, 2), True), (33422, 1, 4, bytes([0, 1, 1, 2]), True),
             (50717, 4, 1, 16383, True), (50721, 10, 9, signed, True),
             (50728, 5, 3, (1, 1)*3, True), (50778, 3, 1, 21, True)]
    return tif(a, photometric=32803, extratags=extra)

def exif(orientation=None, maker='a camera'):
    e = Image.Exif()
    e[0x010f] = maker
    if orientation: e[0x0112] = orientation
    e.get_ifd(0x8769)[0x9003] = '2026:11:25 18:00:00'
    return e

def moving(fmt):
    "Three frames; the first is the scene."
    return saved(pil(scene()), fmt, save_all=True,
                 append_images=[pil(scene()[::-1]), pil(scene()[:, ::-1])],
                 **({'lossless': True} if fmt == 'WEBP' else {}))


# --- the set ---

def formats():
    s = scene()
    p = pil(scene())
    yield from [
        Odd('plain.png', saved(p, 'PNG'), s),
        Odd('interlaced.tif', saved(p, 'TIFF', compression='tiff_lzw'), s),
        Odd('raw.tif', saved(p, 'TIFF'), s),
        Odd('deflate.tif', saved(p, 'TIFF', compression='tiff_adobe_deflate'), s),
        Odd('plain.bmp', saved(p, 'BMP'), s),
        Odd('lossless.webp', saved(p, 'WEBP', lossless=True), s, lossless=True),
        Odd('plain.ppm', saved(p, 'PPM'), s),
        Odd('plain.gif', saved(p.convert('P'), 'GIF'), np.array(p.convert('P').convert('RGB')))
    ]
    yield from [
        Odd('fine.jpg', saved(p, 'JPEG', quality=95, subsampling=0), s, 4),
        Odd('progressive.jpg', saved(p, 'JPEG', progressive=True, quality=90), s, 8),
        Odd('coarse.jpg', saved(p, 'JPEG', quality=60), s, 12),
        Odd('lossy.webp', saved(p, 'WEBP', quality=90), s, 8)
    ]
    if features.check('jpg_2000'): yield Odd('lossless.jp2', saved(p, 'JPEG2000'), s)
    if features.check('avif'): yield Odd('plain.avif', saved(p, 'AVIF', quality=95), s, 8)
    if importlib.util.find_spec('pillow_heif'):
        import pillow_heif
        pillow_heif.register_heif_opener()
        yield Odd('phone.heic', saved(p, 'HEIF', quality=95), s, 8)
    else: yield Odd('phone.heic', b'\0\0\0\x18ftypheic'+bytes(200), says='".[heif]"')

def modes():
    s = scene()
    p = pil(scene())
    l = ramp()
    a = ramp()[::-1]
    rgba = pil(np.dstack([s, a]))
    la = pil(l).convert('LA')
    la.putalpha(pil(a))
    one = pil(l).convert('1')
    pal = p.convert('P')
    lab = ImageCms.profileToProfile(p, ImageCms.createProfile('sRGB'),
                                    ImageCms.createProfile('LAB'), outputMode='LAB')
    clear = np.where(np.array(pal) == np.array(pal)[0, 0], 0, 255).astype(np.uint8)
    yield from [
        Odd('grey.png', saved(pil(l), 'PNG'), grey(l), grey=True),
        Odd('grey.jpg', saved(pil(l), 'JPEG', quality=95), grey(l), 4, grey=True),
        Odd('grey.bmp', saved(pil(l), 'BMP'), grey(l), grey=True),
        Odd('two_tones.png', saved(one, 'PNG'), grey(np.array(one)*np.uint8(255)), grey=True),
        Odd('fax.tif', saved(one, 'TIFF', compression='group4'), grey(np.array(one)*np.uint8(255)),
            grey=True),
        Odd('palette.png', saved(pal, 'PNG'), np.array(pal.convert('RGB'))),
        Odd('palette.tif', saved(pal, 'TIFF'), np.array(pal.convert('RGB'))),
        Odd('clear_palette.png', saved(pal, 'PNG', transparency=int(np.array(pal)[0, 0])),
            np.array(pal.convert('RGB')), alpha=clear),
        Odd('grey_alpha.png', saved(la, 'PNG'), grey(l), alpha=a, grey=True),
        Odd('alpha.png', saved(rgba, 'PNG'), s, alpha=a),
        Odd('alpha.tif', saved(rgba, 'TIFF'), s, alpha=a),
        Odd('alpha.webp', saved(rgba, 'WEBP', lossless=True, exact=True), s, alpha=a,
            lossless=True),
        Odd('ink.tif', saved(p.convert('CMYK'), 'TIFF'), s, note='ink (CMYK)'),
        Odd('ink.jpg', saved(p.convert('CMYK'), 'JPEG', quality=95), s, 8, note='ink (CMYK)'),
        Odd('lab.tif', saved(lab, 'TIFF'), s, 2, note='Lab'),
        Odd('ycbcr.tif', saved(p.convert('YCbCr'), 'TIFF'), s, 2),
        Odd('float.tif', saved(Image.fromarray((l/255).astype(np.float32)), 'TIFF'),
            grey((l/255).astype(np.float32)), depth=16, grey=True)
    ]

def depths():
    d = deep()
    g = ramp(top=65535)
    a = ramp(top=65535)[::-1]
    yield from [
        Odd('deep.png', png(d), d, depth=16),
        Odd('deep_alpha.png', png(np.dstack([d, a]), 6), d, alpha=a, depth=16),
        Odd('deep_grey_alpha.png', png(np.dstack([g, a]), 4), grey(g), alpha=a, depth=16,
            grey=True),
        Odd('deep_grey.png', saved(pil(g), 'PNG'), grey(g), depth=16, grey=True),
        Odd('deep_grey.tif', saved(pil(g), 'TIFF'), grey(g), depth=16, grey=True),
        Odd('deep.ppm', b'P6 %d %d 65535\n'%(W, H) + d.astype('>u2').tobytes(), d, .6)
    ]
    if importlib.util.find_spec('tifffile') is None: return
    yield from [
        Odd('deep_intel.tif', tif(d, photometric='rgb', byteorder='<'), d, depth=16),
        Odd('deep_motorola.tif', tif(d, photometric='rgb', byteorder='>', compression='zlib'), d,
            depth=16),
        Odd('deep_alpha.tif', tif(np.dstack([d, a]), photometric='rgb',
                                  extrasamples=['unassalpha']), d, alpha=a, depth=16)
    ]
    raw = 'rawpy' if importlib.util.find_spec('rawpy') else ''
    # sRGB's curve, over what the sensor saw
    flat = 1.055*(np.array([2000, 8000, 4000])/16383)**(1/2.4)-.055
    if raw:
        yield Odd('camera.dng', dng(),
                  np.broadcast_to(flat, (64, 96, 3)).astype(np.float32), 4, depth=16)
    else: yield Odd('camera.dng', dng(), says='".[raw]"')

def rotations():
    s = scene()
    g = ramp()
    for o, f in PLACES.items():
        yield Odd(f'turned_{o}.png', saved(pil(f(s)), 'PNG', exif=exif(o)), s, keeps='exif')
    for o in 3, 6, 8:
        yield Odd(f'turned_{o}.jpg',
                  saved(pil(PLACES[o](s)), 'JPEG', exif=exif(o), quality=95, subsampling=0), s, 4,
                  keeps='exif')
    yield Odd('turned_6.webp', saved(pil(PLACES[6](s)), 'WEBP', exif=exif(6), lossless=True), s,
              keeps='exif', lossless=True)
    yield Odd('turned_5.tif', saved(pil(PLACES[5](s)), 'TIFF', exif=exif(5)), s, keeps='exif')
    yield Odd('turned_alpha_6.png', saved(pil(PLACES[6](np.dstack([s, g]))), 'PNG', exif=exif(6)),
              s, alpha=g, keeps='exif')

def metadata():
    s = scene()
    p = pil(scene())
    every = dict(exif=exif(), icc_profile=SRGB, dpi=(300, 300))
    yield from [
        Odd('all.jpg', saved(p, 'JPEG', quality=95, subsampling=0, **every), s, 4,
            keeps='exif icc_profile dpi'),
        Odd('all.png', saved(p, 'PNG', **every), s, keeps='exif icc_profile dpi'),
        Odd('all.tif', saved(p, 'TIFF', **every), s, keeps='exif icc_profile dpi'),
        Odd('profile.webp', saved(p, 'WEBP', lossless=True, icc_profile=SRGB), s,
            keeps='icc_profile', lossless=True),
        Odd(
            'odd_exif.jpg',
            saved(p, 'JPEG', quality=95, subsampling=0,
                  exif=b'Exif\0\0MM\0*\0\0\0\x08\xff\xff' + bytes(range(40))), s, 4,
            note='EXIF block'),
        Odd('odd_profile.png', saved(p, 'PNG', icc_profile=b'no profile at all'), s,
            note='ICC profile')
    ]

def sizes():
    for w, h in (1, 1), (1, 500), (500, 1), (17, 23), (2, 3):
        yield Odd(f'{w}x{h}.png', saved(pil(scene(h, w)), 'PNG'), scene(h, w))
    yield Odd('1x1.jpg', saved(pil(scene(1, 1)), 'JPEG', quality=95), scene(1, 1), 4)
    yield Odd('4000x3000.jpg', saved(pil(scene(3000, 4000)), 'JPEG', quality=90), scene(3000, 4000),
              4)

def animations():
    s = scene()
    yield from [
        Odd('moving.gif', moving('GIF'), s, 2, note='3 pictures'),
        Odd('moving.webp', moving('WEBP'), s, note='3 pictures', lossless=True),
        Odd('moving.png', moving('PNG'), s, note='3 pictures'),
        Odd('pages.tif', moving('TIFF'), s, note='3 pictures')
    ]

def names():
    s = scene()
    data = saved(pil(s), 'PNG')
    yield from [
        Odd('LOUD.PNG', data, s),
        Odd('two words (1).png', data, s),
        Odd('Nächte – 夜.png', data, s),
        Odd('says_jpg.jpg', data, s, 4),
        Odd('dots.in.name.png', data, s)
    ]

def damage():
    big = np.random.default_rng(0).integers(0, 255, (120, 90, 3), dtype=np.uint8)
    data = {
        e: saved(pil(big), f)
        for e, f in dict(png='PNG', jpg='JPEG', webp='WEBP', gif='GIF', bmp='BMP').items()
    }
    for e, d in data.items(): yield Odd(f'short.{e}', d[:len(d)//2], says='damaged')
    yield from [
        Odd('short.tif',
            saved(pil(big), 'TIFF')[:9000], says='damaged'),
        Odd('header_only.jpg', data['jpg'][:20], says='not a picture'),
        Odd('empty.jpg', b'', says='is empty'),
        Odd('empty.png', b'', says='is empty'),
        Odd('letter.jpg', b'Dear photographer,\n'*20, says='not a picture'),
        Odd('error_page.png', b'<!doctype html><title>404 Not Found</title>', says='not a picture'),
        Odd('noise.png', bytes(np.random.default_rng(1).integers(0, 256, 3000, dtype=np.uint8)),
            says='not a picture'),
        Odd('document.jpg', b'%PDF-1.7\n' + bytes(500), says='not a picture'),
        Odd('drawing.png', b'<svg xmlns="http://www.w3.org/2000/svg"/>', says='not a picture'),
        Odd('zeros.tif', bytes(4000), says='not a picture'),
        Odd('bomb.png', png(deep(), size=(50_000, 50_000)), says='more pixels'),
        Odd('no_width.png', png(deep(), size=(0, 6)), says='.png'),
        Odd('checksum.png', png(deep(), crc=1), says='.png'),
        Odd('no_such_depth.png', png(deep(), bits=7), says='.png'),
        Odd('nan.tif', saved(Image.fromarray(np.full((H, W), np.nan, np.float32)), 'TIFF'),
            says='NaN'),
        Odd('infinite.tif', saved(Image.fromarray(np.full((H, W), np.inf, np.float32)), 'TIFF'),
            says='infinite'),
        Odd('too_bright.tif', saved(Image.fromarray(np.full((H, W), 200, np.float32)), 'TIFF'),
            says=r'scale them to [0,1]'),
        Odd('missing.png', None, says="doesn't exist"),
        Odd('folder.png', Path.mkdir, says='is a folder'),
        Odd('noise.nef', bytes(4000), says='noise.nef'),
        Odd('noise.heic', b'\0\0\0\x18ftypheic' + bytes(4000), says='noise.heic')
    ]
    if hasattr(os, 'symlink') and os.name != 'nt':
        yield Odd('nowhere.png', lambda path: path.symlink_to(path.with_name('gone.png')),
                  says="doesn't exist")

def pictures():
    "The whole set."
    return [
        o for group in (formats, modes, depths, rotations, metadata, sizes, animations, names,
                        damage) for o in group()
    ]

def write(odd, folder):
    "The file of an odd picture, in a folder."
    path = Path(folder)/odd.name
    if isinstance(odd.data, bytes): path.write_bytes(odd.data)
    elif odd.data is not None: odd.data(path)
    return path


# --- what must become of it ---

def unit(a):
    "An array of any depth as floats in [0,1]."
    return a/np.iinfo(a.dtype).max if a.dtype.kind == 'u' else a

def off(got, want): return np.abs(np.asarray(got, dtype=np.float64)-unit(want)).mean()*255

def check_read(odd, p):
    "The picture that was read is the one expected, with all that belongs to it."
    assert tuple(p.x.shape) == (3, *odd.x.shape[:2]), f'shape {tuple(p.x.shape)}'
    assert off(
        p.x.permute(1, 2, 0), odd.x
    ) <= odd.tol + 2e-5, f'colours are off by {off(p.x.permute(1, 2, 0), odd.x):.4f} levels'
    assert (p.alpha is None) == (odd.alpha is None), 'alpha'
    if odd.alpha is not None: assert off(p.alpha, odd.alpha) < 2e-5, 'alpha differs'
    assert p.depth == odd.depth, f'{p.depth} bits'
    assert (p.grey, p.lossless) == (odd.grey, odd.lossless), f'grey {p.grey}, lossless {p.lossless}'
    assert [o for o in odd.keeps.split() if o not in p.info] == [], f'only {list(p.info)}'
    assert odd.note in ' '.join(p.notes) and bool(odd.note) == bool(p.notes), f'notes {p.notes}'

def check_written(odd, p, path, read, r_x):
    """The result's file has the size, the alpha, the depth and the metadata of the input, and no
    rotation."""
    im = Image.open(path)
    assert im.size == odd.x.shape[1::-1] and im.getexif().get(0x0112, 1) == 1, 'size or orientation'
    back = read(path)
    if odd.grey:
        assert back.grey or path.suffix == '.webp' or (path.suffix, im.mode) == (
            '.tif', 'RGBA'), f'grey became {im.mode}'
    if odd.lossless and path.suffix == '.webp':
        assert off(back.x.permute(1, 2, 0), r_x) < 1/3, 'loss'
    deep_file = path.suffix.lower() in ('.png', '.tif')
    clear_file = path.suffix.lower() in ('.png', '.tif', '.webp')
    assert back.depth == (odd.depth if deep_file else 8), f'{back.depth} bits'
    if odd.alpha is not None and clear_file:
        assert off(back.alpha, odd.alpha) < 2e-5, 'alpha of the result'
    fits = p.info.get('icc_profile', b'')[16:20] == (b'GRAY' if odd.grey else b'RGB ')
    if fits: assert back.info['icc_profile'] == p.info['icc_profile'], 'profile of the result'
    if 'dpi' in p.info and deep_file:
        assert [round(o) for o in back.info['dpi']] == [round(o) for o in p.info['dpi']
                                                        ], 'resolution of the result'
    if 'exif' in odd.keeps:
        # Pillow writes no inner block into a TIFF, so an input may lack it
        e = im.getexif()
        had = Image.open(BytesIO(odd.data)).getexif()
        assert e.get(0x010f) == had[0x010f] == 'a camera' and e.get_ifd(0x8769).get(
            0x9003) == had.get_ifd(0x8769).get(0x9003), 'EXIF of the result'

def run_one(odd, path, enhancer, out):
    """Put a file through an enhancer: dict of name, outcome ('picture', 'error', 'wrong'), and what
    was said."""
    import torch

    from lowlight_nat.inference.folders import make_jobs
    from lowlight_nat.io.files import ImageError
    from lowlight_nat.io.metadata import read_picture
    def res(outcome, says=''):
        return dict(name=odd.name, outcome=outcome, says=says.replace(f'{path.parent}{os.sep}', ''))
    try: p = read_picture(path)
    except ImageError as e:
        fits = odd.x is None and odd.says in str(e) and odd.name in str(e) and '\n' not in str(e)
        return res('error' if fits else 'wrong', str(e))
    if odd.x is None: return res('wrong', 'was read')
    try:
        check_read(odd, p)
        large = odd.x.size > 10**6
        r = enhancer(path, rounds=0 if large else None)     # which saves half the time
        if not large:
            assert torch.equal(
                r.x,
                enhancer(p.x[:1] if p.grey else p.x).x), 'enhanced otherwise than its pixels'
        job, = make_jobs([path], out)
        check_written(odd, p, r.save(job.result), read_picture, r.x.permute(1, 2, 0).numpy())
    except AssertionError as e: return res('wrong', str(e))
    return res('picture', '; '.join(r.notes))

def run_all(enhancer):
    "All odd pictures through an enhancer: a list of dicts, see `run_one`."
    with tempfile.TemporaryDirectory() as tmp:
        src = Path(tmp)/'in'
        src.mkdir()
        return [run_one(o, write(o, src), enhancer, Path(tmp)/'out') for o in pictures()]

if __name__ == '__main__':
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else sys.exit(__doc__)
    folder.mkdir(parents=True, exist_ok=True)
    print(len([write(o, folder) for o in pictures()]), 'odd pictures')
