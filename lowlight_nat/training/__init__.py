"Losses, stages, callbacks and Learners; needs the extra `train`."
from .. import _moved


def __getattr__(name): return _moved.room(__name__, name)
