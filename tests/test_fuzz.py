"""The readers under fire: whatever bytes, arrays, tensors or metadata they are given, there is a
picture or an `ImageError` of one sentence.

Bounded: examples are drawn from a fixed seed, so that every run tries the same ones."""
import functools
import warnings
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('hypothesis', reason='needs hypothesis, of the dev extra')
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_pictures import pictures

from lowlight_nat.io.files import ImageError
from lowlight_nat.io.images import read_image
from lowlight_nat.io.metadata import Picture, read_picture, write_picture


def bounded(n):
    return settings(max_examples=n, deadline=None, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck))

@pytest.fixture(autouse=True, scope='module')
def small_and_quiet():
    "Headers that claim huge pictures are refused early; libraries may warn."
    old = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = 300_000
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield
    Image.MAX_IMAGE_PIXELS = old

@functools.lru_cache
def seeds():
    return [o.data for o in pictures() if isinstance(o.data, bytes) and 0 < len(o.data) < 30_000]

def survives(src):
    "The picture, or None where it was refused as it should be."
    try: p = read_picture(src)
    except ImageError as e:
        assert '\n' not in str(e) and 10 < len(str(e)) < 600, str(e)
        return None
    assert p.x.ndim == 3 and p.x.shape[0] == 3 and p.x.dtype == torch.float32 and p.x.isfinite(
    ).all() and 0 <= p.x.min() and p.x.max() <= 1
    assert p.alpha is None or p.alpha.shape == p.x.shape[1:] and 0 <= p.alpha.min() and p.alpha.max(
    ) <= 1
    assert p.depth in (8, 16) and all(isinstance(v, (bytes, tuple)) for v in p.info.values())
    return p

@st.composite
def damaged(draw):
    "A good file with bytes changed, cut out, doubled or cut off."
    data = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(1, 6))):
        i = draw(st.integers(0, max(0, len(data)-1)))
        kind = draw(st.sampled_from(['set', 'set', 'set', 'word', 'cut', 'double', 'end']))
        if kind == 'set' and data: data[i] = draw(st.integers(0, 255))
        elif kind == 'word':
            data[i:i + 4] = draw(
                st.sampled_from([
                    b'\0\0\0\0', b'\xff\xff\xff\xff', b'\x7f\xff\xff\xff', b'\0\0\0\1',
                    b'\x80\0\0\0'
                ]))
        elif kind == 'cut': del data[i:i+draw(st.integers(1, 40))]
        elif kind == 'double': data[i:i] = data[i:i+draw(st.integers(1, 40))]
        elif kind == 'end': del data[i:]
    return bytes(data)

@bounded(500)
@given(damaged())
@pytest.mark.slow
def test_damaged_files(data): survives(BytesIO(data))

heads = [
    b'', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff\xe0', b'II*\0', b'MM\0*', b'GIF89a', b'BM',
    b'RIFF\0\0\0\0WEBPVP8 ', b'RIFF\0\0\0\0WEBPVP8L', b'\0\0\0\x18ftypheic', b'\0\0\0\x1cftypavif',
    b'P6 4 4 255\n', b'\0\0\0\x0cjP  \r\n\x87\n'
]

@bounded(200)
@given(st.sampled_from(heads), st.binary(max_size=300))
def test_any_bytes(head, rest): survives(BytesIO(head+rest))

kinds = [
    'uint8', 'uint16', 'int8', 'int16', 'int32', 'uint32', 'int64', 'uint64', 'float16', 'float32',
    'float64', 'bool', 'complex64', 'object', 'str'
]
numbers = st.sampled_from([0, 1, .5, -1, 2, 255, 1e30, float('nan'), float('inf'), -float('inf')])

@bounded(300)
@given(st.lists(st.integers(0, 5), max_size=5), st.sampled_from(kinds), numbers, st.booleans())
def test_any_array(shape, kind, value, as_tensor):
    with np.errstate(all='ignore'):
        a = np.full(
            shape, 0 if kind in ('object', 'str') or not np.isfinite(value) and 'float' not in kind
            else value, dtype='float64').astype(kind)
    if as_tensor:
        try: a = torch.from_numpy(a)
        except TypeError: return       # PyTorch has no such type
    survives(a)

@bounded(60)
@given(st.one_of(st.none(), st.integers(), st.text(max_size=20), st.binary(max_size=20),
                 st.lists(st.integers(), max_size=3), st.floats()))
def test_anything_else(src):
    try: read_picture(src)
    except ImageError as e: assert '\n' not in str(e)

@bounded(150)
@given(st.sampled_from('png jpg tif webp bmp'.split()),
       st.dictionaries(st.sampled_from(['exif', 'icc_profile', 'xmp']),
                       st.binary(min_size=1, max_size=120), max_size=3), st.sampled_from([8, 16]), st.booleans())
@pytest.mark.slow
def test_odd_metadata_never_cost_the_picture(tmp_path_factory, ext, info, depth, clear):
    "Whatever the metadata are, the file is written and holds the picture."
    x = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    like = Picture(x, torch.rand(5, 7) if clear else None, depth, info)
    path = write_picture(x, tmp_path_factory.getbasetemp()/f'odd.{ext}', like)
    if ext in ('png', 'tif', 'bmp'):
        assert (read_image(path)-x).abs().max() <= .5/(2**(depth if ext != 'bmp' else 8)-1)+1e-6
    else: assert read_image(path).shape == x.shape
