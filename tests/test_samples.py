"The six sample pictures are what samples/README.md says."
from pathlib import Path

from lowlight_nat.io.files import list_images
from lowlight_nat.io.images import read_image

samples = Path(__file__).parent.parent/'samples'


def test_six_dark_pictures_and_their_originals():
    dark = list_images(samples)
    bright = list_images(samples/'reference')
    assert len(dark)==6 and [p.name for p in dark]==[p.name for p in bright]
    for d, b in zip(map(read_image, dark), map(read_image, bright)):
        assert d.shape==b.shape and 300<=min(d.shape[1:])<=400
        assert .03<d.mean()<.12 and b.mean()>2*d.mean()
    assert {'.png', '.jpg', '.webp'}<={p.suffix for p in dark}


def test_small_and_listed():
    files = [*list_images(samples), *list_images(samples/'reference')]
    assert sum(p.stat().st_size for p in files)<1_200_000
    text = (samples/'README.md').read_text(encoding='utf-8')
    assert all(f'`{p.name}`' in text for p in files)
