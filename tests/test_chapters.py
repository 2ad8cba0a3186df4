"""The frame of every chapter: its place in the pipeline, what goes wrong, exercises, summary, sources.

diagram:   the text before the first code shows the pipeline with the chapter's part lit
wrong:     a section whose heading begins with "What goes wrong"
exercises: two or more `**Exercise`
checks:    each says how to check an answer, in its own paragraph ("Check: ...") or by a code cell after it
summary:   a section "What you have now" that names the terms introduced, in bold
reading:   "Further reading", with a source that has a year or a link

`python tests/test_chapters.py` prints what is missing.
"""
import json
import re
from pathlib import Path

NBS = Path(__file__).resolve().parents[1]/'nbs'
CHAPTERS = sorted(NBS.glob('*/[0-9][0-9]_*.ipynb'))


def text_of(cells):
    "The words of a notebook; a cell of code is a line."
    seen = (c for c in cells if c['cell_type'] != 'raw' and 'nbdev_export()' not in ''.join(c['source']))
    return '\n\n'.join(''.join(c['source']) if c['cell_type'] == 'markdown' else '**code**' for c in seen)

def section(text, heading):
    "What stands under the first heading that matches, up to the next of its level or above."
    m = re.search(rf'^(#+) +{heading}.*$', text, re.M)
    return re.split(rf'^#{{1,{len(m[1])}}} ', text[m.end():], flags=re.M)[0] if m else ''

def lacks(name, cells):
    "What the chapter `name` lacks."
    text = text_of(cells)
    exercises = [re.split(r'^#+ ', o, flags=re.M)[0] for o in text.split('**Exercise')[1:]]
    reading = text.partition('Further reading')[2]
    has = dict(
        diagram=f'../figures/pipeline.svg "{name}")' in text,
        wrong=section(text, 'What goes wrong').strip(),
        exercises=len(exercises) >= 2,
        checks=all(re.search(r'[Cc]heck|\*\*code\*\*', o) for o in exercises),
        summary=re.search(r'\*\*[^*]+\*\*', section(text, 'What you have now')),
        reading=re.search(r'\b(19|20)\d\d\b|https?://', reading),
    )
    return [k for k, v in has.items() if not v]

def missing(): return {p.stem: lack for p in CHAPTERS if (lack := lacks(p.stem[3:],
    json.loads(p.read_text('utf-8'))['cells']))}


# --- the tests ---

def test_every_chapter():
    assert len(CHAPTERS) > 40 and missing() == {}

if __name__ == '__main__': print(*(f'{k}: {", ".join(v)}' for k, v in missing().items()), sep='\n')
