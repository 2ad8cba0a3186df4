"""The contents of the book, in one list.

Sidebar, chapter numbers, the line under each title, the links to the next chapter, the learning path and the parts
on the front page are made from it: by `.ci/pages.py`, `frames.py`, `reference.py` and `readme.py`. To add a chapter,
add its file here, with what a reader should have read before. The standard library is all it needs.
"""
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

NBS = Path(__file__).resolve().parent


@dataclass
class Part:
    "One part of the book: a section of the sidebar."
    title: str
    about: str               # what a reader can do after it
    pages: list = field(default_factory=list)
    numbered: bool = False   # its chapters carry numbers, which run through the whole book


PARTS = [
    Part('Start', 'Brighten a photograph of your own, then see the whole method at toy size.',
         ['index.ipynb', 'try.qmd', 'start.ipynb', 'tutorial.ipynb', 'learning_path.qmd']),
    Part('I Light and judgement', 'What a camera loses in the dark, and how to measure a result.', [
        'part1_light/01_degradations.ipynb', 'part1_light/02_fidelity.ipynb', 'part1_light/03_pairs.ipynb',
    ], numbered=True),
    Part('II A vocabulary, and a guess', 'Build the codebook, set the light, map dark latents to bright ones.', [
        'part2_vocabulary/04_layers.ipynb', 'part2_vocabulary/05_quantizers.ipynb', 'part2_vocabulary/06_vqgan.ipynb',
        'part2_vocabulary/07_light.ipynb', 'part2_vocabulary/08_flow.ipynb',
    ], numbered=True),
    Part('III Doubt and repair', 'Measure how sure each token is, fill in the unsure ones, decode.', [
        'part3_doubt/09_uncertainty.ipynb', 'part3_doubt/10_calibration.ipynb', 'part3_doubt/11_masking.ipynb',
        'part3_doubt/12_latent_nat.ipynb', 'part3_doubt/13_fusion.ipynb', 'part3_doubt/14_lowlight_nat.ipynb',
    ], numbered=True),
    Part('IV Training', 'Train five stages, and watch what can go wrong.', [
        'part4_training/15_losses.ipynb', 'part4_training/16_stages.ipynb', 'part4_training/17_callbacks.ipynb',
        'part4_training/18_learner.ipynb',
    ], numbered=True),
    Part('V Is it true?', 'Compare with other methods, repeat the tables, count the cost.', [
        'part5_truth/19_baselines.ipynb', 'part5_truth/20_tables.ipynb', 'part5_truth/21_lab_nat_gain.ipynb',
        'part5_truth/22_cost.ipynb',
    ], numbered=True),
    Part('VI Using it', 'Enhance, correct by hints, train on your pictures, export.', [
        'part6_using/23_enhancer.ipynb', 'part6_using/24_hints.ipynb', 'part6_using/25_cli.ipynb',
        'part6_using/26_widgets.ipynb', 'part6_using/27_unpaired.ipynb', 'part6_using/28_onnx.ipynb',
    ], numbered=True),
    Part('Workshop', 'Files, metadata, loaders, records and large pictures.',
         ['workshop/*.ipynb', 'rounds.ipynb']),
    Part("Other people's networks", 'GLARE, LLFlow and Restormer, rebuilt for comparison.', ['networks/*.ipynb']),
    Part('Course', 'Six sessions with slides, exercises that check themselves, solutions and projects.', [
        'course/index.qmd', 'course/slides_*.qmd', 'course/exercises_*.ipynb', 'course/solutions/*.ipynb',
        'course/quiz_*.qmd', 'course/projects.qmd', 'course/teaching.qmd', 'course/claims.ipynb', 'course/*.*',
    ]),
    Part('Reference', 'Functions, words, symbols, results and limits.', [
        'api.qmd', 'glossary.ipynb', 'symbols.ipynb', 'results.qmd', 'limits.qmd', 'architecture.qmd',
        'changelog.qmd', 'citation.qmd',
    ]),
]
UNLISTED = ['404.qmd']       # a page that no list leads to: shown where an address has no page

# Sections within a part of the sidebar: title, and the pages that go there.
GROUPS = {'Course': [('Slides', 'course/slides_*.qmd'), ('Exercises', 'course/exercises_*.ipynb'),
                     ('Solutions', 'course/solutions/*.ipynb'), ('Quizzes', 'course/quiz_*.qmd')]}

# The path of two hours: page, and what it gives.
TWO_HOURS = [
    ('start.ipynb', 'Brighten a photograph of your own, and see where the model was unsure.'),
    ('tutorial.ipynb', 'Build the whole method at toy size, and train it while you watch.'),
    ('part1_light/02_fidelity.ipynb', 'Measure a result, and see how brightness misleads the measure.'),
    ('part3_doubt/09_uncertainty.ipynb', 'See how sure the model is of each token.'),
    ('part3_doubt/11_masking.ipynb', 'Choose the tokens that are filled in again: the idea of the talk.'),
    ('limits.qmd', 'Know what not to believe.'),
]

# What a reader should have read before a chapter, by name; the chapters of the workshop are read when they are needed.
NEEDS = {
    'degradations': [], 'fidelity': ['degradations'], 'pairs': ['fidelity'],
    'layers': [], 'quantizers': ['layers'], 'vqgan': ['layers', 'quantizers'],
    'light': ['degradations', 'layers'], 'flow': ['layers', 'vqgan'],
    'uncertainty': ['quantizers', 'flow'], 'calibration': ['uncertainty'], 'masking': ['uncertainty'],
    'latent_nat': ['flow', 'uncertainty', 'masking'], 'fusion': ['vqgan', 'latent_nat'],
    'lowlight_nat': ['light', 'flow', 'latent_nat', 'fusion'],
    'losses': ['fidelity'], 'stages': ['lowlight_nat', 'losses'], 'callbacks': ['stages'],
    'learner': ['stages', 'callbacks'],
    'baselines': ['fidelity'], 'tables': ['lowlight_nat', 'baselines'], 'lab_nat_gain': ['latent_nat', 'fusion'],
    'cost': ['lowlight_nat'],
    'enhancer': [], 'hints': ['enhancer', 'latent_nat'], 'cli': ['enhancer'], 'widgets': ['enhancer'],
    'unpaired': ['losses', 'learner'], 'onnx': ['enhancer'],
}
FRAME = ('colab', 'badges', 'head', 'next')     # ids of the cells that frames.py makes
WORDS_A_MINUTE = 200         # of plain prose
LINES_A_MINUTE = 30          # of code that is meant to be read


def source(cell): return ''.join(cell['source'])
def read(page): return json.loads((NBS/page).read_text(encoding='utf-8'))
def name_of(page): return re.sub(r'^[0-9]+_', '', Path(page).stem)

def is_page(path): return not any(o[0] in '._' for o in path.relative_to(NBS).parts)

def all_pages():
    "Every page of the site, relative to nbs/."
    found = (p for o in ('*.ipynb', '*.qmd') for p in NBS.rglob(o) if is_page(p))
    return sorted(p.relative_to(NBS).as_posix() for p in found)

def sections(pages=None):
    "The pages by part; a pattern takes what nothing before it took. Fails if a page belongs nowhere."
    left = [o for o in (all_pages() if pages is None else pages) if o not in UNLISTED]
    out = {}
    for part in PARTS:
        taken = []
        for pattern in part.pages:
            taken += [o for o in left if Path(o).match(pattern) and o.count('/') == pattern.count('/')
                      and o not in taken]
        left = [o for o in left if o not in taken]
        out[part.title] = taken
    assert not left, f'in no part of the book: {left}; add them to PARTS in nbs/contents.py'
    return {k: v for k, v in out.items() if v}

def book():
    "The parts that hold chapters: the numbered ones, the workshop and the networks."
    first = next(i for i, o in enumerate(PARTS) if o.numbered)
    return PARTS[first:next(i for i, o in enumerate(PARTS) if o.title == 'Course')]

def grouped(part, pages):
    "The pages of a part, some of them in sections of their own: page, or (title, pages)."
    out = []
    for page in pages:
        title = next((t for t, o in GROUPS.get(part, []) if Path(page).match(o)), None)
        if title is None: out.append(page)
        elif isinstance(out[-1], tuple) and out[-1][0] == title: out[-1][1].append(page)
        else: out.append((title, [page]))
    return out

def numbers():
    "The number of each numbered chapter, in reading order."
    pages = [o for part in PARTS if part.numbered for o in part.pages]
    return {page: i for i, page in enumerate(pages, 1)}

def front(page, key):
    "What a page's frontmatter says under a key."
    if page.endswith('.qmd'): text = (NBS/page).read_text(encoding='utf-8')
    else: text = source(read(page)['cells'][0])
    return re.search(rf'^{key}:\s*(.+)$', text, re.M)[1].strip().strip('"')

def title(page): return front(page, 'title')

def numbered_title(page):
    "The title with the chapter's number before it, where there is one."
    number = numbers().get(page)
    return f'{number} {title(page)}' if number else title(page)

def following(page):
    "The chapter after this one, among the numbered; None after the last and for other pages."
    order = list(numbers())
    return order[order.index(page) + 1] if page in order and page != order[-1] else None

def count(prose): return len(re.findall(r"[A-Za-z][\w'’-]*", prose))

def minutes(nb):
    "Minutes to read a notebook: its prose, and the code that is shown."
    words = count('\n'.join(source(c) for c in nb['cells'] if c['cell_type'] == 'markdown'))
    code = [source(c) for c in nb['cells'] if c['cell_type'] == 'code']
    shown = sum(len(o.splitlines()) for o in code if not re.search(r'^#\| *(hide|code-fold)', o, re.M))
    return max(1, round(words/WORDS_A_MINUTE + shown/LINES_A_MINUTE))

def reading(page):
    "Minutes to read a page of the site."
    if page.endswith('.ipynb'): return minutes(without_frame(read(page)))
    return max(1, round(count((NBS/page).read_text(encoding='utf-8'))/WORDS_A_MINUTE))

def without_frame(nb):
    "A notebook less the cells that `frames.py` makes."
    return dict(nb, cells=[c for c in nb['cells'] if c.get('id') not in FRAME])

def seconds(page):
    "Seconds that a notebook ran, as `.ci/durations.py --write` measured; None if it wasn't there."
    path = NBS/'seconds.json'
    return json.loads(path.read_text(encoding='utf-8'))['seconds'].get(page) if path.exists() else None

def link(page, start, words=None):
    "A link in Markdown to a page, as seen from the page `start`."
    to = os.path.relpath(NBS/page, (NBS/start).parent)
    return f'[{words or title(page)}]({Path(to).as_posix()})'

def head(page, nb):
    "The line under a chapter's title: its number, what it needs, and the time it takes; None for other pages."
    number = numbers().get(page)
    if number is None: return None
    by_name = {name_of(o): o for o in numbers()}
    before = [link(by_name[o], page, title(by_name[o]).partition(':')[0]) for o in NEEDS[name_of(page)]]
    parts = [f'Chapter {number}', f"needs {', '.join(before)}" if before else 'needs no other chapter',
             f'{minutes(nb)} minutes to read']
    ran = seconds(page)
    if ran is not None: parts.append(f'{max(ran, 1)} s to run on two cores')
    return f"*{' · '.join(parts)}*"

def onward(page):
    "The line at a chapter's end that leads to the next; None where there is no next."
    after = following(page)
    return f'**Next:** {link(after, page, numbered_title(after))}.' if after else None
