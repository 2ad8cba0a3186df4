"Code can be read aloud: what `ruff check` holds, and besides, few long lines and no assignment of unrelated things."
import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(p for p in (ROOT/'lowlight_nat').rglob('*.py') if p.name != '_modidx.py')
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(ROOT).parts))


def cells(path):
    "The code of a notebook, cell by cell, without the frame and what is no Python."
    for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = ''.join(c['source'])
        if c['cell_type'] == 'code' and c['id'] != 'colab' and not source.lstrip().startswith(('%', '!')): yield source

def code(path): return [path.read_text(encoding='utf-8')] if path.suffix == '.py' else list(cells(path))

def pairs(source):
    "Assignments of several values to several names, other than an exchange."
    def parts(o): return sorted(ast.unparse(e) for e in o.elts)
    found = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Tuple))
    return [ast.unparse(n) for n in found for t in n.targets if isinstance(t, ast.Tuple) and parts(t) != parts(n.value)]

def longer(source):
    "Lines over 100; the words of a picture stand on one line, and nbdev writes `__all__` as it likes."
    long = ('#| fig-alt', '#| fig-cap', '__all__ = ')
    return [o for o in source.splitlines() if len(o) > 100 and not o.startswith(long)]


@pytest.mark.parametrize('paths', [MODULES, NOTEBOOKS], ids=['modules', 'notebooks'])
def test_code_can_be_read_aloud(paths):
    assert {p.name: found for p in paths if (found := [o for s in code(p) for o in pairs(s)])} == {}
    sources = [s for p in paths for s in code(p)]
    assert sum(len(longer(s)) for s in sources) < .03*sum(len(s.splitlines()) for s in sources)
