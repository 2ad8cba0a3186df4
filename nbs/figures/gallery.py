"""Draw the gallery of the first page: six results, each with the picture that was given next to it:
`python nbs/figures/gallery.py`. The photographs are those of `samples/`, in the public domain; the
last is one of them made so dark that most of it is lost."""
from pathlib import Path

import torch
from before_after import side_by_side
from PIL import Image

from lowlight_nat import Enhancer
from lowlight_nat.data.degradations import synthesize_low_light
from lowlight_nat.io.images import read_image, to_pil

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parents[1]/'samples'
SIZE = 344, 258          # of each picture, 4 to 3
# name: its file, and where the part that is shown begins, from 0 (top) to 1 (bottom)
SHOWN = {'cat': ('chelsea.jpg', .5), 'cup': ('coffee.png', .5), 'admiral': ('hopper.jpg', .1),
         'photographer': ('camera.png', .4), 'astronaut': ('astronaut.webp', .1)}


def cut(im, at):
    "The part of a picture with sides of 4 to 3 that begins at a share of what is left over."
    width = min(im.width, im.height*4//3)
    height = width*3//4
    left = (im.width - width)//2
    top = round((im.height - height)*at)
    return im.convert('RGB').crop((left, top, left + width, top + height)).resize(SIZE, Image.LANCZOS)

def too_dark():
    "A cup of coffee, seven stops down."
    bright = read_image(SAMPLES/'reference/coffee.png')
    return synthesize_low_light(bright, exposure=-7., generator=torch.Generator().manual_seed(0))

def main():
    enhance = Enhancer.from_pretrained(device='cpu')
    given = {name: (read_image(SAMPLES/file), at) for name, (file, at) in SHOWN.items()}
    given['too_dark'] = too_dark(), .5
    for name, (dark, at) in given.items():
        pair = side_by_side(cut(to_pil(dark), at), cut(enhance(dark).image, at), 8)
        pair.save(HERE/f'gallery_{name}.jpg', quality=84, optimize=True)


if __name__ == '__main__': main()
