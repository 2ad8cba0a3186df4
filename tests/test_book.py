"""The book as something to read: how long chapters are, how plain, and whether figures can be read without seeing them.

Words are those of the prose: without code, formulas, addresses, references, alternative texts and what is folded away.
`python tests/test_book.py` prints what each chapter has.
"""
import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
contents = runpy.run_path(str(NBS/'contents.py'))
CHAPTERS = list(contents['numbers']())
METHOD = [o for o in CHAPTERS if 5 <= contents['numbers']()[o] <= 14]
ALL = sorted(p.relative_to(NBS).as_posix() for p in NBS.rglob('*.ipynb') if '_proc' not in p.parts)
NOT_WORDS = re.compile(
    r'<details>.*?</details>|!\[[^\]]*\]|^\*\*Further reading.*?$'
    r'|\$\$.*?\$\$|\$[^$]*\$|```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]*>', re.S | re.M)


def cells(page, kind):
    "The sources of a notebook's cells of one kind, without those that frames.py makes."
    made = ('colab', 'badges', 'head', 'next')
    found = json.loads((NBS/page).read_text(encoding='utf-8'))['cells']
    return [''.join(c['source']) for c in found if c['cell_type'] == kind and c.get('id') not in made]

def prose(page): return NOT_WORDS.sub(' ', '\n\n'.join(cells(page, 'markdown')))
def words(page): return len(re.findall(r"[A-Za-z][\w'’-]*", prose(page)))

def in_a_thousand(page, pattern):
    "How often a pattern occurs in a thousand words of a page."
    return 1000*len(re.findall(pattern, prose(page), re.I))/words(page)

def examples(page): return in_a_thousand(page, 'for (example|instance)')
def persons(page): return in_a_thousand(page, r"\b(we|you|your|our|us)\b")


def test_the_first_layer_comes_soon():
    before = CHAPTERS[:CHAPTERS.index('part2_vocabulary/04_layers.ipynb')]
    assert sum(map(words, before)) < 3000

@pytest.mark.parametrize('page', METHOD)
def test_method_chapters_read_well(page):
    assert 1500 <= words(page) <= 4000
    assert examples(page) > 1
    assert persons(page) > 20

def option(cell, key): return re.search(rf'^#\| *{key}: *(\S.*)$', cell, re.M)

def wordless(page):
    "The cells that draw a figure and lack a label, a caption or an alternative text."
    found = json.loads((NBS/page).read_text(encoding='utf-8'))['cells']
    drawn = [''.join(c['source']) for c in found
             if any(k.startswith('image/') for o in c.get('outputs') or [] for k in o.get('data', {}))]
    return [o for o in drawn if not all(option(o, k) for k in ('label', 'fig-cap', 'fig-alt'))]

@pytest.mark.parametrize('page', ALL)
def test_figures_have_label_caption_and_words(page):
    assert wordless(page) == []

def test_checks_that_only_guard_are_tests():
    "A hidden cell that only asserts would be shown on Colab."
    hidden = {page: [o for o in cells(page, 'code') if re.search(r'^#\| *hide\b', o, re.M)
                     and re.search(r'^\s*(assert |test_\w+\()', o, re.M)] for page in CHAPTERS}
    assert {page: len(found) for page, found in hidden.items() if found} == {}

def shown(cell): return [o for o in cell.splitlines() if not o.startswith('#|')]

def long_cells():
    "The share of cells with over 25 lines, and of lines with over 100 characters, in the whole book."
    every = [shown(o) for page in ALL if not page.startswith('course/') for o in cells(page, 'code')]
    lines = [line for o in every for line in o]
    return sum(len(o) > 25 for o in every)/len(every), sum(len(line) > 100 for line in lines)/len(lines)

def test_cells_are_short():
    cells_over_25, lines_over_100 = long_cells()
    assert cells_over_25 < 0.05      # most of them are classes and functions with a comment on each parameter
    assert lines_over_100 < 0.03

@pytest.mark.parametrize('page', CHAPTERS)
def test_exercises_have_hints_and_solutions(page):
    text = '\n'.join(cells(page, 'markdown'))
    n = len(re.findall(r'\*\*Exercise', text))
    assert n >= 2
    assert text.count('<summary>Solution') >= n
    assert text.count('<summary>Hint') >= n


if __name__ == '__main__':
    for page in CHAPTERS:
        print(f'{page:40} {words(page):5} words, per thousand '
              f'{examples(page):4.1f} examples, {persons(page):4.1f} we or you')
    print('cells over 25 lines {:.1%}, lines over 100 characters {:.1%}'.format(*long_cells()))
