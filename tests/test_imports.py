"How the modules hang together: one way, and by public names; the front door; the names of version 0.1."
import ast
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = runpy.run_path(str(ROOT/'nbs/figures/architecture.py'))
GRAPH = ARCHITECTURE['imports']()
FILES = ARCHITECTURE['modules']()


def test_rooms_import_one_way():
    "`levels` fails on a cycle; so it does for the modules of a room among themselves."
    rooms = ARCHITECTURE['rooms'](GRAPH)
    assert len(rooms) > 8 and sum(map(len, ARCHITECTURE['levels'](rooms))) == len(rooms)
    assert sum(map(len, ARCHITECTURE['levels'](GRAPH))) == len(GRAPH)

def test_a_cycle_is_found():
    from graphlib import CycleError
    with pytest.raises(CycleError): ARCHITECTURE['levels'](dict(io={'models'}, models={'io'}))

def test_the_leaves_are_leaves():
    "Nothing imports the export, the app or the experiments but the commands on top."
    for leaf in 'export', 'app', 'experiments':
        users = {ARCHITECTURE['room'](m) for m, needs in GRAPH.items()
                 if any(ARCHITECTURE['room'](o) == leaf for o in needs)}
        assert users <= {leaf, 'cli'}

def test_a_pictures_way_is_short():
    "From `Enhancer.__call__` to the decoder and back: six rooms at most, and none that trains."
    rooms = {ARCHITECTURE['room'](o) for o in ARCHITECTURE['walk'](GRAPH)}
    assert {'inference', 'models', 'io'} <= rooms and len(rooms) <= 6
    assert not rooms & {'training', 'experiments', 'app', 'export', 'peers'}

def test_the_drawing_is_up_to_date():
    assert (ROOT/'nbs/figures/architecture.svg').read_text(encoding='utf-8') == ARCHITECTURE['picture']()

def test_no_private_name_of_another_module():
    bad = []
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').startswith('lowlight_nat')):
                bad += [f'{name}: {o.name} of '
                        f'{node.module}' for o in node.names if o.name[0] == '_' and o.name != '_moved']
    assert bad == []

def test_no_wildcards():
    for name, path in FILES.items():
        tree = ast.parse(path.read_text(encoding='utf-8'))
        assert not [o for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for o in n.names if o.name == '*'], name

def python(code):
    "What a fresh Python prints."
    r = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return r.stdout.strip()

def test_the_front_door_is_light():
    assert python("import sys, lowlight_nat; print([o for o in ('torch', 'numpy', 'PIL', "
                  "'fastcore') if o in sys.modules])") == '[]'

def test_the_front_door_leads_everywhere():
    import lowlight_nat
    assert set(lowlight_nat.__all__) <= set(dir(lowlight_nat))
    for name in lowlight_nat.__all__:
        value = getattr(lowlight_nat, name)
        assert value.__module__.startswith('lowlight_nat.') and value.__name__ == name or name == 'NATConfig'
    with pytest.raises(AttributeError, match='it offers Enhancer'): lowlight_nat.Enchanter

def test_what_editors_see_is_what_there_is():
    "The imports for type checkers name the same modules as the table that is used."
    import lowlight_nat
    tree = ast.parse((ROOT/'lowlight_nat/__init__.py').read_text(encoding='utf-8'))
    branch = next(n for n in tree.body if isinstance(n, ast.If))
    said = {o.name: n.module for n in branch.body for o in n.names}
    assert said == lowlight_nat._FRONT
    assert (ROOT/'lowlight_nat/py.typed').exists()

def test_names_of_version_0_1():
    import importlib

    from lowlight_nat import _moved
    for old, new in _moved.MOVED.items():
        sys.modules.pop(f'lowlight_nat.{old}', None)
        with pytest.warns(DeprecationWarning, match=re.escape(f'lowlight_nat.{new} now')):
            there = importlib.import_module(f'lowlight_nat.{old}')
        home = importlib.import_module(f'lowlight_nat.{new}')
        if old in _moved.SPLIT: assert all(getattr(there, name) is getattr(home, name) for name in home.__all__)
        else: assert there is home
    from lowlight_nat.images import ImageError, apply_tiled, list_images, read_image
    from lowlight_nat.model import LowLightNAT, NATConfig, load_model
    assert all(map(callable, (ImageError, apply_tiled, list_images, read_image, LowLightNAT, NATConfig, load_model)))
    with pytest.raises(ImportError, match='nothing_such'):
        from lowlight_nat.model import nothing_such  # noqa: F401
    for package, modules in _moved.ROOMS.items():
        for new in modules: assert new.split('.')[0] == package and new in GRAPH

def test_names_in_rooms_that_were_modules():
    with pytest.warns(DeprecationWarning, match='data.loaders.LowLightDataLoaders now'):
        from lowlight_nat.data import LowLightDataLoaders
    with pytest.warns(DeprecationWarning, match='training.pipeline.train_pipeline now'):
        from lowlight_nat.training import train_pipeline
    with pytest.warns(DeprecationWarning, match='training.learner.flow_learner now'):
        from lowlight_nat.training import flow_learner
    assert callable(flow_learner)
    assert LowLightDataLoaders.__module__ == 'lowlight_nat.data.loaders' and callable(train_pipeline)
    with pytest.raises(ImportError, match='nothing_such'):
        from lowlight_nat.data import nothing_such  # noqa: F401

def test_no_other_module_warns():
    "Ours use the new names."
    out = python("import warnings; warnings.simplefilter('error', DeprecationWarning); import "
                 "lowlight_nat.cli, lowlight_nat.inference.folders; print('quiet')")
    assert out == 'quiet'

def test_every_notebook_says_its_module_once():
    found = {}
    for p in sorted((ROOT/'nbs').glob('*/*.ipynb')):
        for c in json.loads(p.read_text(encoding='utf-8'))['cells']:
            m = re.match(r'#\|\s*default_exp\s+(\S+)', ''.join(c['source']))
            if m: found.setdefault(m[1], []).append(p.name)
    assert {k for k in GRAPH} == set(found) and all(len(v) == 1 for v in found.values())
