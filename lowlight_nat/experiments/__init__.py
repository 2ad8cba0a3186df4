"Measurements in the form of tables and figures: what the book claims, by one command each."
from .. import _moved


def __getattr__(name): return _moved.room(__name__, name)
