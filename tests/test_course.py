"""The course: each exercise can be solved, its check tells right from wrong, and the slides' code
runs. Links, pictures and embedded cells are looked at with the site's."""
import contextlib
import io
import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COURSE = ROOT/'nbs/course'
SESSIONS = range(1, 7)
by_session = pytest.mark.parametrize('n', SESSIONS)

def source(cell): return ''.join(cell['source'])
def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def text(path): return path.read_text(encoding='utf-8')

@pytest.fixture
def checks(monkeypatch):
    "The course's checks, imported as its notebooks do"
    monkeypatch.syspath_prepend(str(COURSE))
    monkeypatch.chdir(COURSE)
    import matplotlib
    matplotlib.use('agg')
    import checks
    return checks

def answers(path, checks):
    """Run a notebook's code from top to bottom; the answers it handed to `check`, and what was said
    of them"""
    given = {}
    space = {}
    judge = checks.judge
    said = {}
    def check(name, answer):
        given[name] = answer
        said[name] = judge(name, answer)
        checks.verdicts[name] = said[name][0]
    old = checks.check
    checks.check = check
    checks.verdicts.clear()
    os.chdir(path.parent)
    try:
        for c in cells(path):
            if c['cell_type'] == 'code' and not re.search(
                    r'nbdev_export\(\)|google\.colab|^set_matplotlib_formats', source(c)):
                exec(compile(source(c), path.name, 'exec'), space)
    finally: checks.check = old
    return given, said

def tasks(path):
    "Number, level and text of each exercise"
    found = [
        re.match(r'## (\d\.\d+) (.+) · level ([123])\n', source(c))
        for c in cells(path)
        if c['cell_type'] == 'markdown'
    ]
    return {m[1]: (int(m[3]), m[2]) for m in found if m}


@by_session
def test_stubs_are_open(n, checks):
    _, said = answers(COURSE/f'exercises_{n}.ipynb', checks)
    assert list(said) == list(tasks(COURSE/f'exercises_{n}.ipynb'))
    assert {k: v for k, v in said.items() if v[0] != 'open'} == {}

@by_session
@pytest.mark.slow
def test_solutions_are_right(n, checks):
    _, said = answers(COURSE/f'solutions/solutions_{n}.ipynb', checks)
    assert list(said) == list(tasks(COURSE/f'exercises_{n}.ipynb'))
    assert {k: v for k, v in said.items() if v[0] != 'right'} == {}

@by_session
@pytest.mark.slow
def test_wrong_answers_are_noticed(n, checks, monkeypatch):
    monkeypatch.syspath_prepend(str(COURSE/'solutions'))
    wrong = __import__(f'wrong_{n}').WRONG
    assert list(wrong) == list(tasks(COURSE/f'exercises_{n}.ipynb')) and all(wrong.values())
    said = {
        f'{k}, wrong answer {i}': checks.judge(k, a)
        for k, v in wrong.items()
        for i, a in enumerate(v)
    }
    assert {k: v for k, v in said.items() if v[0] != 'wrong'} == {}
    assert all(len(v[1]) > 35 for v in said.values()), 'a hint is a sentence'

@by_session
def test_tasks_and_levels_agree(n, checks):
    a = COURSE/f'exercises_{n}.ipynb'
    b = COURSE/f'solutions/solutions_{n}.ipynb'
    def plain(p):
        return [
            re.sub(r'\]\([^)]*\)', ']()', source(c))
            for c in cells(p)
            if c['cell_type'] == 'markdown' and source(c).startswith('## ')
        ]
    assert plain(a) == plain(b), 'exercise and solution state different tasks'
    checks.importlib.import_module(f'checks_{n}')
    assert {k: v[0]
            for k, v in tasks(a).items()
            } == {k: v[0]
                  for k, v in checks.CHECKS.items()
                  if k.startswith(f'{n}.')}

def test_check_says_what_is_wrong(checks, capsys):
    checks.check('1.3', lambda x, y: None)
    checks.check('1.3', lambda x, y: 1/0)
    checks.check('1.3', ...)
    said = capsys.readouterr().out.splitlines()
    assert 'return' in said[0] and 'ZeroDivisionError' in said[1] and said[
        2] == '1.3: not solved yet'


# --- slides and pages ---

DECKS = [COURSE/f'slides_{n}.qmd' for n in SESSIONS]
by_deck = pytest.mark.parametrize('path', DECKS, ids=lambda p: p.stem)
@by_deck
@pytest.mark.slow
def test_deck_code_runs(path, monkeypatch):
    monkeypatch.chdir(COURSE)
    blocks = re.findall(r'^```python\n(.*?)^```', text(path), re.S | re.M)
    assert blocks
    import torch
    space = {}
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(0)
        for i, b in enumerate(blocks):
            exec(compile(b, f'{path.name}, block {i + 1}', 'exec'), space)

@pytest.mark.slow
def test_projects(monkeypatch):
    "Projects with points that sum to twenty, and starting points that run one after the other"
    s = text(COURSE/'projects.qmd')
    parts = re.split(r'^## Project \d: ', s, flags=re.M)[1:]
    for p in parts: assert sum(map(int, re.findall(r'^\| [^|]+ \((\d+)\) \|', p, re.M))) == 20
    monkeypatch.chdir(COURSE)
    import torch
    space = {}
    said = io.StringIO()
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(said):
        for i, b in enumerate(re.findall(r'^```python\n(.*?)^```', s, re.S | re.M)):
            exec(compile(b, f'projects.qmd, block {i + 1}', 'exec'), space)
    assert 'parameters more' in said.getvalue() and said.getvalue().splitlines()[-1] == 'True'

def test_syllabus_adds_up():
    s = text(COURSE/'index.qmd')
    parts = re.split(r'^## Session (\d): ', s, flags=re.M)[1:]
    assert parts[::2] == list('123456')
    for n, p in zip(SESSIONS, parts[1::2]):
        p = p.split('\n## ')[0]
        times = [tuple(map(int, m)) for m in re.findall(r'^\| (\d+)-(\d+) \|', p, re.M)]
        assert times[0][0] == 0 and times[-1][1] == 90 and all(
            a[1] == b[0] for a, b in zip(times, times[1:])), f'session {n} has a gap'
        goals = set(re.findall(rf'\b{n}\.\d+\b', p.split('| minutes')[0]))
        assert goals == set(tasks(
            COURSE/f'exercises_{n}.ipynb')), f'session {n}: goals and exercises differ'
        assert f'[{len(goals)}](exercises_{n}.ipynb)' in s
