"""Draw architecture.svg, the levels of imports, from the list that the tests hold: `python nbs/figures/architecture.py`. The same bytes every time."""
import runpy, textwrap
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
WHAT = [
    'numbers, files, small parts', 'pictures, pairs, codebook, flow, NAT', 'decoders',
    'one network', 'training', 'use', 'measuring and showing', 'commands'
]
FONT = 'font-family="Helvetica,Arial,DejaVu Sans,sans-serif"'
FILL = ['#e8eef6', '#dfe9f3', '#fdf3d6', '#ffe39c', '#fdf3d6', '#dfe9f3', '#e8eef6', '#f1f4f8']
W = 960
LEFT = 250
GAP = 16


def text(x, y, s, size=13, weight='normal', ink='#2b3440'):
    return f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{ink}" {FONT}>{escape(s)}</text>'

def picture(levels):
    "The levels as bands, the first at the bottom."
    out = []
    y = 14
    for i in range(len(levels) - 1, -1, -1):
        rows = textwrap.wrap(' · '.join(levels[i]), 88)
        h = 22 + 19*len(rows)
        out.append(
            f'<rect x="14" y="{y}" width="{W-28}" height="{h}" rx="7" fill="{FILL[i%len(FILL)]}" stroke="#8a94a3"/>'
        )
        out.append(
            text(28, y + h/2 + 5, f'{i+1}  {WHAT[i] if i < len(WHAT) else ""}', weight='bold'))
        out += [text(LEFT + 38, y + 25 + 19*k, r, 12.5) for k, r in enumerate(rows)]
        y += h
        if i:
            out.append(
                f'<path d="M{W/2:g} {y}V{y+GAP-5}" stroke="#5b6675" stroke-width="1.6" marker-end="url(#head)"/>'
            )
            y += GAP
    y += 14
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {y}" width="{W}" height="{y}" role="img" aria-labelledby="t">\n<title id="t">Levels of imports; each band imports from those below it</title>\n'
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#5b6675"/></marker></defs>\n'
        f'<rect x="1" y="1" width="{W-2}" height="{y-2}" rx="12" fill="#f6f7f9" stroke="#d3d8de"/>\n'
    )
    return head + '\n'.join(out) + '\n</svg>\n'

def main():
    levels = runpy.run_path(str(HERE.parent/'reference.py'))['levels']()[:-1]
    (HERE/'architecture.svg').write_text(picture(levels), encoding='utf-8')


if __name__ == '__main__': main()
