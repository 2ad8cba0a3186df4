"""GLARE's network in bfloat16 against float32: random weights, a dark picture of 420x620; writes
run/half_precision.json. A minute or two on two cores."""
import json
from pathlib import Path

import torch

from lowlight_nat.evaluation.fidelity import psnr
from lowlight_nat.experiments.cost import dark_picture
from lowlight_nat.inference.tiling import pad_to_multiple
from lowlight_nat.models.config import ModelConfig
from lowlight_nat.models.lowlight_nat import LowLightNAT

torch.manual_seed(42)
model = LowLightNAT(ModelConfig.base()).eval()
x = dark_picture((420, 620), 42)
x = pad_to_multiple(x, model.multiple)[0]
out = {}
for half in False, True:
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16, enabled=half):
        out[half] = model(x, latent_nat=False, decoder_nat=False)
res = dict(psnr=psnr(out[True].x.float(), out[False].x.float()).item(),
           same_tokens=(out[True].tokens == out[False].tokens).float().mean().item(),
           command='python nbs/figures/half_precision.py', torch=torch.__version__)
(Path(__file__).parent/'run/half_precision.json').write_text(json.dumps(res, indent=1) + '\n')
print(res)
