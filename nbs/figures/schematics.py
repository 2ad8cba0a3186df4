"""Draw the schematics of the book, one idea each: `python nbs/figures/schematics.py`.

It writes `schematics/NAME.svg`, the same bytes every time. The numbers in the drawings are computed
here, and by the formulas of the chapters. The standard library is all it needs.

The vocabulary is small: words, boxes, arrows, grids of cells, lines. All drawings are 600 wide, on
a white ground, so that they work on a dark page too. Dark blue is what stands there anyway, orange
is what the idea is about. In words, `*z*` is italic, `_{i}` a subscript and `^{2}` a superscript.
"""
import json
import math
import re
from functools import partial
from html import escape
from pathlib import Path

HERE = Path(__file__).parent/'schematics'

WIDTH = 600
INK = '#1b3a5c'
ACCENT = '#c2571a'
GREY = '#55606e'
PALE = '#e6eef6'             # tint of boxes and cells
WARM = '#fbe3d2'             # tint of what the idea is about
DIM = '#e9ebee'              # tint of what does not count
WHITE = '#ffffff'
TOKENS = ['#7fb1dc', '#f0b266', '#8fcb95', '#d79acb', '#e5d15a', '#b39b8e']
SIZE = 18                    # of type; small type is 16, never below 14
SMALL = 16
TINY = 14                    # of sub- and superscripts

# --- the vocabulary ---

def number(x):
    "A number as short as it goes, with at most one decimal."
    return f'{x:.1f}'.rstrip('0').rstrip('.').replace('-0', '-0') if x else '0'

MARKS = re.compile(r'(\*[^*]+\*|_\{[^}]+\}|\^\{[^}]+\})')

def pieces(words):
    "The words, cut where their form changes: pairs of kind (empty, `*`, `_`, `^`) and text."
    for piece in MARKS.split(words):
        if not piece: continue
        if MARKS.fullmatch(piece):
            yield piece[0], piece.strip('*') if piece[0] == '*' else piece[2:-1]
        else: yield '', piece

def plain(words):
    "The words without their marks."
    return ''.join(text for _, text in pieces(words))

def letter_width(c):
    "Width of a letter in units of the type's size, on the wide side."
    if c in "ilj.,:;'|!": return 0.33
    if c in '()[]tfrI 1-/': return 0.42 if c != '1' else 0.64
    if c in 'mwMW%→←↑↓≥≤≈×÷−+=': return 0.9
    if c.isupper() or c.isdigit(): return 0.68
    return 0.61

def signed(x, digits=2):
    "A number with a minus sign that is as long as a plus."
    return f'{x:.{digits}f}'.replace('-', '−')

def words_width(words, size=SIZE, bold=False):
    "About how wide the words are drawn."
    total = 0
    for kind, text in pieces(words):
        scale = TINY if kind in ('_', '^') and kind else size
        total += scale*sum(map(letter_width, text))
    return total*(1.08 if bold else 1)

class Drawing:
    "A drawing that grows, part by part, and is written as SVG."

    def __init__(self, name, height, title, desc):
        self.name, self.height, self.title, self.desc = name, height, title, desc
        self.parts = []
        self.texts = []      # box of each line of words: left, top, right, bottom, words

    def add(self, tag, **attributes):
        "One element; `_` in a name stands for `-`."
        said = ''.join(f' {k.replace("_", "-")}="{number(v) if isinstance(v, float) else v}"'
                       for k, v in attributes.items() if v is not None)
        self.parts.append(f'<{tag}{said}/>')

    def text(self, x, y, words, size=SIZE, anchor='middle', fill=INK, bold=False):
        "One line of words whose baseline is at `y`."
        width = words_width(words, size, bold)
        left = x - dict(start=0, middle=width/2, end=width)[anchor]
        self.texts.append((left, y - 0.76*size, left + width, y + 0.22*size, plain(words)))
        inner = ''
        low = 0              # how far down the pen is
        for kind, piece in pieces(words):
            want = dict(_=5, **{'^': -6}).get(kind, 0)
            move = f' dy="{want - low}"' if want != low else ''
            form = dict(_=f' font-size="{TINY}"', **{'^': f' font-size="{TINY}"',
                        '*': ' font-style="italic"'}).get(kind, '')
            low = want
            said = escape(piece, quote=False)
            inner += f'<tspan{move}{form}>{said}</tspan>' if move or form else said
        weight = ' font-weight="bold"' if bold else ''
        place = '' if anchor == 'middle' else f' text-anchor="{anchor}"'
        colour = '' if fill == INK else f' fill="{fill}"'
        self.parts.append(f'<text x="{number(x)}" y="{number(y)}" font-size="{size}"'
                          f'{place}{colour}{weight}>{inner}</text>')

    def lines(self, x, y, rows, size=SIZE, step=None, **options):
        "Several lines of words, the first with its baseline at `y`."
        for i, row in enumerate(rows): self.text(x, y + i*(step or 1.3*size), row, size, **options)

    def rect(self, x, y, w, h, fill=WHITE, stroke=INK, width=2, radius=6, dash=None):
        self.add('rect', x=number(x), y=number(y), width=number(w), height=number(h), fill=fill,
                 stroke=stroke, stroke_width=width, rx=radius or None, stroke_dasharray=dash)

    def box(self,
            x,
            y,
            w,
            h,
            rows,
            fill=PALE,
            stroke=INK,
            size=SIZE,
            bold=False,
            ink=INK,
            dash=None):
        "A box with centred words."
        rows = [rows] if isinstance(rows, str) else rows
        self.rect(x, y, w, h, fill, stroke, dash=dash)
        step = 1.25*size
        first = y + h/2 + 0.35*size - step*(len(rows) - 1)/2
        for i, row in enumerate(rows):
            self.text(x + w/2, first + i*step, row, size, fill=ink, bold=bold and i == 0)

    def hot(self, x, y, w, h, rows, **options):
        "The box that the idea is about."
        self.box(x, y, w, h, rows, fill=WARM, stroke=ACCENT, **options)

    def path(self, points, stroke=INK, width=2, dash=None, fill='none', close=False):
        "A line through points."
        d = 'M' + 'L'.join(f'{number(x)} {number(y)}' for x, y in points) + ('Z' if close else '')
        self.add('path', d=d, fill=fill, stroke=stroke, stroke_width=width, stroke_dasharray=dash)

    def arrow(self, *points, hot=False, dash=None, width=2.2):
        "An arrow along points, whose head is at the last of them."
        d = 'M' + 'L'.join(f'{number(x)} {number(y)}' for x, y in points)
        stroke = ACCENT if hot else INK
        self.add('path', d=d, fill='none', stroke=stroke, stroke_width=width, stroke_dasharray=dash,
                 marker_end=f'url(#{"hot" if hot else "head"})')

    def dot(self, x, y, r=6, fill=INK, stroke='none'):
        self.add('circle', cx=number(x), cy=number(y), r=number(r), fill=fill, stroke=stroke,
                 stroke_width=None if stroke == 'none' else 2)

    def cross(self, x, y, r=6, stroke=INK, width=3):
        self.path([(x - r, y - r), (x + r, y + r)], stroke, width)
        self.path([(x - r, y + r), (x + r, y - r)], stroke, width)

    def grid(self, x, y, rows, cols, cell, fill, words=None, stroke=WHITE, size=SMALL, height=None):
        "Cells; `fill` and `words` say what is in row and column."
        tall = height or cell
        for i in range(rows):
            for j in range(cols):
                self.rect(x + j*cell, y + i*tall, cell, tall, fill(i, j), stroke, 1.5, 0)
                said = words(i, j) if words else None
                if said:
                    middle = y + (i + .5)*tall + .35*size
                    self.text(x + (j + .5)*cell, middle, said, size)

    def svg(self):
        "The whole file."
        heads = ''.join(
            f'<marker id="{key}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" '
            f'markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
            for key, colour in (('head', INK), ('hot', ACCENT)))
        size = f'viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" height="{self.height}"'
        ground = f'<rect width="{WIDTH}" height="{self.height}" rx="14" fill="{WHITE}"/>'
        return '\n'.join([
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="t d" '
            f'font-family="system-ui, -apple-system, \'Segoe UI\', Roboto, \'DejaVu Sans\', sans-serif" '
            f'text-anchor="middle" fill="{INK}">', f'<title id="t">{escape(self.title)}</title>',
            f'<desc id="d">{escape(self.desc)}</desc>', f'<defs>{heads}</defs>', ground,
            *self.parts, '</svg>', ''
        ])

def level(value):
    "A grey of the value from 0 to 1, as a colour."
    return '#' + f'{round(255*min(max(value, 0), 1)):02x}'*3

def colour(values):
    "Red, green and blue from 0 to 1, as a colour."
    return '#' + ''.join(f'{round(255*min(max(v, 0), 1)):02x}' for v in values)

def softmax(scores):
    "Numbers to probabilities."
    powers = [math.exp(o - max(scores)) for o in scores]
    return [o/sum(powers) for o in powers]

# --- part I: light and judgement ---

def to_light(v): return v/12.92 if v <= .04045 else ((v + .055)/1.055)**2.4

def to_number(v): return 12.92*v if v <= .0031308 else 1.055*v**(1/2.4) - .055

def exposure_chain():
    "One pixel from the bright picture's file to the dark one's."
    d = Drawing('exposure_chain', 520, 'One pixel on its way into the dark',
                'A pixel of 0.5 is turned to light, loses four stops, is counted in electrons with '
                'noise, goes through the tone curve and is rounded to one of 256 levels.')
    value, stops, full, read = .5, -4, 5000, 2.5
    light = to_light(value)
    dark = light*2**stops
    electrons = dark*full
    noise = math.sqrt(electrons + read**2)
    counted = round(electrons + noise)
    stored = to_number(counted/full)
    byte = round(255*stored)
    steps = [
        ('number in the bright file', f'{value:g}', 'a middle grey', value),
        ('amount of light', f'{light:.3f}', 'the sRGB curve, undone', value),
        ('four stops less light', f'{dark:.4f}', '÷ 16: two to the power of 4', to_number(dark)),
        ('electrons counted', f'{counted}',
         f'{electrons:.0f} expected, {counted - round(electrons)} too many', stored),
        ('number in the dark file', f'{stored:.3f}', 'the sRGB curve again', stored),
        ('rounded to 8 bits', f'{byte}', f'one of 256 levels: {byte}/255', byte/255),
    ]
    for i, (name, number_, how, grey) in enumerate(steps):
        y = 18 + 82*i
        hot = i == 3
        (d.hot if hot else d.box)(76, y, 256, 58, [name, number_], bold=False)
        d.rect(20, y + 9, 40, 40, level(grey), INK, 1.5, 4)
        d.text(350, y + 36, how, SMALL, 'start', ACCENT if hot else GREY)
        if i: d.arrow((204, y - 24), (204, y - 3), hot=hot)
    d.text(300, 508, f'noise here: √({electrons:.0f} + {read:g}²) = {noise:.1f} electrons', SMALL,
           fill=ACCENT)
    return d

def gt_mean():
    "The prediction is scaled to the truth's mean before it is measured."
    d = Drawing('gt_mean', 356, 'GT-mean: compare at equal brightness',
                'Three pixels of a prediction are half as bright as the truth. Multiplied by the '
                'ratio of the means they are nearly right, and PSNR rises.')
    guess, truth = [.20, .31, .39], [.42, .58, .80]
    mean_guess, mean_truth = sum(guess)/3, sum(truth)/3
    ratio = mean_truth/mean_guess
    scaled = [min(v*ratio, 1) for v in guess]
    def psnr(x): return -10*math.log10(sum((a - b)**2 for a, b in zip(x, truth))/3)
    rows = [
        ('prediction', guess, f'mean {mean_guess:.2f}', f'{psnr(guess):.1f} dB', 'PSNR', INK),
        (f'times {ratio:g}', scaled, f'mean {sum(scaled)/3:.2f}', f'{psnr(scaled):.1f} dB',
         'GT-mean', ACCENT),
        ('truth', truth, f'mean {mean_truth:.2f}', '', '', INK),
    ]
    for i, (name, values, mean, score, kind, ink) in enumerate(rows):
        y = 50 + 108*i
        d.text(20, y + 28, name, SIZE, 'start', ink, bold=True)
        d.text(20, y + 54, mean, SIZE, 'start', ink)
        for j, v in enumerate(values):
            x = 160 + 86*j
            d.rect(x, y, 80, 70, level(v), ink, 2.5 if ink == ACCENT else 1.5, 4)
            inside = WHITE if v < .5 else '#000000'
            d.text(x + 40, y + 42, f'{v:.2f}', SIZE, fill=inside)
        if score:
            d.lines(510, y + 30, [kind, score], SIZE, fill=ink, bold=True)
    d.arrow((105, 133), (105, 156), hot=True)
    d.text(300,
           30,
           f'{mean_truth:.2f} / {mean_guess:.2f} = {ratio:g}: the factor has seen the truth',
           SMALL,
           fill=GREY)
    return d

def pair_split():
    "Neighbouring numbers are one scene: whole blocks are held out."
    d = Drawing('pair_split', 412, 'Hold out blocks of scenes, not single pictures',
                'Forty numbered pairs. Held out one by one, each validation picture has a '
                'neighbour in training. Held out as a block of ten, only the two at the ends can.')
    single = {3, 8, 12, 17, 21, 26, 28, 33, 35, 39}
    block = set(range(20, 30))
    def near(held): return sum(bool({n - 1, n + 1} & (set(range(40)) - held)) for n in held)
    for x, held, name in ((24, single, 'one by one'), (314, block, 'in blocks of ten')):
        d.text(x + 131, 38, name, SIZE, bold=True)
        def fill(i, j, held=held): return '#f0b48a' if 10*i + j in held else PALE
        def words(i, j): return str(10*i + j)
        d.grid(x, 58, 4, 10, 26.2, fill, words, size=TINY, height=44)
        d.lines(x + 131, 270, [f'{near(held)} of {len(held)} held-out pictures',
                               'have a neighbour in training'], SMALL, fill=GREY)
    d.rect(314, 146, 262, 44, 'none', ACCENT, 3, 3)
    d.rect(110, 326, 24, 24, PALE, INK, 1)
    d.text(142, 344, 'training', SMALL, 'start')
    d.rect(320, 326, 24, 24, '#f0b48a', ACCENT, 1)
    d.text(352, 344, 'validation', SMALL, 'start')
    d.text(300, 388, 'neighbouring numbers are often shots of one scene', SMALL, fill=GREY)
    return d

# --- part II: a vocabulary, and a guess ---

def residual_block():
    "What comes in passes by; the convolutions add a correction."
    d = Drawing('residual_block', 290, 'A residual block adds a correction',
                'The input passes by two convolutions unchanged. They compute a small correction, '
                'and the block returns the sum.')
    d.text(44, 140, '*x*', 24, bold=True)
    d.text(44, 170, '2.0', SIZE)
    d.arrow((70, 134), (150, 134))
    d.dot(108, 134, 4)
    d.path([(108, 134), (108, 44), (482, 44)])
    d.arrow((482, 44), (482, 112))
    d.text(296, 32, 'passes by unchanged', SMALL, fill=GREY)
    d.hot(152, 96, 92, 76, ['3×3', 'conv'])
    d.arrow((244, 134), (262, 134), hot=True)
    d.hot(264, 96, 76, 76, ['SiLU'])
    d.arrow((340, 134), (358, 134), hot=True)
    d.hot(360, 96, 80, 76, ['3×3', 'conv'])
    d.arrow((440, 134), (464, 134), hot=True)
    d.dot(482, 134, 17, WHITE, INK)
    d.text(482, 141, '+', 22, bold=True)
    d.arrow((500, 134), (538, 134))
    d.text(566, 140, '*y*', 24, bold=True)
    d.text(566, 170, '2.1', SIZE)
    d.text(296, 204, 'correction *f*(*x*) = 0.1', SIZE, fill=ACCENT, bold=True)
    d.text(300, 244, '*y* = *x* + *f*(*x*) = 2.0 + 0.1', 20)
    d.text(300, 274, 'with *f* = 0 the block does nothing', SMALL, fill=GREY)
    return d

def windows():
    "Attention within windows, then within windows moved by half."
    d = Drawing(
        'windows', 424, 'Window attention, and windows moved by half',
        'A grid of eight by eight places. In the first layer a place attends to its window '
        'of four by four, in the second to a window moved by two, which crosses the border.')
    size, cell, at = 4, 31, (3, 3)
    for x, shift, name in ((24, 0, 'layer 1'), (328, size//2, 'layer 2: moved by half')):
        d.text(x + 4*cell, 36, name, SIZE, bold=True)
        def window(i, shift=shift): return (i + shift)//size
        def fill(i, j, window=window):
            if (i, j) == at: return ACCENT
            return '#f4c8a8' if (window(i), window(j)) == (window(at[0]), window(at[1])) else PALE
        d.grid(x, 54, 8, 8, cell, fill)
        edges = [e for e in range(9) if e in (0, 8) or (e + shift) % size == 0]
        for e in edges:
            d.path([(x + e*cell, 54), (x + e*cell, 54 + 8*cell)], INK, 3)
            d.path([(x, 54 + e*cell), (x + 8*cell, 54 + e*cell)], INK, 3)
    places, side = 100*150, 16
    d.text(300, 338, 'a picture of 400×600 pixels has 15,000 places', SMALL, fill=GREY)
    d.text(300, 372, f'all pairs: 15,000² = {places**2//10**6} million', SIZE)
    pairs = places*side**2/1e6
    d.text(300, 402, f'windows of {side}×{side}: {side**2} × 15,000 = {pairs:.1f} million', SIZE,
           fill=ACCENT, bold=True)
    return d

def clip(polygon, a, b, c):
    "The part of a polygon where a x + b y <= c."
    out = []
    for p, q in zip(polygon, polygon[1:] + polygon[:1]):
        u, v = a*p[0] + b*p[1] - c, a*q[0] + b*q[1] - c
        if u <= 0: out.append(p)
        if u*v < 0: out.append((p[0] + (q[0] - p[0])*u/(u - v), p[1] + (q[1] - p[1])*u/(u - v)))
    return out

CODES = [(1., 1.), (3.2, .8), (1.4, 2.6), (3.6, 2.6)]

def codebook_cell():
    "The plane falls into cells, one for each code."
    d = Drawing('codebook_cell', 452, 'The cell of a code',
                'Four codes in a plane, each with the cell of all points that are nearest to it. '
                'A latent vector in the cell of code 2 becomes token 2.')
    z = (2.1, 2.2)
    def at(p): return 24 + 80*p[0], 332 - 86*p[1] + 16
    corners = [(0, 0), (4.6, 0), (4.6, 3.7), (0, 3.7)]
    for k, e in enumerate(CODES):
        cell = corners
        for o in CODES:
            if o != e:
                a, b = 2*(o[0] - e[0]), 2*(o[1] - e[1])
                cell = clip(cell, a, b, o[0]**2 + o[1]**2 - e[0]**2 - e[1]**2)
        d.path([at(p) for p in cell], WHITE, 4, fill=TOKENS[k] + '66', close=True)
    distances = [sum((a - b)**2 for a, b in zip(z, e)) for e in CODES]
    best = min(range(4), key=distances.__getitem__)
    d.arrow(at(z), (at(CODES[best])[0] + 11, at(CODES[best])[1] - 6*.43), hot=True, width=3)
    for k, e in enumerate(CODES):
        x, y = at(e)
        d.cross(x, y)
        d.text(x, y + 30, f'*e*_{{{k}}}', SIZE, bold=True)
    d.dot(*at(z), 7, ACCENT)
    d.text(at(z)[0] + 20, at(z)[1] - 8, '*z*', 22, fill=ACCENT, bold=True)
    d.text(500, 52, '|*z* − *e*_{k}|²', 20, bold=True)
    for k, v in enumerate(distances):
        y = 90 + 46*k
        hot = k == best
        d.rect(428, y - 24, 148, 36, WARM if hot else WHITE, ACCENT if hot else 'none')
        d.rect(440, y - 15, 18, 18, TOKENS[k], 'none', 1, 3)
        d.text(472, y, f'{k}:', SIZE, 'start')
        d.text(566, y, f'{v:.2f}', SIZE, 'end', ACCENT if hot else INK, bold=hot)
    d.text(502, 300, f'token *V* = {best}', 20, fill=ACCENT, bold=True)
    d.text(300, 388, 'every point of a cell becomes the same token:', SMALL, fill=GREY)
    d.text(300, 414, 'the number of the nearest code', SMALL, fill=GREY)
    return d

WORDS = [[0, 0, 1], [2, 3, 1], [2, 3, 3]]      # tokens of a small picture

def vqgan():
    "A picture as a grid of numbers, and back."
    d = Drawing(
        'vqgan', 474, 'A picture becomes a grid of words, and a picture again',
        'The encoder turns a picture into a grid of vectors, each vector becomes the number '
        'of the nearest code, and the decoder makes a picture of the codes.')
    def wave(i, j): return .15*math.sin(1.7*i + .9*j)
    base = [(.50, .69, .86), (.94, .70, .40), (.56, .80, .58), (.84, .60, .80)]
    def pixel(i, j): return colour(v + wave(i, j) for v in base[WORDS[i//4][j//4]])
    def decoded(i, j): return colour(v + .6*wave(i % 4, j % 4) for v in base[WORDS[i//4][j//4]])
    d.grid(24, 56, 12, 12, 11, pixel, stroke='none')
    d.text(90, 40, 'picture *x*', SIZE, bold=True)
    d.lines(90, 212, ['400×600 pixels'], SMALL, fill=GREY)
    d.arrow((164, 122), (188, 122))
    d.path([(192, 62), (192, 182), (262, 158), (262, 86)], INK, 2, fill=PALE, close=True)
    d.text(227, 130, '*E*', 24, bold=True)
    d.arrow((266, 122), (290, 122))
    d.text(350, 40, 'latent *z*', SIZE, bold=True)
    for i in range(3):
        for j in range(3): d.rect(296 + 36*j, 68 + 36*i, 34, 34, PALE, INK, 1.5, 3)
    d.text(350, 212, '100×150 vectors', SMALL, fill=GREY)
    d.arrow((408, 122), (448, 122), hot=True)
    d.hot(452, 62, 124, 120, ['nearest', 'of *K* = 512', 'codes'])
    d.arrow((514, 186), (514, 240), hot=True)
    def token(i, j): return TOKENS[WORDS[i][j]]
    d.text(514, 420, 'tokens *V*', SIZE, fill=ACCENT, bold=True)
    d.grid(454, 246, 3, 3, 40, token, lambda i, j: str([17, 80, 203, 451][WORDS[i][j]]))
    d.rect(454, 246, 120, 120, 'none', ACCENT, 3, 0)
    d.text(514, 394, '9 bits a place', SMALL, fill=GREY)
    d.arrow((450, 306), (408, 306), hot=True)
    d.hot(296, 266, 108, 80, ['codes *e*_{V}', 'put in'])
    d.arrow((292, 306), (266, 306))
    d.path([(262, 270), (262, 342), (192, 366), (192, 246)], INK, 2, fill=PALE, close=True)
    d.text(227, 314, '*D*', 24, bold=True)
    d.arrow((188, 306), (164, 306))
    d.grid(24, 240, 12, 12, 11, decoded, stroke='none')
    d.text(90, 396, '*x*_{rec}', SIZE, bold=True)
    d.text(90, 422, 'a picture again', SMALL, fill=GREY)
    d.text(300, 456, 'each code stands for a patch of well-lit pictures', SMALL, fill=GREY)
    return d

def light_grid():
    "Cells over the picture and over grey, each with a transform of colour."
    d = Drawing('light_grid', 498, 'The light grid: transforms by place and brightness',
                'Four sheets of 13 by 19 cells, one for each of four greys. A pixel of grey 0.4 '
                'reads the second sheet with weight 0.8 and the third with 0.2, and its colour '
                'goes through the 3 by 4 matrix.')
    grey = .4
    spot = grey*3
    low = int(spot)
    weights = {low: 1 - (spot - low), low + 1: spot - low}
    for k in range(4):
        x, y = 34 + 26*k, 236 - 58*k
        hot = k in weights
        def corner(i, j, x=x, y=y): return x + 10.5*j + 3.2*(13 - i), y + 6.4*i
        outline = [corner(0, 0), corner(0, 19), corner(13, 19), corner(13, 0)]
        d.path(outline, 'none', 1, fill=WARM if hot else PALE, close=True)
        for j in range(20): d.path([corner(0, j), corner(13, j)], '#9fb3c8', 1)
        for i in range(14): d.path([corner(i, 0), corner(i, 19)], '#9fb3c8', 1)
        d.path(outline, ACCENT if hot else INK, 2.5 if hot else 1.5, close=True)
        cx, cy = corner(5, 12)
        if hot: d.path([corner(5, 12), corner(5, 13), corner(6, 13), corner(6, 12)], ACCENT, 2,
                       fill=ACCENT, close=True)
        name = ['0', '1/3', '2/3', '1'][k]
        wx, wy = corner(6, 19)
        said = f'grey {name}' + (f': weight {weights[k]:.1f}' if hot else '')
        d.text(wx + 26, wy + 14, said, SMALL, 'start', ACCENT if hot else GREY, bold=hot)
    d.text(24, 34, 'four sheets of 13×19 cells', SIZE, 'start', bold=True)
    d.text(24, 366, f'a pixel of grey {grey:g} reads its cell in two sheets', SMALL, 'start',
           ACCENT)
    d.text(24, 416, 'in each cell:', SIZE, 'start')
    for i in range(3):
        for j in range(4):
            d.rect(152 + 26*j, 390 + 26*i, 24, 24, WARM if j == 3 else PALE, INK, 1.5, 2)
    d.text(192, 488, '*A*', SIZE, bold=True)
    d.text(243, 488, '*b*', SIZE, bold=True)
    d.arrow((270, 428), (318, 428), hot=True)
    d.text(330, 436, '*v* → *A v* + *b*', 22, 'start', ACCENT, bold=True)
    d.text(330, 466, 'of each colour *v*', SMALL, 'start', GREY)
    return d

def coupling():
    "Half of the channels pass, and say how the other half is shifted and scaled."
    d = Drawing('coupling', 560, 'An affine coupling, and its inverse',
                'Forward: the first number passes, the network answers it by a shift of 1 and a '
                'factor of 2, and the second number 5 becomes 12. Backward: the first number is '
                'still there, the network gives the same answer, and 12 becomes 5 again.')
    first, second, shift, factor = 3, 5, 1, 2
    there = (second + shift)*factor
    back = there/factor - shift
    rows = [
        (40, 'forward', '*z*', second, '*u*', there, f'({second} + {shift}) × {factor} = {there}',
         f'+ {shift}', f'× {factor}'),
        (306, 'backward', '*u*', there, '*z*', back, f'{there} ÷ {factor} − {shift} = {back:g}',
         f'÷ {factor}', f'− {shift}'),
    ]
    for y, name, a, number_in, b, number_out, sum_, one, two in rows:
        d.text(24, y, name, 20, 'start', bold=True)
        d.box(24, y + 20, 104, 54, f'{a}_{{a}} = {first}')
        d.box(24, y + 132, 104, 54, f'{a}_{{b}} = {number_in}')
        d.arrow((128, y + 47), (468, y + 47))
        d.text(410, y + 36, 'passes', SMALL, fill=GREY)
        d.box(472, y + 20, 104, 54, f'{b}_{{a}} = {first}')
        d.dot(204, y + 47, 5)
        d.arrow((204, y + 47), (204, y + 74))
        d.hot(158, y + 76, 206, 38, 'network: *t* = 1, *e*^{s} = 2', size=SMALL)
        d.box(182, y + 140, 66, 38, one, fill=WHITE, stroke=ACCENT)
        d.box(300, y + 140, 66, 38, two, fill=WHITE, stroke=ACCENT)
        d.arrow((215, y + 114), (215, y + 138), hot=True)
        d.arrow((333, y + 114), (333, y + 138), hot=True)
        d.arrow((128, y + 159), (180, y + 159))
        d.arrow((248, y + 159), (298, y + 159))
        d.arrow((366, y + 159), (468, y + 159))
        d.hot(472, y + 132, 104, 54, f'{b}_{{b}} = {number_out:g}', bold=True)
        d.text(300, y + 212, sum_, SIZE, fill=ACCENT, bold=True)
    d.path([(24, 274), (576, 274)], '#c8d2dc', 1.5)
    d.text(300,
           550,
           'the network itself is never inverted: it sees the same input both ways',
           SMALL,
           fill=GREY)
    return d

def change_of_variables():
    "An interval is stretched, and the density on it sinks."
    d = Drawing('change_of_variables', 466, 'Stretch an interval, and its density sinks',
                'Numbers z between 0 and one half have the density 2. Multiplied by 2 they fill '
                'the interval from 0 to 1, with the density 1. Both areas are 1.')
    factor = 2
    unit, left = 300, 110
    def panel(base, wide, density, letter, hot):
        tall = 62*density
        fill, stroke = (WARM, ACCENT) if hot else (PALE, INK)
        d.rect(left, base - tall, unit*wide, tall, fill, stroke, 2.5, 0)
        d.path([(left - 60, base), (left + 420, base)], INK, 2)
        for v in (0, .5, 1):
            d.path([(left + unit*v, base), (left + unit*v, base + 8)], INK, 2)
            d.text(left + unit*v, base + 28, f'{v:g}', SIZE)
        d.text(left + 442, base + 6, letter, 22, bold=True)
        d.text(left + unit*wide/2,
               base - tall/2 + 6,
               f'{wide:g} × {density:g} = 1',
               SIZE,
               fill=stroke,
               bold=True)
        d.text(left - 14, base - tall + 8, f'{density:g}', SIZE, 'end')
    d.text(24, 34, 'density', SMALL, 'start', GREY)
    panel(176, 1/factor, factor, '*z*', False)
    d.text(left + 176, 112, 'log *p*(*z*) = log 2 = 0.69', SIZE, 'start')
    for v in (0, 1/factor):
        d.arrow((left + unit*v, 214), (left + unit*v*factor, 312), hot=True, dash='6 5')
    d.text(left + 300, 254, f'*u* = *e*^{{s}} *z* = {factor} *z*', 22, 'start', ACCENT, bold=True)
    panel(378, 1, 1, '*u*', True)
    d.text(300, 446, 'log *p*(*z*) = log *p*(*u*) + *s* = 0 + 0.69', 20, bold=True)
    return d

# --- part III: doubt and repair ---

def token_entropy():
    "From four distances to four probabilities to one number."
    d = Drawing('token_entropy', 500, 'From distances to doubt, with four codes',
                'A latent at 1.2 among codes at 0, 1, 2 and 3: squared distances become '
                'probabilities by a softmax, and the entropy of these, divided by log 4, is 0.51.')
    z, codes, temperature = 1.2, [0, 1, 2, 3], .5
    squared = [(z - e)**2 for e in codes]
    p = softmax([-o/temperature for o in squared])
    entropy = -sum(o*math.log(o) for o in p)
    def at(v): return 168 + 112*v
    d.path([(at(-.3), 74), (at(3.3), 74)])
    for k, e in enumerate(codes):
        d.dot(at(e), 74, 11, TOKENS[k], INK)
        d.text(at(e), 44, f'*e*_{{{k}}} = {e}', SIZE)
    d.path([(at(z), 62), (at(z), 86)], ACCENT, 5)
    d.text(at(z) + 8, 110, f'latent {z:g}', SIZE, 'start', ACCENT, bold=True)
    d.text(24, 152, 'squared', SMALL, 'start', GREY)
    d.text(24, 172, 'distance', SMALL, 'start', GREY)
    for e, o in zip(codes, squared): d.text(at(e), 164, f'{o:.2f}', SIZE)
    d.arrow((at(0), 184), (at(0), 222))
    d.text(
        at(0) + 18, 209, f'softmax of −distance / *T*, with *T* = {temperature:g}', SMALL, 'start',
        GREY)
    base = 366
    d.path([(at(-.3), base), (at(3.3), base)])
    for k, (e, o) in enumerate(zip(codes, p)):
        d.rect(at(e) - 32, base - 130*o, 64, max(130*o, 1), TOKENS[k], INK, 1.5, 0)
        d.text(at(e), base + 26, f'{o:.2f}', SIZE, bold=True)
    d.lines(24, 296, ['probability'], SMALL, anchor='start', fill=GREY)
    d.hot(94, 414, 412, 66, [f'entropy = −Σ *p* log *p* = {entropy:.2f}',
                             f'{entropy:.2f} / log 4 = {entropy/math.log(4):.2f}'], size=20)
    return d

def reliability():
    "What was said of a hundred tokens, and how many were right."
    d = Drawing('reliability', 420, 'A reliability diagram with two bins',
                'Sixty tokens were given with confidence 0.7 and 60% of them are right: the point '
                'lies below the diagonal. Forty were given with 0.9 and 90% are right: on it.')
    bins = [(.7, .6, 60), (.9, .9, 40)]
    total = sum(n for _, _, n in bins)
    error = sum(n/total*abs(a - c) for c, a, n in bins)
    x, y, side = 70, 330, 270
    d.rect(x, y - side, side, side, WHITE, INK, 2, 0)
    d.path([(x, y), (x + side, y - side)], GREY, 2, '7 5')
    for v in (0, .5, 1):
        d.text(x + side*v, y + 26, f'{v:g}', SIZE)
        d.text(x - 10, y - side*v + 6, f'{v:g}', SIZE, 'end')
    d.text(x + side/2, y + 54, 'confidence that was claimed', SIZE)
    d.text(x - 46, y - side - 16, 'share that is right', SIZE, 'start')
    for c, a, _ in bins:
        if a != c: d.path([(x + side*c, y - side*c), (x + side*c, y - side*a)], ACCENT, 5)
        d.dot(x + side*c, y - side*a, 9, ACCENT if a != c else INK)
    d.text(x + side*.78, y - side*.49, 'gap 0.1', SIZE, fill=ACCENT, bold=True)
    d.lines(x + 14,
            y - side + 40, ['on the dashed line:', 'as claimed'],
            SMALL,
            anchor='start',
            fill=GREY)
    for i, (c, a, n) in enumerate(bins):
        top = 70 + 112*i
        ink = ACCENT if a != c else INK
        d.lines(366, top, [f'{n} tokens, {c:g} claimed', f'{100*a:.0f}% of them right'], SMALL,
                anchor='start', fill=ink)
        def fill(_, j, a=a): return TOKENS[2] if j < round(10*a) else DIM
        d.grid(366, top + 34, 1, 10, 21, fill)
    d.lines(366, 296, ['mean gap, by count:', '0.6 × 0.1 + 0.4 × 0', f'= {error:.2f}'], SIZE,
            anchor='start', bold=True)
    return d

SCENE = [[0, 0, 0, 1, 1, 1], [0, 0, 2, 2, 1, 1], [3, 2, 2, 2, 2, 1], [3, 3, 3, 4, 4, 4]]
SURE = [                     # place of each in the order of confidence, surest first
    [2, 5, 11, 9, 4, 0], [7, 14, 19, 21, 12, 6], [10, 17, 23, 22, 18, 13], [1, 8, 15, 20, 16, 3]]

def masked_rounds():
    "A grid that is filled in, the surest places first."
    d = Drawing('masked_rounds', 500, 'Filling a grid in four rounds',
                'A grid of 24 places, all masked. After each of four rounds the least confident '
                'predictions are masked again: 22, 16, 9 and then none, by the cosine schedule.')
    rounds, places, cell = 4, 24, 29
    counts = [int(places*math.cos(math.pi/2*r/rounds) + 1e-9) for r in range(rounds)] + [0]
    spots = [(18, 56), (213, 56), (408, 56), (18, 260), (213, 260)]
    for r, (masked, (x, y)) in enumerate(zip(counts, spots)):
        def hidden(i, j, masked=masked): return SURE[i][j] >= places - masked
        def fill(i, j, hidden=hidden): return '#ccd3da' if hidden(i, j) else TOKENS[SCENE[i][j]]
        d.text(x + 3*cell, y - 14, 'start' if r == 0 else f'round {r}', SIZE, bold=True)
        d.grid(x, y, 4, 6, cell, fill)
        for i in range(4):
            for j in range(6):
                new = r and not hidden(i, j) and SURE[i][j] >= places - counts[r - 1]
                if new:
                    d.rect(x + cell*j + 3, y + cell*i + 3, cell - 6, cell - 6, 'none', ACCENT, 2, 2)
        share = math.cos(math.pi/2*r/rounds)
        d.text(x + 3*cell, y + 4*cell + 22, f'{masked} of {places} masked', SMALL)
        if 0 < r < rounds:
            d.text(x + 3*cell, y + 4*cell + 43, f'24 × {share:.2f}', SMALL, fill=GREY)
    d.rect(408, 262, 22, 22, '#ccd3da', WHITE, 1, 0)
    d.text(440, 279, '[MASK]', SMALL, 'start')
    d.rect(408, 294, 22, 22, TOKENS[0], WHITE, 1, 0)
    d.rect(410, 296, 18, 18, 'none', ACCENT, 2, 2)
    d.text(440, 311, 'believed now', SMALL, 'start', ACCENT, bold=True)
    d.rect(408, 326, 22, 22, TOKENS[0], WHITE, 1, 0)
    d.text(440, 343, 'before', SMALL, 'start')
    d.lines(300, 452, ['each round predicts all masked places at once,',
                       'keeps the surest and masks the rest again'], SMALL, fill=GREY)
    return d

def messages():
    "The residual of a true token moves its neighbour."
    d = Drawing(
        'messages', 520, 'What a true token tells its neighbour',
        'Two places share an error of light. The true token of the first shows that its '
        'latent is 0.55 too large. Moved by as much, the latent of the second comes to 2.05 '
        'and its right code becomes the likeliest.')
    codes, temperature = [0, 1, 2, 3], .5
    first, second, truth = 1.55, 2.60, 1
    residual = truth - first
    moved = second + residual
    def belief(z): return softmax([-(z - e)**2/temperature for e in codes])
    def at(v): return 72 + 152*v
    def line(y):
        d.path([(at(-.25), y), (at(3.25), y)])
        for k, e in enumerate(codes):
            d.dot(at(e), y, 11, TOKENS[k], INK)
            d.text(at(e), y + 36, f'code {e}', SMALL)
    d.text(24, 36, 'place 1: its true token is known, code 1', SIZE, 'start', bold=True)
    line(110)
    d.cross(at(first), 110, 8, INK, 4)
    d.text(at(first) + 14, 94, f'latent {first:g}', SIZE, 'start')
    d.arrow((at(first), 84), (at(first), 76), (at(truth), 76), (at(truth), 94), hot=True, width=3)
    d.text(at(truth) + 40, 66, f'residual {signed(residual)}', SIZE, fill=ACCENT, bold=True)
    d.arrow((250, 158), (250, 196), hot=True, width=3)
    d.text(268, 184, 'message to the neighbours', SIZE, 'start', ACCENT, bold=True)
    d.text(24, 230, 'place 2: masked', SIZE, 'start', bold=True)
    line(296)
    d.cross(at(second), 296, 8, INK, 4)
    d.text(at(second) + 14, 280, f'latent {second:.2f}', SIZE, 'start')
    d.arrow((at(second), 270), (at(second), 262), (at(moved), 262), (at(moved), 281),
            hot=True,
            width=3)
    d.text(at(moved) + 42, 252, signed(residual), SIZE, fill=ACCENT, bold=True)
    for i, (name, z, ink) in enumerate(
        (('before', second, INK), (f'after, at {moved:.2f}', moved, ACCENT))):
        y = 390 + 70*i
        d.text(24, y + 6, name, SIZE, 'start', ink, bold=True)
        x = 210
        for k, p in enumerate(belief(z)):
            wide = 366*p
            d.rect(x, y - 20, wide, 40, TOKENS[k], INK, 1.5, 0)
            if p > .25: d.text(x + wide/2, y + 6, f'code {k}: {p:.2f}', SMALL)
            x += wide
    d.text(300, 510, 'what place 2 believes, as a bar of length 1', SMALL, fill=GREY)
    return d

def bound():
    "Hide some tokens, pay for each by its logarithm."
    d = Drawing('bound', 452, 'One draw of the masked-token bound',
                'Four true tokens, two of them masked. The network gives the true ones the '
                'probabilities 0.5 and 0.25, which cost 0.69 and 1.39 nats, in the mean 1.04.')
    tokens, masked, given = [3, 1, 2, 0], [1, 3], [.5, .25]
    costs = [-math.log(p) for p in given]
    def x(i): return 208 + 92*i
    d.lines(24, 62, ['true tokens'], SIZE, anchor='start', bold=True)
    d.lines(24, 156, ['shown to the', 'network'], SIZE, anchor='start', bold=True)
    d.lines(24, 250, ['probability of', 'the true one'], SIZE, anchor='start', bold=True)
    d.lines(24, 336, ['price, −log'], SIZE, anchor='start', bold=True)
    for i, v in enumerate(tokens):
        d.rect(x(i), 26, 70, 58, TOKENS[v], INK, 1.5)
        d.text(x(i) + 35, 62, str(v), 20, bold=True)
        hidden = i in masked
        d.rect(x(i), 128, 70, 58, '#ccd3da' if hidden else TOKENS[v], INK, 1.5)
        d.text(x(i) + 35,
               163,
               'mask' if hidden else str(v),
               SIZE if hidden else 20,
               bold=not hidden)
        d.arrow((x(i) + 35, 86), (x(i) + 35, 125))
        if hidden:
            p, c = given[masked.index(i)], costs[masked.index(i)]
            d.arrow((x(i) + 35, 188), (x(i) + 35, 225), hot=True)
            d.hot(x(i) - 6, 228, 82, 56, f'{p:g}', bold=True, size=20)
            d.text(x(i) + 35, 336, f'{c:.2f}', 20, fill=ACCENT, bold=True)
    mean = sum(costs)/len(costs)
    d.hot(90,
          362,
          420,
          46,
          f'mean: ({costs[0]:.2f} + {costs[1]:.2f}) / 2 = {mean:.2f} nats',
          bold=True)
    d.text(300,
           438,
           'averaged over all shares masked: at least −log *p*(*V*) / *N*',
           SMALL,
           fill=GREY)
    return d

def deformable_tap():
    "Nine taps that look where they are told."
    row, col = .6, .3
    d = Drawing(
        'deformable_tap', 470, 'A deformable convolution moves its taps',
        'Left, the nine taps of an ordinary 3 by 3 kernel sit on the grid. Right, each tap '
        'is moved by an offset. One lands between four pixels and reads their weighted mean.')
    offsets = [(.6, .3), (.5, .4), (.7, .2), (.4, .5), (.6, .3), (.5, .1), (.7, .4), (.4, .3),
               (.6, .4)]
    cell = 50
    for x0, moved, name in ((24, False, 'ordinary'), (326, True, 'deformable')):
        d.text(x0 + 2.5*cell, 34, name, SIZE, bold=True)
        d.grid(x0, 50, 5, 5, cell, lambda i, j: PALE)
        for t in range(9):
            x, y = x0 + (t % 3 + 1.5)*cell, 50 + (t//3 + 1.5)*cell
            if not moved:
                d.dot(x, y, 8)
                continue
            dy, dx = offsets[t]
            d.dot(x, y, 5, WHITE, '#6b8199')
            d.path([(x, y), (x + cell*dx, y + cell*dy)], ACCENT, 2)
            d.dot(x + cell*dx, y + cell*dy, 7, ACCENT)
    d.text(24, 344, 'the first tap moves', SIZE, 'start', ACCENT, bold=True)
    d.text(24, 368, f'{row:g} down, {col:g} right', SIZE, 'start', ACCENT, bold=True)
    d.lines(24, 404, ['and reads the mean of', 'four pixels, weighted', 'by nearness'], SMALL,
            anchor='start', fill=GREY)
    weights = [[(1 - row)*(1 - col), (1 - row)*col], [row*(1 - col), row*col]]
    side = 62
    for i in range(2):
        for j in range(2):
            x, y = 330 + side*j, 326 + side*i
            d.rect(x, y, side, side, PALE, INK, 1.5, 0)
            d.text(x + side/2, y + (24 if i == 0 else 50), f'{weights[i][j]:.2f}', SIZE)
    d.dot(330 + side*(.5 + col), 326 + side*(.5 + row), 7, ACCENT)
    d.lines(470, 372, ['sum of the', f'weights: {sum(map(sum, weights)):g}'], SIZE, anchor='start')
    return d

def fusion():
    "Three sources, one decoder."
    d = Drawing('fusion', 560, 'The fusion decoder and its sources',
                'The decoder starts from the aligned latent, repairs the low band of uncertain '
                'cells, mixes in features of the photograph and adds features of the codebook. '
                'What comes out is detail, which is added to the smooth light.')
    def source(y, rows, fill=PALE): d.box(24, y, 186, 62, rows, size=SMALL, fill=fill)
    def step(y, rows, hot=False): (d.hot if hot else d.box)(300, y, 276, 62, rows, size=SMALL)
    source(24, ['aligned latent *z̃*', 'from the flow'])
    step(24, ['residual blocks', 'at a quarter of the size'])
    source(126, ['doubt: which cells', 'are uncertain'])
    step(126, ['NAT on the features:', 'new low band where in doubt'], True)
    source(228, ['features *f*_{low} of', 'the dark picture'])
    step(228, ['mix-up: *m f*_{low} + (1 − *m*) *h*', 'for example *m* = 0.25'], True)
    source(330, ['features of *D*', 'from the tokens'])
    step(330, ['+ features of the codebook,', 'aligned if asked for'])
    source(454, ['picture in its light,', 'without its detail'])
    step(454, ['+ detail', '= the picture'])
    for y in (55, 157, 259, 361, 485): d.arrow((212, y), (297, y))
    for y in (86, 188, 290): d.arrow((438, y), (438, y + 37))
    d.arrow((438, 392), (438, 451))
    d.text(452, 428, 'detail, full size', SMALL, 'start', GREY)
    d.text(117, 544, 'what it is given', SMALL, fill=GREY)
    d.text(438, 544, 'what decoder *G* does', SMALL, fill=GREY)
    return d

def model():
    "The whole network as a list of steps with their sizes."
    d = Drawing('model', 668, 'The whole model in five steps',
                'A dark picture of 400 by 600 pixels: light and latent are found, doubt is '
                'computed, masked tokens are refined, the picture is decoded and set to its level.')
    steps = [
        ('dark picture *x*_{low}', '3 × 400 × 600', None),
        ('align', 'light grid, encoder, flow: latent *z̃*', '4 × 100 × 150'),
        ('doubt', 'probabilities of 512 codes, mask', '100 × 150, true or false'),
        ('refine', 'NAT on the latent, up to 4 rounds', '4 × 100 × 150'),
        ('decode', 'fusion decoder with its NAT', '3 × 400 × 600'),
        ('level', 'gain, lower where lights would clip', 'one number'),
        ('bright picture *x*', '3 × 400 × 600', None),
    ]
    y = 20
    for i, (name, what, size) in enumerate(steps):
        if size is None:
            d.box(150, y, 300, 60, [name, what], fill=DIM)
            tall = 60
        else:
            hot = name in ('doubt', 'refine')
            (d.hot if hot else d.box)(60, y, 480, 68, [])
            d.text(82, y + 42, name, 22, 'start', ACCENT if hot else INK, bold=True)
            d.text(198, y + 29, what, SMALL, 'start')
            d.text(198, y + 53, size, SMALL, 'start', GREY)
            tall = 68
        if i < len(steps) - 1: d.arrow((300, y + tall), (300, y + tall + 20))
        y += tall + 23
    d.text(300, y + 10, 'orange: doubt and repair on the latent', SMALL, fill=ACCENT)
    return d

# --- part IV: training ---

def loss_terms():
    "The same pixel error, two damages: the losses tell them apart."
    d = Drawing('loss_terms', 520, 'What L1 and structure see of two damages',
                'A row of four pixels. Made brighter by 0.1 or flattened to its mean, its L1 error '
                'is 0.1 both times. One minus SSIM is 0.02 for the first and 0.92 for the second.')
    truth = [.4, .6, .4, .6]
    damages = [('truth', truth), ('too bright by 0.1', [v + .1 for v in truth]),
               ('all detail gone', [.5]*4)]
    def l1(x): return sum(abs(a - b) for a, b in zip(x, truth))/4
    def ssim(x):
        mx, my = sum(x)/4, sum(truth)/4
        vx, vy = sum((a - mx)**2 for a in x)/4, sum((b - my)**2 for b in truth)/4
        cov = sum((a - mx)*(b - my) for a, b in zip(x, truth))/4
        return (2*mx*my + 1e-4)*(2*cov + 9e-4)/((mx*mx + my*my + 1e-4)*(vx + vy + 9e-4))
    for i, (name, values) in enumerate(damages):
        y = 44 + 148*i
        d.text(24, y, name, SIZE, 'start', bold=True)
        for j, v in enumerate(values):
            d.rect(24 + 66*j, y + 16, 64, 64, level(v), INK, 1, 3)
            d.text(56 + 66*j, y + 54, f'{v:.1f}', SIZE, fill=WHITE if v < .5 else '#000000')
        if i == 0:
            d.lines(320,
                    y + 40, ['which of the two below', 'is the worse picture?'],
                    SIZE,
                    anchor='start',
                    fill=GREY)
            continue
        for k, (loss, price) in enumerate((('L1', l1(values)), ('1 − SSIM', 1 - ssim(values)))):
            row = y + 34 + 44*k
            hot = i == 2 and k == 1
            ink = ACCENT if hot else INK
            d.text(392, row, loss, SIZE, 'end', ink)
            d.rect(402, row - 17, max(118*price, 2), 22, '#f0b48a' if hot else '#a9c1d9', ink, 1.5,
                   0)
            d.text(408 + 118*price, row, f'{price:.2f}', SIZE, 'start', ink, bold=True)
    d.text(300, 470, 'L1 charges both alike. Structure tells them apart.', SIZE, bold=True)
    d.text(300, 502, 'So a training uses both.', SMALL, fill=GREY)
    return d

def stages():
    "Which part moves in which stage."
    d = Drawing('stages', 500, 'Five stages: what is trained, what is frozen',
                'A table of five stages and five parts. Each stage trains one part; the parts '
                'before it are frozen. In the last stage encoder, flow and first NAT go on gently.')
    parts = [['light', 'grid'], ['VQGAN'], ['encoder', 'and flow'], ['NAT on', 'latent'],
             ['fusion', 'decoder']]
    table = ['T....', '.T...', 'FFT..', 'FFFT.', 'FFggT']
    names = ['light', 'codebook', 'flow', 'nat', 'decoder']
    data = ['whole pairs', 'bright only', 'pairs', 'latents', 'pairs']
    look = dict(T=('#f0b48a', ACCENT, 'trained'),
                g=(WARM, ACCENT, 'gently'),
                F=('#cfdeec', INK, 'frozen'))
    for j, rows in enumerate(parts):
        for i, row in enumerate(rows):
            d.text(174 + 88*j, (50 if len(rows) == 1 else 40) + 22*i, row, SMALL, bold=True)
    for i, (name, row) in enumerate(zip(names, table)):
        y = 80 + 70*i
        d.text(18, y + 28, name, SIZE, 'start', bold=True)
        d.text(18, y + 50, data[i], TINY, 'start', GREY)
        for j, kind in enumerate(row):
            x = 132 + 88*j
            if kind == '.': d.rect(x, y, 84, 62, WHITE, '#d3dae1', 1.5, 4, '5 4')
            else:
                fill, ink, said = look[kind]
                d.box(x, y, 84, 62, said, fill=fill, stroke=ink, size=SMALL, bold=kind == 'T')
    d.lines(300, 458, ['a frozen part keeps its numbers, so token 17 stays token 17;',
                       'an empty field is not used yet'], SMALL, fill=GREY, step=24)
    return d

def learner_loop():
    "The turn of the loop, and who is called at which moment."
    d = Drawing('learner_loop', 560, 'The training loop and its events',
                'A batch goes through forward, loss, backward and step. Between them are events, '
                'at each of which fastai calls the callbacks that listen.')
    steps = [('batch', 'x_low, x_high'), ('forward', 'picture and terms'),
             ('loss', 'sum of the terms'), ('backward', 'gradients'), ('step', 'weights move')]
    events = [
        ('before_batch', 'GiveTarget: target to the model'),
        ('after_pred', ''),
        ('after_loss', 'NaNGuard, AdversarialStep'),
        ('after_backward', 'NaNGuard: is it finite?'),
        ('after_step', 'EMAWeights, CodebookCare'),
    ]
    for i, (name, what) in enumerate(steps):
        y = 40 + 100*i
        d.box(70, y, 174, 62, [name, what], size=SMALL, bold=True)
        if i < 4: d.arrow((157, y + 62), (157, y + 97))
    for i, (name, who) in enumerate(events):
        if not who: continue
        y = 40 + 100*i + 75
        d.path([(157, y), (270, y)], ACCENT, 2, '5 4')
        d.dot(157, y, 5, ACCENT)
        d.text(280, y - 4, name, SIZE, 'start', ACCENT, bold=True)
        d.text(280, y + 20, who, SMALL, 'start')
    d.path([(157, 502), (157, 540), (36, 540), (36, 71)], INK, 2.2)
    d.arrow((36, 71), (67, 71))
    d.text(300, 28, 'a callback has one job, at one moment', SMALL, fill=GREY)
    return d

# --- part VI and the workshop ---

def clipped_mean(values, gain): return sum(min(v*gain, 1) for v in values)/len(values)

def exposure_slider():
    "You say how bright; the gain is found."
    d = Drawing(
        'exposure_slider', 430, 'Ask for a mean of 0.7',
        'Two pixels of 0.2 and 0.8 have the mean 0.5. The ratio 0.7 / 0.5 is a gain of 1.4, '
        'but the bright pixel is clipped and the mean is only 0.64. A gain of 2 gives 0.7.')
    values, wanted = [.2, .8], .7
    low, high = 0., 8.
    for _ in range(60):
        middle = (low + high)/2
        if clipped_mean(values, middle) < wanted: low = middle
        else: high = middle
    gain = round(high, 6)
    naive = wanted/clipped_mean(values, 1)
    columns = [('as it is', 1), (f'gain {naive:g}', naive), (f'gain {gain:g}', gain)]
    for i, (name, g) in enumerate(columns):
        x = 30 + 192*i
        hot = i == 2
        ink = ACCENT if hot else INK
        d.text(x + 78, 40, name, SIZE, fill=ink, bold=True)
        for j, v in enumerate(values):
            shown = min(v*g, 1)
            d.rect(x + 80*j, 58, 76, 84, level(shown), ink, 3 if hot else 1.5, 4)
            d.text(x + 80*j + 38,
                   106,
                   f'{shown:.2f}',
                   SIZE,
                   fill=WHITE if shown < .5 else '#000000')
        d.text(x + 78, 172, f'mean {clipped_mean(values, g):.2f}', SIZE, fill=ink, bold=hot)
        if i == 1: d.text(x + 78, 196, f'{.8*g:.2f} is cut to 1', SMALL, fill=GREY)
        if hot: d.text(x + 78, 196, 'as you asked', SMALL, fill=ACCENT)
    d.text(300, 250, 'you set the mean, the Enhancer finds the gain', SIZE, bold=True)
    left, right, y = 70, 530, 310
    def at(m): return left + (right - left)*(m - .3)/.6
    d.path([(left, y), (right, y)], '#a9c1d9', 10)
    d.path([(left, y), (at(wanted), y)], ACCENT, 10)
    for m in (.3, .5, .7, .9):
        d.text(at(m), y + 42, f'{m:g}', SIZE, fill=ACCENT if m == .7 else INK, bold=m == .7)
    d.dot(at(wanted), y, 15, WHITE, ACCENT)
    d.text(300, 392, 'exposure = 0.7', SIZE, fill=ACCENT, bold=True)
    d.text(300, 418, 'mean grey of the result', SMALL, fill=GREY)
    return d

def hint():
    "One region is said to be grey; the rest follows."
    d = Drawing('hint', 430, 'One hint corrects the whole picture',
                'A picture with a warm cast. You say that one box was grey: its channels are '
                'multiplied by 0.86, 1.04 and 1.30. The rest of the picture follows.')
    region = (.6, .5, .4)
    grey = .299*region[0] + .587*region[1] + .114*region[2]
    gains = [grey/v for v in region]
    wall, plant, sofa, floor = (.70, .70, .70), (.30, .50, .28), (.30, .42, .66), (.42, .34, .30)
    room = [[wall]*6, [wall, 0, 0, wall, plant, plant], [wall, 0, 0, wall, plant, wall],
            [sofa, sofa, sofa, wall, wall, wall], [floor]*6]
    def after(i, j): return colour(room[i][j] or [grey]*3)
    def before(i, j): return colour(v/g for v, g in zip(room[i][j] or [grey]*3, gains))
    for x, fill, name in ((24, before, 'result, too warm'), (348, after, 'after the hint')):
        d.text(x + 114, 36, name, SIZE, bold=True)
        d.grid(x, 54, 5, 6, 38, fill, stroke='none')
        d.rect(x + 38, 92, 76, 76, 'none', ACCENT, 4, 0)
    d.text(100, 136, 'neutral', SMALL, fill='#000000')
    d.arrow((262, 148), (336, 148), hot=True, width=4)
    d.text(300, 286, 'you say: this box was grey', SIZE, fill=ACCENT, bold=True)
    rows = [('red', region[0], gains[0], '#b3261e'), ('green', region[1], gains[1], '#1f7a34'),
            ('blue', region[2], gains[2], '#1d4f9f')]
    for k, (name, v, g, ink) in enumerate(rows):
        x = 118 + 182*k
        d.text(x, 326, name, SIZE, fill=ink, bold=True)
        d.text(x, 354, f'{v:g} × {g:.2f} = {v*g:.2f}', SIZE)
    d.lines(300, 396, ['its tokens are then known, and tell all other places',
                       'how far off they are'], SMALL, fill=GREY)
    return d

def guided():
    "A straight line, found on the small copy, used on the large picture."
    d = Drawing('guided', 470, 'Guided upsampling: carry a line, not a picture',
                'On a small copy three pixels 1, 2, 3 became 3, 5, 7: the line y = 2 x + 1. The '
                'line is used on the large picture, whose edge stays where it is.')
    u, v = [1, 2, 3], [3, 5, 7]
    mu, mv = sum(u)/3, sum(v)/3
    a = sum((p - mu)*(q - mv) for p, q in zip(u, v))/sum((p - mu)**2 for p in u)
    b = mv - a*mu
    x = [1., 1.2, .9, 1.1, 2.8, 3., 3.1, 2.9]
    def row(y, values, name, tint, cell, left, scale, form='{:g}'):
        d.text(24, y + 29, name, SMALL, 'start', bold=True)
        for j, o in enumerate(values):
            shade = o/scale
            fill = colour(1 - (1 - c)*(.25 + .75*shade) for c in tint)
            d.rect(left + cell*j, y, cell - 3, 44, fill, INK, 1, 3)
            d.text(left + cell*j + (cell - 3)/2, y + 28, form.format(o), SMALL)
    blue, orange = (.62, .76, .90), (.95, .72, .52)
    d.text(24, 34, 'on the small copy', SIZE, 'start', bold=True)
    row(54, u, 'copy *u*', blue, 72, 190, 7)
    d.arrow((292, 102), (292, 128))
    d.text(308, 122, 'network', SMALL, 'start', GREY)
    row(132, v, 'result *v*', orange, 72, 190, 7)
    d.hot(436, 72, 140, 84, ['a line:', f'*a* = {a:g}, *b* = {b:g}'], size=SIZE)
    d.arrow((408, 114), (433, 114), hot=True)
    d.path([(576, 114), (588, 114), (588, 318)], ACCENT, 2.2)
    d.arrow((588, 318), (419, 318), hot=True)
    d.text(24, 216, 'on the large picture', SIZE, 'start', bold=True)
    row(236, x, 'picture *x*', blue, 55, 138, 7, '{:.1f}')
    d.hot(196, 296, 220, 44, f'*y* = {a:g} *x* + {b:g}, pixel by pixel', size=SMALL)
    d.arrow((306, 281), (306, 294), hot=True)
    d.arrow((306, 340), (306, 356), hot=True)
    row(358, [a*o + b for o in x], 'result *y*', orange, 55, 138, 7, '{:.1f}')
    d.path([(138 + 55*4 - 1.5, 228), (138 + 55*4 - 1.5, 290)], INK, 3, '5 4')
    d.path([(138 + 55*4 - 1.5, 350), (138 + 55*4 - 1.5, 410)], INK, 3, '5 4')
    d.text(300, 446, 'the edge stays in its pixel, and the pattern stays too', SMALL, fill=GREY)
    return d

# --- more of them, for the slides ---

def axes(d, x, y, wide, tall, across, up):
    "Two axes with their names; `y` is the lower end."
    d.path([(x, y - tall), (x, y), (x + wide, y)], INK, 2.5)
    d.text(x + wide/2, y + 52, across, SIZE)
    d.text(x - 6, y - tall - 14, up, SIZE, 'start')

def srgb_curve():
    "Half of full scale is a fifth of the light."
    d = Drawing('srgb_curve', 440, 'The sRGB curve: half the number is a fifth of the light',
                'A curve from the number in a file to the amount of light. A number of 0.5 stands '
                'for 0.21 of the light, 0.25 for 0.05.')
    x, y, side = 90, 350, 290
    axes(d, x, y, 400, side, 'number in the file', 'amount of light')
    def at(v): return x + 400*v, y - side*to_light(v)
    d.path([(x, y), (x + 400, y - side)], '#9fb3c8', 2, '7 6')
    d.path([at(i/60) for i in range(61)], INK, 4)
    for v in (.25, .5):
        px, py = at(v)
        d.path([(px, y), (px, py), (x, py)], ACCENT, 2.5, '6 5')
        d.dot(px, py, 7, ACCENT)
        d.text(px, y + 26, f'{v:g}', SIZE, fill=ACCENT, bold=True)
        d.text(x - 10, py + 6, f'{to_light(v):.2f}', SIZE, 'end', ACCENT, bold=True)
    d.text(x + 400, y + 26, '1', SIZE)
    d.text(x - 10, y - side + 6, '1', SIZE, 'end')
    d.text(x + 300, y - side*.9, 'if it were light', SMALL, 'end', GREY)
    return d

def snr_slopes():
    "Signal to noise has two slopes."
    a, b = 2e-4, 2.5e-7
    d = Drawing('snr_slopes', 460, 'Signal to noise has two slopes',
                'Both axes are logarithmic. Where there is little light the ratio falls by half '
                'for every stop, where there is more it falls by half for every two stops.')
    x, y, wide, tall = 90, 360, 450, 290
    axes(d, x, y, wide, tall, 'signal, in stops below full scale', 'signal to noise')
    def ratio(stop): return 2.**stop/math.sqrt(a*2.**stop + b)
    def at(stop): return x + wide*(stop + 16)/16, y - tall*(math.log2(ratio(stop)) + 6)/13
    bend = math.log2(b/a)
    d.path([at(i/4) for i in range(-64, int(4*bend) + 1)], ACCENT, 5)
    d.path([at(i/4) for i in range(int(4*bend), 1)], INK, 5)
    px, py = at(bend)
    d.path([(px, y), (px, py)], GREY, 2, '6 5')
    d.dot(px, py, 7, GREY)
    for stop in (-16, -8, 0): d.text(x + wide*(stop + 16)/16, y + 26, signed(stop, 0), SIZE)
    d.lines(x + 24,
            112, ['read noise rules:', 'half the light,', 'half the ratio'],
            SIZE,
            anchor='start',
            fill=ACCENT)
    d.lines(x + 268,
            258, ['shot noise rules:', 'a quarter of the light,', 'half the ratio'],
            SIZE - 1,
            anchor='start')
    d.text(px + 12, y - 14, 'bend: *ax* = *b*', SMALL, 'start', GREY)
    return d

def straight_through():
    "A staircase forward, a slope backward."
    d = Drawing('straight_through', 452, 'Straight through: a staircase forward, a slope backward',
                'The nearest of four codes is a staircase, whose derivative is zero. Backward, the '
                'gradient is passed as if the staircase were the dashed line.')
    x, y, unit = 100, 366, 76
    axes(d, x, y, 4*unit + 60, 4*unit - 20, 'latent *z*', 'code *e*')
    d.path([(x, y), (x + 3.9*unit, y - 3.9*unit)], ACCENT, 4, '10 7')
    for k in range(4):
        left, right = max(k - .5, 0), min(k + .5, 3.9)
        d.path([(x + unit*left, y - unit*k), (x + unit*right, y - unit*k)], INK, 5)
        d.text(x - 16, y - unit*k + 6, str(k), SIZE, 'end')
        d.text(x + unit*k, y + 26, str(k), SIZE)
    d.lines(x + 3.55*unit,
            y - 1.75*unit, ['forward: steps,', 'derivative 0'],
            SIZE,
            anchor='start',
            bold=True)
    d.lines(x + 18, y - 3.4*unit, ['backward:', 'as if *e* were *z*'], SIZE, anchor='start',
            fill=ACCENT, bold=True)
    return d

def two_movers():
    "One distance, two terms, two that move."
    d = Drawing('two_movers', 400, 'Two terms of one distance: who moves',
                'Above, the codebook term: the latent is held and the code moves. Below, the '
                'commitment term: the code is held and the latent moves a quarter as far.')
    for i, (name, formula) in enumerate((('codebook term', '|*e* − sg[*z*]|²'),
                                         ('commitment term', '*β* |*z* − sg[*e*]|²'))):
        y = 110 + 186*i
        d.text(24, y - 66, name, 20, 'start', bold=True)
        d.text(576, y - 66, formula, 22, 'end', ACCENT, bold=True)
        d.path([(150, y), (450, y)], '#c8d2dc', 2, '4 5')
        code, latent = 150, 450
        d.cross(code, y, 12, ACCENT if i == 0 else INK, 5)
        d.dot(latent, y, 13, ACCENT if i == 1 else INK)
        d.text(code, y + 46, 'code *e*' + (': held' if i else ' moves'), SIZE)
        d.text(latent, y + 46, 'latent *z*' + (' moves' if i else ': held'), SIZE)
        if i == 0: d.arrow((172, y), (322, y), hot=True, width=5)
        else: d.arrow((430, y), (392, y), hot=True, width=5)
    d.text(300,
           386,
           'the number is the same up to *β* = 0.25; the gradients are not',
           SMALL,
           fill=GREY)
    return d

def moving_average():
    "A code follows the mean of the latents that choose it."
    gamma, count, total, n, added = .9, 10., 20., 5, 15.
    new_count = gamma*count + (1 - gamma)*n
    new_total = gamma*total + (1 - gamma)*added
    d = Drawing('moving_average', 420, 'A code as a running mean',
                'A code at 2.00 stands for ten latents. Five new ones have the mean 3. Count and '
                'sum are averaged with weight 0.9, and the code moves to 2.05.')
    def at(v): return 70 + 270*(v - 1.7)
    d.path([(60, 100), (560, 100)])
    for v in (2, 3): d.text(at(v), 138, f'{v}', SIZE)
    for v in (2.70, 2.86, 3.0, 3.14, 3.30): d.dot(at(v), 100, 8, TOKENS[0], INK)
    d.text(at(3) + 14, 66, 'five latents, mean 3', SMALL, fill=GREY)
    d.cross(at(2), 100, 10, '#9fb3c8', 4)
    d.cross(at(new_total/new_count) + 6, 100, 10, ACCENT, 5)
    d.text(at(2) + 4, 66, 'code', SIZE, fill=ACCENT, bold=True)
    rows = [('count', '*N*', count, n, new_count), ('sum', '*m*', total, added, new_total)]
    for i, (name, letter, old, batch, new) in enumerate(rows):
        y = 204 + 54*i
        d.text(40, y, f'{name} {letter}', SIZE, 'start', bold=True)
        d.text(180, y, f'{gamma:g} × {old:g} + {1 - gamma:.1f} × {batch:g} = {new:g}', 20, 'start')
    d.hot(110,
          300,
          380,
          52,
          f'code *e* = {new_total:g} / {new_count:g} = {new_total/new_count:.2f}',
          size=22,
          bold=True)
    d.text(300, 392, 'k-means, one batch at a time', SMALL, fill=GREY)
    return d

def dead_codes():
    "A code that is never chosen never moves."
    d = Drawing('dead_codes', 400, 'A dead code, and its revival',
                'Three codes lie among the latents. A fourth lies far away, is chosen by none and '
                'never moves, until revival puts it on a latent that is far from every code.')
    cloud = [(340, 90), (362, 70), (376, 104), (330, 116), (392, 82), (470, 150), (492, 134),
             (500, 166), (462, 176), (520, 148), (380, 250), (404, 236), (410, 268), (366, 272),
             (392, 286), (540, 290), (524, 276), (552, 272)]
    for x, y in cloud: d.dot(x, y, 7, TOKENS[0], INK)
    for x, y in ((360, 92), (489, 155), (390, 262)): d.cross(x, y, 12, INK, 5)
    d.cross(90, 200, 12, '#8b95a1', 5)
    d.lines(90, 140, ['never chosen,', 'never moved'], SIZE, fill=GREY)
    d.arrow((112, 206), (250, 330), (518, 296), hot=True, dash='10 6', width=4)
    d.text(300, 362, 'revival: put it where no code is near', SIZE, fill=ACCENT, bold=True)
    d.text(300, 36, 'latents (dots) and codes (crosses)', SMALL, fill=GREY)
    return d

def entropy_density():
    "Entropy counts the neighbours, not the error."
    d = Drawing('entropy_density', 420, 'Entropy is high where codes are dense',
                'Codes on a line, close together on the left and far apart on the right. The '
                'entropy of a latent at one temperature is high on the left, low on the right.')
    codes = [.15*i for i in range(14)] + [2.6, 3.6, 4.6, 5.6]
    def entropy(z):
        p = softmax([-(z - e)**2/.1 for e in codes])
        return -sum(o*math.log(o) for o in p if o > 0)/math.log(len(codes))
    def at(v): return 60 + 86*v
    y, tall = 300, 300
    d.path([(at(-.15), y), (at(5.85), y)])
    for k, e in enumerate(codes): d.dot(at(e), y, 6 if k < 14 else 9, TOKENS[k % 6], INK)
    d.path([(at(v/20), y - 20 - tall*entropy(v/20)) for v in range(0, 114)], ACCENT, 5)
    d.text(at(1), 82, 'entropy', 22, fill=ACCENT, bold=True)
    d.lines(at(1), y + 44, ['many neighbours:', 'doubt, little harm'], SIZE)
    d.lines(at(4.1), y + 44, ['few neighbours:', 'no doubt, more harm'], SIZE)
    d.text(300, 400, 'position of the latent among the codes', SMALL, fill=GREY)
    return d

def read(name): return json.loads((HERE.parent/'run'/name).read_text(encoding='utf-8'))

def doubt_maps():
    "Which map finds the worst places, on real pairs."
    maps = read('uncertainty.json')['maps']
    rows = [('entropy, one temperature', 'entropy, one T, calibrated', False),
            ('entropy, *T* = 2*σ*²', 'entropy, T = 2 sigma^2', False),
            ('expected squared distance', 'expected squared distance', True),
            ('*σ* itself', 'sigma', True)]
    d = Drawing('doubt_maps', 440, 'Which map finds the worst tenth of the places',
                'Bars of AUROC for four maps of doubt on 20 validation pictures. Entropy at one '
                'temperature is worse than chance; the predicted spread finds the worst places.')
    x, wide = 40, 430
    for i, (name, key, hot) in enumerate(rows):
        y = 40 + 84*i
        value = maps[key]['auroc_tenth']
        d.text(x, y, name, SIZE, 'start', bold=hot)
        d.rect(x, y + 12, wide*value, 34, '#f0b48a' if hot else '#a9c1d9', ACCENT if hot else INK,
               2, 0)
        d.path([(x + wide/2, y + 6), (x + wide/2, y + 52)], GREY, 2.5, '6 4')
        d.text(x + wide*value + 10,
               y + 36,
               f'{value:.2f}',
               SIZE,
               'start',
               ACCENT if hot else INK,
               bold=True)
    d.text(x + wide/2, 380, '0.5: chance', SIZE, fill=GREY)
    d.text(300, 418, 'how often a bad place has the higher value', SMALL, fill=GREY)
    return d

def prior_evidence():
    "Two witnesses are multiplied."
    d = Drawing('prior_evidence', 440, 'Prior times evidence',
                'Four codes. The flow gives them 0.04, 0.73, 0.22 and 0.00, the NAT finds code 2 '
                'ten times as likely as the others; together code 2 gets three quarters.')
    prior = softmax([-(1.2 - e)**2/.5 for e in range(4)])
    evidence = [1, 1, 10, 1]
    joint = [p*g for p, g in zip(prior, evidence)]
    after = [o/sum(joint) for o in joint]
    rows = [('the flow', prior, INK, '{:.2f}'), ('× the NAT', [g/10 for g in evidence], INK, None),
            ('= belief', after, ACCENT, '{:.2f}')]
    for i, (name, values, ink, form) in enumerate(rows):
        y = 118 + 128*i
        d.text(24, y - 24, name, 22, 'start', ink, bold=True)
        for k, v in enumerate(values):
            x = 200 + 98*k
            d.rect(x, y - 84*v, 62, max(84*v, 1), TOKENS[k], INK, 1.5, 0)
            d.text(x + 31,
                   y + 24,
                   form.format(v) if form else f'× {evidence[k]}',
                   SIZE,
                   bold=ink == ACCENT)
        d.path([(180, y), (576, y)])
    d.text(300, 428, 'codes 0 to 3', SMALL, fill=GREY)
    return d

def four_systems():
    "Two switches make four systems."
    d = Drawing('four_systems', 400, 'Two switches, four systems',
                'A square of four: both NATs off is GLARE; the NAT on the latent, the NAT on the '
                'decoder, or both can be switched on in the same network.')
    d.text(370, 40, 'NAT on the latent', 20, bold=True)
    d.text(282, 74, 'off', SIZE)
    d.text(470, 74, 'on', SIZE)
    d.lines(24, 190, ['NAT on', 'features'], 20, anchor='start', bold=True)
    d.text(176, 160, 'off', SIZE, 'end')
    d.text(176, 300, 'on', SIZE, 'end')
    for i, row in enumerate(([['GLARE'], ['NAT', 'on latent']], [['NAT', 'on decoder'], ['both']])):
        for j, name in enumerate(row):
            draw = d.hot if i or j else d.box
            draw(194 + 188*j, 94 + 138*i, 176, 124, name, size=22, bold=True)
    d.text(300, 386, 'same weights, same data: only the switches differ', SMALL, fill=GREY)
    return d

def level_belief():
    "A predicted level, and how wrong it may be."
    d = Drawing('level_belief', 420, 'A level with its own doubt',
                'A bell curve over the logarithm of the level. The shaded part within one '
                'deviation of the middle should hold 68% of the true levels.')
    def at(t): return 300 + 74*t
    def height(t): return 320 - 230*math.exp(-t*t/2)
    curve = [(at(i/10), height(i/10)) for i in range(-33, 34)]
    within_one = [(at(i/10), height(i/10)) for i in range(-10, 11)]
    d.path([(at(-1), 320), *within_one, (at(1), 320)], 'none', 1, fill=WARM, close=True)
    d.path(curve, INK, 4)
    d.path([(at(-3.6), 320), (at(3.6), 320)])
    d.text(at(0), 236, '68%', 26, fill=ACCENT, bold=True)
    for t, name in ((-1, '*μ* − *s*'), (0, '*μ*'), (1, '*μ* + *s*')):
        d.path([(at(t), 320), (at(t), 330)])
        d.text(at(t), 356, name, SIZE)
    d.text(at(0), 392, 'logarithm of the level', SIZE)
    d.lines(at(1.3), 118, ['*s* = 0.2: 20%', 'up or down'], SIZE, anchor='start', fill=GREY)
    return d

def oracles():
    "What one known piece of the truth would be worth."
    val = read('lab_oracles.json')['val']
    rows = [('blocks of 64 pixels', 'block64', False),
            ('all tokens and latents known', 'known all', False),
            ('colour matrix, 12 numbers', 'matrix', True),
            ('quadratic, 30 numbers', 'quadratic', True),
            ('true tokens where masked', 'known tokens', False)]
    rows.sort(key=lambda o: -val[o[1]])
    d = Drawing(
        'oracles', 470, 'What a known piece of the truth would be worth',
        'Bars of gain in dB over the model if one thing about each picture were known. '
        'One colour transform of the whole picture is worth more than perfect masked tokens.')
    x = 40
    for i, (name, key, hot) in enumerate(rows):
        y = 40 + 80*i
        gain = val[key] - val['model']
        d.text(x, y, name, SIZE, 'start', bold=hot)
        d.rect(x, y + 12, 130*gain, 34, '#f0b48a' if hot else '#a9c1d9', ACCENT if hot else INK, 2,
               0)
        d.text(x + 130*gain + 10,
               y + 36,
               f'+ {gain:.1f} dB',
               SIZE,
               'start',
               ACCENT if hot else INK,
               bold=True)
    d.text(300,
           454,
           f'over a model of {val["model"]:.1f} dB (GT-mean, 12 pictures)',
           SMALL,
           fill=GREY)
    return d

def forms():
    "Forms trained at equal steps, one dot a seed."
    rows = [('control: no NAT', 'plain', False), ('NAT on latent', 'latent', False),
            ('NAT on features, masked', 'features', False),
            ('every cell, no attention', 'alone', False), ('every cell, attention', 'nomask', True)]
    runs = read('lab.json')
    d = Drawing('forms', 480, 'Forms of the NAT at equal steps',
                'One dot for each seed, in dB. Only the form that corrects every cell with '
                'attention lies above what seeds of the control differ by.')
    values = {key: [o['psnr_gt_mean'] for o in runs if o['form'] == key] for _, key, _ in rows}
    low, high = 25.6, 26.8
    def at(v): return 290 + 280*(v - low)/(high - low)
    a, b = min(values['plain']), max(values['plain'])
    d.rect(at(a), 30, at(b) - at(a), 356, DIM, 'none', 1, 0)
    for i, (name, key, hot) in enumerate(rows):
        y = 66 + 72*i
        d.path([(290, y), (570, y)], '#c8d2dc', 1.5)
        d.text(276, y + 6, name, SIZE, 'end', ACCENT if hot else INK, bold=hot)
        for v in values[key]: d.dot(at(v), y, 9, ACCENT if hot else INK)
    for v in (25.6, 26.0, 26.4, 26.8): d.text(at(v), 412, f'{v:.1f}', SMALL)
    d.text(430, 438, 'dB, one dot a seed', SIZE)
    d.text(300, 468, 'grey: how far the seeds of the control lie apart', SMALL, fill=GREY)
    return d

def low_band():
    "The mean of a cell is replaced, its detail stays."
    d = Drawing('low_band', 430, 'New mean, old detail',
                'A cell of four values with mean 0.3 gets the new mean 0.5. Each value moves by '
                '0.2, and the differences between the values stay.')
    old, new = [.2, .4, .1, .5], .5
    mean = sum(old)/4
    moved = [v + new - mean for v in old]
    for x, values, level_, ink, name in ((50, old, mean, INK, 'before'), (340, moved, new, ACCENT,
                                                                          'after')):
        base = 320
        d.text(x + 105, 44, name, 20, fill=ink, bold=True)
        for j, v in enumerate(values):
            d.rect(x + 54*j, base - 300*v, 46, 300*v, '#a9c1d9' if ink == INK else '#f0b48a', INK,
                   1.5, 0)
            d.text(x + 54*j + 23, base + 26, f'{v:.1f}', SIZE)
        d.path([(x - 14, base - 300*level_), (x + 222, base - 300*level_)], ink, 4, '9 6')
        d.text(x + 105, base + 64, f'mean {level_:.1f}', SIZE, fill=ink, bold=True)
    d.arrow((284, 220), (326, 220), hot=True, width=4)
    d.text(300, 416, '*h* + (new mean − old mean): the low band moves', SMALL, fill=GREY)
    return d

def averaged_weights():
    "An average that forgets its beginning."
    d = Drawing('averaged_weights', 440, 'Averaged weights, with and without a warm-up',
                'An average that starts at 0 follows a weight of 1. With the warm-up it arrives '
                'within ten steps; with a fixed factor of 0.99 it is at 0.63 after a hundred.')
    x, y, wide, tall = 80, 340, 460, 270
    axes(d, x, y, wide, tall, 'step', 'average of a weight that is 1')
    warm, fixed = [0.], [0.]
    for t in range(1, 101):
        g = min(.99, (1 + t)/(10 + t))
        warm.append(g*warm[-1] + 1 - g)
        fixed.append(.99*fixed[-1] + .01)
    def at(t, v): return x + wide*t/100, y - tall*v
    d.path([at(0, 1), at(100, 1)], GREY, 2, '6 6')
    d.path([at(t, v) for t, v in enumerate(warm)], ACCENT, 5)
    d.path([at(t, v) for t, v in enumerate(fixed)], INK, 5)
    for t in (0, 50, 100): d.text(x + wide*t/100, y + 26, str(t), SIZE)
    d.text(x - 10, y - tall + 6, '1', SIZE, 'end')
    d.text(x - 10, y + 6, '0', SIZE, 'end')
    d.text(x + 120,
           y - tall + 46,
           f'with warm-up: {warm[-1]:.2f}',
           SIZE,
           'start',
           ACCENT,
           bold=True)
    d.text(x + 270, y - 60, f'*g* = 0.99: {fixed[-1]:.2f}', SIZE, 'start', bold=True)
    return d

def resume_state():
    "What the next step depends on."
    d = Drawing('resume_state', 440, 'What the next step depends on',
                'Six pieces go into the next step: weights, moments of the optimiser, schedule, '
                'averaged weights, random generators, and which pictures come next.')
    pieces_ = [['weights'], ['moments of', 'the optimiser'], ['place in', 'the schedule'],
               ['averaged', 'weights'], ['random', 'generators'], ['which pictures', 'come next']]
    for k, rows in enumerate(pieces_):
        x, y = 24 + 192*(k % 3), 30 + 262*(k // 3)
        d.box(x, y, 168, 84, rows, size=20)
        middle = x + 84
        end = 220 + 80*(k % 3)
        if k < 3: d.arrow((middle, 116), (end, 158), width=3)
        else: d.arrow((middle, 290), (end, 248), width=3)
    d.hot(180, 162, 240, 82, ['the next step'], size=24, bold=True)
    d.text(300, 420, 'leave one out, and the run is another one', SIZE, fill=ACCENT)
    return d

def gates():
    "Six questions before a gain is believed."
    d = Drawing('gates', 500, 'Six gates for a gain',
                'A ladder of six questions: turned off, more rounds, without masks, without '
                'attention, a control of equal size, other seeds.')
    rows = [
        'turn it off: does the figure fall?', 'does round 2 beat round 1?',
        'same network without masks?', 'and without attention?',
        'a control with as many parameters?', 'again, with other seeds?'
    ]
    for i, row in enumerate(rows):
        y = 16 + 76*i
        d.dot(58, y + 29, 26, ACCENT)
        d.text(58, y + 37, str(i + 1), 22, fill=WHITE, bold=True)
        d.box(104, y, 470, 58, row, size=20)
        if i < 5: d.path([(58, y + 56), (58, y + 80)], ACCENT, 3)
    d.text(300, 490, 'only then: a gain', SIZE, fill=ACCENT, bold=True)
    return d

def tiles():
    "Weights of overlapping tiles, divided by their sum."
    d = Drawing('tiles', 420, 'Tiles overlap and are blended',
                'Three tiles along a row. The weight of each falls towards its inner edges. '
                'Divided by their sum the weights give 1 everywhere.')
    spans = [(0, 768), (640, 1408), (1280, 2048)]
    def x(v): return 40 + 520*v/2048
    for k, (a, b) in enumerate(spans):
        d.rect(x(a), 54 + 24*k, x(b) - x(a), 18, TOKENS[k], INK, 1.5, 3)
        left = (a, 0) if k else (a, 1)
        right = (b, 0) if k < 2 else (b, 1)
        ramp = 128
        points = [left, (a + ramp if k else a, 1), (b - ramp if k < 2 else b, 1), right]
        shape = [(x(v), 300 - 130*w) for v, w in points]
        d.path([(x(a), 300), *shape, (x(b), 300)], 'none', 1, fill=TOKENS[k] + '88', close=True)
        d.path(shape, INK, 2.5)
    d.path([(40, 300), (560, 300)])
    d.text(300, 36, 'three tiles of 768 pixels, 128 shared', SIZE, bold=True)
    d.text(30, 176, '1', SIZE, 'end')
    d.text(30, 306, '0', SIZE, 'end')
    for v in (0, 640, 1280, 2048): d.text(x(v), 330, f'{v:,}', SMALL)
    d.text(300, 362, 'weight of each tile along the row', SMALL, fill=GREY)
    d.text(300,
           400,
           'the light is that of the whole picture, for every tile',
           SIZE,
           fill=ACCENT,
           bold=True)
    return d

def whole_light():
    "A tile of sky by itself is a bright tile."
    d = Drawing('whole_light', 400, 'A tile needs the light of the whole picture',
                'Three tiles of a dark picture with means 0.03, 0.06 and 0.15. Lit each by itself, '
                'all come to 0.4 and a seam appears. Lit by one gain they keep their ratios.')
    means = [.03, .06, .15]
    target = .4
    one = target/(sum(means)/3)
    rows = [('dark', means, INK), ('each by itself', [target]*3, INK),
            ('by the whole', [v*one for v in means], ACCENT)]
    for i, (name, values, ink) in enumerate(rows):
        y = 40 + 112*i
        d.text(24, y + 46, name, 20, 'start', ink, bold=True)
        for j, v in enumerate(values):
            d.rect(216 + 120*j, y, 116, 84, level(v), ink, 2.5, 2)
            d.text(274 + 120*j, y + 50, f'{v:.2f}', 20, fill=WHITE if v < .5 else '#000000')
    d.text(300, 388, f'one gain, {one:.1f}: wall, door and sky keep their ratio', SMALL, fill=GREY)
    return d

def export_path():
    "The network is run once and written down."
    d = Drawing('export_path', 380, 'From Python to a file that runs without it',
                'The exporter runs the network once, writes down every operation as a graph in an '
                'ONNX file, and onnxruntime runs the file in a browser, on a phone or a server.')
    d.box(24, 40, 168, 96, ['network', 'in PyTorch'], size=20)
    d.arrow((192, 88), (228, 88), width=3)
    d.hot(232, 40, 136, 96, ['run once,', 'write down'], size=20)
    d.arrow((368, 88), (404, 88), width=3)
    d.box(408, 40, 168, 96, ['graph:', 'one .onnx file'], size=20)
    for k, name in enumerate(('browser', 'phone', 'server')):
        x = 24 + 192*k
        d.box(x, 234, 168, 70, name, size=20)
        d.arrow((492, 138), (492, 184), (x + 84, 184), (x + 84, 231), width=3)
    d.text(300,
           346,
           'a choice by picture, such as a mask, must become arithmetic first',
           SMALL,
           fill=GREY)
    return d

def conditional_encoder():
    "One reading of the dark picture, three results."
    d = Drawing(
        'conditional_encoder', 400, 'The conditional encoder: one reading, three results',
        'The dark picture, as seven channels, goes into the encoder. Out come the condition '
        'for every coupling, the mean of the Gaussian, and features for the decoder.')
    d.box(24, 40, 150, 96, ['dark picture:', '7 channels'])
    d.arrow((174, 88), (222, 88), width=3)
    d.hot(226, 40, 150, 96, ['conditional', 'encoder'], bold=False)
    rows = [('condition *c*', 'to every coupling'), ('mean map *μ*', 'where the Gaussian is'),
            ('features', 'to the decoder')]
    for k, (name, use) in enumerate(rows):
        x = 18 + 191*k
        d.arrow((301, 138), (301, 176), (x + 91, 176), (x + 91, 209), width=3)
        d.box(x, 212, 182, 56, name)
        d.text(x + 91, 298, use, SMALL, fill=GREY)
    d.text(109, 330, '48 numbers a place', SMALL, fill=GREY)
    d.text(300, 330, '4 numbers a place', SMALL, fill=GREY)
    d.text(491, 330, 'at 1/4 and 1/2', SMALL, fill=GREY)
    d.text(300, 380, 'for a picture of 400×600 there are 100×150 places', SMALL, fill=GREY)
    return d

def spread_loss():
    "The best claim about an error is its size."
    e = .3
    d = Drawing('spread_loss', 430, 'The loss of the spread is least where it is true',
                'The loss against the claimed deviation, for an error of 0.3. A claim that is too '
                'small costs a lot, one that is too large a little; 0.3 is best.')
    def loss(v): return e*e/(2*v*v) + math.log(v)
    x, y, wide, tall = 70, 330, 480, 250
    axes(d, x, y, wide, tall, 'claimed deviation *σ*', 'loss')
    def at(v): return x + wide*v, y - 30 - tall*(loss(v) - loss(e))/2.2
    d.path([at(.115 + i/100) for i in range(89)], INK, 5)
    px, py = at(e)
    d.path([(px, y), (px, py)], ACCENT, 3, '6 5')
    d.dot(px, py, 9, ACCENT)
    d.text(px, y + 26, f'{e:g}', SIZE, fill=ACCENT, bold=True)
    d.text(x + wide, y + 26, '1', SIZE)
    d.text(x, y + 26, '0', SIZE)
    d.text(x + 120, 112, 'too sure: costs a lot', SIZE, 'start')
    d.text(x + 250, 176, 'too modest: costs a little', SIZE, 'start')
    return d

WAY = {                      # the parts of the method, for a slide: place and words
    'codebook': (24, 24, 552, 54, ['codebook: words of well-lit pictures']),
    'dark': (24, 112, 120, 76, ['dark', 'picture']), 'light': (168, 112, 120, 76, ['light']),
    'flow': (312, 112, 120, 76, ['encoder', 'and flow']),
    'masking': (456, 112, 120, 76, ['doubt', 'and mask']),
    'bright': (24, 232, 120, 76, ['bright', 'picture']), 'level': (168, 232, 120, 76, ['level']),
    'fusion': (312, 232, 120, 76, ['fusion', 'decoder']),
    'nat': (456, 232, 120, 76, ['NAT on', 'latent']),
    'data': (24, 342, 168, 52, ['pairs']), 'training': (216, 342, 168, 52, ['training']),
    'metrics': (408, 342, 168, 52, ['metrics']),
}
SESSIONS = {
    1: ['dark', 'bright', 'data', 'metrics'], 2: ['codebook'], 3: ['flow'], 4: ['masking', 'nat'],
    5: ['light', 'fusion', 'level'], 6: ['training', 'metrics'],
}

def session(n):
    "The way of a picture, and what this session of the course is about."
    named = ', '.join(' '.join(WAY[key][-1]).split(':')[0] for key in SESSIONS[n])
    d = Drawing(
        f'session_{n}', 412, f'The way of a picture: session {n}',
        'A dark picture goes through light, flow, doubt and mask, the NAT on the latent, the '
        f'fusion decoder and the level to the bright picture. Lit up: {named}.')
    way = ['dark', 'light', 'flow', 'masking', 'nat', 'fusion', 'level', 'bright']
    for a, b in zip(way, way[1:]):
        x, y, w, h, _ = WAY[a]
        u, v, w2, _, _ = WAY[b]
        if v > y: d.arrow((x + w/2, y + h), (x + w/2, v - 3), width=3)
        elif u > x: d.arrow((x + w, y + h/2), (u - 3, y + h/2), width=3)
        else: d.arrow((x, y + h/2), (u + w2 + 3, y + h/2), width=3)
    for key in ('flow', 'masking'):
        x, y, w, _, _ = WAY[key]
        d.arrow((x + w/2, 78), (x + w/2, y - 3), width=3)
    for key, (x, y, w, h, rows) in WAY.items():
        draw = d.hot if key in SESSIONS[n] else d.box
        draw(x, y, w, h, rows, size=20, bold=False)
        if key in SESSIONS[n]: d.rect(x, y, w, h, 'none', ACCENT, 5)
    return d

SCHEMATICS = [
    exposure_chain,
    gt_mean,
    pair_split,
    residual_block,
    windows,
    codebook_cell,
    vqgan,
    light_grid,
    coupling,
    change_of_variables,
    token_entropy,
    reliability,
    masked_rounds,
    messages,
    bound,
    deformable_tap,
    fusion,
    model,
    loss_terms,
    stages,
    learner_loop,
    exposure_slider,
    hint,
    guided,
    srgb_curve,
    snr_slopes,
    straight_through,
    two_movers,
    moving_average,
    dead_codes,
    entropy_density,
    doubt_maps,
    prior_evidence,
    four_systems,
    level_belief,
    oracles,
    forms,
    low_band,
    averaged_weights,
    resume_state,
    gates,
    tiles,
    whole_light,
    export_path,
    conditional_encoder,
    spread_loss,
    *(partial(session, n) for n in SESSIONS),
]


if __name__ == '__main__':
    HERE.mkdir(exist_ok=True)
    for make in SCHEMATICS:
        drawing = make()
        (HERE/f'{drawing.name}.svg').write_text(drawing.svg(), encoding='utf-8')
