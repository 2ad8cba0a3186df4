"""The module names of version 0.1, each with a warning: `lowlight_nat.enhance` is
`lowlight_nat.inference.enhancer` now.

They go in version 0.3. An old name is the new module itself, so that checkpoints and pickles that name it can be read.
"""
import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

MOVED = dict(
    answer='inference.result',
    baselines='peers.baselines',
    callbacks='training.callbacks',
    checkpoints='training.checkpoints',
    codebook='models.vqgan',
    colour='io.colour',
    cost='experiments.cost',
    darkness='data.degradations',
    decoder='models.fusion',
    dense='export.static_graph',
    deploy='export.onnx',
    enhance='inference.enhancer',
    explore='app.steps',
    exposure='models.light',
    files='io.files',
    fingerprints='data.overlap',
    flow='models.flow',
    folders='inference.folders',
    glare='models.glare',
    glare_release='models.glare_weights',
    images='io.images',
    layers='models.layers',
    llflow='peers.llflow',
    losses='training.losses',
    masking='models.masking',
    metrics='evaluation.fidelity',
    model='models.lowlight_nat',
    nat='models.latent_nat',
    pairs='data.pairs',
    perception='evaluation.perceptual',
    pictures='io.metadata',
    quantizers='models.quantizers',
    record='io.records',
    restormer='peers.restormer',
    stages='training.stages',
    table1='experiments.tables',
    training_memory='training.memory',
    training_parallel='training.distributed',
    training_unpaired='training.unpaired',
    uncertainty='experiments.calibration',
    widgets='app.widgets',
)
# Packages whose name was a module's: an old name in them is looked up where it went, in this order
ROOMS = dict(
    data=('data.loaders', 'data.pairs', 'data.degradations'),
    training=('training.pipeline', 'training.learner'),
    experiments=('experiments.runs',),
)

# Modules of version 0.1 whose names are in several modules now, the one that they became first
SPLIT = dict(
    model=('models.lowlight_nat', 'models.config', 'models.checkpoint'),
    images=('io.images', 'io.files', 'inference.tiling'),
    codebook=('models.vqgan', 'models.quantizers'),
    masking=('models.masking', 'models.uncertainty', 'experiments.calibration'),
)


def _warn(old, new, level):
    "Say where a module went."
    warnings.warn(f'lowlight_nat.{old} is lowlight_nat.{new} now; the old name goes in version 0.3',
                  DeprecationWarning, level)


class _Finder(MetaPathFinder, Loader):
    "Finds the old names."

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.rpartition('.')
        if package == 'lowlight_nat' and name in MOVED: return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec):
        old = spec.name.rpartition('.')[2]
        _warn(old, MOVED[old], 3)
        return None

    def exec_module(self, module):
        "Put the new module in the place of the old one, or of its names, if it was split."
        old = module.__name__.rpartition('.')[2]
        if old in SPLIT: module.__getattr__ = lambda attribute: part(old, attribute)
        else: sys.modules[module.__name__] = import_module(f'lowlight_nat.{MOVED[old]}')


def install():
    "Let the old names be found, once."
    if not any(isinstance(o, _Finder) for o in sys.meta_path): sys.meta_path.insert(0, _Finder())


def found(name, homes, attribute):
    "The first of several modules that has the attribute, and its value."
    for new in () if attribute.startswith('__') else homes:
        value = getattr(import_module(f'lowlight_nat.{new}'), attribute, None)
        if value is not None: return new, value
    raise AttributeError(f'module {name!r} has no attribute {attribute!r}')

def part(old, attribute):
    "An attribute of a module of version 0.1 that was split."
    return found(f'lowlight_nat.{old}', SPLIT[old], attribute)[1]


def room(package, attribute):
    "An attribute that the module of version 0.1 with the name of this package had."
    name = package.rpartition('.')[2]
    new, value = found(package, ROOMS[name], attribute)
    _warn(f'{name}.{attribute}', f'{new}.{attribute}', 4)
    return value
