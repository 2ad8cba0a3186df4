"""Draw before_after.jpg, the picture on the first page: one photograph, dark on the left, and on the
right what the bundled model makes of it: `python nbs/figures/before_after.py`. It needs scikit-image,
where the photograph comes from in full size; `samples/` has a smaller copy."""
from pathlib import Path

import skimage
import torch
from PIL import Image

from lowlight_nat import Enhancer
from lowlight_nat.data.degradations import synthesize_low_light
from lowlight_nat.io.images import read_image, to_pil

HERE = Path(__file__).resolve().parent
SOURCE = Path(skimage.__file__).parent/'data/rocket.jpg'
RECIPE = dict(exposure=-3.5, shot=1e-4, read=5e-4)     # as samples/make_samples.py darkens it
GAP = 18


def side_by_side(left, right, gap=GAP):
    "Two pictures of one size with white between them."
    out = Image.new('RGB', (left.width + gap + right.width, left.height), 'white')
    out.paste(left, (0, 0))
    out.paste(right, (left.width + gap, 0))
    return out

def main():
    generator = torch.Generator().manual_seed(5)
    dark = synthesize_low_light(read_image(SOURCE), generator=generator, **RECIPE)
    bright = Enhancer.from_pretrained(device='cpu')(dark).image
    side_by_side(to_pil(dark), bright).save(HERE/'before_after.jpg', quality=86, optimize=True)


if __name__ == '__main__': main()
