"Bring nbs/nbdev.yml and nbs/sidebar.yml up to date, and process every page for the site, as `nbdev_docs` does before it calls Quarto."
from nbdev.config import get_config
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs


def main():
    refresh_quarto_yml()
    nbdev_sidebar.__wrapped__(force=True)
    nbs = get_config().nbs_path
    pages = sorted(p.relative_to(nbs) for p in nbs.rglob('*.ipynb') if not any(o[0] in '._' for o in p.relative_to(nbs).parts))
    sidebar = (nbs/'sidebar.yml').read_text(encoding='utf-8')
    absent = [str(p) for p in pages if f'- {p.as_posix()}\n' not in sidebar and f'href: {p.as_posix()}\n' not in sidebar]
    assert not absent, f'not in the sidebar: {absent}'
    cache = proc_nbs(force=True)
    unmade = [str(p) for p in pages if not (cache/p).is_file() or (cache/p).stat().st_size == 0]
    assert not unmade, f'pages that were not made: {unmade}'
    print(f'{len(pages)} pages, each in the sidebar and processed')


if __name__ == '__main__': main()
