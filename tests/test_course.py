"""The course: each exercise can be solved, its check tells right from wrong, the slides' code runs,
and every figure they draw exists."""
import contextlib
import io
import json
import os
import re
import subprocess
import sys
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


def test_enough_exercises():
    counts = [tasks(COURSE/f'exercises_{n}.ipynb') for n in SESSIONS]
    assert sum(map(len, counts)) >= 40 and all(len(o) >= 7 for o in counts)
    assert all({level for level, _ in o.values()} == {1, 2, 3} for o in counts)

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
PAGES = ['index', 'projects', 'teaching']
by_deck = pytest.mark.parametrize('path', DECKS, ids=lambda p: p.stem)
by_page = pytest.mark.parametrize('path', [*DECKS, *[COURSE/f'{o}.qmd' for o in PAGES]],
                                  ids=lambda p: p.stem)
EMBED = re.compile(r'\{\{< embed (\S+)#(\S+) >\}\}')

def frontmatter(path):
    import yaml
    return yaml.safe_load(re.match(r'---\n(.*?)\n---\n', text(path), re.S)[1])

def prose(path): return re.sub(r'^```.*?^```', '', text(path), flags=re.S | re.M)

@by_page
def test_page_frontmatter(path):
    fm = frontmatter(path)
    assert fm['title'] and len(fm['description']) > 40 and (path.parent/fm['image']).is_file()
    assert ('revealjs' in fm.get('format', {})) == (path in DECKS)

@by_deck
def test_deck_is_a_deck(path):
    slides = re.split(r'^## ', text(path), flags=re.M)[1:]
    assert 15 <= len(slides) <= 25
    assert [
        s.splitlines()[0] for s in slides if s.count('::: {.notes}') != 1
        or len(s.split('::: {.notes}')[1].split(':::')[0].strip()) < 10
    ] == [], 'without notes'
    assert text(path).count('\n:::\n') == len(slides), 'a block of notes is not closed'

@by_deck
@pytest.mark.slow
def test_deck_code_runs(path, monkeypatch):
    monkeypatch.chdir(COURSE)
    blocks = re.findall(r'^```python\n(.*?)^```', text(path), re.S | re.M)
    assert len(blocks) >= 5 and sum('assert' in b for b in blocks) >= 4
    import torch
    space = {}
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        torch.manual_seed(0)
        for i, b in enumerate(blocks):
            exec(compile(b, f'{path.name}, block {i + 1}', 'exec'), space)

def cell_labelled(nb, label):
    found = [
        c for c in cells(nb) if c['cell_type'] == 'code'
        and re.search(rf'^#\| *label: *{re.escape(label)}$', source(c), re.M)
    ]
    assert len(found) == 1, f'{nb.name} has {len(found)} cells labelled {label}'
    return found[0]

@by_deck
def test_deck_figures_exist(path):
    embeds = EMBED.findall(text(path))
    assert len(embeds) >= 4
    for nb, label in embeds:
        c = cell_labelled((path.parent/nb).resolve(), label)
        shown = [o for o in c['outputs'] if o['output_type'] in ('display_data', 'execute_result')]
        assert shown, f'{nb}#{label} has no stored output'
        assert not re.search(r'^#\| *(hide|include: *false)', source(c),
                             re.M), f'{nb}#{label} is hidden'
        if label.startswith('fig-'):
            assert any(k.startswith('image/')
                       for o in shown
                       for k in o['data']), f'{nb}#{label} shows no picture'
            assert re.search(r'^#\| *fig-alt: *\S.{20}', source(c),
                             re.M), f'{nb}#{label} has no alternative text'

def test_labels_are_unique():
    labels = [
        m for p in (ROOT/'nbs').glob('*/[0-9][0-9]_*.ipynb') for c in cells(p) if c['cell_type'] == 'code'
        for m in re.findall(r'^#\| *label: *(\S+)', source(c), re.M)
    ]
    assert sorted(set(labels)) == sorted(labels)

@by_page
def test_page_pictures_and_links(path):
    for alt, to in re.findall(r'!\[([^\]]*)\]\(([^)\s]+)', prose(path)):
        assert len(alt) > 20 and (path.parent/to).is_file(), to
    for to in re.findall(r'(?<!!)\[[^\]]*\]\(([^)\s]+)\)', prose(path)):
        if re.match(r'[a-z]+:', to): continue
        file, _, anchor = to.partition('#')
        assert not file or (path.parent
                            /file).is_file(), f'{path.name} links to {to}, which is not there'

@by_session
def test_notebook_links(n):
    for p in (COURSE/f'exercises_{n}.ipynb', COURSE/f'solutions/solutions_{n}.ipynb'):
        links = [
            m for c in cells(p) if c['cell_type'] == 'markdown'
            for m in re.findall(r'\]\(([^)\s]+)\)', source(c))
        ]
        assert links and [
            o for o in links if ':' not in o and not (p.parent/o.split('#')[0]).is_file()
        ] == []

@pytest.mark.slow
def test_processed_pages_carry_them(tmp_path):
    """What nbdev hands to Quarto: the course's pages as they are, and every embedded cell with its
    label, its options and its output"""
    wanted = {(nb, label) for p in DECKS for nb, label in EMBED.findall(text(p))}
    script = (
        "import shutil, sys; from pathlib import Path; from nbdev.serve_drv import main; from "
        "nbdev.processors import FilterDefaults\n"
        "for o in sys.argv[2:]: main((Path(o), Path(sys.argv[1])/Path(o).name, FilterDefaults))")
    pages = {(COURSE/nb).resolve() for nb, _ in wanted}
    light = sorted(p for p in pages if p.name in ('21_lab_nat_gain.ipynb', '09_masking.ipynb'))
    subprocess.run([sys.executable, '-c', script,
                    str(tmp_path), *map(str, light)], cwd=ROOT, check=True, capture_output=True,
                   text=True)
    for nb, label in wanted:
        made = tmp_path/Path(nb).name
        if made.is_file():
            assert cell_labelled(made, label)['outputs'], f'{nb}#{label} lost its output'
    from nbdev.doclinks import nbglob
    globbed = {
        Path(o).relative_to(ROOT/'nbs').as_posix()
        for o in nbglob(ROOT/'nbs', func=Path, file_glob='', file_re='')
    }
    pages = [f'course/{o}.qmd' for o in PAGES] + [f'course/{p.name}'
                                                  for p in DECKS] + ['course/slides.scss']
    assert [o for o in pages if o not in globbed] == []

@pytest.mark.slow
def test_projects(monkeypatch):
    "Five projects with points that sum to twenty, and starting points that run one after the other"
    s = text(COURSE/'projects.qmd')
    parts = re.split(r'^## Project \d: ', s, flags=re.M)[1:]
    assert len(parts) == 5
    for p in parts:
        assert re.search(r'About \d+ hours', p) and 'Data:' in p and ('samples' in p
                                                                      or 'LOWLIGHT_DATA' in p)
        assert sum(map(int, re.findall(r'^\| [^|]+ \((\d+)\) \|', p, re.M))) == 20
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
        goals = set(re.findall(rf'\b{n}\.\d\b', p.split('| minutes')[0]))
        assert goals == set(tasks(
            COURSE/f'exercises_{n}.ipynb')), f'session {n}: goals and exercises differ'
        assert f'[{len(goals)}](exercises_{n}.ipynb)' in s
    notes = re.split(r'^## Session \d$', text(COURSE/'teaching.qmd'), flags=re.M)[1:]
    assert len(notes) == 6 and all(
        all(o in p
            for o in ('What students ask', 'get stuck', 'Show live', 'Wrong ideas'))
        for p in notes)
