"""Bring the site's list of pages up to date, and process every page, as `nbdev_docs` does before it
calls Quarto: `python .ci/pages.py`.

Writes nbs/nbdev.yml, nbs/sidebar.yml (sidebar and top bar) and the pages that `nbs/reference.py`
makes; then `_proc`, from which `quarto render _proc --no-execute` makes the site. `--list` stops
before `_proc`; `--cached` keeps what is in `_proc` and newer than its source.
"""
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'

# The sections of the sidebar, in reading order, with the pages of each. A pattern takes what no
# pattern before it took; a page that none takes is an error.
SECTIONS = [
    ('Start', 'index.ipynb learning_path.qmd tutorial.ipynb'),
    ('I Light and judgement', 'part1_light/*.ipynb'),
    ('II A vocabulary, and a guess', 'part2_vocabulary/*.ipynb'),
    ('III Doubt and repair', 'part3_doubt/*.ipynb'),
    ('IV Training', 'part4_training/*.ipynb'),
    ('V Is it true?', 'part5_truth/*.ipynb rounds.ipynb'),
    ('VI Using it', 'part6_using/*.ipynb'),
    ('Workshop', 'workshop/*.ipynb'),
    ("Other people's networks", 'networks/*.ipynb'),
    ('Course',
     'course/index.qmd course/slides_*.qmd course/exercises_*.ipynb course/solutions/*.ipynb '
     'course/projects.qmd course/teaching.qmd course/claims.ipynb course/*.*'),
    ('Reference', 'api.qmd glossary.ipynb symbols.ipynb results.qmd limits.qmd architecture.qmd'),
]
# The top bar: words, and the menu under them: pages, or (words, page), or (words, section), which
# gives the first page of it. Menus only: Quarto marks the first plain link that the sidebar has too
# as the current page, on every page of the site.
NAVBAR = [
    ('Start', ['index.ipynb', 'learning_path.qmd', 'tutorial.ipynb']),
    ('Book', [(o, o) for o, _ in SECTIONS[1:9]]),
    ('Course', [('The course', 'course/index.qmd'), ('Slides', 'course/slides_1.qmd'),
                ('Exercises', 'course/exercises_1.ipynb'),
                ('Solutions', 'course/solutions/solutions_1.ipynb'), 'course/projects.qmd',
                'course/teaching.qmd', 'course/claims.ipynb']),
    ('Reference', [
        'api.qmd', 'glossary.ipynb', 'symbols.ipynb', 'results.qmd', 'limits.qmd',
        'architecture.qmd'
    ]),
]


def pages():
    "Every page of the site, relative to nbs/."
    found = (p for o in ('*.ipynb', '*.qmd') for p in NBS.rglob(o))
    names = (p.relative_to(NBS) for p in found)
    return sorted(p.as_posix() for p in names if not any(o[0] in '._' for o in p.parts))

def sections(names):
    "The pages `names` by section; fails if one belongs nowhere."
    left = list(names)
    out = {}
    for title, patterns in SECTIONS:
        out[title] = [
            o for pat in patterns.split() for o in left
            if Path(o).match(pat) and o.count('/') == pat.count('/')
        ]
        out[title] = list(dict.fromkeys(out[title]))
        left = [o for o in left if o not in out[title]]
    assert not left, f'in no section of the sidebar: {left}; add them to SECTIONS in .ci/pages.py'
    return {k: v for k, v in out.items() if v}

def sidebar(names):
    "nbs/sidebar.yml: the sidebar by sections, and the top bar."
    by = sections(names)
    names = set(names)
    lines = [
        '# Made by .ci/pages.py; edit the lists there.', 'website:', '  sidebar:', '    contents:'
    ]
    for title, its in by.items():
        lines += [
            f'      - section: "{title}"', '        contents:', *[f'          - {o}' for o in its]
        ]
    lines += ['  navbar:', '    left:']
    for text, menu in NAVBAR:
        lines += [f'      - text: {text}', '        menu:']
        for it in menu:
            label, to = it if isinstance(it, tuple) else (None, it)
            page = by[to][0] if to in by else to
            assert page in names, f'the menu {text} names {page}, which is no page; change NAVBAR in .ci/pages.py'
            lines += [f'          - text: "{label}"', f'            href: {page}'
                      ] if label else [f'          - {page}']
    return '\n'.join(lines) + '\n'

def main(process=True, force=True):
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    if (NBS/'reference.py').exists(): runpy.run_path(str(NBS/'reference.py'))['main']()
    names = pages()
    (NBS/'sidebar.yml').write_text(sidebar(names), encoding='utf-8')
    if not process: return print(f'{len(names)} pages, each in the sidebar')
    cache = proc_nbs(force=force)
    unmade = [o for o in names if not (cache/o).is_file() or (cache/o).stat().st_size == 0]
    assert not unmade, f'pages that were not made: {unmade}'
    print(f'{len(names)} pages, each in the sidebar and processed')


if __name__ == '__main__': main('--list' not in sys.argv, '--cached' not in sys.argv)
