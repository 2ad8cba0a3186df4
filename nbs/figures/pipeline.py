"""Draw the recurring picture of the pipeline, one SVG a chapter with that chapter's part lit.

Run `python nbs/figures/pipeline.py` from anywhere: it writes `pipeline.svg` and `pipeline_NAME.svg` beside itself, the same bytes every time,
and `pipeline_upright.svg`, the form for narrow screens: one file, of which `pipeline_upright.svg#NAME` shows a chapter's part lit.
"""
from html import escape
from pathlib import Path

# the card, px
W = 960
H = 510
FONT = 'font-family="Helvetica,Arial,DejaVu Sans,sans-serif"'
PLAIN = dict(fill='#ffffff', stroke='#8a94a3', width=1.3, ink='#2b3440', weight='normal')
LIT = dict(fill='#ffd76a', stroke='#a85f00', width=3, ink='#1d1400', weight='bold')

# key: (x, y, width, height, first line, further lines); a chapter lights every part whose key is
# its name, or begins with it and a dot, and those in `ALSO`
PARTS = {
    'quantizers': (152, 64, 112, 52, 'quantizers', ['argmin |z-eₖ|²']),
    'codebook': (300, 50, 464, 66, 'codebook', [
        'VQGAN: encoder E, codes eₖ, decoder D', 'learned on normal-light pictures alone'
    ]),
    'images.in': (18, 190, 98, 74, 'dark picture', ['x_low']),
    'flow.cond': (152, 178, 112, 98, 'conditional', ['encoder', 'features c, mean μ']),
    'flow.flow': (300, 178, 104, 98, 'flow', ['F⁻¹(μ; c)', 'latent z_tilde']),
    'masking': (440, 178, 104, 98, 'masking', ['entropy > τ', 'becomes [MASK]']),
    'nat': (580, 178, 84, 98, 'NAT', ['on the latent', 'R rounds']),
    'decoder': (700, 178, 112, 98, 'decoder', ['fusion of features', '+ NAT on them']),
    'images.out': (844, 190, 98, 74, 'bright picture', ['x']),
    'exposure': (152, 288, 660, 26,
                 'exposure: the gain that brings the level back, from the whole dark picture', []),
    'data': (24, 372, 118, 34, 'data', []),
    'layers': (152, 372, 112, 34, 'layers', []),
    'losses': (274, 372, 112, 34, 'losses', []),
    'callbacks': (396, 372, 112, 34, 'callbacks', []),
    'training': (518, 372, 112, 34, 'training', []),
    'metrics': (640, 372, 92, 34, 'metrics', []),
    'baselines': (742, 372, 90, 34, 'baselines', []),
    'experiments': (842, 372, 96, 34, 'experiments', []),
    'glare': (152, 418, 112, 34, 'glare', []),
    'glare_release': (274, 418, 112, 34, 'glare_release', []),
    'enhance': (518, 418, 112, 34, 'enhance', []),
    'deploy': (640, 418, 92, 34, 'deploy', []),
    'widgets': (742, 418, 90, 34, 'widgets', []),
    'cli': (842, 418, 96, 34, 'cli', []),
}
CHAPTERS = (
    'colour files images pairs pictures darkness data fingerprints layers quantizers codebook flow masking nat decoder glare glare_release exposure model config checkpoint metrics perception record losses stages '
    'callbacks checkpoints training training_memory training_parallel training_unpaired answer tiling enhance folders llflow restormer baselines cost experiments table1 uncertainty dense deploy explore widgets cli'
).split()
# the parts they have in the official size
ALSO = {
    'colour': ['images.in', 'images.out'], 'files': ['images.in', 'images.out'], 'pictures': [
        'images.in', 'images.out'
    ], 'folders': ['enhance'], 'tiling': ['enhance'], 'answer': ['nat', 'enhance', 'images.out'],
    'config': ['training'], 'checkpoint': ['training', 'enhance'],
    'glare': ['codebook', 'flow.cond', 'flow.flow'], 'glare_release': ['decoder'], 'pairs': [
        'data'
    ], 'darkness': ['data'], 'fingerprints': ['data', 'metrics'], 'perception': ['metrics'],
    'record': ['metrics'], 'stages': ['losses', 'training'], 'checkpoints': [
        'callbacks', 'training'
    ], 'training_memory': ['training'], 'training_parallel': ['training'], 'training_unpaired': [
        'data', 'training'
    ], 'llflow': ['baselines'], 'restormer': ['baselines'], 'cost': ['experiments'], 'table1': [
        'experiments', 'baselines'
    ], 'uncertainty': ['experiments', 'masking'], 'dense': ['nat',
                                                            'deploy'], 'explore': ['widgets']
}
FRAMED = ('model', 'config', 'checkpoint')   # chapters that light the frame of the whole model
ROW = ['images.in', 'flow.cond', 'flow.flow', 'masking', 'nat', 'decoder', 'images.out']
# what the codebook hands down
FEEDS = {'flow.flow': 'latents', 'nat': 'tokens', 'decoder': 'features of D'}


def text(x, y, s, ink, size=13, weight='normal', anchor='middle'):
    "One line of text whose baseline is at `y`."
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{ink}" text-anchor="{anchor}" {FONT}>{escape(s)}</text>'

def rect(x, y, w, h, fill, stroke, width, extra=''):
    return f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="7" fill="{fill}" stroke="{stroke}" stroke-width="{width}"{extra}/>'

def box(part, lit):
    "A part of the pipeline: its name and what it does, centred."
    x, y, w, h, name, lines = part
    s = (LIT if lit else PLAIN)
    mid = x + w/2
    top = y + h/2 - 8.5*len(lines) + 4.5
    return [
        rect(x, y, w, h, s['fill'], s['stroke'], s['width']),
        text(mid, top, name, s['ink'], 13, 'bold'),
        *[text(mid, top + 17*i, o, s['ink'], 11.5) for i, o in enumerate(lines, 1)]
    ]

def arrow(x1, y1, x2, y2):
    return f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="#5b6675" stroke-width="1.6" fill="none" marker-end="url(#head)"/>'

def row_arrows():
    "From each part of the picture's way to the next."
    for a, b in zip(ROW, ROW[1:]):
        xa, ya, wa, ha, *_ = PARTS[a]
        xb, *_ = PARTS[b]
        yield arrow(xa + wa, ya + ha/2, xb - 3, ya + ha/2)

def feed_arrows():
    "What the codebook hands to flow, NAT and decoder."
    _, y, _, h, *_ = PARTS['codebook']
    for k, label in FEEDS.items():
        x, yk, w, *_ = PARTS[k]
        mid = min(x + w/2, 744)
        yield arrow(mid, y + h, mid, yk - 3)
        yield text(mid + 6, y + h + 20, label, '#5b6675', 11, anchor='start')

def quantizer_arrow():
    "The quantizer sits inside the codebook."
    xa, ya, wa, ha, *_ = PARTS['quantizers']
    xb, *_ = PARTS['codebook']
    yield arrow(xa + wa, ya + ha/2, xb - 3, ya + ha/2)

def model_frame(lit):
    "The dashed frame around all that `LowLightNAT` holds."
    s = LIT if lit else dict(PLAIN, fill='none', ink='#5b6675')
    extra = ' stroke-dasharray="6 5"' + (' fill-opacity="0.45"' if lit else '')
    return [rect(136, 32, 692, 294, s['fill'], s['stroke'], s['width'], extra),
            text(148, 52, 'model: LowLightNAT', s['ink'], 12.5, 'bold', 'start')]

def legend(chapter):
    return [
        rect(24, 474, 14, 14, LIT['fill'], LIT['stroke'], 1.5),
        text(46, 486, f'this chapter: {chapter}', '#2b3440', 12.5, 'bold', 'start')
    ]

def picture(chapter=None):
    "The whole SVG with the part of `chapter` lit; without one, the plain overview."
    lit = lambda k: k.split('.')[0] == chapter or k in ALSO.get(chapter, [])
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#5b6675"/></marker>')
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" width="{W}" height="{H}" role="img" aria-labelledby="t">',
        f'<title id="t">The pipeline from a dark picture to a bright one{f"; lit: {chapter}" if chapter else ""}</title>',
        f'<defs>{head}</defs>',
        f'<rect x="1" y="1" width="{W-2}" height="{H-2}" rx="12" fill="#f6f7f9" stroke="#d3d8de"/>',
        *model_frame(chapter in FRAMED), *feed_arrows(), *quantizer_arrow(), *row_arrows()
    ]
    for k, part in PARTS.items(): out += box(part, lit(k))
    out += [
        text(24, 360, 'around it: what it is fed and built from, how it is taught', '#5b6675', 11,
             anchor='start'),
        text(640, 360, 'and how it is measured', '#5b6675', 11, anchor='start'),
        text(24, 439, 'the official network:', '#5b6675', 11, anchor='start'),
        text(508, 439, 'and how it is used:', '#5b6675', 11, anchor='end')
    ]
    return '\n'.join(out + (legend(chapter) if chapter else []) + ['</svg>', ''])


# --- the upright form: the picture's way runs down, the codebook stands beside it ---

UPRIGHT_W = 360
UPRIGHT_H = 1076
UPRIGHT = {   # key: (x, y, width, height)
    'images.in': (24, 14, 136, 44), 'quantizers': (246, 104, 96, 52), 'codebook': (246, 190, 96, 352),
    'flow.cond': (24, 104, 136, 68), 'flow.flow': (24, 198, 136, 68), 'masking': (24, 292, 136, 68), 'nat': (24, 386, 136, 68),
    'decoder': (24, 474, 136, 68), 'exposure': (176, 562, 166, 84), 'images.out': (24, 682, 136, 44),
    'data': (14, 770, 104, 32), 'layers': (127, 770, 104, 32), 'losses': (240, 770, 104, 32), 'callbacks': (14, 808, 104, 32),
    'training': (127, 808, 104, 32), 'metrics': (240, 808, 104, 32), 'baselines': (14, 846, 104, 32), 'experiments': (127, 846, 104, 32),
    'glare': (14, 902, 104, 32), 'glare_release': (127, 902, 104, 32),
    'enhance': (14, 958, 104, 32), 'deploy': (127, 958, 104, 32), 'widgets': (240, 958, 104, 32), 'cli': (14, 996, 104, 32),
}
SHORTER = {   # what stands in a narrower box: first line, further lines
    'codebook': ('codebook', ['VQGAN:', 'encoder E,', 'codes eₖ,', 'decoder D', '', 'learned on', 'normal-light', 'pictures', 'alone']),
    'exposure': ('exposure', ['the gain that brings', 'the level back, from the', 'whole dark picture']),
}


def upright_box(key, lit):
    "A part in its place in the upright form."
    return box((*UPRIGHT[key], *SHORTER.get(key, PARTS[key][4:])), lit)

def upright_arrows():
    "Down from part to part, and to the left from the codebook."
    for a, b in zip(ROW, ROW[1:]):
        x, y, w, h = UPRIGHT[a]
        yield arrow(x + w/2, y + h, x + w/2, UPRIGHT[b][1] - 3)
    for key, label in FEEDS.items():
        x, y, w, h = UPRIGHT[key]
        yield arrow(UPRIGHT['codebook'][0], y + h/2, x + w + 3, y + h/2)
        yield text((UPRIGHT['codebook'][0] + x + w)/2 + 2, y + h/2 - 6, label, '#5b6675', 11)
    x, y, w, h = UPRIGHT['quantizers']
    yield arrow(x + w/2, y + h, x + w/2, UPRIGHT['codebook'][1] - 3)

def upright_frame(lit):
    "The dashed frame of `LowLightNAT`."
    s = LIT if lit else dict(PLAIN, fill='none', ink='#5b6675')
    extra = ' stroke-dasharray="6 5"' + (' fill-opacity="0.45"' if lit else '')
    return [
        rect(10, 76, 340, 582, s['fill'], s['stroke'], s['width'], extra),
        text(178, 94, 'model: LowLightNAT', s['ink'], 12.5, 'bold', 'start')
    ]

def upright_lit(chapter):
    "What is drawn over the upright form for one chapter; shown where the address ends in its name."
    keys = [k for k in PARTS if k.split('.')[0] == chapter or k in ALSO.get(chapter, [])]
    out = [f'<g id="{chapter}" class="lit">']
    if chapter in FRAMED:
        out += [*upright_frame(True), *upright_arrows()]
        for k in PARTS: out += upright_box(k, False)
    for k in keys: out += upright_box(k, True)
    out += [
        rect(14, 1044, 14, 14, LIT['fill'], LIT['stroke'], 1.5),
        text(36, 1056, f'this chapter: {chapter}', '#2b3440', 12.5, 'bold', 'start')
    ]
    return out + ['</g>']

def upright():
    "The whole SVG of the upright form, with a hidden layer for each chapter."
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {UPRIGHT_W} {UPRIGHT_H}" width="{UPRIGHT_W}" height="{UPRIGHT_H}" role="img" aria-labelledby="title">',
        '<title id="title">The pipeline from a dark picture to a bright one</title>',
        '<style>.lit { display: none } .lit:target { display: inline }</style>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#5b6675"/></marker></defs>',
        f'<rect x="1" y="1" width="{UPRIGHT_W-2}" height="{UPRIGHT_H-2}" rx="12" fill="#f6f7f9" stroke="#d3d8de"/>',
        *upright_frame(False), *upright_arrows()
    ]
    for k in PARTS: out += upright_box(k, False)
    for y, words in (744, 'around it: what it is fed and built from,'), (
            760, 'how it is taught and how it is measured'), (895, 'the official network:'), (
                951, 'and how it is used:'):
        out.append(text(14, y, words, '#5b6675', 11.5, anchor='start'))
    for name in CHAPTERS: out += upright_lit(name)
    return '\n'.join([*out, '</svg>', ''])


if __name__ == '__main__':
    here = Path(__file__).parent
    (here/'pipeline.svg').write_text(picture(), encoding='utf-8')
    (here/'pipeline_upright.svg').write_text(upright(), encoding='utf-8')
    for name in CHAPTERS: (here/f'pipeline_{name}.svg').write_text(picture(name), encoding='utf-8')
