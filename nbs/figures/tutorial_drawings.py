"""Draw the small drawings of the tutorial, one for each section: `python nbs/figures/tutorial_drawings.py`.

They are written to `tutorial/`, the same bytes every time. All are 380 wide, so that a phone shows them at full
size, with type of 14 pixels or more. The standard library is all it needs.
"""
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE/'tutorial'
WIDTH = 380
BLUE = '#1b3a5c'
ACCENT = '#c8501e'
PALE = '#e8edf3'
TINTED = '#fbe3d8'


# --- the pieces ---

def text(x, y, words, size=14, anchor='middle', colour=BLUE, bold=False):
    "Words; (x, y) is the middle of their line, or its begin or end."
    weight = ' font-weight="bold"' if bold else ''
    return (f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"'
            f'{weight}>{escape(words)}</text>')

def box(x, y, w, h, fill='#ffffff', stroke=BLUE, width=1.6, dashed=False):
    "A rectangle."
    dash = ' stroke-dasharray="5 4"' if dashed else ''
    return (f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="3" fill="{fill}" '
            f'stroke="{stroke}" stroke-width="{width}"{dash}/>')

def named(x, y, w, h, *words, fill='#ffffff', stroke=BLUE, bold=False):
    "A rectangle with lines of words in its middle."
    first = y + h/2 + 5 - 9*(len(words) - 1)
    lines = [text(x + w/2, round(first + 18*i, 1), o, bold=bold) for i, o in enumerate(words)]
    return box(x, y, w, h, fill, stroke) + ''.join(lines)

def path(d, colour=BLUE, width=1.6, head=True, dashed=False):
    "A line along `d`, with a head at its end."
    marker = f' marker-end="url(#{"accent" if colour == ACCENT else "blue"})"' if head else ''
    dash = ' stroke-dasharray="4 3"' if dashed else ''
    return f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}{marker}/>'

def arrow(x1, y1, x2, y2, **kw): return path(f'M{x1} {y1}L{x2} {y2}', **kw)

def dot(x, y, r=4, fill=BLUE, stroke='none'):
    return f'<circle cx="{x}" cy="{y}" r="{r}" fill="{fill}" stroke="{stroke}" stroke-width="1.6"/>'

def grid(x, y, rows, columns, side, marked=()):
    "Squares; those whose number is in `marked` are filled with the accent."
    return ''.join(
        f'<rect x="{x + side*(i % columns)}" y="{y + side*(i//columns)}" width="{side}" height="{side}" '
        f'fill="{ACCENT if i in marked else "#ffffff"}" stroke="{BLUE}" stroke-width="0.8"/>'
        for i in range(rows*columns))

def grey(level): return f'#{level:02x}{level:02x}{level:02x}'

def drawing(height, title, *parts):
    "The whole file."
    def head(name, colour):
        return (f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>')
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-labelledby="title" '
        'font-family="Helvetica, Arial, DejaVu Sans, sans-serif">',
        f'<title id="title">{escape(title)}</title>',
        f'<defs>{head("blue", BLUE)}{head("accent", ACCENT)}</defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>', *parts, '</svg>', ''])


# --- one for each section ---

def darkening():
    steps = [(12, 200, '200', '#ffffff', BLUE), (150, 48, '48', BLUE, '#ffffff')]
    parts = []
    for x, level, number, _, colour in steps:
        parts += [box(x, 34, 80, 80, fill=grey(level)), text(x + 40, 80, number, 18, colour=colour, bold=True)]
    speckles = [46, 50, 43, 52, 48, 45, 51, 44, 49, 53, 47, 42, 50, 46, 48, 54]
    for i, level in enumerate(speckles):
        shown = 48 + 4*(level - 48)
        parts.append(f'<rect x="{288 + 20*(i % 4)}" y="{34 + 20*(i//4)}" width="20" height="20" '
                     f'fill="{grey(max(shown, 0))}"/>')
    return drawing(
        150, 'A bright pixel loses light, then noise and rounding are added', *parts,
        box(288, 34, 80, 80, fill='none'), arrow(96, 74, 146, 74), arrow(234, 74, 284, 74),
        text(52, 22, 'bright file', bold=True), text(190, 22, 'less light', bold=True),
        text(328, 22, 'dark file', bold=True), text(121, 136, 'light / 2^4.5'),
        text(259, 136, '+ noise, rounded', colour=ACCENT))

def bricks():
    return drawing(
        164, 'A crop of a picture, and a residual block that adds a correction to its input',
        text(62, 20, 'a random crop', bold=True), box(10, 32, 112, 112, fill=PALE),
        box(62, 50, 38, 38, fill=TINTED, stroke=ACCENT), text(81, 108, '64 x 64', colour=ACCENT),
        text(266, 20, 'a residual block', bold=True), text(158, 105, 'x', 16, bold=True),
        arrow(168, 100, 208, 100), named(212, 82, 66, 36, 'f'), arrow(278, 100, 308, 100),
        '<circle cx="322" cy="100" r="12" fill="#ffffff" stroke="#1b3a5c" stroke-width="1.6"/>',
        text(322, 106, '+', 18), path('M184 100L184 52L322 52L322 86', colour=ACCENT),
        text(254, 46, 'x passes as it is', colour=ACCENT), arrow(334, 100, 350, 100),
        text(300, 144, 'out: x + f(x)'))

def codebook():
    codes = [(246, 66), (296, 52), (342, 84), (258, 120), (318, 134)]
    return drawing(
        190, 'A patch of 4 by 4 pixels becomes a vector, and the vector becomes the number of its nearest code',
        text(50, 22, '4 x 4 pixels', bold=True), grid(14, 40, 4, 4, 18), arrow(92, 76, 124, 76),
        text(108, 64, 'E', bold=True), named(128, 58, 50, 36, 'z', bold=True), arrow(178, 76, 212, 76),
        text(292, 22, 'the codes', bold=True), box(216, 34, 152, 118, fill=PALE, width=1),
        *(dot(x, y, 6, fill='#ffffff', stroke=BLUE) for x, y in codes),
        dot(318, 134, 6, fill=ACCENT), path('M290 110L311 128', colour=ACCENT), dot(286, 106, 4),
        text(275, 103, 'z', bold=True), text(334, 139, '5', colour=ACCENT, bold=True, anchor='start'),
        text(292, 176, 'nearest code: token 5', colour=ACCENT), text(96, 140, 'z: d numbers'))

def condition():
    names = [('f', 'features'), ('c', 'condition'), ('μ', 'first guess')]
    parts = []
    for i, (letter, words) in enumerate(names):
        y = 22 + 50*i
        colour = ACCENT if letter == 'μ' else BLUE
        parts += [arrow(206, 92, 240, y + 18, colour=colour),
                  named(244, y, 36, 36, letter, stroke=colour, bold=True),
                  text(288, y + 23, words, anchor='start', colour=colour)]
    return drawing(
        180, 'The encoder of the dark picture gives features, a condition and a first guess of the latent',
        box(10, 60, 64, 64, fill=grey(40)), text(42, 146, 'dark picture'), arrow(74, 92, 92, 92),
        named(96, 74, 42, 36, 'log'), arrow(138, 92, 154, 92), named(158, 70, 48, 44, 'E', fill=PALE, bold=True),
        *parts)

def flow():
    bent = [(34, 120), (40, 100), (50, 84), (64, 72), (80, 66), (96, 68), (108, 78), (116, 94), (46, 112), (56, 98),
            (70, 84), (86, 78), (102, 88), (110, 108)]
    round_ = [(302, 92), (316, 78), (330, 92), (316, 106), (308, 82), (324, 82), (308, 102), (324, 102), (316, 92),
              (294, 80), (338, 104), (316, 66), (318, 118), (340, 82)]
    return drawing(
        178, 'An invertible network takes the bright latents to a simple Gaussian about the guess, and back',
        text(72, 24, 'bright latents z', bold=True), box(12, 40, 124, 104, fill=PALE, width=1),
        *(dot(x, y, 3.5) for x, y in bent), text(308, 24, 'simple u', bold=True),
        box(246, 40, 124, 104, fill=PALE, width=1), *(dot(x - 8, y, 3.5) for x, y in round_),
        dot(308, 92, 6, fill=ACCENT), text(322, 136, 'μ', 16, colour=ACCENT, bold=True),
        arrow(142, 74, 240, 74), text(191, 64, 'F, training'), arrow(240, 112, 142, 112, colour=ACCENT),
        text(191, 134, 'back, in use', colour=ACCENT), dot(82, 88, 6, fill=ACCENT),
        text(72, 166, 'z̃ = what μ becomes', colour=ACCENT))

def doubt():
    def bars(x, p, colour):
        out = [arrow(x, 122, x + 152, 122, head=False)]
        for i, o in enumerate(p):
            h = round(80*o, 1)
            out += [f'<rect x="{x + 8 + 36*i}" y="{122 - h}" width="26" height="{h}" fill="{colour}"/>',
                    text(x + 21 + 36*i, 140, str(i + 1))]
        return out
    return drawing(
        190, 'A sure place has one likely code and is kept; an unsure place has several and is masked',
        text(92, 24, 'a sure place', bold=True), *bars(14, (0.97, 0.01, 0.01, 0.01), BLUE),
        text(92, 160, 'code'), text(92, 182, 'entropy 0.12: kept'),
        text(288, 24, 'an unsure place', bold=True), *bars(212, (0.4, 0.3, 0.2, 0.1), ACCENT),
        text(288, 160, 'code'), text(288, 182, 'entropy 0.92: masked', colour=ACCENT))

def rounds():
    order = [14, 21, 8, 27, 15, 20, 13, 22, 7, 28, 16, 19, 9, 26, 2, 33]
    parts = []
    for i, left in enumerate((16, 14, 11, 6, 0)):
        x = 8 + 75*i
        parts += [grid(x, 54, 6, 6, 10, set(order[:left])), text(x + 30, 136, str(left), 16, bold=True)]
    return drawing(
        166, 'Sixteen masked tokens become fourteen, eleven, six and none in four rounds',
        text(38, 22, 'before', anchor='middle'), text(38, 40, 'round 1'),
        *(text(38 + 75*i, 40, o) for i, o in enumerate(('', '2', '3', '4', 'end')) if o),
        *parts, text(190, 160, 'tokens still masked', colour=ACCENT))

def fusion():
    names = ['refined latent', 'dark features', "tokens' features", 'dark picture']
    parts = []
    for i, o in enumerate(names):
        y = 8 + 44*i
        parts += [named(8, y, 136, 34, o), arrow(144, y + 17, 196, 76 + 7*i)]
    return drawing(
        184, 'Four sources meet in the fusion decoder, which paints the bright picture', *parts,
        named(200, 62, 64, 52, 'G', fill=TINTED, stroke=ACCENT, bold=True), arrow(264, 88, 294, 88),
        box(298, 54, 70, 70, fill=grey(215)), text(333, 146, 'bright'), text(333, 164, 'picture'))

def unseen():
    parts = [box(12 + 38*i, 42, 30, 30, fill=PALE) for i in range(5)]
    return drawing(
        160, 'Five photographs are for learning; the sixth is judged only at the end', *parts,
        text(103, 26, 'five to learn from', bold=True), arrow(103, 76, 103, 102),
        named(56, 106, 94, 38, 'method', fill=PALE), text(306, 26, 'one put away', bold=True),
        box(286, 42, 40, 30, fill=TINTED, stroke=ACCENT), path('M286 72L154 112', colour=ACCENT),
        text(262, 104, 'darkened', colour=ACCENT, anchor='start'), arrow(150, 134, 238, 134),
        text(244, 139, 'result against truth', anchor='start', size=14))

def toy_and_real():
    return drawing(
        170, 'The toy sees windows of 64 pixels, the real model the whole picture',
        text(92, 22, 'this toy', bold=True), box(12, 36, 160, 92, fill=PALE),
        *(arrow(12 + 32*i, 36, 12 + 32*i, 128, head=False, width=0.8) for i in range(1, 5)),
        *(arrow(12, 36 + 30.7*i, 172, 36 + 30.7*i, head=False, width=0.8) for i in (1, 2)),
        box(76, 66.7, 32, 30.7, fill=ACCENT, stroke=ACCENT), text(92, 152, 'sees one window'),
        text(288, 22, 'the real model', bold=True), box(208, 36, 160, 92, fill=ACCENT, stroke=ACCENT),
        text(288, 152, 'sees the whole picture'))

def yours():
    return drawing(
        176, 'Your photograph goes into the Enhancer; a bright picture and a map of doubt come out',
        box(10, 50, 72, 60, fill=grey(40)), text(46, 132, 'your'), text(46, 150, 'photograph'),
        arrow(82, 80, 112, 80), named(116, 58, 96, 44, 'Enhancer', fill=TINTED, stroke=ACCENT, bold=True),
        path('M212 72L258 44'), path('M212 88L258 122'), box(262, 12, 72, 60, fill=grey(215)),
        text(298, 47, 'picture'), grid(262, 98, 4, 6, 12, {1, 2, 8, 15, 16}), text(298, 168, 'its doubt'))

DRAWINGS = [darkening, bricks, codebook, condition, flow, doubt, rounds, fusion, unseen, toy_and_real, yours]

if __name__ == '__main__':
    FOLDER.mkdir(exist_ok=True)
    for draw in DRAWINGS:
        (FOLDER/f'{draw.__name__}.svg').write_text(draw(), encoding='utf-8', newline='\n')
