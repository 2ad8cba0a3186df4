"""The site, as Quarto is given it: the notebooks that nbdev has processed, the Quarto documents, style and settings.

Each check takes a folder of pages and says what is wrong, one line each; it is run on the site, and
on a broken page to show that it can fail.
Pandoc, which is what Quarto reads Markdown with, says which anchors, links and pictures a page has.
"""
import ast
import json
import posixpath
import re
import runpy
import subprocess
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

pypandoc = pytest.importorskip(
    'pypandoc', reason='pypandoc_binary is not installed: `pip install pypandoc_binary`')

ROOT = Path(__file__).resolve().parents[1]
HOME = 'https://lowlight-nat.github.io/lowlight_nat/'
LOADS = {
    'img': ['src', 'srcset'], 'script': ['src'], 'link': ['href'], 'iframe': ['src'],
    'video': ['src', 'poster'], 'audio': ['src'], 'source': ['src', 'srcset'], 'embed': ['src'],
    'object': ['data']
}
# as the filter corrects nbdev's links
MOVED = dict(
    re.findall(r"\['(\S+)'\] = '(\S*)',", (ROOT/'nbs/site.lua').read_text(encoding='utf-8')))
ELSEWHERE = re.compile(r'\s*(?:https?:)?//', re.I)


class Seen(HTMLParser):
    "What a page's HTML holds: anchors, links, pictures with their words, and what it loads."
    def __init__(self, html):
        super().__init__()
        self.ids = set()
        self.links = []
        self.pictures = []
        self.loads = []
        self.feed(html)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.ids.add(a['id'])
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag == 'img':
            self.pictures.append((a.get('src', ''), a.get('data-fig-alt') or a.get('alt') or ''))
        self.loads += [a[k] for k in LOADS.get(tag, []) if a.get(k)] + [
            v for k, v in attrs if k.startswith('data-background-') and v and '/' in v
        ]
    handle_startendtag = handle_starttag


def options(source):
    "The `#| key: value` lines of a cell."
    head = []
    for o in source.splitlines():
        if o.startswith('#|'): head.append(o[2:].strip())
        elif o.strip(): break
    try: d = yaml.safe_load('\n'.join(o for o in head if ':' in o)) or {}
    except yaml.YAMLError: return {'broken': ' '.join(head)}
    return d if isinstance(d, dict) else {}

class Page:
    "A notebook or a Quarto document in the folder `site`."
    def __init__(self, site, name):
        self.site = site
        self.name = name
        self.notebook = name.endswith('.ipynb')
        text = (site/name).read_text(encoding='utf-8')
        self.cells = json.loads(text)['cells'] if self.notebook else []
        self.raw = ''.join(self.cells[0].get('source') or '') if self.notebook else text
    @cached_property
    def meta(self):
        m = re.match(r'---\s*\n(.*?)\n---', self.raw.strip(), re.S)
        return (yaml.safe_load(m[1]) if m else {}) or {}
    @cached_property
    def out(self):
        return posixpath.join(
            posixpath.dirname(self.name),
            self.meta.get('output-file')
            or re.sub(r'\.\w+$', '.html', posixpath.basename(self.name)))
    @cached_property
    def drawn(self):
        "Pictures that cells have drawn: the cell's id, and the alternative text."
        return [(c.get('id'), str(options(''.join(c.get('source') or '')).get('fig-alt', '')))
                for c in self.cells
                for o in c.get('outputs', [])
                if any(k.startswith('image/') for k in o.get('data', {}))]
    @cached_property
    def labels(self):
        "What a cross-reference or an embed may name."
        found = {
            str(options(''.join(c.get('source') or '')).get(k))
            for c in self.cells
            for k in ('label', 'id')
        } | {c.get('id')
             for c in self.cells}
        found |= {t for c in self.cells for t in c.get('metadata', {}).get('tags', [])}
        return found | set(re.findall(r'^#\| label: *(\S+)', self.raw, re.M)) | set(
            re.findall(r'\{#([\w-]+)', self.markdown))
    @cached_property
    def markdown(self):
        "The page as one Markdown text, without code and shortcodes."
        if not self.notebook: return re.sub(r'\A---\s*\n.*?\n---\s*\n', '', self.raw, flags=re.S)
        parts = []
        for c in self.cells[1:]:
            if c['cell_type'] == 'markdown': parts.append(''.join(c.get('source') or ''))
            for o in c.get('outputs', []):
                parts.append(''.join(o.get('data', {}).get('text/markdown', '')))
        return '\n\n'.join(parts)
    @cached_property
    def _pandoc(self):
        text = re.sub(r'\{\{<.*?>\}\}', '', self.markdown, flags=re.S)
        r = subprocess.run(
            [pypandoc.get_pandoc_path(), '-f', 'markdown', '-t', 'html', '--mathml', '--wrap=none'],
            input=text, capture_output=True, text=True, encoding='utf-8', check=True)
        return Seen(r.stdout), r.stderr, r.stdout
    @cached_property
    def rendered(self):
        "The page's HTML as the filter of the site leaves it; or what Pandoc said when it stopped."
        r = filtered(re.sub(r'\{\{<.*?>\}\}', '', self.markdown, flags=re.S))
        return r.stdout if r.returncode == 0 else r.stderr
    @property
    def seen(self): return self._pandoc[0]
    @property
    def warnings(self): return self._pandoc[1]

def filtered(text, to='html'):
    "A text through Pandoc and the filter of the site: how the process ended, its HTML and what it said."
    command = [pypandoc.get_pandoc_path(), '-f', 'markdown', '-t', to, '--wrap=none', '-L', ROOT/'nbs/site.lua']
    return subprocess.run(command, input=text, capture_output=True, text=True, encoding='utf-8')

def pages(site):
    "All pages of a folder, by name."
    found = sorted(
        p.relative_to(site).as_posix() for o in ('*.ipynb', '*.qmd') for p in Path(site).rglob(o))
    return {o: Page(Path(site), o) for o in found if not any(q[0] in '._' for q in o.split('/'))}


# --- the checks ---

def bad_frontmatter(all_pages):
    "Title, description and an image that is there."
    bad = []
    for p in all_pages.values():
        bad += [f'{p.name}: no {k}' for k in ('title', 'description', 'image') if not p.meta.get(k)]
        if (i := p.meta.get('image')) and not (p.site/p.name).parent.joinpath(i).is_file():
            bad.append(f'{p.name}: image {i} is not there')
    return bad

def target(page, href, all_pages, by_out):
    "What is wrong with an internal link, or None."
    if href.startswith(HOME):
        rest = href.removeprefix(HOME)
        if MOVED.get(rest) == '': return None
        href = MOVED.get(rest, rest) or 'index.html'
        base = ''
    elif re.match(r'[a-z][a-z+.-]*:', href, re.I): return None
    else: base = posixpath.dirname(page.name)
    path, _, anchor = href.partition('#')
    where = posixpath.normpath(posixpath.join(base, path)) if path else page.name
    to = all_pages.get(where) or by_out.get(where)
    if to is None:
        if where.startswith('..'): return 'leads out of the site'
        if not (page.site/where).is_file(): return 'is not there'
    elif anchor and anchor.lstrip('/') not in to.seen.ids | to.labels:
        return f'{to.name} has no such anchor'

def broken_links(all_pages):
    "Links to pages, files and anchors of the site."
    by_out = {p.out: p for p in all_pages.values()}
    return [
        f'{p.name}: {o} {bad}' for p in all_pages.values() for o in p.seen.links
        if (bad := target(p, o, all_pages, by_out))
    ]

def missing_pictures(all_pages):
    "Pictures that a page names."
    return [
        f'{p.name}: picture {src} is not there' for p in all_pages.values()
        for src, _ in p.seen.pictures if src and not re.match(r'[a-z]+:', src) and not (
            p.site/posixpath.normpath(posixpath.join(posixpath.dirname(p.name), src))).is_file()
    ]

def wordless_pictures(all_pages):
    "Alternative text of pictures in text, and of those that cells draw."
    bad = [
        f'{p.name}: {src} has no alternative text' for p in all_pages.values()
        for src, alt in p.seen.pictures if len(alt.strip()) < 5
    ]
    return bad + [
        f'{p.name}: the picture of cell {c} has no `#| fig-alt`' for p in all_pages.values()
        for c, alt in p.drawn if len(alt.strip()) < 11
    ]

def unresolved(all_pages):
    "Cross-references, embedded cells and included files."
    bad = []
    for p in all_pages.values():
        text = re.sub(r'```.*?```|`[^`\n]*`', '', p.markdown, flags=re.S)
        bad += [
            f'{p.name}: @{o} is not on the page'
            for o in re.findall(r'(?<![\w@])@((?:fig|sec|tbl|eq|lst|exr|exm|thm)-[\w-]+)', text)
            if o not in p.labels
        ]
        for where, _, cell in re.findall(r'\{\{<\s*embed\s+([^\s#>]+)(#(\S+))?', text):
            to = all_pages.get(posixpath.normpath(posixpath.join(posixpath.dirname(p.name), where)))
            if to is None: bad.append(f'{p.name}: embeds {where}, which is no page')
            elif cell and cell not in to.labels:
                bad.append(f'{p.name}: embeds {where}#{cell}, which has no such cell')
            elif cell and not any(c.get('outputs') for c in to.cells if cell in (c.get('id'),
                options(''.join(c.get('source') or '')).get('label'), *c.get('metadata', {}).get('tags', []))):
                bad.append(f'{p.name}: embeds {where}#{cell}, which has no output')
        bad += [
            f'{p.name}: includes {o}, which is not there'
            for o in re.findall(r'\{\{<\s*include\s+(\S+)', text)
            if not (p.site/p.name).parent.joinpath(o).is_file()
        ]
    return bad

def bad_options(all_pages):
    "Options of cells that are no YAML, which Quarto stops at."
    return [
        f"{p.name}: cell {c.get('id')}: {o}" for p in all_pages.values() for c in p.cells
        if c['cell_type'] == 'code' and (o := options(''.join(c.get('source') or '')).get('broken'))
    ]

def from_elsewhere(all_pages):
    "What a page would load from another host; stored HTML and widgets make Quarto do so."
    bad = []
    for p in all_pages.values():
        bad += [f'{p.name}: loads {o}' for o in p.seen.loads if ELSEWHERE.match(o)]
        kinds = {k for c in p.cells for o in c.get('outputs', []) for k in o.get('data', {})}
        bad += [
            f'{p.name}: has an output of {k}, run `python nbs/frames.py`' for k in sorted(kinds)
            if k in ('text/html', 'application/javascript') or 'widget' in k
        ]
    return bad

def settings_from_elsewhere(folder):
    "The same of style files, scripts, included HTML, pictures and settings."
    bad = []
    for path in sorted(p for e in ('css', 'scss', 'html', 'js', 'svg', 'lua')
                       for p in Path(folder).rglob(f'*.{e}') if '_docs' not in p.parts):
        text = re.sub(r'xmlns(:\w+)?="[^"]*"', '', path.read_text(encoding='utf-8'))
        bad += [
            f'{path.name}: {m[0]}' for m in re.finditer(
                r'(?:url\(|@import|src=|(?<!a )href=|importScripts\(|fetch\()\s*["\']?\s*(?:https?:)?//[^"\')\s]*',
                text)
        ]
    y = yaml.safe_load((Path(folder)/'_quarto.yml').read_text(encoding='utf-8'))
    if y.get('html-math-method') not in ('mathml', 'plain'):
        bad.append(
            f"_quarto.yml: html-math-method {y.get('html-math-method')} is loaded from another host"
        )
    themes = yaml.dump(y.get('format', {}).get('html', {}).get('theme', {}))
    if re.search('cosmo|darkly', themes) and not re.search(
            r'^\$web-font-path: *false;', ''.join(p.read_text()
                                                  for p in Path(folder).glob('*.scss')), re.M):
        bad.append('the theme loads a font: set $web-font-path: false')
    return bad

def unread_formulas(all_pages):
    "Formulas that can't be turned into MathML."
    return [
        f'{p.name}: {" ".join(o.split())[:150]}' for p in all_pages.values() for o in re.findall(
            r'\[WARNING\] Could not convert TeX math.*?(?=\[WARNING\]|\Z)', p.warnings, re.S)
    ]

# what the Pandoc of Quarto 1.6 can't read, and a newer one can
OLD_PANDOC = re.compile(r'\\(?:Bigl|(?:big|Big|bigg|Bigg)m)(?![a-zA-Z])')

def formulas_of_newer_pandoc(all_pages):
    "Formulas that the Pandoc within Quarto would show as TeX."
    return [
        f'{p.name}: {m[0]}, use \\left and \\right' for p in all_pages.values()
        for m in OLD_PANDOC.finditer(re.sub(r'`[^`\n]*`', '', p.markdown))
    ]

def raw_markdown(all_pages):
    """Links that readers see as Markdown: nbdev puts them into signatures, and into the words of
    other links."""
    return [
        f'{p.name}: {m[0]}' for p in all_pages.values()
        for m in re.finditer(r'.{0,30}\]\(https?:.{0,30}', re.sub(r'<[^>]*>', '', p.rendered))
    ]

def doubled_formulas(all_pages):
    "TeX beside its MathML, which search finds a second time."
    return [
        f'{p.name}: {len(found)} formulas with TeX' for p in all_pages.values()
        if (found := re.findall(r'<annotation|class="math', p.rendered))
    ]

CHECKS = [
    bad_frontmatter, broken_links, missing_pictures, wordless_pictures, unresolved, bad_options,
    from_elsewhere, unread_formulas, formulas_of_newer_pandoc, raw_markdown, doubled_formulas
]


# --- the site passes ---

@pytest.fixture(scope='module')
def site(run):
    "The pages as nbdev hands them to Quarto."
    run('python -c "from nbdev.serve import proc_nbs; proc_nbs()"', timeout=900)
    made = pages(ROOT/'_proc')
    there = pages(ROOT/'nbs')
    assert set(there) <= set(made)
    return {k: v for k, v in made.items() if k in there}

@pytest.mark.parametrize('check', CHECKS, ids=lambda o: o.__name__)
@pytest.mark.slow
def test_site(site, check):
    assert check(site) == []

def test_settings_load_nothing_from_elsewhere():
    assert settings_from_elsewhere(ROOT/'nbs') == []

def test_settings_name_files_that_are_there():
    y = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
    nbs = ROOT/'nbs'
    html = y['format']['html']
    web = y['website']
    assert set(html['theme']) == {'light', 'dark'} and web['search']['type'] == 'overlay'
    named = [o for t in html['theme'].values() for o in t if o.endswith('.scss')
             ] + [html['css'], web['favicon'], *y['filters'], *y['metadata-files']]
    named += [o['href'] for o in web['page-footer']['right']
              ] + [Page(nbs, 'index.ipynb').meta['include-after-body']]
    assert len(named) > 7 and [o for o in named if not (nbs/o).is_file()] == []

def test_slider_has_its_picture():
    "The script looks for the picture by name, and takes its proportions for granted."
    from PIL import Image
    text = (ROOT/'nbs/slider.html').read_text(encoding='utf-8')
    w, h = Image.open(ROOT/'nbs/figures/before_after.jpg').size
    name, a, b = re.search(r'img\[src\$="(.*?)"\]',
                           text)[1], *re.search(r'aspect-ratio: (\d+) / (\d+)', text).groups()
    assert f'figures/{name})' in Page(ROOT/'nbs',
                                      'index.ipynb').markdown and (2*int(a) + 18, int(b)) == (w, h)

@pytest.mark.slow
@pytest.mark.parametrize('script', ['reference', 'frames', 'readme'])
def test_pages_are_up_to_date(script):
    assert not runpy.run_path(str(ROOT/f'nbs/{script}.py'))['main'](check=True), f'run `python nbs/{script}.py`'

def test_every_measurement_is_in_the_results():
    text = (ROOT/'nbs/results.qmd').read_text(encoding='utf-8')
    for path in (ROOT/'nbs/figures/run').glob('*.json'):
        d = json.loads(path.read_text(encoding='utf-8'))
        command = (d[0] if isinstance(d, list) else d).get('command')
        for o in [command] if isinstance(command, str) else command or []:
            assert o in text, f'{path.name}: {o}'

# --- what the stylesheets and settings make of the pages ---

def luminance(colour):
    "Relative luminance of #rrggbb, as WCAG 2 defines it."
    c = [int(colour[i:i+2], 16)/255 for i in (1, 3, 5)]
    r, g, b = [o/12.92 if o <= .03928 else ((o + .055)/1.055)**2.4 for o in c]
    return .2126*r + .7152*g + .0722*b

def contrast(a, b):
    "Of two colours, from 1 to 21."
    low, high = sorted([luminance(a), luminance(b)])
    return (high + .05)/(low + .05)

# colours of that theme, which ours stand on or beside
DARKLY = dict(link='#00bc8c', crumbs='#434343')

def test_colours_can_be_read():
    """4.5 to 1 at least: top bar, inline code and links in it, and where a page stands, in the dark
    theme too."""
    assert contrast('#ffffff', '#2780e3') < 4.5, 'the check can fail'
    y = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
    dark = (ROOT/'nbs/dark.scss').read_text(encoding='utf-8')
    assert y['format']['html']['theme']['dark'][-1] == 'dark.scss'
    bar = y['website']['navbar']
    ground, = re.findall(r'^\$code-bg: (#\w{6});', dark, re.M)
    ink, = re.findall(r'^\$code-color: (#\w{6});', dark, re.M)
    crumb = re.search(r'breadcrumb-item::before \{ color: (#\w{6});', dark)[1]
    for a, b in (bar['foreground'], bar['background']), (ink, ground), (DARKLY['link'],
                                                                        ground), (crumb,
                                                                                  DARKLY['crumbs']):
        assert contrast(a, b) >= 4.5, (a, b)

def in_sections(entries):
    "The pages of the sidebar, those of sections within sections too."
    for o in entries:
        if isinstance(o, str): yield o
        elif 'contents' in o: yield from in_sections(o['contents'])
        else: yield o['href']

def test_no_page_is_marked_everywhere():
    """Quarto marks the first plain link of the top bar that the sidebar has too, on every page:
    menus it does not mark."""
    web = yaml.safe_load((ROOT/'nbs/sidebar.yml').read_text(encoding='utf-8'))['website']
    listed = set(in_sections(web['sidebar']['contents']))
    assert [
        o['text'] for o in web['navbar']['left'] if 'menu' not in o and o.get('href') in listed
    ] == []
    menus = [
        o if isinstance(o, str) else o['href']
        for item in web['navbar']['left']
        for o in item['menu']
    ]
    starts = {'index.ipynb', 'start.ipynb', 'tutorial.ipynb', 'course/index.qmd', 'api.qmd'}
    assert starts <= set(menus) <= listed

def test_filter_stops_at_an_unread_formula():
    r = filtered('$\\nosuchmacro{1}$')
    assert r.returncode and 'Could not convert TeX math' in r.stderr

def test_filter_takes_nbdevs_links_out():
    """From signatures, and from the words of other links; the words stay, and so does a link
    outside."""
    text = (
        '~~~ python\n    x, # of [`f`](https://pytorch.org/docs/a.html#f), as '
        '[`g`](https://docs.fast.ai/g.html)\n~~~\n\n[[`torch.load`](https://pytorch.org/a) and '
        '`w`](https://b.org) [[`c`](https://d.org)](x.html) [`e`](https://f.org)'
    )
    out = filtered(text).stdout
    assert '# of `f`, as `g`' in out and Seen(out).links[-3:] == [
        'https://b.org', 'x.html', 'https://f.org'
    ]
    assert '<code>torch.load</code> and <code>w</code></a> <a href="x.html"><code>c</code></a>' in out

def test_pipeline_is_upright_on_narrow_screens(site):
    """The page names the chapter's layer of both forms; the upright one is read on a phone, and its
    words stay within their boxes."""
    script = runpy.run_path(str(ROOT/'nbs/figures/pipeline.py'))
    wide, upright = script['WIDE'], script['UPRIGHT']
    assert set(wide.places) == set(upright.places) == set(script['PARTS'])
    sizes = re.findall(r'font-size="([\d.]+)"', script['drawing'](upright))
    assert upright.width <= 360 and min(map(float, sizes)) >= 13
    for key, (x, _, w, h) in upright.places.items():
        name, lines = upright.words[key]
        widest = max(len(name)*upright.name_size*.58, *(len(o)*upright.line_size*.55 for o in lines), 0)
        assert widest <= w and 0 <= x <= upright.width - w and h >= 17*(len(lines) + 1), key
    resources = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['project']['resources']
    assert {'figures/pipeline.svg', 'figures/pipeline_upright.svg'} <= set(resources)
    html = site['part3_doubt/12_latent_nat.ipynb'].rendered
    assert 'srcset="../figures/pipeline_upright.svg#latent_nat"' in html
    assert 'src="../figures/pipeline.svg#latent_nat"' in html
    assert 'srcset="figures/pipeline_upright.svg#"' in site['architecture.qmd'].rendered

# what Quarto does to wide things
BASE = """body { font: 17px/1.5 sans-serif; margin: 0 } main { padding: 0 12px }
code { white-space: pre } p code { white-space: pre-wrap }
pre { overflow-x: auto } td, th { padding: 8px }"""

@pytest.fixture(scope='module')
def phone(tmp_path_factory, chromium):
    "The width that a page takes on a screen of 390 pixels."
    folder = tmp_path_factory.mktemp('phone')
    d = chromium(folder, 'hide-scrollbars')
    d.execute_cdp_cmd('Emulation.setDeviceMetricsOverride',
                      dict(width=390, height=844, deviceScaleFactor=1, mobile=True))
    def width(html, style):
        head = (f'<!DOCTYPE html><meta charset="utf-8"><meta name="viewport" '
                f'content="width=device-width, initial-scale=1"><base '
                f'href="{(ROOT/"nbs").as_uri()}/"><style>{BASE}\n{style}</style>')
        (folder/'page.html').write_text(f'{head}<main>{html}</main>', encoding='utf-8')
        d.get((folder/'page.html').as_uri())
        return d.execute_script('return document.documentElement.scrollWidth')
    yield width
    d.quit()

@pytest.mark.slow
def test_no_page_scrolls_sideways_on_a_phone(site, phone):
    style = (ROOT/'nbs/styles.css').read_text(encoding='utf-8')
    wide = '`lowlight_export small.onnx --weights small --rounds 4`'
    html = f'<ul><li><code>{wide}</code></li></ul><p><a href="#">{"long/" * 30}</a></p>'
    assert phone(html, '') > 390 >= phone(html, style)
    assert [k for k, p in site.items()
            if 'slides_' not in k and phone(p.rendered, style) > 390] == []


# --- and each check can fail ---

def notebook(*cells):
    return json.dumps(
        dict(
            cells=[
                dict(cell_type=k, id=f'c{i}', metadata={}, source=s, outputs=o)
                for i, (k, s, o) in enumerate(cells)
            ], metadata={}, nbformat=4, nbformat_minor=5))
FRONT = ('raw', '---\ntitle: t\ndescription: d\nimage: i.jpg\n---', [])
PNG = [dict(output_type='display_data', data={'image/png': ''})]

BROKEN = {
    'bad_frontmatter': ('---\ntitle: t\nimage: no.jpg\n---\nwords', 3 - 1),
    'broken_links': ('[a](nowhere.ipynb) [b](ok.qmd#nothing) [c](#nowhere) [d](../README.md) [e]('
                     + HOME + 'ok.html#nothing) [fine](ok.qmd#here) [fine](' + HOME + 'ok.html)',
                     5),
    'missing_pictures': ('![words enough](no.png) ![words enough](i.jpg)', 1),
    'wordless_pictures': (
        '![](i.jpg) <img src="i.jpg"> ![words enough](i.jpg) ![](i.jpg){fig-alt="words enough"}',
        2),
    'unresolved': (
        'See @fig-none, @sec-here and `@fig-code`. {{< embed ok.ipynb#none >}} {{< embed no.ipynb '
        '>}} {{< include _no.md >}}\n\n## Here {#sec-here}',
        4),
    'from_elsewhere': (
        '<script src="https://cdn.example/x.js"></script>\n\n![words enough](//cdn.example/x.png) '
        '<link href="style.css">',
        2),
    'formulas_of_newer_pandoc': ('$$\\Bigl(\\frac12\\bigm|x\\Bigr)$$ and `\\Bigl`', 2),
    'raw_markdown': (
        '~~~ {.text}\n[words](https://pytorch.org)\n~~~\n\n[[*a*](https://pytorch.org) b](https://docs.fast.ai)',
        2),
    'unread_formulas': ('$$\\frac{1}{2}$$ and $$\\nosuchmacro{1}$$', 1),
}

@pytest.mark.parametrize('name', BROKEN)
@pytest.mark.slow
def test_a_broken_page_is_noticed(tmp_path, name):
    text, n = BROKEN[name]
    (tmp_path/'i.jpg').write_bytes(b'')
    (tmp_path/'ok.qmd').write_text('---\ntitle: t\ndescription: d\nimage: i.jpg\n---\n\n## Here\n')
    (tmp_path/'ok.ipynb').write_text(
        notebook(FRONT, ('code', '#| fig-alt: "A curve that rises"\nplot()', PNG)))
    (tmp_path/'bad.qmd').write_text(
        text if text.startswith('---') else '---\ntitle: t\ndescription: d\nimage: i.jpg\n---\n\n'
        + text)
    found = {o.__name__: o(pages(tmp_path)) for o in CHECKS}
    assert len(found[name]) == n, found[name]
    assert all(o.startswith('bad.qmd') for v in found.values() for o in v)

def test_a_broken_notebook_is_noticed(tmp_path):
    (tmp_path/'bad.ipynb').write_text(
        notebook(('raw', '---\ntitle: t\n---', []), ('code', 'plot()', PNG),
                 ('code', "#| fig-alt: it's: broken: \"\n1", []), ('code', 'frame', [
                     dict(output_type='execute_result',
                          data={'text/html': '<p>', 'application/vnd.jupyter.widget-view+json': {}})
                 ])))
    found = {o.__name__: o(pages(tmp_path)) for o in CHECKS}
    assert {k: len(v)
            for k, v in found.items()
            if v} == dict(bad_frontmatter=2, wordless_pictures=1, bad_options=1, from_elsewhere=2)

def test_filter_gives_words_and_short_links():
    text = ('![A cat in the dark.](a.png)\n\nwords ![small words](b.png)\n\n![shown](c.png){#fig-c '
            'fig-alt="said"}\n\n[`f`](') + HOME + ('flow.html#f) '
                                                   '[`tau`](') + HOME + ('experiments.html#tau) '
                                                       '[out](https://pytorch.org)')
    new = Seen(filtered(text).stdout)
    assert [o[1] for o in new.pictures] == ['A cat in the dark.', 'small words', 'said']
    assert new.links == ['./flow.html#f', 'https://pytorch.org']

def test_pictures_enlarge():
    "Those of a page; not links, not the slider, not the drawing in two forms, and none on slides."
    assert yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['format']['html']['lightbox'] == 'auto'
    names = 'a.png', 'figures/badge_colab.svg', 'figures/before_after.jpg', 'figures/pipeline.svg'
    text = '\n\n'.join(f'![some words]({o})' for o in names) + '\n\n[![some words](b.png)](https://a.org)'
    html = filtered(text).stdout
    assert [re.search(r'src="(.*?)"', o)[1] for o in re.findall(r'<img[^>]*class="lightbox"[^>]*>', html)] == ['a.png']
    assert 'class="nolightbox"' in html and 'https://a.org' in html
    assert 'lightbox"' not in filtered(text, 'revealjs').stdout.replace('nolightbox', '')

def test_changes_and_citation_are_the_files():
    "The pages say what CHANGELOG.md and CITATION.cff say."
    cff = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    cited = (ROOT/'nbs/citation.qmd').read_text(encoding='utf-8')
    for work in [cff, *cff['references']]: assert f"title = {{{{{work['title']}}}}}," in cited
    people = [o for work in cff['references'] for o in work['authors']]
    assert all(f"{o['family-names']}, {o['given-names']}" in cited for o in people)
    assert cited.count('@inproceedings{') == len(cff['references'])
    changes = (ROOT/'nbs/changelog.qmd').read_text(encoding='utf-8')
    assert changes.endswith((ROOT/'CHANGELOG.md').read_text(encoding='utf-8').split('-->\n')[1].strip() + '\n')

def test_stale_output_becomes_markdown():
    tidy = runpy.run_path(str(ROOT/'nbs/frames.py'))['tidy_output']
    html = '<table><thead><tr><th></th><th>a|b</th></tr></thead><tbody><tr><th>x</th><td>1.5</td></tr></tbody></table>'
    out = tidy(dict(output_type='execute_result', data={'text/html': [html], 'text/plain': ['x']}))
    assert ''.join(out['data']['text/markdown']
                   ) == '|  | a\\|b |\n|:--|--:|\n| x | 1.5 |' and 'text/html' not in out['data']
    assert tidy(
        dict(output_type='display_data',
             data={'application/vnd.jupyter.widget-view+json': {}, 'text/plain': ['0%|']})) is None
    plain = dict(output_type='execute_result', data={'text/plain': ['1']})
    assert tidy(plain) is plain

def test_colab_cell_fetches_and_moves_only_on_colab():
    script = runpy.run_path(str(ROOT/'nbs/frames.py'))
    code = script['colab_cell']('nbs/course', script['settings']())
    def run_in(shell):
        said = []
        class Shell:
            def __str__(self): return f'<{shell}>'
            def system(self, line): said.append(line)
            def run_line_magic(self, name, line): said.append(f'%{name} {line}')
        exec(code, dict(get_ipython=Shell))
        return said
    assert run_in('ipykernel.zmqshell.ZMQInteractiveShell object') == []
    clone, pip, cd = run_in('google.colab._shell.Shell object')
    assert clone.startswith(
        'git clone '
    ) and 'lowlight_nat[notebooks]' in pip and cd == '%cd -q /content/lowlight_nat/nbs/course'

def test_install_covers_what_notebooks_import():
    "What Colab installs brings every module that a notebook imports without a net."
    import sys
    from configparser import ConfigParser
    c = ConfigParser(delimiters=['='])
    c.read(ROOT/'settings.ini')
    have = {
        re.split(r'[<>=\[ ]', o)[0].lower().replace('-', '_')
        for k in ('requirements', 'notebooks_requirements', 'app_requirements')
        for o in c['DEFAULT'][k].split()
    }
    have |= set(sys.stdlib_module_names) | {
        'lowlight_nat', 'ipython', 'matplotlib_inline', 'traitlets', 'tqdm'
    } | {p.stem
         for p in (ROOT/'nbs/course').rglob('*.py')}
    # the last three: formats that a chapter tries, and does without
    other = {
        'pil': 'pillow', 'skimage': 'scikit_image', 'pillow_heif': 'pillow', 'rawpy': 'pillow',
        'tifffile': 'pillow'
    }
    bad = {}
    for path in (p for p in ROOT.glob('nbs/**/*.ipynb') if p.name[0] != '.'):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            if cell['cell_type'] != 'code': continue
            try: tree = ast.parse(''.join(cell['source']))
            except SyntaxError: continue
            for node in ast.walk(tree):
                names = [o.name for o in node.names] if isinstance(node, ast.Import) else [
                    node.module
                ] if isinstance(node, ast.ImportFrom) and not node.level else []
                for n in names:
                    top = n.split('.')[0].lower()
                    if other.get(top, top) not in have and top not in sys.stdlib_module_names:
                        bad.setdefault(top, set()).add(path.name)
    assert bad == {}
