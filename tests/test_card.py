"The model card says what the checkpoint's metadata says, and what `lowlight_evaluate` measured."
import json

import pytest

from lowlight_nat.models.checkpoint import read_metadata, weights_path


def test_card_agrees_with_the_checkpoint(root):
    card = (root/'lowlight_nat'/'weights'/'README.md').read_text(encoding='utf-8')
    meta = read_metadata(weights_path('small'))
    v = json.loads((root/'nbs'/'figures'/'val.json').read_text())
    for said in (f"{v['psnr_gt_mean']:.2f} dB, SSIM {v['ssim_gt_mean']:.3f} GT-mean",
                 f"{v['psnr']:.2f} dB, SSIM {v['ssim']:.3f} raw", meta.about['note'],
                 f"{weights_path('small').stat().st_size/1e6:.1f} MB"):
        assert said in card, f'{said}: run `python nbs/figures/card.py`'
    assert (root/'nbs'/'figures'/'failures.jpg'
            ).stat().st_size < 200_000 and weights_path('small').stat().st_size <= 12e6


@pytest.mark.slow
def test_blocks_come_from_saving_with_loss(root):
    """The black blocks that the card shows: in a file saved with loss, not in a lossless one of the
    same picture."""
    import io

    import torch
    from PIL import Image

    from lowlight_nat.data.degradations import synthesize_low_light
    from lowlight_nat.inference.enhancer import Enhancer
    from lowlight_nat.io.images import read_image, to_pil
    bright = read_image(root/'samples/reference/astronaut.webp')
    dark = to_pil(
        synthesize_low_light(bright, exposure=-5., shot=2e-4, read=6e-4,
                             generator=torch.Generator().manual_seed(0)))
    enhance = Enhancer.from_pretrained('small', device='cpu')
    def blocks(**how):
        "Pixels of helmet and chair that are clearly darker than what is around them"
        file = io.BytesIO()
        dark.save(file, **how)
        grey = enhance(Image.open(io.BytesIO(file.getvalue())).convert('RGB')).x.mean(0)[160:, 200:]
        around = torch.nn.functional.unfold(grey[None, None], 17,
                                            padding=8).median(1).values.view_as(grey)
        return (around - grey > .05).sum().item()
    lossless = blocks(format='PNG')
    webp = blocks(format='WEBP', quality=95)
    jpeg = blocks(format='JPEG', quality=88)
    assert webp > 1.1*lossless and jpeg > 1.1*lossless, (lossless, webp, jpeg)
    said = root.joinpath('nbs/limits.qmd').read_text(encoding='utf-8')
    assert 'Saved with loss' in said and 'astronaut' not in (
        root/'nbs/figures/before_after.py').read_text(encoding='utf-8')
