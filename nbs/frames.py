"""Give every notebook its frame: `python nbs/frames.py`, after a notebook was written or run.

- The frontmatter gets an `image`, which is shown where a link to the page is shared.
- A hidden first cell fetches and installs the project on Colab, and does nothing anywhere else.
- A line of badges opens the notebook on Colab or Binder.
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
        self.head = 0
        self.rows = []
        self.cell = None
        self.skip = False
        self.down = {}
        self.done = False
        self.feed(html)
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'style': self.skip = True
        if self.done: return
        if tag == 'tr': self.rows.append([])
        if tag in ('th', 'td') and self.rows:
            self.cell = []
            self.span = (int(attrs.get('colspan') or 1), int(attrs.get('rowspan') or 1))
        if tag == 'br' and self.cell is not None: self.cell.append(' ')
    def handle_endtag(self, tag):
        if tag == 'style': self.skip = False
        if self.done: return
        if tag == 'thead': self.head = len(self.rows)
        if tag == 'table': self.done = True
        if tag in ('th', 'td') and self.cell is not None:
            row = self.rows[-1]
            i = len(self.rows) - 1
            while (i, len(row)) in self.down: row.append('')
            for k in range(self.span[0]):
                for j in range(1, self.span[1]): self.down[i + j, len(row)] = True
                row.append('' if k else ' '.join(''.join(self.cell).split()))
            self.cell = None
    def handle_data(self, data):
        if self.cell is not None and not self.skip: self.cell.append(data)

def is_number(s):
    return re.fullmatch(r'[-+−±]?[\d.,]+(e[-+]?\d+)?( ?%)?|nan|inf|', s.strip(), re.I) is not None

def markdown_table(html):
    "The table in `html` as Markdown; None if there is none."
    t = Table(html)
    if len(t.rows) < 2: return None
    head, body = t.rows[:max(t.head, 1)], t.rows[max(t.head, 1):]
    width = max(map(len, t.rows))
    head, body = ([o + ['']*(width - len(o)) for o in rows] for rows in (head, body))
    title = [' '.join(dict.fromkeys(o[i] for o in head if o[i])) for i in range(width)]
    right = [
        bool(body) and all(is_number(o[i])
                           for o in body) and any(o[i]
                                                  for o in body)
        for i in range(width)
    ]
    def row(o):
        return '| ' + ' | '.join(re.sub(r'([\\`*\[\]<>|$~^])', r'\\\1', x) for x in o) + ' |'
    return '\n'.join(
        [row(title), '|' + '|'.join('--:' if r else ':--' for r in right) + '|', *map(row, body)])

def tidy_output(o):
    "An output without HTML, scripts and widgets; None where nothing is left to be read."
    data = o.get('data')
    if not data: return o
    rich = [k for k in data if k == 'text/html' or k == 'application/javascript' or 'widget' in k]
    if not rich: return o
    html = ''.join(data.get('text/html', ''))
    words = ''.join(data.get('text/markdown', ''))
    data = {k: v for k, v in data.items() if k not in rich and k != 'text/markdown'}
    if words.startswith('```html'): words = ''                   # fastprogress: its HTML once more
    if words := (words or markdown_table(html) or ''): data['text/markdown'] = lines(words)
    shown = re.sub('<style.*?</style>|<[^>]*>', '', html, flags=re.S).strip()
    if words or shown and not re.match(r'<IPython\.core\.display\.', ''.join(
            data.get('text/plain', ''))) or any(k.startswith('image/') for k in data):
        return {**o, 'data': data}


# --- the frame ---

def framed(nb, path):
    "The notebook `nb` with its frame; `path` is seen from the top of the project."
    cfg = settings()
    cells = nb['cells']
    folder = path.rsplit('/', 1)[0]
    own = ('colab', 'badges')
    front = cells[0]
    if front['cell_type'] != 'raw':
        raise SystemExit(
            f'{path} does not begin with a raw cell of frontmatter (title, description)')
    text = source(front)
    if not re.search(r'^image:', text, re.M):
        text = re.sub(r'\n---\s*$', f"\nimage: {'../'*(path.count('/') - 1)}{CARD}\n---", text)
    cells = [{**front, 'source': lines(text)},
             dict(cell_type='code', id='colab', metadata={}, source=lines(colab_cell(folder, cfg)),
                  execution_count=None, outputs=[]),
             dict(cell_type='markdown', id='badges', metadata={}, source=lines(badges(path, cfg))),
             *[c for c in cells[1:] if c.get('id') not in own]]
    for c in cells:
        if c.get('outputs'):
            c['outputs'] = [t for o in c['outputs'] if (t := tidy_output(o)) is not None]
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
