"""Draw architecture.svg, the rooms of the library and what each imports, from the imports
themselves: `python nbs/figures/architecture.py`.

The same bytes every time. The standard library is all it needs; `tests/test_imports.py` holds that
the rooms have an order.
"""
import ast
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIB = HERE.parents[1]/'lowlight_nat'
START = 'inference.enhancer'        # where a picture's way begins
WHAT = dict(
    io='pictures and files, in and out', evaluation='how good is a result?', data='pairs for training',
    models='the method, in PyTorch', inference='what users call', training='losses, stages, Learners',
    peers='networks of others', experiments='what the book claims', export='without Python',
    app='widgets', cli='the commands',
)
FONT = 'font-family="Helvetica,Arial,DejaVu Sans,sans-serif"'
W, ROW, GAP = 960, 62, 22


def modules():
    "Every module of the library but the front door, as `room.module`, and its file."
    files = (p for p in sorted(LIB.rglob('*.py')) if p.name != '__init__.py' and p.name[0] != '_')
    return {'.'.join(p.relative_to(LIB).with_suffix('').parts): p for p in files}

def imported(name, path):
    "What a module imports of ours, anywhere in it."
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (o.name.removeprefix('lowlight_nat.') for o in node.names if o.name.startswith('lowlight_nat.'))
        elif isinstance(node, ast.ImportFrom):
            base = name.split('.')[:-node.level] if node.level else []
            if not node.level and (node.module or '').split('.')[0] != 'lowlight_nat': continue
            said = (node.module or '').removeprefix('lowlight_nat').strip('.')
            whole = [*base, *said.split('.')] if said else base
            yield '.'.join(whole)
            yield from ('.'.join([*whole, o.name]) for o in node.names)

def imports():
    "Each module and the modules it imports."
    files = modules()
    return {m: {o for o in imported(m, p) if o in files and o != m} for m, p in files.items()}

def room(module): return module.split('.')[0]

def rooms(graph=None):
    "Each room and the rooms it imports from."
    out = {}
    for m, needs in (graph or imports()).items():
        out.setdefault(room(m), set()).update(room(o) for o in needs if room(o) != room(m))
    return out

def levels(graph):
    "The rooms by level: each imports from lower ones only; a cycle is an error of `graphlib`."
    level = {}
    for o in TopologicalSorter(graph).static_order():
        level[o] = 1 + max((level[p] for p in graph[o]), default=-1)
    return [[o for o in sorted(level) if level[o] == i] for i in range(1 + max(level.values()))]

def walk(graph, start=START):
    "The modules that enhancing a picture needs."
    found = set()
    todo = [start]
    while todo:
        m = todo.pop()
        if m not in found:
            found.add(m)
            todo += graph[m]
    return found


def text(x, y, s, size=13, weight='normal', ink='#2b3440', anchor='start'):
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{ink}" '
            f'text-anchor="{anchor}" {FONT}>{escape(s)}</text>')

def lines(words, width):
    "Words in lines of at most `width` letters."
    out = ['']
    for w in words:
        if out[-1] and len(out[-1]) + len(w) + 2 > width: out.append('')
        out[-1] += (', ' if out[-1] else '') + w
    return out

def picture():
    "The whole SVG: the lowest rooms at the bottom, those on a picture's way in yellow."
    graph = imports()
    way = {room(m) for m in walk(graph)}
    needs = rooms(graph)
    stack = levels(needs)
    boxes = {}
    y = 14
    for level in reversed(stack):
        w = (W - 28 - GAP*(len(level) - 1))/len(level)
        inside = {o: lines([m.split('.')[1] for m in graph if room(m) == o and '.' in m], int(w/6.6)) for o in level}
        h = 40 + 17*max(map(len, inside.values()))
        for i, o in enumerate(level): boxes[o] = (14 + i*(w + GAP), y, w, h, inside[o])
        y += h + GAP + 8
    height = y - 8
    out = []
    # arrows first, so that they pass behind the boxes
    for o, below in needs.items():
        for p in sorted(below):
            if any(p in needs[q] for q in below if q != p): continue    # said by another arrow already
            x, top, w, h, _ = boxes[o]
            x2, top2, w2, *_ = boxes[p]
            out.append(f'<path d="M{x + w/2:g} {top + h:g}L{x2 + w2/2:g} {top2 - 3:g}" stroke="#5b6675" '
                       'stroke-width="1.4" marker-end="url(#head)"/>')
    for o, (x, top, w, h, names) in boxes.items():
        fill, stroke = ('#ffe39c', '#b58100') if o in way else ('#e8eef6', '#8a94a3')
        out.append(f'<rect x="{x:g}" y="{top:g}" width="{w:g}" height="{h:g}" rx="7" fill="{fill}" stroke="{stroke}"/>')
        out.append(text(x + 12, top + 21, o, 14, 'bold'))
        out.append(text(x + 20 + 8.6*len(o), top + 21, WHAT.get(o, ''), 12, ink='#5b6675'))
        out += [text(x + 12, top + 42 + 17*i, l, 12.5) for i, l in enumerate(names)]
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {height:g}" width="{W}" height="{height:g}" '
            'role="img" aria-labelledby="t">\n<title id="t">The rooms of the library; arrows point '
            'at what a room imports; '
            "yellow: the rooms on a picture's way</title>\n"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="#5b6675"/></marker></defs>\n'
            f'<rect x="1" y="1" width="{W-2}" height="{height-2:g}" rx="12" fill="#f6f7f9" stroke="#d3d8de"/>\n')
    return head + '\n'.join(out) + '\n</svg>\n'


if __name__ == '__main__': (HERE/'architecture.svg').write_text(picture(), encoding='utf-8')
