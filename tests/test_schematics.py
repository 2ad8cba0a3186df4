"""The schematics are what their script draws, and their words can be read: 14 px at least, within
the drawing, none on top of another."""
import re
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

FIGURES = Path(__file__).resolve().parents[1]/'nbs/figures'
SCRIPT = runpy.run_path(str(FIGURES/'schematics.py'))
DRAWINGS = [make() for make in SCRIPT['SCHEMATICS']]
by_drawing = pytest.mark.parametrize('drawing', DRAWINGS, ids=lambda d: d.name)
SVG = '{http://www.w3.org/2000/svg}'

@by_drawing
def test_file_is_what_the_script_draws(drawing):
    path = FIGURES/f'schematics/{drawing.name}.svg'
    assert path.read_text(encoding='utf-8') == drawing.svg(), 'run `python nbs/figures/schematics.py`'

def test_no_file_is_left_over():
    assert {p.stem for p in (FIGURES/'schematics').glob('*')} == {d.name for d in DRAWINGS}

@by_drawing
def test_words_of_the_file(drawing):
    "Title and description; every element of text at least 14 px and within the drawing."
    root = ET.fromstring(drawing.svg())
    left, top, width, height = map(float, root.get('viewBox').split())
    assert (left, top) == (0, 0) and width <= 720
    for tag in ('title', 'desc'): assert len(root.find(SVG + tag).text) > 12
    texts = list(root.iter(f'{SVG}text'))
    assert texts
    for t in texts:
        said = ''.join(t.itertext())
        assert float(t.get('font-size')) >= 14, said
        assert 0 <= float(t.get('x')) <= width and 10 <= float(t.get('y')) <= height - 4, said
        for part in t.iter(f'{SVG}tspan'):
            assert float(part.get('font-size', 16)) >= 14, said

@by_drawing
def test_words_fit(drawing):
    "By the script's own estimate of their width, on the wide side."
    for left, top, right, bottom, said in drawing.texts:
        assert left >= 0 and right <= SCRIPT['WIDTH'], f'{said}: {left:.0f} to {right:.0f}'
        assert top >= 0 and bottom <= drawing.height, f'{said}: {top:.0f} to {bottom:.0f}'

@by_drawing
def test_no_words_on_words(drawing):
    boxes = drawing.texts
    for i, (a, b, c, d, one) in enumerate(boxes):
        for e, f, g, h, other in boxes[i + 1:]:
            assert c <= e or g <= a or d <= f or h <= b, f'{one} on {other}'

def test_numbers_are_those_of_the_chapters():
    "What the drawings say of the examples that the chapters work out."
    said = {d.name: re.sub(r'<[^>]+>', '', d.svg()) for d in DRAWINGS}
    for name, words in dict(
        token_entropy='0.71 / log 4 = 0.51', coupling='(5 + 1) × 2 = 12', reliability='= 0.06',
        bound='= 1.04 nats', messages='residual −0.55', exposure_slider='gain 2', guided='a = 2, b = 1',
        hint='0.6 × 0.86 = 0.52', masked_rounds='16 of 24 masked',
    ).items(): assert words in said[name], name
