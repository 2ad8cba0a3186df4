"The quizzes at the end of each part: every question has its answer, and every chapter of the part is asked about."
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
contents = runpy.run_path(str(ROOT/'nbs/contents.py'))
PARTS = [part.pages for part in contents['PARTS'] if part.numbered]


def questions(n):
    "The questions of a quiz: what is asked, the answer, and the page that it leads to."
    text = (ROOT/f'nbs/course/quiz_{n}.qmd').read_text(encoding='utf-8')
    return [(re.split('<details>', o)[0].strip(),
             *re.search(r'<details><summary>Answer</summary>\n\n(.+?) See \[.+?\]\(\.\./(\S+)\)', o, re.S).groups())
            for o in re.split(r'^## .*$', text, flags=re.M)[1:]]

@pytest.mark.parametrize('n', range(1, 7))
def test_quiz(n):
    asked = questions(n)
    assert 6 <= len(asked) <= 10
    assert all(len(question) > 40 and len(answer) > 20 for question, answer, _ in asked)
    assert {page for *_, page in asked} == set(PARTS[n - 1]), 'about each chapter of the part, and no other'
