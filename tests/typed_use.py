"""The front door, used as a user would: `mypy tests/typed_use.py` says what an editor knows of it. Never run."""
from PIL import Image
from torch import Tensor
from typing_extensions import assert_type

from lowlight_nat import Enhanced, Enhancer, ImageError, LowLightNAT, load_model, read_image, write_image
from lowlight_nat.inference.result import Round
from lowlight_nat.models.config import ModelConfig
from lowlight_nat.models.fusion import Decoded
from lowlight_nat.models.lowlight_nat import Aligned, Refined


def use_enhancer(enhance: Enhancer) -> None:
    result = enhance('photo.jpg', tau=.5, rounds=2)
    assert_type(result, Enhanced)
    assert_type(result.image, Image.Image)
    assert_type(result.x, Tensor)
    assert_type(result.mask, Tensor)
    assert_type(enhance.model, LowLightNAT)
    result.save('brighter.jpg')

def use_model(path: str) -> Tensor:
    "Each step by hand, and what it gives by name."
    try: x = read_image(path)[None]
    except ImageError: raise SystemExit(path) from None
    model = load_model('small')
    aligned = model.align(x)
    assert_type(aligned, Aligned)
    refined = model.refine(aligned, rounds=2)
    assert_type(refined, Refined)
    decoded = model.decode(aligned, refined)
    assert_type(decoded, Decoded)
    write_image(decoded.x[0], 'normalised.png')
    return refined.entropy[0]*refined.mask[0]

def use_configuration() -> ModelConfig:
    config = ModelConfig(name='mine', dim=4, n_codes=64)
    model = LowLightNAT(config)
    assert_type(model, LowLightNAT)
    assert_type(config.n_codes, int)
    return config

def read_history(r: Round) -> Tensor|None: return r.confidence
