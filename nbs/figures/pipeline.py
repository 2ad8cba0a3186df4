"""Draw the recurring picture of the pipeline: `python nbs/figures/pipeline.py`.

It writes `pipeline.svg` and, for narrow screens, `pipeline_upright.svg` beside itself, the same
bytes every time. Both hold a hidden
layer for each chapter, in which its parts are lit: `pipeline.svg#masking` shows that of the chapter masking.
Chapters say `![words](../figures/pipeline.svg "masking")`, and `site.lua` makes the address of it:
JupyterLab finds no picture behind a `#`.
"""
from dataclasses import dataclass
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
CHAPTERS = [p.stem[3:] for p in sorted(HERE.parent.glob('*/[0-9][0-9]_*.ipynb'))]

PARTS = {                                        # what stands in a box: its name, further lines
    'quantizers': ('quantizers', ['argmin |z-eₖ|²']),
    'vqgan': ('vqgan', ['the codebook: encoder E, codes eₖ, decoder D', 'learned on normal-light pictures alone']),
    'dark': ('dark picture', ['x_low']),
    'encoder': ('encoder', ['of the flow:', 'features c, mean μ']),
    'flow': ('flow', ['F⁻¹(μ; c)', 'latent z_tilde']),
    'masking': ('masking', ['entropy > τ', 'becomes [MASK]']),
    'latent_nat': ('latent_nat', ['NAT on latent', 'R rounds']),
    'fusion': ('fusion', ['decoder of features', '+ NAT on them']),
    'bright': ('bright picture', ['x']),
    'light': ('light: level, colour and local gain, from a look at the whole dark picture', []),
    **{name: (name, []) for name in ('loaders layers losses callbacks learner fidelity baselines runs '
                                     'glare glare_weights enhancer onnx widgets cli').split()},
}
SHORTER = {                                      # where the box is narrower
    'vqgan': ('vqgan', ['codebook:', 'encoder E,', 'codes eₖ,', 'decoder D', '', 'learned on',
                        'normal-light', 'pictures', 'alone']),
    'light': ('light', ['level, colour and local', 'gain, from a look at the', 'whole dark picture']),
}
PICTURES = ['dark', 'bright']
LIGHTS = {                                       # the parts that a chapter lights besides one of its own name
    'colour': PICTURES, 'files': PICTURES, 'images': PICTURES, 'metadata': PICTURES,
    'flow': ['encoder'], 'glare': ['vqgan', 'encoder', 'flow'], 'glare_weights': ['fusion'],
    'pairs': ['loaders'], 'degradations': ['loaders'], 'overlap': ['loaders', 'fidelity'],
    'perceptual': ['fidelity'], 'records': ['fidelity'],
    'stages': ['losses', 'learner'], 'checkpoints': ['callbacks', 'learner'],
    'latents': ['latent_nat', 'learner'], 'memory': ['learner'], 'distributed': ['learner'],
    'unpaired': ['loaders', 'learner'],
    'llflow': ['baselines'], 'restormer': ['baselines'], 'plain': ['baselines'], 'tables': ['runs', 'baselines'],
    'cost': ['runs'], 'uncertainty': ['masking'], 'calibration': ['runs', 'masking'],
    'known_tokens': ['runs', 'latent_nat'],
    'lab_nat_gain': ['latent_nat'],
    'hints': ['latent_nat', 'enhancer'], 'guided': ['enhancer', 'bright'],
    'tone': ['bright', 'enhancer'],
    'tiling': ['enhancer'], 'folders': ['enhancer'], 'result': ['latent_nat', 'enhancer', 'bright'],
    'critic': ['masking', 'latent_nat'], 'static_graph': ['latent_nat', 'onnx'], 'steps': ['widgets'],
    'config': ['learner'], 'checkpoint': ['learner', 'enhancer'], 'pipeline': ['learner'],
}
FRAMED = ['lowlight_nat', 'config', 'checkpoint']    # chapters that light the frame of the whole model
ROW = 'dark encoder flow masking latent_nat fusion bright'.split()
FEEDS = {'flow': 'latents', 'latent_nat': 'tokens', 'fusion': 'features of D'}   # what the codebook hands on


@dataclass
class Form:
    "One layout of the drawing; places are x, y, width, height, in px."
    width: int
    height: int
    places: dict                                 # of each part
    words: dict                                  # what stands in the boxes
    frame: tuple                                 # the dashed frame around all that `LowLightNAT` holds
    label: tuple                                 # x, y of the frame's name
    legend: tuple                                # x, y of "this chapter"
    captions: list                               # x, y, text, anchor

WIDE = Form(960, 510, {
    'quantizers': (152, 64, 112, 52), 'vqgan': (300, 50, 464, 66),
    'dark': (18, 190, 98, 74), 'encoder': (144, 178, 126, 98), 'flow': (300, 178, 104, 98),
    'masking': (440, 178, 104, 98),
    'latent_nat': (578, 178, 88, 98), 'fusion': (695, 178, 122, 98), 'bright': (844, 190, 98, 74),
    'light': (152, 288, 660, 26),
    'loaders': (24, 372, 118, 34), 'layers': (152, 372, 112, 34), 'losses': (274, 372, 112, 34),
    'callbacks': (396, 372, 112, 34),
    'learner': (518, 372, 112, 34), 'fidelity': (640, 372, 92, 34), 'baselines': (742, 372, 90, 34),
    'runs': (842, 372, 96, 34),
    'glare': (152, 418, 112, 34), 'glare_weights': (274, 418, 112, 34),
    'enhancer': (518, 418, 112, 34), 'onnx': (640, 418, 92, 34), 'widgets': (742, 418, 90, 34),
    'cli': (842, 418, 96, 34),
}, PARTS, (130, 32, 698, 294), (138, 45), (24, 474), [
    (24, 360, 'around it: what it is fed and built from, how it is taught', 'start'),
    (640, 360, 'and how it is measured', 'start'),
    (24, 439, 'the official network:', 'start'), (508, 439, 'and how it is used:', 'end'),
])
UPRIGHT = Form(360, 1076, {
    'dark': (24, 14, 136, 44), 'quantizers': (246, 104, 96, 52), 'vqgan': (246, 190, 96, 352),
    'encoder': (24, 104, 136, 68), 'flow': (24, 198, 136, 68), 'masking': (24, 292, 136, 68),
    'latent_nat': (24, 386, 136, 68),
    'fusion': (24, 474, 136, 68), 'light': (176, 562, 166, 84), 'bright': (24, 682, 136, 44),
    'loaders': (14, 770, 104, 32), 'layers': (127, 770, 104, 32), 'losses': (240, 770, 104, 32),
    'callbacks': (14, 808, 104, 32), 'learner': (127, 808, 104, 32), 'fidelity': (240, 808, 104, 32),
    'baselines': (14, 846, 104, 32), 'runs': (127, 846, 104, 32), 'glare': (14, 902, 104, 32),
    'glare_weights': (127, 902, 104, 32),
    'enhancer': (14, 958, 104, 32), 'onnx': (127, 958, 104, 32), 'widgets': (240, 958, 104, 32),
    'cli': (14, 996, 104, 32),
}, {**PARTS, **SHORTER}, (10, 76, 340, 582), (178, 94), (14, 1044), [
    (14, 744, 'around it: what it is fed and built from,', 'start'),
    (14, 760, 'how it is taught and how it is measured', 'start'),
    (14, 895, 'the official network:', 'start'), (14, 951, 'and how it is used:', 'start'),
])

STYLE = '''svg { font-family: Helvetica, Arial, "DejaVu Sans", sans-serif; text-anchor: middle; fill: #2b3440 }
rect { fill: #ffffff; stroke: #8a94a3; stroke-width: 1.3; rx: 7 }
.card { fill: #f6f7f9; stroke: #d3d8de; stroke-width: 1; rx: 12 }
.frame { fill: none; stroke-dasharray: 6 5 }
path { stroke: #5b6675; stroke-width: 1.6; fill: none }
.head { fill: #5b6675; stroke: none }
.note { fill: #5b6675 }
.on, .on text { fill: #1d1400 }
.on rect { fill: #ffd76a; stroke: #a85f00; stroke-width: 3 }
.on .frame { fill-opacity: 0.45 }
.on .key { stroke-width: 1.5; rx: 3 }
.lit { display: none }
.lit:target { display: inline }'''


def rect(x, y, w, h, extra=''): return f'<rect x="{x}" y="{y}" width="{w}" height="{h}"{extra}/>'

def text(x, y, words, size=11.5, extra=''):
    "One line of text whose baseline is at `y`."
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{extra}>{escape(words)}</text>'

def arrow(x1, y1, x2, y2): return f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" marker-end="url(#head)"/>'

BOLD = ' font-weight="bold"'
START = ' style="text-anchor: start"'

def box(form, key):
    "A part: its name and what it does, centred."
    x, y, w, h = form.places[key]
    name, lines = form.words[key]
    middle = x + w/2
    top = y + h/2 - 8.5*len(lines) + 4.5
    below = [text(middle, top + 17*i, line) for i, line in enumerate(lines, 1)]
    return [rect(x, y, w, h), text(middle, top, name, 13, BOLD), *below]

def frame(form):
    return [rect(*form.frame, ' class="frame"'), text(*form.label, 'lowlight_nat: LowLightNAT', 12.5, BOLD + START)]

def wide_arrows():
    "To the right along the picture's way, down from the codebook, and into it from the quantizer."
    at = WIDE.places
    for a, b in zip(ROW, ROW[1:]):
        x, y, w, h = at[a]
        yield arrow(x + w, y + h/2, at[b][0] - 3, y + h/2)
    bottom = at['vqgan'][1] + at['vqgan'][3]
    for key, label in FEEDS.items():
        x, y, w, _ = at[key]
        middle = min(x + w/2, 744)
        yield arrow(middle, bottom, middle, y - 3)
        yield text(middle + 6, bottom + 20, label, 11, ' class="note"' + START)
    x, y, w, h = at['quantizers']
    yield arrow(x + w, y + h/2, at['vqgan'][0] - 3, y + h/2)

def upright_arrows():
    "Down along the picture's way and from the quantizer, to the left from the codebook."
    at = UPRIGHT.places
    for a, b in [*zip(ROW, ROW[1:]), ('quantizers', 'vqgan')]:
        x, y, w, h = at[a]
        yield arrow(x + w/2, y + h, x + w/2, at[b][1] - 3)
    left = at['vqgan'][0]
    for key, label in FEEDS.items():
        x, y, w, h = at[key]
        yield arrow(left, y + h/2, x + w + 3, y + h/2)
        yield text((left + x + w)/2 + 2, y + h/2 - 6, label, 11, ' class="note"')

def lit(form, chapter, arrows):
    "The layer of one chapter, which lies over the drawing."
    x, y = form.legend
    keys = LIGHTS.get(chapter, []) + [chapter]*(chapter in PARTS)
    legend = [rect(x, y, 14, 14, ' class="key"'), text(x + 22, y + 12, f'this chapter: {chapter}', 12.5, BOLD + START)]
    out = [f'<g id="{chapter}" class="lit">']
    if chapter in FRAMED:                        # the frame and, as before, what stands in it
        out += ['<g class="on">', *frame(form), '</g>', *arrows]
        for key in PARTS: out += box(form, key)
    return [*out, '<g class="on">', *(line for key in keys for line in box(form, key)), *legend, '</g>', '</g>']

def drawing(form):
    "The whole SVG."
    arrows = list(wide_arrows() if form is WIDE else upright_arrows())
    size = f'viewBox="0 0 {form.width} {form.height}" width="{form.width}" height="{form.height}"'
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">',
           '<title id="title">The pipeline from a dark picture to a bright one</title>', f'<style>{STYLE}</style>',
           '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
           '<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>',
           rect(1, 1, form.width - 2, form.height - 2, ' class="card"'), *frame(form), *arrows]
    for key in PARTS: out += box(form, key)
    for x, y, words, anchor in form.captions:
        out.append(text(x, y, words, 11, f' class="note" style="text-anchor: {anchor}"'))
    for chapter in CHAPTERS: out += lit(form, chapter, arrows)
    return '\n'.join([*out, '</svg>', ''])


if __name__ == '__main__':
    (HERE/'pipeline.svg').write_text(drawing(WIDE), encoding='utf-8')
    (HERE/'pipeline_upright.svg').write_text(drawing(UPRIGHT), encoding='utf-8')
