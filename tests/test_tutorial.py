"""The tutorial is short and stands alone; the page of claims types no figure that a run has
measured, and shows what the files now say."""
import ast
import json
import math
import re
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

def test_tutorial_is_short():
    lines = code_lines(shown(TUTORIAL))
    assert 100 < len(lines) <= 320, f'{len(lines)} lines of code'
    assert max(map(len, lines)) <= 100, 'short because its lines are long'

def test_tutorial_stands_alone():
    names = {
        n.split('.')[0]
        for s in shown(TUTORIAL)
        for node in ast.walk(ast.parse(s))
        for n in ([o.name for o in node.names] if isinstance(node, ast.Import) else
                  [node.module] if isinstance(node, ast.ImportFrom) else [])
    }
    assert names <= {'math', 'time', 'numpy', 'torch', 'matplotlib', 'pathlib', 'PIL'}, names


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
        if k in ('sigma', 'entropy, T = 1'): assert f"{k} {v['spearman']:+.2f}" in page, k

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
