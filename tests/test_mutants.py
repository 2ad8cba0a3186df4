"""The list of broken lines is up to date, one of them is broken on every run, and the outcome shown
in the book is whole."""
import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
M = runpy.run_path(str(ROOT/'tests/mutants.py'))

@pytest.mark.parametrize('mutant', M['MUTANTS'], ids=lambda m: m[0])
def test_the_code_stands_there_once(mutant):
    _, function, old, new, tests = mutant
    assert len(M['places'](function, old)) == 1 and old != new and all(
        (ROOT/'tests'/t.split('::')[0]).exists() for t in tests.split())
    compile(M['broken'](function, old, new)[1], 'broken', 'exec')

def test_comments_and_layout_do_not_matter(tmp_path, monkeypatch):
    (tmp_path/'other.py').write_text(
        'class A:\n    @patch\n    def f(self,\n          x):  # words\n        return (x*\n            2)\n'
    )
    N = runpy.run_path(str(ROOT/'tests/mutants.py'))
    monkeypatch.setitem(N['places'].__globals__, 'PACKAGE', tmp_path)
    path, source = N['broken']('f', 'x * 2', 'x * 3')
    assert path.name == 'other.py' and source == 'class A:\n    @patch\n    def f(self, x):\n        return x * 3\n'

@pytest.mark.slow
def test_a_broken_line_is_noticed():
    row = M['outcome'](next(m for m in M['MUTANTS'] if m[0].startswith('SSIM')))
    assert row['noticed'] and row['by'].startswith('test_metrics.py::')

def test_no_mutant_survived_when_all_were_run():
    rows = json.loads((ROOT/'nbs/figures/run/mutants.json').read_text())['rows']
    assert [r['broken'] for r in rows] == [m[0] for m in M['MUTANTS']] and all(r['noticed']
                                                                               for r in rows)
