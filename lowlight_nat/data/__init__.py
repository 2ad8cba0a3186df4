"Pairs of pictures for training."
from .. import _moved


def __getattr__(name): return _moved.room(__name__, name)
