"Code can be read aloud: one statement a line, and lines that end before the margin; `ruff check` holds more of it."
import ast
import io
import json
import tokenize
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

def semicolons(source):
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [t.line.strip() for t in tokens if t.type == tokenize.OP and t.string == ';']

def pairs(source):
    "Assignments of several values to several names, other than an exchange."
    def parts(o): return sorted(ast.unparse(e) for e in o.elts)
    found = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Tuple))
    return [ast.unparse(n) for n in found for t in n.targets if isinstance(t, ast.Tuple) and parts(t) != parts(n.value)]

def longer(source, limit):
    "Lines over `limit`; the words of a picture stand on one line, and nbdev writes `__all__` as it likes."
    long = ('#| fig-alt', '#| fig-cap', '__all__ = ')
    return [o for o in source.splitlines() if len(o) > limit and not o.startswith(long)]


both = pytest.mark.parametrize('paths', [MODULES, NOTEBOOKS], ids=['modules', 'notebooks'])

@both
def test_one_statement_a_line(paths):
    assert {p.name: found for p in paths if (found := [o for s in code(p) for o in semicolons(s)])} == {}

@both
def test_unrelated_things_are_assigned_apart(paths):
    assert {p.name: found for p in paths if (found := [o for s in code(p) for o in pairs(s)])} == {}

@both
def test_no_line_is_over_120(paths):
    assert {p.name: found for p in paths if (found := [o for s in code(p) for o in longer(s, 120)])} == {}

@both
def test_few_lines_are_over_100(paths):
    sources = [s for p in paths for s in code(p)]
    assert sum(len(longer(s, 100)) for s in sources) < .03*sum(len(s.splitlines()) for s in sources)

def test_the_checks_can_fail():
    assert semicolons('a = 1; b = ";"') == ['a = 1; b = ";"'] and semicolons('b = ";"') == []
    assert pairs('a, b = 1, x') == ['a, b = (1, x)'] and pairs('a, b = b, a\nh, w = x.shape') == []
    assert longer('#| fig-alt: ' + 'x'*120 + '\ny', 100) == [] and longer('x'*101, 100) == ['x'*101]
