"""Bring the site's list of pages up to date, and process every page, as `nbdev_docs` does before it
calls Quarto: `python .ci/pages.py`.

Writes nbs/nbdev.yml, nbs/sidebar.yml (sidebar and top bar) and the pages that `nbs/reference.py`
makes; then `_proc`, from which `quarto render _proc --no-execute` makes the site, and in it what the
page "Try it" loads (`.ci/try_page.py`). `--list` stops before `_proc`; `--cached` keeps what is in
`_proc` and newer than its source.
"""
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'

sys.path.insert(0, str(NBS))
import contents  # noqa: E402  the one list of all pages

# The top bar: words, and the menu under them: pages, or (words, page), or (words, section), which
# gives the first page of it. Menus only: Quarto marks the first plain link that the sidebar has too
# as the current page, on every page of the site.
NAVBAR = [
    ('Start', ['index.ipynb', 'try.qmd', 'start.ipynb', 'tutorial.ipynb', 'learning_path.qmd']),
    ('Book', [(o.title, o.title) for o in contents.book()]),
    ('Course', [('The course', 'course/index.qmd'), ('Slides', 'course/slides_1.qmd'),
                ('Exercises', 'course/exercises_1.ipynb'),
                ('Solutions', 'course/solutions/solutions_1.ipynb'), 'course/projects.qmd',
                'course/teaching.qmd', 'course/claims.ipynb']),
    ('Reference', [
        'api.qmd', 'glossary.ipynb', 'symbols.ipynb', 'results.qmd', 'limits.qmd',
        'architecture.qmd', 'changelog.qmd', 'citation.qmd',
    ]),
]


def section(title, entries, deep):
    "The lines of a section, `deep` spaces from the left: pages, and sections within it."
    lines = [f'{" "*deep}- section: "{title}"', f'{" "*deep}  contents:']
    for o in entries: lines += section(*o, deep + 4) if isinstance(o, tuple) else entry(o, deep + 4)
    return lines

def entry(page, deep):
    "The lines of one page: a chapter with its number, any other page by its own title."
    if page not in contents.numbers(): return [f'{" "*deep}- {page}']
    return [f'{" "*deep}- text: "{contents.numbered_title(page)}"', f'{" "*deep}  href: {page}']

def sidebar(names):
    "nbs/sidebar.yml: the sidebar by sections, and the top bar."
    by = contents.sections(names)
    names = set(names)
    lines = [
        '# Made by .ci/pages.py; the list of pages is nbs/contents.py.', 'website:', '  sidebar:', '    contents:'
    ]
    for title, its in by.items():
        lines += section(title, contents.grouped(title, its), 6)
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
    names = contents.all_pages()
    (NBS/'sidebar.yml').write_text(sidebar(names), encoding='utf-8')
    listed = f'{len(names)} pages, all but {", ".join(contents.UNLISTED)} in the sidebar'
    if not process: return print(listed)
    cache = proc_nbs(force=force)
    unmade = [o for o in names if not (cache/o).is_file() or (cache/o).stat().st_size == 0]
    assert not unmade, f'pages that were not made: {unmade}'
    print(f'{listed}, each processed')
    runpy.run_path(str(ROOT/'.ci/try_page.py'))['main'](cache)


if __name__ == '__main__': main('--list' not in sys.argv, '--cached' not in sys.argv)
