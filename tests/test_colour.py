"""Colour: spaces, profiles and codes through the readers, the Enhancer and the writers; grey; what
else a file says of itself."""
import struct
import sys
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, features

from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.io.colour import *
from lowlight_nat.io.images import luma, read_image, write_image
from lowlight_nat.io.metadata import read_picture, write_picture

ROOT = Path(__file__).resolve().parents[1]
LINEAR = ColourSpace('linear', (Curve(),)*3, SPACES['sRGB'].matrix)
WIDE = {
    'P3': SPACES['Display P3'], 'Adobe RGB': SPACES['Adobe RGB'], 'ProPhoto': SPACES['ProPhoto'],
    'linear': LINEAR
}


@pytest.fixture(scope='module')
def enhance():
    torch.manual_seed(0)
    return Enhancer.from_pretrained(device='cpu', bf16=False)

@pytest.fixture(scope='module')
def dark():
    """A dark scene of 16 bits, (3,H,W) float32: a sample at half size, less what its neighbours
    share, so that 16 bits are used."""
    a = np.asarray(Image.open(ROOT/'samples/coffee.png').convert('RGB'), dtype=np.float64)/255
    a = a[:a.shape[0]//2*2, :a.shape[1]//2*2].reshape(a.shape[0]//2, 2, a.shape[1]//2, 2, 3).mean(
        (1, 3))
    return np.rint(a*65535).transpose(2, 0, 1).astype(np.float32)/65535

def chunk(kind, data):
    return struct.pack('>I', len(data))+kind+data+struct.pack('>I', zlib.crc32(kind+data))

def png(a, *chunks):
    "An array (3,H,W) in [0,1] as PNG of 16 bits with further chunks (kind, data)."
    rows = np.rint(np.asarray(a)*65535).astype('>u2').transpose(1, 2, 0)
    head = struct.pack('>IIBBBBB', rows.shape[1], rows.shape[0], 16, 2, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + b''.join(chunk(*o) for o in chunks)
            + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + r.tobytes()
                                                    for r in rows))) + chunk(b'IEND', b''))

def with_profile(a, space): return png(a, (b'iCCP', b'x\0\0'+zlib.compress(make_profile(space))))

def lab(x):
    from skimage.color import xyz2lab
    light = SPACES['sRGB'].curves[0].light(np.asarray(x, dtype=np.float64))
    return xyz2lab(np.einsum('ij,jhw->hwi', SPACES['sRGB'].matrix, light), 'D50')

def dE(a, b):
    "Mean difference of two sRGB pictures by CIEDE2000."
    from skimage.color import deltaE_ciede2000
    return deltaE_ciede2000(lab(a), lab(b)).mean()


def smooth(seed=0):
    "A smooth picture (3,80,96) of moderate colours, which formats with loss keep well."
    few = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(seed))*.6+.2
    return torch.nn.functional.interpolate(few, (80, 96), mode='bicubic')[0].clamp(.1, .9)


# --- the bar: one scene in five files ---

@pytest.mark.parametrize('name', WIDE)
@pytest.mark.slow
def test_a_wide_space_is_enhanced_as_srgb_is(enhance, dark, tmp_path, name):
    """One 16-bit scene in another space: what comes out, brought back to sRGB, is what comes out of
    the sRGB file, and stays in its space."""
    space = WIDE[name]
    (tmp_path/'srgb.png').write_bytes(png(dark))
    (tmp_path/'wide.png').write_bytes(with_profile(from_srgb(dark, space).clip(0, 1), space))
    want = enhance(tmp_path/'srgb.png')
    got = enhance(tmp_path/'wide.png')
    for e in 'png', 'tif':
        back = read_picture(got.save(tmp_path/f'out.{e}'))
        assert back.depth == 16 and back.info['icc_profile'] == make_profile(
            space) and got.notes == []
        raw = read_image_raw(tmp_path/f'out.{e}')
        # by the numbers in the file and the profile in it
        assert dE(to_srgb(raw, space).clip(0, 1), want.x) < 1.0
        assert dE(back.x, want.x) < 1.0
        assert len(np.unique(np.rint(raw*65535)%256)) > 200            # the lower byte is in use
    assert dE(read_image(got.image), want.x) < 1.0 and 'icc_profile' not in got.image.info

def read_image_raw(path):
    "The numbers of a file as they are, (3,H,W)."
    from lowlight_nat.io.images import _deep_array, _is_deep
    hi = Image.open(path)
    lo = Image.open(path)
    if _is_deep(hi): return _deep_array(hi, lo).transpose(2, 0, 1)/65535
    return np.asarray(hi.convert('RGB')).transpose(2, 0, 1)/255

@pytest.mark.parametrize('name', WIDE)
def test_numbers_read_as_srgb_would_be_wrong(dark, name):
    "The figure that this chapter mends: the file's numbers taken as sRGB."
    assert dE(from_srgb(dark, WIDE[name]).clip(0, 1), dark) > .5

@pytest.mark.parametrize('fmt', ['JPEG', 'WEBP', 'TIFF', 'PNG', *(['AVIF'] if features.check('avif') else [])])
def test_eight_bits_in_every_format(tmp_path, fmt):
    """A file of 8 bits in Adobe RGB: read as sRGB, written in its own space with its profile,
    whatever the format."""
    x = smooth()
    space = SPACES['Adobe RGB']
    icc = make_profile(SPACES['Adobe RGB'])
    f = tmp_path/f"a.{dict(JPEG='jpg').get(fmt, fmt.lower())}"
    Image.fromarray(np.rint(from_srgb(x.numpy(), space)*255).astype(np.uint8).transpose(
        1, 2, 0)).save(f, fmt, icc_profile=icc, quality=98)
    p = read_picture(f)
    assert p.space.name == 'Adobe RGB' and dE(p.x, x) < 1.5 and torch.equal(read_image(f), p.x)
    out = write_picture(p.x, tmp_path/f'out{f.suffix}', p, 98)
    assert Image.open(out).info['icc_profile'] == icc and dE(read_image(out), x) < 2.5
    # holds no profile: written in sRGB
    assert dE(read_image(write_picture(p.x, tmp_path/'out.bmp', p)), x) < 1.5

@pytest.mark.parametrize('name', WIDE)
def test_what_is_not_changed_comes_back(tmp_path, name):
    g = torch.rand(3, 40, 30, generator=torch.Generator().manual_seed(1))
    stored = np.rint(from_srgb(g.numpy(), WIDE[name]).clip(0, 1)*65535)
    (tmp_path/'a.png').write_bytes(with_profile(stored/65535, WIDE[name]))
    p = read_picture(tmp_path/'a.png')
    again = np.rint(read_image_raw(write_picture(p.x, tmp_path/'b.png', p))*65535)
    assert np.abs(again-stored).max() <= 2 and p.depth == 16


# --- spaces that are named in other ways ---

@pytest.mark.parametrize('chunks, space', [
    ([(b'cICP', bytes([12, 13, 0, 1]))], SPACES['Display P3']),
    ([(b'gAMA', struct.pack('>I', 100000))], LINEAR),
    ([(b'gAMA', struct.pack('>I', 45455)),
      (b'cHRM', struct.pack('>8I', *(round(o*1e5) for o in (.3127, .3290, .68, .32, .265, .69, .15,
                                                            .06))))], SPACES['Display P3']),
    ([(b'cICP', bytes([12, 13, 0, 1])), (b'iCCP', b'x\0\0'+zlib.compress(make_profile(LINEAR)))],
     SPACES['Display P3'])])
def test_png_without_a_profile(dark, chunks, space, tmp_path):
    (tmp_path/'a.png').write_bytes(png(from_srgb(dark, space).clip(0, 1), *chunks))
    p = read_picture(tmp_path/'a.png')
    assert dE(p.x, dark) < .05 and p.notes == []
    back = read_picture(write_picture(p.x, tmp_path/'b.tif', p))
    assert dE(back.x, dark) < .05 and np.allclose(back.space.matrix, space.matrix, atol=2e-4)

@pytest.mark.parametrize('chunks', [
    [(b'gAMA', struct.pack('>I', 45455))], [(b'sRGB', b'\0'), (b'gAMA', struct.pack('>I', 60000))],
    [(b'cICP', bytes([1, 13, 0, 1]))]])
def test_png_that_is_srgb(dark, chunks):
    p = read_picture(BytesIO(png(dark, *chunks)))
    assert p.space is None and np.array_equal(p.x, dark) and p.info == {}

def test_hdr_codes_are_noted(dark):
    p = read_picture(BytesIO(png(dark, (b'cICP', bytes([9, 16, 0, 1])))))
    assert 'PQ' in p.notes[0] and p.space is None

def test_adobe_rgb_by_exif_alone(tmp_path):
    "A camera writes 'R03' and no profile; the result gets one."
    x = smooth()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xa001] = 65535
    exif.get_ifd(0x8769)[0xa005] = {1: 'R03', 2: b'0100'}
    stored = Image.fromarray(
        np.rint(from_srgb(x.numpy(), SPACES['Adobe RGB'])*255).astype(np.uint8).transpose(1, 2, 0))
    stored.save(tmp_path/'a.jpg', exif=exif, quality=98, subsampling=0)
    p = read_picture(tmp_path/'a.jpg')
    assert p.space.name == 'Adobe RGB' and dE(p.x, x) < 1.5
    out = Image.open(write_picture(p.x, tmp_path/'b.jpg', p, 98))
    assert parse_profile(out.info['icc_profile']).name == 'Adobe RGB' and out.getexif().get_ifd(
        0xa005).get(1) == 'R03'

def test_avif_codes():
    from lowlight_nat.io.images import _codes
    assert _codes(b'\0\0\0\x20ftypavif' + bytes(20) + b'colrnclx'
                  + struct.pack('>HHHB', 12, 13, 1, 128)) == (12, 13)
    assert _codes(b'\0\0\0\x20ftypavif'+bytes(200)) is None


# --- profiles ---

def test_old_profiles():
    "Version 2: one exponent, a table, no curve; and names in either form."
    def patched(name, curve):
        icc = make_profile(SPACES['sRGB'])
        n, = struct.unpack_from('>I', icc, 128)
        for i in range(n):
            key, at, size = struct.unpack_from('>4sII', icc, 132+12*i)
            if key[1:] == b'TRC':
                icc = icc[:132 + 12*i] + struct.pack('>4sII', key, len(icc),
                                                     len(curve)) + icc[132 + 12*i + 12:] + curve
        return parse_profile(icc)
    v = np.linspace(0, 1, 50)
    assert np.allclose(
        patched('gamma', struct.pack('>4sIIH', b'curv', 0, 1, 461)).curves[1].light(v),
        v**(461/256))
    assert np.allclose(patched('linear', struct.pack('>4sII', b'curv', 0, 0)).curves[2].light(v), v)
    table = np.rint(np.linspace(0, 1, 1024)**2.2*65535).astype('>u2')
    assert np.allclose(
        patched('table',
                struct.pack('>4sII', b'curv', 0, 1024) + table.tobytes()).curves[0].light(v),
        v**2.2, atol=1e-4)
    for form, p, light in [(0, [2.], v**2), (1, [2., 1.1, -.1], np.maximum(1.1*v - .1, 0)**2),
                           (2, [2., .9, 0., .1], (.9*v)**2 + .1),
                           (3, [2.4, 1/1.055, .055/1.055, 1/12.92,
                                .04045], SPACES['sRGB'].curves[0].light(v))]:
        c = patched(
            'para',
            struct.pack('>4sIHH', b'para', 0, form, 0)
            + np.rint(np.array(p)*65536).astype('>i4').tobytes()).curves[0]
        assert np.allclose(c.light(v), light, atol=1e-4) and np.allclose(
            c.light(c.number(light)), light, atol=1e-4), form
    with pytest.raises(ValueError, match='falls'):
        patched('down', struct.pack('>4sIIHH', b'curv', 0, 2, 65535, 0))

def test_a_profile_of_tables_goes_through_little_cms(dark, tmp_path):
    "No matrix: Little CMS converts, with 8 bits and a note; the result is sRGB."
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    broken = srgb.replace(b'rXYZ', b'qXYZ', 1)
    (tmp_path/'a.png').write_bytes(png(dark, (b'iCCP', b'x\0\0'+zlib.compress(broken))))
    p = read_picture(tmp_path/'a.png')
    assert len(
        p.notes
    ) == 1 and 'ICC profile' in p.notes[0] and 'icc_profile' not in p.info and p.space is None

@pytest.mark.parametrize('bad', [
    b'nothing', make_profile(LINEAR)[:300], make_profile(LINEAR)[:128]+b'\xff'*400,
    make_profile(LINEAR).replace(b'XYZ \0\0\0\0', b'XYZ \0\0\0\0'+bytes(4))])
def test_damaged_profiles_are_noted(dark, bad):
    p = read_picture(BytesIO(png(dark, (b'iCCP', b'x\0\0'+zlib.compress(bad)))))
    assert p.notes and 'ICC profile' in p.notes[0] and np.array_equal(p.x, dark) and p.info == {}

def test_profiles_never_raise_anything_else():
    icc = make_profile(SPACES['ProPhoto'])
    rng = np.random.default_rng(0)
    for k in range(400):
        bad = bytearray(icc)
        for i in rng.integers(0, len(icc), 4): bad[i] = rng.integers(256)
        try:
            to_srgb(np.full((3, 1, 1), .5),
                    parse_profile(bytes(bad[:rng.integers(100,
                                                          len(icc) + 1)] if k%2 else bad)))
        except ValueError as e: assert '\n' not in str(e)

def test_colours_outside_srgb_are_clipped_and_noted(tmp_path):
    red = np.zeros((3, 8, 8))
    red[0] = 1
    (tmp_path/'a.png').write_bytes(with_profile(red, SPACES['Display P3']))
    p = read_picture(tmp_path/'a.png')
    assert '100%' in p.notes[0] and torch.equal(p.x[0], torch.ones(8, 8)) and p.x.min() >= 0

def test_little_cms_agrees_on_its_own_profile():
    """The sRGB profile that Pillow makes counts as sRGB: nothing is converted, no bit moves, the
    profile stays."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    a = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    f = BytesIO()
    Image.fromarray(a).save(f, 'PNG', icc_profile=icc)
    f.seek(0)
    p = read_picture(f)
    assert p.space is None and p.info['icc_profile'] == icc and torch.equal(
        p.x,
        torch.from_numpy(a).permute(2, 0, 1)/255)

@pytest.mark.parametrize('name', SPACES)
def test_little_cms_converts_as_we_do(name):
    "An outside witness, of 8 bits: our conversion differs from it by its rounding alone."
    a = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    icc = make_profile(SPACES[name])
    want = np.asarray(
        ImageCms.profileToProfile(Image.fromarray(a), BytesIO(icc), ImageCms.createProfile('sRGB'),
                                  renderingIntent=1))
    ours = to_srgb(a.transpose(2, 0, 1)/255, SPACES[name]).clip(0, 1).transpose(1, 2, 0)*255
    assert np.abs(ours-want).max() < 1

def test_large_pictures_are_converted_in_strips():
    "In place and strip by strip: the result is the same as of each row alone."
    x = np.random.default_rng(0).random((3, 700, 900)).astype(np.float32)
    rows = np.concatenate([to_srgb(x[:, i:i+1], SPACES['Display P3']) for i in range(700)], 1)
    assert to_srgb(x, SPACES['Display P3'], out=x) is x and np.array_equal(x, rows)


# --- grey ---

GREY = ['L', 'LA', 'I;16', '1', 'I', 'F']

@pytest.mark.parametrize('mode', GREY)
@pytest.mark.slow
def test_grey_in_grey_out(enhance, tmp_path, mode):
    "No channel differs from another, in memory and in the file, and the file has one channel."
    im = Image.open(ROOT/'samples/camera.png').convert('L').resize((48, 40))
    a = np.asarray(im)
    im = dict(L=im, LA=im.convert('LA'), I=Image.fromarray(a.astype(np.int32)*257),
              F=Image.fromarray(a.astype(np.float32)/255)).get(mode) or (
                  im.convert('1') if mode == '1' else Image.fromarray(a.astype(np.uint16)*257))
    path = tmp_path/f"a.{'tif' if mode in 'FI' else 'png'}"
    im.save(path)
    for res in enhance(path), enhance(im):
        assert torch.equal(res.x[0], res.x[1]) and torch.equal(
            res.x[0], res.x[2]) and res.image.mode == ('LA' if mode == 'LA' else 'L')
        for e in 'png', 'jpg', 'tif', 'bmp':
            back = Image.open(res.save(tmp_path/f'out.{e}'))
            deep = mode in ('I;16', 'I', 'F') and e in ('png', 'tif')
            assert back.mode == ('I;16' if deep else
                                 'LA' if mode == 'LA' and e in ('png', 'tif') else 'L'), (mode, e,
                                                                                          back.mode)
        rgb = np.asarray(Image.open(res.save(tmp_path/'out.webp')).convert('RGB')).astype(int)
        assert abs(rgb-rgb[..., :1]).max() <= 1        # WebP has no grey

def test_grey_arrays_and_tensors(enhance):
    a = (np.asarray(Image.open(ROOT/'samples/camera.png').convert('L').resize(
        (48, 40)))/255).astype(np.float32)
    for src in a, a[..., None], torch.from_numpy(a)[None], (a*255).astype(np.uint8):
        assert enhance(src, rounds=0).image.mode == 'L'
    for src in np.repeat(a[..., None], 3, -1), torch.from_numpy(a).expand(3, -1, -1):
        assert enhance(src, rounds=0).image.mode == 'RGB'

def test_the_luma_keeps_the_level():
    from lowlight_nat.evaluation.fidelity import grey_mean
    x = torch.rand(3, 20, 30)
    assert grey_mean(luma(x).expand(3, -1,
                                    -1)).item() == pytest.approx(grey_mean(x).item(), abs=1e-6)

def test_grey_profiles(tmp_path):
    """A profile for grey is used and kept; one for RGB on a grey picture is used, and the result is
    sRGB's grey."""
    v = np.linspace(0, 1, 256).reshape(16, 16)
    numbers = Image.fromarray(np.rint(v*255).astype(np.uint8))
    want = SPACES['sRGB'].curves[0].number(np.asarray(numbers)/255.)
    for space, kept in (ColourSpace('grey', (Curve(),)), True), (LINEAR, False):
        numbers.save(tmp_path/'a.tif', icc_profile=make_profile(space))
        p = read_picture(tmp_path/'a.tif')
        assert p.grey and np.abs(p.x[0].numpy() - want).max() < 1e-3 and ('icc_profile'
                                                                          in p.info) == kept
        out = Image.open(write_picture(p.x, tmp_path/'b.png', p))
        stored = np.asarray(out)/255.
        assert out.mode == 'L' and np.abs(stored - (np.asarray(numbers)
                                                    /255. if kept else want)).max() < 1.01/255
        rgb = Image.open(write_picture(p.x, tmp_path/'b.webp', replace(p, lossless=True)))
        assert 'icc_profile' not in rgb.info and np.abs(np.asarray(rgb)[..., 0]/255.
                                                        - want).max() < 1.01/255

def test_deep_grey_with_alpha(tmp_path):
    g = np.random.default_rng(0).integers(0, 65536, (2, 9, 11), dtype=np.uint16)
    p = read_picture(g.transpose(1, 2, 0))
    assert p.grey and p.depth == 16
    for e in 'png', 'tif':
        back = read_picture(write_picture(p.x, tmp_path/f'a.{e}', p))
        assert back.depth == 16 and torch.equal(back.x, p.x) and torch.equal(
            back.alpha, p.alpha) and back.grey == (e == 'png')


# --- WebP without loss ---

@pytest.mark.parametrize('alpha', [False, True])
def test_lossless_webp_stays_lossless(enhance, tmp_path, alpha):
    im = Image.open(ROOT/'samples/coffee.png').convert('RGB').resize((64, 48))
    if alpha: im.putalpha(Image.linear_gradient('L').resize(im.size))
    im.save(tmp_path/'a.webp', lossless=True, exact=True)
    res = enhance(tmp_path/'a.webp')
    out = res.save(tmp_path/'b.webp', 60)
    assert res.source.lossless and np.array_equal(np.asarray(Image.open(out)), np.asarray(
        res.image))
    im.save(tmp_path/'c.webp', quality=95)
    assert not read_picture(tmp_path/'c.webp').lossless
    Image.open(ROOT/'samples/coffee.png').save(tmp_path/'d.png')
    assert not read_picture(tmp_path/'d.png').lossless

def test_lossless_is_known_in_every_form(tmp_path):
    im = Image.new('RGB', (9, 9), 'red')
    other = Image.new('RGB', (9, 9), 'blue')
    for lossless in True, False:
        for kw in {}, dict(exif=Image.Exif().tobytes(),
                           xmp=b'<x/>'), dict(save_all=True, append_images=[other]):
            im.save(tmp_path/'a.webp', lossless=lossless, **kw)
            assert read_picture(tmp_path/'a.webp').lossless == lossless


# --- what else a file says of itself ---

XMP = '''<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" %s xmp:Rating="5" tiff:Orientation="6">%s</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'''  # noqa: E501
PROMISES = {
    'a gain map': ('xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"', ''),
    'a motion photo': (
        'xmlns:Camera="http://ns.google.com/photos/1.0/camera/" Camera:MotionPhoto="1" Camera:MicroVideoOffset="4000"',
        ''),
    'a gain map ': (
        'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
        'xmlns:Item="http://ns.google.com/photos/1.0/container/item/"',
        '<Container:Directory><rdf:Seq><rdf:li rdf:parseType="Resource"><Container:Item '
        'Item:Semantic="GainMap" Item:Length="9"/></rdf:li></rdf:Seq></Container:Directory>'
    )
}

@pytest.mark.parametrize('what', PROMISES)
@pytest.mark.parametrize('fmt', ['JPEG', 'PNG', 'WEBP'])
def test_xmp_promises_nothing_that_is_not_there(tmp_path, what, fmt):
    xmp = (XMP % PROMISES[what]).encode()
    f = tmp_path/f"a.{dict(JPEG='jpg').get(fmt, fmt.lower())}"
    if fmt == 'PNG':
        from PIL.PngImagePlugin import PngInfo
        info = PngInfo()
        info.add_itxt('XML:com.adobe.xmp', xmp.decode())
        Image.new('RGB', (9, 9)).save(f, pnginfo=info)
    else: Image.new('RGB', (9, 9)).save(f, fmt, xmp=xmp)
    p = read_picture(f)
    if 'xmp' not in Image.open(f).info: pytest.skip('this Pillow does not hand XMP on')
    assert len(p.notes) == 1 and what.strip() in p.notes[0] and 'taken out' in p.notes[0]
    back = Image.open(write_picture(p.x, tmp_path/'b.jpg', p)).info['xmp']
    assert b'Rating="5"' in back and not any(
        o in back.lower()
        for o in (b'hdrgm', b'gainmap', b'motionphoto', b'microvideo', b'orientation'))

@pytest.mark.parametrize('xmp', [
    b'GainMap, and no XML', b'<!DOCTYPE x [<!ENTITY a "GainMap">]><x>&a;</x>',
    b'<a xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"><hdrgm:x></a>', b'\xff\xfe hdrgm \0'])
def test_xmp_that_cannot_be_mended_is_left_out(tmp_path, xmp):
    Image.new('RGB', (9, 9)).save(tmp_path/'a.jpg', xmp=xmp)
    p = read_picture(tmp_path/'a.jpg')
    assert 'xmp' not in p.info and 'left out' in p.notes[0]

def test_other_xmp_is_kept_as_it_is(tmp_path):
    xmp = (XMP % ('', '')).encode()
    Image.new('RGB', (9, 9)).save(tmp_path/'a.jpg', xmp=xmp)
    p = read_picture(tmp_path/'a.jpg')
    assert p.info['xmp'] == xmp.replace(b'tiff:Orientation="6"', b'') and p.notes == []

IPTC = b'\x1c\x02\x78\x00\x09A caption'

def jpeg(**kw):
    from lowlight_nat.io.metadata import _iptc_segment
    f = BytesIO()
    Image.new('RGB', (9, 9), 'gray').save(f, 'JPEG', extra=_iptc_segment(IPTC), **kw)
    return f.getvalue()

def test_captions_and_comments(tmp_path):
    "IPTC and a comment survive where the format has room, and a note says so where not."
    from PIL import IptcImagePlugin
    (tmp_path/'a.jpg').write_bytes(jpeg(comment='a comment'))
    p = read_picture(tmp_path/'a.jpg')
    assert p.info['iptc'] == IPTC and p.info['comment'] == b'a comment'
    back = Image.open(write_picture(p.x, tmp_path/'b.jpg', p))
    assert IptcImagePlugin.getiptcinfo(back)[(
        2, 120)] == b'A caption' and back.info['comment'] == b'a comment' and p.notes == []
    q = read_picture(tmp_path/'a.jpg')
    write_picture(q.x, tmp_path/'b.tif', q)
    assert read_picture(tmp_path/'b.tif').info['iptc'] == IPTC and 'a comment' in q.notes[0]
    q = read_picture(tmp_path/'a.jpg')
    write_picture(q.x, tmp_path/'b.png', q)
    assert Image.open(tmp_path/'b.png').text['Comment'] == 'a comment' and 'IPTC' in q.notes[0]
    q = read_picture(tmp_path/'a.jpg')
    write_picture(q.x, tmp_path/'b.webp', q)
    assert 'IPTC and a comment' in q.notes[0]

@pytest.mark.parametrize('depth', [8, 16])
def test_png_texts(tmp_path, depth):
    from PIL.PngImagePlugin import PngInfo
    info = PngInfo()
    info.add_text('Title', 'The bridge')
    info.add_itxt('Author', 'Zoë')
    info.add_text('Software', 'another program')
    Image.new('RGB', (9, 9)).save(tmp_path/'a.png', pnginfo=info)
    p = replace(read_picture(tmp_path/'a.png'), depth=depth)
    assert Image.open(write_picture(p.x, tmp_path/'b.png', p)).text == {
        'Title': 'The bridge', 'Author': 'Zoë'
    } and p.notes == []
    write_picture(p.x, tmp_path/'b.jpg', p)
    assert any('texts' in o for o in p.notes)

@pytest.mark.parametrize('exif', [
    b'Exif\0\0MM\0*\0\0\0\x08\xff\xff'+bytes(range(40)), b'Exif\0\0nonsense, not a TIFF at all',
    b'Exif\0\0II*\0\x08\0\0\0\x02\0\x0f\x01\x02\0\xff\xff\0\0\x10\0\0\0'])
def test_damaged_exif_is_noted(tmp_path, exif):
    Image.new('RGB', (9, 9)).save(tmp_path/'a.jpg', exif=exif)
    assert any('EXIF' in o for o in read_picture(tmp_path/'a.jpg').notes)

def test_empty_exif_is_not_damaged(tmp_path):
    Image.new('RGB', (9, 9)).save(tmp_path/'a.jpg', exif=Image.Exif().tobytes())
    assert read_picture(tmp_path/'a.jpg').notes == []

def test_a_deep_picture_that_pillow_opened_is_noted(dark, tmp_path):
    "Pillow itself has no 48 bits a pixel; only the path gives us the rest."
    (tmp_path/'a.png').write_bytes(png(dark))
    p = read_picture(Image.open(tmp_path/'a.png'))
    assert p.depth == 8 and 'path' in p.notes[0] and read_picture(tmp_path/'a.png').notes == []


# --- what a second tester found ---

def test_black_stays_black_where_a_curve_begins_above_it(tmp_path):
    """A curve whose light at 0 is above 0, as a gamma with an offset has it: sRGB's black is the
    file's number 0, not its mirror."""
    space = ColourSpace('offset', (Curve(2.4, .9479, .0521),)*3, SPACES['sRGB'].matrix)
    assert from_srgb(np.zeros((3, 1, 1)), space).max() <= 0
    (tmp_path/'a.png').write_bytes(with_profile(np.full((3, 4, 5), .5), space))
    p = read_picture(tmp_path/'a.png')
    write_picture(torch.zeros(3, 4, 5), tmp_path/'b.png', p)
    assert read_image_raw(tmp_path/'b.png').max() == 0

def test_light_below_zero_stays_below():
    space = ColourSpace('lowered', (Curve(1., e=-.05),)*3, SPACES['sRGB'].matrix)
    assert to_srgb(np.full((3, 1, 1), .01), space).max() < 0

def para(form, *numbers):
    "The profile of Display P3 with other curves: type para."
    icc = bytearray(make_profile(SPACES['Display P3']))
    index = 132
    for i in range(struct.unpack_from('>I', icc, 128)[0]):
        k, at, n = struct.unpack_from('>4sII', icc, index+12*i)
        body = struct.pack(f'>4sIHH{len(numbers)}i', b'para', 0, form, 0,
                           *(round(o*65536) for o in numbers))
        if k[1:] == b'TRC': icc[at:at+n] = body.ljust(n, b'\0')
    return bytes(icc)

def test_a_formula_that_falls_is_no_curve():
    "Below the joint up to 0.02, above it 0: no number could be found again."
    with pytest.raises(ValueError, match='falls'): parse_profile(para(3, 2.4, 1, -.5, .1, .2))
    with pytest.raises(ValueError, match='damaged'): parse_profile(para(1, 2.4, 100., .05))
    # flat at first: a power of a negative number is never asked for
    flat = parse_profile(para(3, 2.4, 1, -.3, 0, .2)).curves[0]
    assert flat.number(np.array([0., .01])).dtype.kind == 'f'

def test_a_matrix_whose_white_is_none_is_damaged():
    M = SPACES['sRGB'].matrix.copy()
    M[1, 2] += 5
    with pytest.raises(ValueError, match='damaged'):
        parse_profile(make_profile(ColourSpace('x', (Curve(2.2),)*3, M)))

@pytest.mark.parametrize('numbers', [
    (0,)*8, (31270, 1, 64000, 33000, 30000, 60000, 15000, 6000), (31270, 32900)+(30000,)*6])
def test_chromaticities_that_make_no_sense(dark, numbers):
    "Zeros were 'damaged or cut short', and a white without brightness was taken at its word."
    p = read_picture(BytesIO(png(dark, (b'cHRM', struct.pack('>8I', *numbers)))))
    assert p.space is None and len(p.notes) == 1 and 'make no sense' in p.notes[0]

def test_codes_are_chunks_and_nothing_else(dark):
    "The letters cICP inside a text are no code, and the letters IDAT inside one don't hide a code."
    code = b'cICP', bytes([12, 13, 0, 1])
    assert read_picture(BytesIO(png(
        dark, (b'tEXt', b'Comment\0hi \0\0\0\x04cICP\x0c\x0d\0\x01')))).space is None
    assert read_picture(BytesIO(png(dark, (b'tEXt', b'Comment\0IDAT'),
                                    code))).space.name == 'Display P3'

@pytest.mark.parametrize('chunk,says', [
    ((b'iCCP', b'x\0\0'+zlib.compress(bytes(50_000_000))), 'colour profile'),
    ((b'zTXt', b'Comment\0\0'+zlib.compress(b'a'*2_000_000)), 'text'),
    ((b'iTXt', b'Prompt\0\1\0en\0Frage\0'+zlib.compress(b'a'*2_000_000)), 'text')])
def test_large_profiles_and_texts_cost_no_picture(dark, chunk, says):
    "Pillow refuses a PNG with a compressed chunk of more than 1 MB unpacked; its pixels are good."
    small = b'iTXt', b'Title\0\1\0\0\0'+zlib.compress(b'a cup')
    p = read_picture(BytesIO(png(dark, chunk, small)))
    assert np.abs(p.x.numpy()-dark).max() < 1e-6 and p.info == dict(text=dict(Title='a cup'))
    assert len(p.notes) == 1 and f'more than 1 MB of {says}' in p.notes[0]

def test_grey_with_alpha_multiplied_in():
    "Pillow's mode La."
    im = Image.merge('LA', [Image.new('L', (4, 3), 100), Image.new('L', (4, 3), 128)])
    p = read_picture(im.convert('La'))
    assert p.grey and abs(p.x.mean()*255-100) < 1.1 and abs(p.alpha.mean()*255-128) < .1

@pytest.mark.slow
@pytest.mark.parametrize('text', [
    '<a {w}>'+'<g:a> '*150_000, '<a {w}>'+' '*900_000+'</a>',
    '<a {w}>'+'<g:a>'*60_000+'</g:a>'*60_000+'</a>',
    '<a '+' '.join(f'xmlns:p{i}="http://ns.adobe.com/hdr-gain-map/1.0/"' for i in range(9000))+'/>'])
def test_xmp_made_to_take_long(text):
    """Tags that never end, a megabyte of blanks and 9,000 prefixes took minutes. In a process of
    its own, that is ended after a while."""
    import subprocess
    code = ("from lowlight_nat.io.metadata import _clean_xmp; import sys; "
            "print(_clean_xmp(sys.stdin.buffer.read(), 'x')[1])")
    text = text.replace('{w}', 'xmlns:g="http://ns.adobe.com/hdr-gain-map/1.0/"')
    done = subprocess.run([sys.executable, '-c', code], input=text.encode(), capture_output=True,
                          timeout=100)
    assert b'gain map' in done.stdout

def test_xmp_that_is_not_utf8_is_left_out(tmp_path):
    "It was kept with a sign of replacement for each byte."
    write_image(torch.rand(3, 8, 9), tmp_path/'a.png')
    Image.open(tmp_path/'a.png').save(tmp_path/'a.jpg', xmp=bytes(range(256)))
    p = read_picture(tmp_path/'a.jpg')
    assert 'xmp' not in p.info and 'not UTF-8' in p.notes[0]
