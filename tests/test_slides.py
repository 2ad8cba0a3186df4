"""The decks of the course: their size, their first slide, notes whose minutes fill the slot of 40
minutes, drawings instead of tables, and plain words. What their code does is tested in test_course."""
import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COURSE = ROOT/'nbs/course'
DECKS = sorted(COURSE.glob('slides_*.qmd'))
by_deck = pytest.mark.parametrize('path', DECKS, ids=lambda p: p.stem)
SLOT = 40                    # minutes of slides in a session, from 10 to 50
NOTES = re.compile(r'^::: \{\.notes\}\n(.*?)^:::$', re.S | re.M)

def read(path): return path.read_text(encoding='utf-8')
def slides(path): return re.split(r'^## ', read(path), flags=re.M)[1:]

def minutes(slide):
    "The minutes with which the notes of a slide begin."
    note, = NOTES.findall(slide)
    return int(re.match(r'(\d+) min\. \S', note)[1])

def test_there_are_six(): assert [p.stem for p in DECKS] == [f'slides_{n}' for n in range(1, 7)]

@by_deck
def test_size_and_first_slide(path):
    "1280 by 720; session, name of the course, author as in the settings, and a picture that is there."
    head = yaml.safe_load(read(path).split('---')[1])
    form = head['format']['revealjs']
    assert (form['width'], form['height']) == (1280, 720)
    settings = ConfigParser(delimiters=['='])
    settings.read(ROOT/'settings.ini')
    assert head['author'] == settings['DEFAULT']['author']
    assert head['title'].startswith(f'Session {path.stem[-1]}: ') and 'course' in head['subtitle']
    assert (COURSE/head['title-slide-attributes']['data-background-image']).exists()
    assert len(head['description'].split()) <= 20

@by_deck
def test_minutes_of_the_notes_fill_the_slot(path):
    assert sum(map(minutes, slides(path))) == SLOT

def test_the_slot_is_that_of_the_syllabus():
    assert re.search(r'^\| 10-50 \| slides \|', read(COURSE/'index.qmd'), re.M) and SLOT == 50 - 10

@by_deck
def test_drawings_and_no_tables(path):
    text = NOTES.sub('', read(path))
    assert not re.search(r'^\|.*\|$', text, re.M) and '#tbl-' not in text
    drawn = len(re.findall(r'figures/schematics/\w+\.svg\)', text))
    shown = drawn + text.count('{{< embed ')
    assert drawn >= 4 and shown >= .5*len(slides(path))

@by_deck
def test_slides_are_short(path):
    "At most 75 words of text, 20 lines of code of 81 letters, and one picture."
    for slide in slides(path):
        title = slide.splitlines()[0]
        text = NOTES.sub('', slide)
        for code in re.findall(r'^```python\n(.*?)^```', text, re.S | re.M):
            rows = code.splitlines()
            assert len(rows) <= 20 and max(map(len, rows)) <= 81, title
        words = re.sub(r'^```python\n.*?^```|!\[[^\]]*\]\([^)]*\)|\$\$.*?\$\$', '', text, flags=re.S | re.M)
        assert len(words.split()) <= 75, title
        assert text.count('![') + text.count('{{< embed ') <= 1, title

@by_deck
def test_plain_words(path):
    assert not re.search(r"\b(whoever|beside)\b|for who\b", read(path), re.I)
    for code in re.findall(r'^```python\n(.*?)^```', read(path), re.S | re.M):
        assert not re.search(r';|^\s*\w+ = lambda', code, re.M)
