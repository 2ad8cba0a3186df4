"The model card says what the checkpoint's metadata says, and what `lowlight_evaluate` measured."
import json
from lowlight_nat.model import read_metadata, weights_path


def test_card_agrees_with_the_checkpoint(root):
    card, meta = (root/'lowlight_nat'/'weights'/'README.md').read_text(encoding='utf-8'), read_metadata(weights_path('small'))
    v = json.loads((root/'nbs'/'figures'/'val.json').read_text())
    for said in (f"{v['psnr_gt_mean']:.2f} dB, SSIM {v['ssim_gt_mean']:.3f} GT-mean", f"{v['psnr']:.2f} dB, SSIM {v['ssim']:.3f} raw", meta['about']['command'], meta['about']['note'],
                 f"{weights_path('small').stat().st_size/1e6:.1f} MB"): assert said in card, f'{said}: run `python nbs/figures/card.py`'
    assert (root/'nbs'/'figures'/'failures.jpg').stat().st_size < 200_000 and weights_path('small').stat().st_size <= 12e6
