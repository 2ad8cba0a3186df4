"""Make the six sample pictures anew: `python samples/make_samples.py`.

Six photographs in the public domain, which come with scikit-image and matplotlib, are scaled to a
short side of about 300 pixels
(`samples/reference/`) and darkened by `lowlight_nat.darkness.synthesize_low_light` with fixed seeds (`samples/`).
Running it needs scikit-image and matplotlib besides the package; nothing is downloaded.
"""
from pathlib import Path

import matplotlib
import skimage
import torch
from lowlight_nat.darkness import synthesize_low_light
from lowlight_nat.images import read_image, to_pil, write_image
from PIL import Image

here = Path(__file__).parent
SKIMAGE = Path(skimage.__file__).parent/'data'
MATPLOTLIB = Path(matplotlib.get_data_path())/'sample_data'

# file to write: (source, short side in pixels, exposure in stops, shot noise, read noise, gain of
# red, green and blue light)
RECIPES = {
    'astronaut.webp': (SKIMAGE/'astronaut.png',       320, -5.0, 2e-4, 6e-4, (1.05, 1.00, 0.90)),
    'camera.png':     (SKIMAGE/'camera.png',          300, -5.0, 2e-4, 6e-4, (1.00, 1.00, 1.00)),
    'chelsea.jpg':    (SKIMAGE/'chelsea.png',         300, -5.0, 2e-4, 6e-4, (1.10, 1.00, 0.85)),
    'coffee.png':     (SKIMAGE/'coffee.png',          300, -4.0, 3e-4, 8e-4, (0.95, 1.00, 1.05)),
    'hopper.jpg':     (MATPLOTLIB/'grace_hopper.jpg', 320, -4.5, 2e-4, 8e-4, (1.00, 1.00, 1.00)),
    'rocket.webp':    (SKIMAGE/'rocket.jpg',          300, -3.5, 1e-4, 5e-4, (1.00, 1.00, 1.00)),
}


def shrink(im, short):
    "Scale a picture so that its shorter side has `short` pixels."
    f = short/min(im.size)
    return im.resize((round(im.width*f), round(im.height*f)), Image.Resampling.LANCZOS)


def main():
    for seed, (name, (source, short, exposure, shot, read, cast)) in enumerate(RECIPES.items()):
        bright = shrink(Image.open(source, formats=['PNG', 'JPEG']), short)
        g = torch.Generator().manual_seed(seed)
        dark = synthesize_low_light(read_image(bright), exposure=exposure, shot=shot, read=read,
                                    cast=cast, generator=g)
        dark_im = to_pil(dark).convert(bright.mode)
        write_image(bright, here/'reference'/name, quality=92)
        write_image(dark_im, here/name, quality=95)
        print(
            f'{name:15} {bright.width}x{bright.height}  mean level {read_image(bright).mean():.3f} -> {dark.mean():.3f}'
        )


if __name__ == '__main__': main()
