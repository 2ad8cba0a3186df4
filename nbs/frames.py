"""Give every notebook its frame: `python nbs/frames.py`, after a notebook was written or run.

- The frontmatter gets an `image`, which is shown where a link to the page is shared.
- A hidden first cell fetches and installs the project on Colab, and does nothing anywhere else.
- A line of badges opens the notebook on Colab or Binder.
- A chapter gets the line under its title (number, what it needs, minutes, seconds) and a link to the next one.
- Stored outputs that are HTML or widgets become tables in Markdown, or go where they were
  progress bars: Quarto loads scripts
  from other hosts for a page that has them.

Run twice it changes nothing; `--check` writes nothing and says which notebooks would change. The
standard library is all it needs.
"""
import json
import os
import re
import sys
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path

NBS = Path(__file__).resolve().parent
ROOT = NBS.parent
sys.path.insert(0, str(NBS))
import contents  # noqa: E402  the list that the chapters' heads and links are made from

CARD = 'figures/card.jpg'


def settings():
    "The settings of the project."
    c = ConfigParser(delimiters=['='])
    c.read(ROOT/'settings.ini', encoding='utf-8')
    return c['DEFAULT']

def notebooks():
    "Every notebook of the book and of the course."
    return sorted(p for p in NBS.rglob('*.ipynb')
                  if not any(o[0] in '._' for o in p.relative_to(NBS).parts))

def source(cell): return ''.join(cell['source'])
def lines(text): return text.splitlines(keepends=True)


# --- Colab and Binder ---

def colab_cell(folder, cfg):
    """The hidden cell for a notebook in `folder` of the project; `get_ipython` is there in every
    notebook."""
    name = cfg['repo']
    return f"""#| hide
# On Colab: fetch the project, install it, and work in the folder of this notebook. Elsewhere this does nothing.
if 'google.colab' in str(get_ipython()):
    get_ipython().system('git clone -q --depth 1 {cfg['git_url']} /content/{name}')
    get_ipython().system('pip install -q "/content/{name}[notebooks]"')
    get_ipython().run_line_magic('cd', '-q /content/{name}/{folder}')"""

def badges(path, cfg):
    "The line that leads to Colab and Binder; `path` is seen from the top of the project."
    up = '../'*(path.count('/') - 1)
    project = f"{cfg['user']}/{cfg['repo']}"
    colab = f"https://colab.research.google.com/github/{project}/blob/{cfg['branch']}/{path}"
    binder = f"https://mybinder.org/v2/gh/{project}/{cfg['branch']}?urlpath=lab/tree/{path}"
    return (f'[![Open in Colab]({up}figures/badge_colab.svg)]({colab}) '
            f'[![Launch Binder]({up}figures/badge_binder.svg)]({binder})')


# --- stored outputs ---

class Table(HTMLParser):
    """The rows of the first table in a piece of HTML, as lists of texts; cells that span several
    columns or rows are followed by empty ones."""
    def __init__(self, html):
        super().__init__()
        self.rows = []
        self.head = 0            # how many of them are headings
        self.words = None        # of the cell that is open
        self.spanned = set()     # places that a cell further up takes
        self.feed(html.partition('</table>')[0])
    def handle_starttag(self, tag, attrs):
        if tag == 'tr': self.rows.append([])
        if tag in ('th', 'td'):
            self.words = []
            self.size = [int(dict(attrs).get(o) or 1) for o in ('colspan', 'rowspan')]
        if tag == 'br' and self.words is not None: self.words.append(' ')
    def handle_endtag(self, tag):
        if tag == 'thead': self.head = len(self.rows)
        if tag not in ('th', 'td'): return
        i = len(self.rows) - 1
        row = self.rows[i]
        while (i, len(row)) in self.spanned: row.append('')
        wide, high = self.size
        self.spanned |= {(i + j, len(row) + k) for j in range(1, high) for k in range(wide)}
        row += [' '.join(''.join(self.words).split()), *['']*(wide - 1)]
        self.words = None
    def handle_data(self, data):
        if self.words is not None: self.words.append(data)

def is_number(s):
    return re.fullmatch(r'[-+−±]?[\d.,]+(e[-+]?\d+)?( ?%)?|nan|inf|', s.strip(), re.I) is not None

def markdown_table(html):
    "The table in `html` as Markdown; None if there is none."
    t = Table(html)
    if len(t.rows) < 2: return None
    width = max(map(len, t.rows))
    rows = [o + ['']*(width - len(o)) for o in t.rows]
    head, body = rows[:max(t.head, 1)], rows[max(t.head, 1):]
    title = [' '.join(dict.fromkeys(o for o in column if o)) for column in zip(*head)]
    columns = list(zip(*body)) or [()]*width
    rule = ['--:' if any(o) and all(map(is_number, o)) else ':--' for o in columns]
    def row(o): return '| ' + ' | '.join(re.sub(r'([\\`*\[\]<>|$~^])', r'\\\1', x) for x in o) + ' |'
    return '\n'.join([row(title), '|' + '|'.join(rule) + '|', *map(row, body)])

def is_rich(kind): return kind in ('text/html', 'application/javascript') or 'widget' in kind

def tidy_output(o):
    "An output without HTML, scripts and widgets; None where nothing is left to be read."
    data = o.get('data', {})
    if not any(map(is_rich, data)): return o
    html = ''.join(data.get('text/html', ''))
    words = ''.join(data.get('text/markdown', ''))
    if words.startswith('```html'): words = ''                   # fastprogress: its HTML once more
    words = words or markdown_table(html)
    data = {k: v for k, v in data.items() if not is_rich(k) and k != 'text/markdown'}
    if words: return {**o, 'data': {**data, 'text/markdown': lines(words)}}
    shown = re.sub('<style.*?</style>|<[^>]*>', '', html, flags=re.S).strip()
    nameless = ''.join(data.get('text/plain', '')).startswith('<IPython.core.display.')
    drawn = any(k.startswith('image/') for k in data)
    return {**o, 'data': data} if drawn or shown and not nameless else None


# --- the frame ---

def prose(name, text):
    "A cell of text with its name; None if there is no text."
    return dict(cell_type='markdown', id=name, metadata={}, source=lines(text)) if text else None

def framed(nb, path):
    "The notebook `nb` with its frame; `path` is seen from the top of the project."
    cfg = settings()
    front, *cells = nb['cells']
    if front['cell_type'] != 'raw':
        raise SystemExit(f'{path} does not begin with a raw cell of frontmatter (title, description)')
    text = source(front)
    if not re.search(r'^image:', text, re.M):
        text = re.sub(r'\n---\s*$', f"\nimage: {'../'*(path.count('/') - 1)}{CARD}\n---", text)
    colab = dict(cell_type='code', id='colab', metadata={}, execution_count=None, outputs=[],
                 source=lines(colab_cell(path.rsplit('/', 1)[0], cfg)))
    page = path.partition('/')[2]
    own = [c for c in cells if c.get('id') not in contents.FRAME]
    for c in own:
        if c.get('outputs'): c['outputs'] = [t for o in c['outputs'] if (t := tidy_output(o)) is not None]
    top = [colab, prose('badges', badges(path, cfg)), prose('head', contents.head(page, {'cells': own}))]
    end = [c for c in own[-1:] if 'nbdev_export()' in source(c)]
    own = own[:len(own) - len(end)] + [prose('next', contents.onward(page))] + end
    cells = [c for c in [{**front, 'source': lines(text)}, *top, *own] if c is not None]
    return {**nb, 'cells': cells}

def dumps(nb): return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n'

def frame(path, write=True):
    "Frame one file; whether it was or would be changed."
    old = path.read_text(encoding='utf-8')
    new = dumps(framed(json.loads(old), path.relative_to(ROOT).as_posix()))
    if new == old: return False
    if write:
        part = path.with_name(f'.{path.name}.part')
        part.write_text(new, encoding='utf-8')
        os.replace(part, path)
    return True

def main(check=False):
    "Frame all notebooks, or only say which would change."
    return [p.relative_to(ROOT).as_posix() for p in notebooks() if frame(p, write=not check)]


if __name__ == '__main__':
    changed = main(check='--check' in sys.argv)
    if '--check' in sys.argv and changed:
        sys.exit(f"not framed: {', '.join(changed)}; run `python nbs/frames.py`")
    print(*changed or ['nothing to do'], sep='\n')
