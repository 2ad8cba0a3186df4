"""The tutorial is short and stands alone; the page of claims types no figure that a run has
measured, and shows what the files now say."""
import ast
import json
import math
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
TUTORIAL = NBS/'tutorial.ipynb'
CLAIMS = NBS/'course/claims.ipynb'
TALK = "# the talk's figures"       # how the one cell begins that may type figures
MEASURED = re.compile(
    r'psnr|ssim|gain|change|cross_entropy|spearman|level$|drift|extra_|seconds|_gb$')


def cells(path, kind):
    return [
        c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == kind
    ]
def source(cell): return ''.join(cell['source'])
def shown(path):
    return [s for c in cells(path, 'code') if not re.match(r'#\|\s*hide', s := source(c))]

def code_lines(sources):
    "Lines that are neither empty nor a comment."
    return [
        l for s in sources for l in s.splitlines() if l.strip() and not l.strip().startswith('#')
    ]

def numbers(o, key=''):
    "The measured numbers in a file of results."
    if isinstance(o, dict): o = o.items()
    elif isinstance(o, list): o = [(key, v) for v in o]
    else:
        return {float(o)} if isinstance(o, (int, float)) and not isinstance(
            o, bool) and MEASURED.search(key) and math.isfinite(o) else set()
    return {n for k, v in o for n in numbers(v, k)}

def typed(text, measured):
    """Numbers of three digits or more with a decimal point in `text` that are a measured number,
    rounded to as many places."""
    found = []
    for m in re.finditer(r'(?<![\w.])\d*\.\d+(?![\w.]*\d)', text):
        places = len(m[0].split('.')[1])
        if len(m[0].replace('.', '').lstrip('0')) >= 3 and any(
                round(abs(n), places) == float(m[0]) for n in measured):
            found.append(m[0])
    return found

@pytest.fixture(scope='module')
def measured():
    files = sorted((NBS/'figures/run').glob('*.json'))
    return {n for f in files for n in numbers(json.loads(f.read_text(encoding='utf-8')))}


# --- the tutorial ---

def imported(sources):
    "The packages that some code imports."
    found = set()
    for node in (n for s in sources for n in ast.walk(ast.parse(s))):
        if isinstance(node, ast.Import): found |= {o.name.split('.')[0] for o in node.names}
        if isinstance(node, ast.ImportFrom): found.add(node.module.split('.')[0])
    return found

def sections():
    "The numbered sections of the tutorial: the title, its text and its code."
    found = []
    for c in json.loads(TUTORIAL.read_text(encoding='utf-8'))['cells'][1:]:
        if c['cell_type'] == 'code':
            if found and not re.match(r'#\|\s*hide', source(c)): found[-1][2].append(source(c))
            continue
        first, *titled = re.split(r'^## (.*)$', source(c), flags=re.M)
        if found: found[-1][1].append(first)
        for title, text in zip(titled[::2], titled[1::2]): found.append((title, [text], []))
    return [(title, ''.join(text), code) for title, text, code in found if re.match(r'\d', title)]

def is_aside(cell_source): return re.match(r'#\| (code-fold|label)', cell_source)

def test_tutorial_is_short():
    "Without what is folded and what only draws, the method is a few pages; no line is long."
    lines = code_lines(s for s in shown(TUTORIAL) if not is_aside(s))
    assert 100 < len(lines) <= 360, f'{len(lines)} lines of code'
    assert max(map(len, code_lines(shown(TUTORIAL)))) <= 100, 'short because its lines are long'
    assert max(len(code_lines([s])) for s in shown(TUTORIAL) if not is_aside(s)) <= 25

def test_tutorial_has_one_statement_a_line():
    for s in shown(TUTORIAL):
        for node in ast.walk(ast.parse(s)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.For, ast.If, ast.With)):
                assert node.body[0].lineno > node.lineno, f'line {node.lineno} of {s!r}'

def test_tutorial_stands_alone():
    "The package comes in only where the reader's own photograph does."
    last = {s for title, _, code in sections() if title.endswith('Now yours') for s in code}
    names = imported(s for s in shown(TUTORIAL) if s not in last)
    assert names <= {'math', 'time', 'numpy', 'torch', 'matplotlib', 'pathlib', 'PIL'}, names
    assert imported(last) == {'lowlight_nat'}

def test_tutorial_sections_have_the_same_shape():
    "Each says what we want and why, and has its drawing with words for it."
    drawn = []
    assert len(sections()) == 11
    for title, text, _ in sections():
        assert text.index('**What we want:**') < text.index('**Why:**'), title
        words, name = re.search(r'!\[([^\]]{40,})\]\(figures/tutorial/(\w+)\.svg\)', text).groups()
        drawn.append(name)
    script = runpy.run_path(str(NBS/'figures/tutorial_drawings.py'))
    assert sorted(drawn) == sorted(o.__name__ for o in script['DRAWINGS'])

def test_tutorial_drawings_are_up_to_date_and_can_be_read_on_a_phone():
    script = runpy.run_path(str(NBS/'figures/tutorial_drawings.py'))
    for draw in script['DRAWINGS']:
        svg = draw()
        assert (script['FOLDER']/f'{draw.__name__}.svg').read_text(encoding='utf-8') == svg, draw.__name__
        assert int(re.search(r'viewBox="0 0 (\d+)', svg)[1]) <= 390
        assert min(map(float, re.findall(r'font-size="([\d.]+)"', svg))) >= 14


# --- the claims ---

def test_claims_type_no_measured_figure(measured):
    assert len(measured) > 500
    # the check does find one
    assert typed(f'a {max(n for n in measured if 20 < n < 30):.2f} dB', measured)
    texts = [
        source(c)
        for kind in ('code', 'markdown')
        for c in cells(CLAIMS, kind)
        if not source(c).startswith(TALK)
    ]
    assert [(t[:40], found) for t in texts if (found := typed(t, measured))] == []

def test_claims_say_what_the_files_say():
    "The stored page was made from the files that lie there now."
    page = '\n'.join(''.join(o.get('data', {}).get('text/markdown', o.get('text', '')))
                     for c in cells(CLAIMS, 'code')
                     for o in c['outputs'])
    def read(name): return json.loads((NBS/f'figures/run/{name}.json').read_text(encoding='utf-8'))
    for r in read('exp_ablation')['rows'][1:]:
        if r['system'] != '+NAT decoder':
            assert f"{r['psnr_gain']:+.2f} dB ({r['psnr_gain_low']:+.2f} to {r['psnr_gain_high']:+.2f}" in page, r[
                'system']
    for r in read('exp_table1')['rows']:
        if r['system'] in ('LLFlow', 'Restormer', '+NAT latent & decoder'):
            assert f"{r['psnr_gt_mean']:.2f} dB, SSIM {r['ssim_gt_mean']:.3f}" in page, r['system']
    for k, v in read('uncertainty')['maps'].items():
        words = {'sigma': 'the predicted spread itself', 'entropy, T = 1': 'entropy at temperature 1'}
        if k in words: assert f"{words[k]} {v['spearman']:+.2f}" in page, k

def test_claims_commands_exist():
    "Every command on the page is a script of the project or one of its console commands."
    page = '\n'.join(''.join(o.get('data', {}).get('text/markdown', ''))
                     for c in cells(CLAIMS, 'code')
                     for o in c['outputs'])
    commands = set(re.findall(r'`((?:lowlight_|python )[^`]+)`', page))
    scripts = (ROOT/'settings.ini').read_text(encoding='utf-8')
    assert len(commands) >= 8
    for c in commands:
        first, second = c.split()[:2]
        assert (NBS/second.removeprefix('nbs/')
                ).is_file() if first == 'python' else f'{first}=' in scripts, c
