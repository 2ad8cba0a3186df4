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
    'quantizers': ('quantizers', ['argmin |z−eₖ|²']),
    'vqgan': ('codebook', ['encoder E, codes eₖ, decoder D', 'learned on normal-light pictures alone']),
    'dark': ('dark picture', ['x_low']),
    'encoder': ('encoder', ['reads the dark', 'picture: c, μ']),
    'flow': ('flow', ['F⁻¹(μ; c)', 'gives latent z̃']),
    'masking': ('masking', ['entropy > τ', 'becomes [MASK]']),
    'latent_nat': ('NAT on latent', ['fills the masked', 'in R rounds']),
    'fusion': ('fusion decoder', ['detail, with', 'a NAT of its own']),
    'bright': ('bright picture', ['x']),
    'light': ('light: level, colour and local gain, from a look at the whole dark picture', []),
    'fidelity': ('metrics', []), 'glare': ('GLARE', []), 'glare_weights': ('its weights', []),
    'enhancer': ('Enhancer', []), 'onnx': ('ONNX', []), 'cli': ('commands', []),
    **{name: (name, []) for name in 'loaders layers losses callbacks learner baselines runs widgets'.split()},
}
SHORTER = {                                      # where the box is narrower
    'vqgan': ('codebook', ['encoder E,', 'codes eₖ,', 'decoder D', '', 'learned on', 'normal-light', 'pictures',
                           'alone']),
    'light': ('light', ['level, colour and', 'local gain, from', 'a look at the whole', 'dark picture']),
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
FEEDS = {'flow': 'latents', 'latent_nat': 'tokens', 'fusion': 'features'}   # what the codebook hands on


@dataclass
class Form:
    "One layout of the drawing; places are x, y, width, height, in px."
    width: int
    height: int
    name_size: float                             # of type: the names of boxes,
    line_size: float                             # and the lines below them
    step: float                                  # from line to line
    places: dict                                 # of each part
    words: dict                                  # what stands in the boxes
    frame: tuple                                 # the dashed frame around all that `LowLightNAT` holds
    label: tuple                                 # x, y of the frame's name
    legend: tuple                                # x, y of "this chapter"
    captions: list                               # x, y, text, anchor

def in_rows(rows, left, top, width, height, gap, down):
    "Places of small boxes in rows; an empty name leaves a field free."
    return {name: (left + j*(width + gap), top + i*down, width, height)
            for i, row in enumerate(rows) for j, name in enumerate(row.split(' ')) if name}

WIDE = Form(960, 510, 14, 13, 17, {
    'quantizers': (144, 72, 112, 52), 'vqgan': (288, 58, 476, 66),
    'dark': (18, 190, 104, 74), 'encoder': (144, 178, 122, 98), 'flow': (288, 178, 100, 98),
    'masking': (410, 178, 112, 98),
    'latent_nat': (544, 178, 118, 98), 'fusion': (684, 178, 122, 98), 'bright': (828, 190, 114, 74),
    'light': (144, 288, 662, 30),
    **in_rows(['loaders layers losses callbacks learner fidelity baselines runs',
               ' glare glare_weights  enhancer onnx widgets cli'], 24, 372, 107, 36, 8, 46),
}, PARTS, (133, 32, 684, 298), (144, 50), (24, 474), [
    (24, 360, 'around it: what it is fed and built from, how it is taught', 'start'),
    (599, 360, 'and how it is measured', 'start'),
    (24, 441, 'GLARE itself:', 'start'), (476, 441, 'how it is used:', 'end'),
])
UPRIGHT = Form(360, 1106, 15, 13.5, 18, {
    'dark': (20, 14, 150, 52), 'quantizers': (236, 112, 108, 56), 'vqgan': (236, 204, 108, 368),
    'encoder': (20, 112, 150, 74), 'flow': (20, 212, 150, 74), 'masking': (20, 312, 150, 74),
    'latent_nat': (20, 412, 150, 74), 'fusion': (20, 512, 150, 74),
    'light': (184, 600, 160, 106), 'bright': (20, 742, 150, 52),
    **in_rows(['loaders layers losses', 'callbacks learner fidelity', 'baselines runs'], 12, 850, 106, 36, 9, 44),
    **in_rows(['glare glare_weights'], 127, 984, 106, 36, 9, 44),
    **in_rows(['enhancer onnx', 'widgets cli'], 127, 1028, 106, 30, 9, 36),
}, {**PARTS, **SHORTER}, (10, 84, 340, 632), (182, 104), (186, 20), [
    (12, 820, 'around it: what it is fed and built from,', 'start'),
    (12, 838, 'how it is taught and how it is measured', 'start'),
    (12, 1007, 'GLARE itself:', 'start'), (12, 1048, 'how it is used:', 'start'),
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
    top = y + h/2 - form.step/2*len(lines) + 5
    below = [text(middle, top + form.step*i, line, form.line_size) for i, line in enumerate(lines, 1)]
    return [rect(x, y, w, h), text(middle, top, name, form.name_size, BOLD), *below]

def frame(form):
    return [rect(*form.frame, ' class="frame"'), text(*form.label, 'model: LowLightNAT', 13.5, BOLD + START)]

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
        yield text(middle + 6, bottom + 20, label, 13, ' class="note"' + START)
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
        yield text((left + x + w)/2 + 2, y + h/2 - 7, label, 13, ' class="note"')

def lit(form, chapter, arrows):
    "The layer of one chapter, which lies over the drawing."
    x, y = form.legend
    keys = LIGHTS.get(chapter, []) + [chapter]*(chapter in PARTS)
    name = PARTS[chapter][0].split(':')[0] if chapter in PARTS else chapter.replace('_', ' ')
    rows = ['this chapter:', name] if form is UPRIGHT else [f'this chapter: {name}']
    legend = [rect(x, y, 14, 14, ' class="key"')]
    legend += [text(x + 22, y + 12 + 20*i, row, 14, BOLD + START) for i, row in enumerate(rows)]
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
        out.append(text(x, y, words, 13, f' class="note" style="text-anchor: {anchor}"'))
    for chapter in CHAPTERS: out += lit(form, chapter, arrows)
    return '\n'.join([*out, '</svg>', ''])


if __name__ == '__main__':
    (HERE/'pipeline.svg').write_text(drawing(WIDE), encoding='utf-8')
    (HERE/'pipeline_upright.svg').write_text(drawing(UPRIGHT), encoding='utf-8')
