"""The folded solutions of the exercises in the chapters and the tutorial: each block of Python in one runs on its own.

A solution is a `<details>` with the summary "Solution"; what is marked as `python` in it is run in a fresh
namespace, with the top of the project as working directory.
"""
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = [*sorted((ROOT/'nbs').glob('*/[0-9][0-9]_*.ipynb')), ROOT/'nbs/tutorial.ipynb']
FOLDED = re.compile(r'<details>\s*<summary>\s*Solution[^<]*</summary>(.*?)</details>', re.S)
CODE = re.compile(r'^```python\n(.*?)^```', re.M | re.S)


def solutions(path):
    "The code of the solutions in a notebook, in order."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    text = '\n\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    return [code for folded in FOLDED.findall(text) for code in CODE.findall(folded)]

CASES = [pytest.param(path, code, id=f'{path.stem}-{i}')
         for path in CHAPTERS for i, code in enumerate(solutions(path), 1)]

@pytest.mark.parametrize('path, code', CASES)
def test_solution_runs(path, code, monkeypatch):
    import matplotlib
    matplotlib.use('agg')
    monkeypatch.chdir(ROOT)
    exec(compile(code, f'{path.stem} (a solution)', 'exec'), {'__name__': 'solution'})
