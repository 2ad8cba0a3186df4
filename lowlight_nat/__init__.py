"""Mask-aware non-autoregressive transformers in low-light image enhancement.

    from lowlight_nat import Enhancer
    Enhancer.from_pretrained()('photo.jpg').save('brighter.jpg')

The names below are read when they are first asked for, so that `import lowlight_nat` alone costs nothing (PEP 562).
"""
__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

from . import _moved

if TYPE_CHECKING:                   # what editors and type checkers see
    from .inference.enhancer import Enhancer as Enhancer
    from .inference.result import Enhanced as Enhanced
    from .io.files import ImageError as ImageError
    from .io.images import read_image as read_image, write_image as write_image
    from .models.checkpoint import load_model as load_model, save_model as save_model
    from .models.config import ModelConfig as ModelConfig, NATConfig as NATConfig
    from .models.config import TrainPlan as TrainPlan
    from .models.lowlight_nat import LowLightNAT as LowLightNAT

# public name: the module it lives in
_FRONT = dict(
    Enhancer='inference.enhancer',
    Enhanced='inference.result',
    LowLightNAT='models.lowlight_nat',
    ModelConfig='models.config',
    TrainPlan='models.config',
    NATConfig='models.config',
    load_model='models.checkpoint',
    save_model='models.checkpoint',
    read_image='io.images',
    write_image='io.images',
    ImageError='io.files',
)
__all__ = list(_FRONT)

_moved.install()


def __getattr__(name):
    "A name of the front door, from its module."
    if name not in _FRONT:
        raise AttributeError(f"lowlight_nat has no {name!r}; it offers {', '.join(_FRONT)}")
    value = getattr(import_module(f'lowlight_nat.{_FRONT[name]}'), name)
    globals()[name] = value         # from now on it is simply there
    return value


def __dir__(): return sorted({*globals(), *_FRONT})
