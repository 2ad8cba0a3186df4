"""Draw before_after.jpg, the picture on the first page: dark samples on the left, what the bundled
model makes of them on the right."""
from pathlib import Path

from PIL import Image

from lowlight_nat.inference.enhancer import Enhancer

NAMES = ('chelsea.jpg', 'coffee.png', 'hopper.jpg', 'rocket.webp')
HEIGHT = 220
GAP = 6
SAMPLES = Path(__file__).resolve().parents[2]/'samples'


def fit(im): return im.convert('RGB').resize((im.width*HEIGHT//im.height, HEIGHT), Image.LANCZOS)


def block(ims):
    "Two rows of two pictures"
    rows = [ims[:2], ims[2:]]
    width = max(sum(im.width for im in r) + GAP for r in rows)
    out = Image.new('RGB', (width, 2*HEIGHT + GAP), 'white')
    for j, row in enumerate(rows):
        x = (width - sum(im.width for im in row) - GAP)//2
        for im in row:
            out.paste(im, (x, j*(HEIGHT + GAP)))
            x += im.width + GAP
    return out


def main():
    enhance = Enhancer.from_pretrained()
    left = block([fit(Image.open(SAMPLES/n, formats=['PNG', 'JPEG', 'WEBP'])) for n in NAMES])
    right = block([fit(enhance(SAMPLES/n).image) for n in NAMES])
    out = Image.new('RGB', (left.width*2 + 3*GAP, left.height), 'white')
    out.paste(left, (0, 0))
    out.paste(right, (left.width + 3*GAP, 0))
    out.save(Path(__file__).with_name('before_after.jpg'), quality=88)


if __name__ == '__main__': main()
