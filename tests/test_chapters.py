"""The frame of every numbered chapter: why, where in the pipeline, what goes wrong, exercises, summary, sources.

opening:   the first text says why, in 40 words or more, before anything is computed
diagram:   the opening shows figures/pipeline_NAME.svg, in which a part is lit
wrong:     a section whose heading begins with "What goes wrong", of 50 words or more
exercises: two or more `**Exercise`
checks:    each exercise says how to check an answer, in its own paragraph ("Check: ...") or by a code cell after it
summary:   a section "What you have now" that names the terms introduced: in bold, or after "**Terms introduced**"
reading:   "Further reading", with a source that has a year or a link

`python tests/test_chapters.py` prints what is missing.
"""
import json, re, runpy, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
CHECKS = 'opening diagram wrong exercises checks summary reading'.split()
LIT = 'fill="#ffd76a"'                      # of a part that is lit; the legend has one as well


def words(text):
    return len(
        re.findall(
            r'[A-Za-z]{2,}',
            re.sub(r'!\[[^\]]*\]\([^)]*\)|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|https?://\S+', ' ', text,
                   flags=re.S)))

def section(text, heading):
    "What stands under the first heading that matches, up to the next of its level or above."
    m = re.search(rf'^(#+) +{heading}.*$', text, re.M)
    if not m: return None
    rest = text[m.end():]
    end = re.search(rf'^#{{1,{len(m[1])}}} ', rest, re.M)
    return rest[:end.start()] if end else rest

def exercises(text):
    "The text of each exercise: up to the next one, or to a heading."
    return [re.split(r'^#+ ', o, flags=re.M)[0] for o in re.split(r'\*\*Exercise', text)[1:]]

def terms(summary):
    "The terms that a summary names."
    said = re.search(r'\*\*Terms(?: introduced)?[.:]?\*\*:?(.*?)(?:\n\n|\Z)', summary, re.S)
    listed = [o for o in re.split(r'[,;:]', said[1]) if words(o)] if said else []
    return listed + [
        o for o in re.findall(r'\*\*([^*]+)\*\*', summary)
        if not re.match(r'Terms|Further reading', o)
    ]

def is_lit(svg):
    # more than the legend's square
    return svg.count(LIT) > svg.count('width="14" height="14"')

def lacks(name, cells, svg):
    "What the chapter `name` lacks. `svg`: text of its own diagram, or None."
    text = '\n\n'.join(''.join(c['source']) if c['cell_type'] == 'markdown' else '\n**code**\n'
                       for c in cells
                       if c['cell_type'] != 'raw' and 'nbdev_export()' not in ''.join(c['source']))
    # badges are no text
    first = next((i for i, c in enumerate(cells)
                  if c['cell_type'] == 'markdown' and words(''.join(c['source'])) > 3), len(cells))
    opening = ''.join(cells[first]['source']) if first < len(cells) else ''
    computed = any(c['cell_type'] == 'code' and c.get('outputs') for c in cells[:first])
    wrong = section(text, 'What goes wrong')
    summary = section(text, 'What you have now')
    reading = re.search(r'(?:\*\*|^#+ )Further reading(.*)', text, re.S | re.M)
    asked = exercises(text)
    ok = dict(
        opening=words(opening) >= 40 and not computed,
        diagram=f'](figures/pipeline_{name}.svg)' in opening and svg is not None and is_lit(svg),
        wrong=wrong is not None and words(wrong) >= 50, exercises=len(asked) >= 2,
        checks=bool(asked) and all(re.search(r'[Cc]heck|\*\*code\*\*', o) for o in asked),
        summary=summary is not None and len(terms(summary)) >= 2, reading=bool(
            reading and re.search(r'\b(19|20)\d\d\b|https?://', reading[1])))
    return [k for k in CHECKS if not ok[k]]

def chapters(): return sorted(NBS.glob('[0-9][0-9]_*.ipynb'))

def missing():
    "What all chapters lack, as lines `check chapter`."
    out = set()
    for p in chapters():
        svg = NBS/f'figures/pipeline_{p.stem[3:]}.svg'
        out |= {
            f'{k} {p.stem}'
            for k in lacks(p.stem[3:],
                           json.loads(p.read_text(encoding='utf-8'))['cells'],
                           svg.read_text(encoding='utf-8') if svg.exists() else None)
        }
    return out


# --- the tests ---

def test_every_chapter(): assert sorted(missing()) == []

def test_every_chapter_has_its_own_diagram():
    script = runpy.run_path(str(NBS/'figures/pipeline.py'))
    assert sorted(script['CHAPTERS']) == sorted(p.stem[3:] for p in chapters())
    assert not is_lit(script['picture']()) and all(
        is_lit(script['picture'](o)) for o in script['CHAPTERS'])
    assert not is_lit(script['picture']('no chapter'))

WHY = 'A picture has to come from somewhere. ' * 10
CHAPTER = f'''{WHY}

![The pipeline, made lit](figures/pipeline_made.svg)
%%%
## What goes wrong, and how to notice

{WHY*2}

## Exercises

**Exercise 1.** Do it. Check: it is done.

**Exercise 2.** Do it again.
%%% code
assert again
%%%
## What you have now

**Terms introduced**: one, another.

**Further reading**: Somebody, *Something* (2020).'''
SVG = f'<rect width="14" height="14" {LIT}/><rect {LIT}/>'

def made(text=CHAPTER, svg=SVG, name='made', before=()):
    kinds = [(('code', o[6:]) if o.startswith(' code') else ('markdown', o))
             for o in text.split('%%%')]
    return lacks(name, [*before, *(dict(cell_type=k, source=[s], outputs=[]) for k, s in kinds)],
                 svg)

def test_made_is_whole():
    assert made() == [] and made(
        before=[dict(cell_type='code', source=['import torch'], outputs=[])]) == []

@pytest.mark.parametrize('old, new, lack', [
    (WHY + '\n\n!', 'Here it is, lit up.\n\n!', ['opening']), ('pipeline_made', 'pipeline_other', ['diagram']), ('## What goes wrong', '## What is right', ['wrong']), (WHY*2, 'Nothing.', ['wrong']),
    ('**Exercise 2.**', 'Exercise 2.', ['exercises']), ('Check: it is done.', '', ['checks']), ('%%% code\nassert again', '', ['checks']), ('What you have now', 'Summary', ['summary']),
    ('one, another', 'one', ['summary']), (' (2020)', '', ['reading']), ('**Further reading**', '**Read**', ['reading'])])
def test_checks_can_fail(old, new, lack):
    assert CHAPTER.count(old) == 1 and made(CHAPTER.replace(old, new)) == lack

def test_opening_comes_first():
    badges = dict(
        cell_type='markdown', source=[
            '[![Open in Colab](figures/a.svg)](https://a.example/nbs/a.ipynb) [![Launch Binder](figures/b.svg)](https://b.example/nbs/a.ipynb)'
        ])
    assert made(before=[badges]) == []
    assert made(before=[
        dict(cell_type='code', source=['1+1'], outputs=[dict(output_type='execute_result')])
    ]) == ['opening']
    assert made(svg=None) == ['diagram'] and made(svg=f'<rect width="14" height="14" {LIT}/>') == [
        'diagram'
    ] and made(name='other') == ['diagram']


if __name__ == '__main__':
    lack = missing()
    print(*sorted(lack, key=lambda o: (o.split()[1], CHECKS.index(o.split()[0]))),
          f'{len(lack)} missing', sep='\n')
