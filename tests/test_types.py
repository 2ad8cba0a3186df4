"What editors and type checkers know of the package: mypy reads a use of the front door, jedi completes methods."
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
USE = ROOT/'tests/typed_use.py'


def mypy(*args):
    "What mypy says, run as in `.ci/run`."
    pytest.importorskip('mypy', reason='mypy is not installed')
    command = [sys.executable, '-m', 'mypy', *map(str, args)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)

@pytest.mark.slow
def test_the_front_door_is_typed():
    r = mypy()
    assert r.returncode == 0, r.stdout + r.stderr

@pytest.mark.slow
@pytest.mark.parametrize('old, new, said', [
    ('result.save(', 'result.keep(', '"Enhanced" has no attribute "keep"'),
    ('refined.entropy[0]', 'refined.entropie[0]', '"Refined" has no attribute "entropie"'),
    ('model.refine(aligned', 'model.refine(x', 'Argument 1 to "refine" of "LowLightNAT"'),
    ("read_image(path)", 'read_image(path, colours=3)', 'Unexpected keyword argument "colours"'),
    ('dim=4', "dim='4'", 'Argument "dim" to "ModelConfig" has incompatible type')])
def test_a_wrong_use_is_noticed(tmp_path, old, new, said):
    text = USE.read_text(encoding='utf-8')
    assert text.count(old) == 1
    (tmp_path/'wrong.py').write_text(text.replace(old, new), encoding='utf-8')
    r = mypy(tmp_path/'wrong.py')
    assert r.returncode == 1 and said in r.stdout, r.stdout + r.stderr

@pytest.mark.parametrize('module, cls, name', [
    ('lowlight_nat', 'Enhancer', 'from_pretrained'), ('lowlight_nat', 'Enhanced', 'save'),
    ('lowlight_nat', 'LowLightNAT', 'refine'), ('lowlight_nat.models.vqgan', 'VQGAN', 'encode'),
    ('lowlight_nat.app.steps', 'Steps', 'brush'),
    ('lowlight_nat.data.loaders', 'LowLightDataLoaders', 'from_folder'),
    ('lowlight_nat.experiments.runs', 'Run', 'finish'), ('lowlight_nat.io.records', 'Rows', 'row')])
def test_an_editor_sees_the_methods(module, cls, name):
    jedi = pytest.importorskip('jedi', reason='jedi is not installed')
    script = jedi.Script(f'from {module} import {cls}\n{cls}.', project=jedi.Project(ROOT))
    assert name in {o.name for o in script.complete()}
