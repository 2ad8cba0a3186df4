"""The glossary and the map of symbols: every entry names a chapter that speaks of it, and no term is forgotten."""
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
CHAPTERS = sorted(NBS.glob('*/[0-9][0-9]_*.ipynb'))


def text_of(path):
    "The prose of a notebook."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return '\n\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')

def plain(s):
    "A name without case, accents and marks."
    s = s.lower().replace('é', 'e').replace('\\tau', 'tau')
    return re.sub(r'[^a-z0-9 ]', '', re.sub(r'\s+', ' ', s)).strip()


# --- the glossary ---

GLOSSARY = text_of(NBS/'glossary.ipynb')
ENTRY = r'<a id="([^"]+)"></a>\*\*(.+?)\*\*: (.+) \[[^\]]+\]\(([\w/]+\.ipynb)\)$'
ENTRIES = re.findall(ENTRY, GLOSSARY, re.M)
NAMES = [plain(name) for _, name, _, _ in ENTRIES]

def test_entries_are_in_order():
    anchors = [anchor for anchor, *_ in ENTRIES]
    assert len(ENTRIES) > 150 and len(set(anchors)) == len(anchors)
    assert GLOSSARY.count('<a id="') == len(ENTRIES), 'an entry is not `**name**: words [chapter](link)`'
    without_spaces = [n.replace(' ', '') for n in NAMES]
    assert without_spaces == sorted(without_spaces)
    assert [n for n, (_, _, said, _) in zip(NAMES, ENTRIES) if len(said) < 25] == []

def test_chapter_of_an_entry_speaks_of_it():
    chapters = {p.relative_to(NBS).as_posix(): plain(text_of(p))
                for p in NBS.rglob('*.ipynb') if '_proc' not in p.parts and p.name != 'glossary.ipynb'}
    def absent(name, chapter):
        words = [w.rstrip('s')[:6] for w in name.split()]
        return chapter not in chapters or not all(w in chapters[chapter] for w in words)
    assert [(n, c) for n, (*_, c) in zip(NAMES, ENTRIES) if absent(n, c)] == []

def introduced(path):
    "The terms that a chapter's summary lists."
    lists = re.findall(r'\*\*Terms(?: introduced)?[.:]?\*\*:?(.*?)(?:\n\n|\Z)', text_of(path), re.S)
    for said in lists:
        for o in re.split(r',(?![^(]*\))|;|\band\b(?=\s+\*\*)', re.sub(r'\s+', ' ', said)):
            if '*' in o or '*' not in said: yield plain((re.findall(r'\*+([^*]+)\*+', o) or [o])[0])

def test_terms_of_the_chapters_are_explained():
    bold = [plain(o) for o in re.findall(r'\*\*(.+?)\*\*', GLOSSARY)]   # names, and what an entry explains besides
    def known(t):
        return any(n == t or n.startswith(t + ' ') or t in (n + 's', n + 'es') or n in (t + 's', 'the ' + t)
                   for n in bold)
    terms = {p.name: [t for t in introduced(p) if t and not t.startswith('the others')] for p in CHAPTERS}
    assert sum(map(len, terms.values())) > 120
    assert {c: unknown for c, ts in terms.items() if (unknown := [t for t in ts if not known(t)])} == {}


# --- the symbols ---

SYMBOLS = text_of(NBS/'symbols.ipynb')
ROW = r'^\| (.+?) \| (.+?) \| (.+?) \| `(\w+)` in `([\w.]+)` \| \[(.+?)\]\(\w+/(\w+)\.ipynb\) \|$'
ROWS = re.findall(ROW, SYMBOLS, re.M)

def test_names_of_symbols_are_in_their_modules():
    lines = [o for o in SYMBOLS.splitlines() if o.startswith('| ') and not o.startswith('| symbol')]
    assert len(ROWS) == len(lines) > 40
    package = ROOT/'lowlight_nat'
    modules = {'.'.join(p.relative_to(package).with_suffix('').parts): p.read_text(encoding='utf-8')
               for p in package.rglob('*.py')}
    assert [(n, m) for *_, n, m, _, _ in ROWS if not re.search(rf'\b{n}\b', modules.get(m, ''))] == []

def letters(s):
    "The letters of a formula, without what only sets it."
    setting = ('mathrm text mathcal tilde hat bar left right lVert rVert lvert rvert leftarrow log det partial '
               'cdot').replace(' ', '|')
    return set(re.findall(r'\\[a-zA-Z]{2,}|[A-Za-z]', re.sub(rf'\\({setting})\b|\\[,;]|mathrm', ' ', s)))

def test_chapters_write_the_symbols():
    texts = {p.stem: text_of(p) for p in CHAPTERS}
    maths = {name: ' '.join(re.findall(r'\$+([^$]+)\$+', t) + re.findall(r'`([^`]+)`', t))
             for name, t in texts.items()}
    titles = {p.stem: re.search(r'^title: *"?(.*?)"?$', ''.join(
        json.loads(p.read_text(encoding='utf-8'))['cells'][0]['source']), re.M)[1] for p in CHAPTERS}
    formula = {s: letters(' '.join(re.findall(r'\$([^$]+)\$', s))) for s, *_ in ROWS}
    absent = [(s, c) for s, *_, c in ROWS if c not in maths or not formula[s] <= letters(maths[c])]
    assert absent == []
    assert [(t, c) for *_, t, c in ROWS if not titles[c].startswith(t)] == []
