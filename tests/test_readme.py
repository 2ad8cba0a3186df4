"""What the README says is what happens: its commands and its Python lines are run, its links
followed, its story held against the index."""
import json
import re
from pathlib import Path

import pytest
from PIL import Image, ImageStat

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT/'README.md').read_text(encoding='utf-8') if (ROOT/'README.md').exists() else ''
RESULTS = (ROOT/'nbs/results.qmd').read_text(encoding='utf-8')
CELLS = json.loads((ROOT/'nbs/start.ipynb').read_text(encoding='utf-8'))['cells']
START = '\n'.join(''.join(c['source']) for c in CELLS)
PICTURES = ('.png', '.jpg', '.jpeg', '.webp')


def block(mark):
    "The fenced block that follows the comment `mark`."
    m = re.search(rf'<!-- {re.escape(mark)} -->\n```\w+\n(.*?)\n```', README, re.S)
    assert m, f'README.md has no block marked {mark}'
    return m[1]

def samples(): return sorted(p for p in (ROOT/'samples').iterdir() if p.suffix in PICTURES)
def level(path): return ImageStat.Stat(Image.open(path).convert('L')).mean[0]/255
def spread(path): return ImageStat.Stat(Image.open(path).convert('L')).stddev[0]/255

@pytest.fixture
def place(tmp_path):
    """An empty folder that has the samples, so that what the README's lines write does not land in
    the project."""
    (tmp_path/'samples').symlink_to(ROOT/'samples', target_is_directory=True)
    return tmp_path


def test_a_front_page_is_short():
    assert len(README.split()) <= 700

def anchors(path):
    "What a link may name on a page: its own names, and those that Pandoc makes of the headings."
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.ipynb': text = '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'])
    headings = [re.sub(r'[^\w\s-]', '', o).strip() for o in re.findall(r'^#+ (.*)', text, re.M)]
    return {re.sub(r'\s+', '-', o).lower() for o in headings} | set(re.findall(r'\{#([\w-]+)\}', text))

def test_links_lead_somewhere():
    links = re.findall(r'\]\(([^)\s]+)\)|<img src="(.*?)"', README)
    links = [o for pair in links for o in pair if o and not re.match(r'[a-z]+:|#', o)]
    broken = []
    for link in links:
        path, _, anchor = link.partition('#')
        if not (ROOT/path).exists(): broken.append(link)
        elif anchor and anchor not in anchors(ROOT/path): broken.append(link)
    assert len([o for o in links if 'gallery_' in o]) == 6 and broken == []
    assert 'no-such-heading' not in anchors(ROOT/'nbs/limits.qmd')

@pytest.mark.slow
def test_enhance_command(place, run):
    line = block('command: enhance').split(' && ')[-1]
    assert line.startswith('lowlight_enhance samples -o enhanced')
    run(line, cwd=place)
    for p in samples():
        out = place/'enhanced'/p.name
        assert out.exists(), f'{p.name} was not written'
        assert Image.open(out).size == Image.open(p).size, p.name
        assert level(out) > max(0.15, 1.3*level(p)) and spread(
            out
        ) > 0.05, f'{p.name}: level {level(p):.3f} -> {level(out):.3f}, spread {spread(out):.3f}'

@pytest.mark.slow
def test_python_example(place, run):
    code = block('python: example')
    assert code.count('\n') == 4, 'five lines were promised'
    (place/'example.py').write_text(code + '\n', encoding='utf-8')
    printed = run('python example.py', cwd=place)
    assert 0 <= float(printed.split()[-1]) <= 1
    assert level(place/'chelsea_bright.png') > 1.3*level(ROOT/'samples/chelsea.jpg')

def help_of(program, rest, run):
    "What a command's help says; of subcommands that of the one that is named, or of all."
    from lowlight_nat.cli import EXPERIMENTS
    if program != 'lowlight_experiment': return run(f'{program} --help', timeout=120)
    names = [rest[0]] if rest and rest[0] in EXPERIMENTS else list(EXPERIMENTS)
    return '\n'.join(run(f'{program} {o} --help', timeout=120) for o in names[:2])

@pytest.mark.slow
def test_options_exist(run):
    rows = re.findall(r'^\| `(lowlight_\w+)([^`]*)` \|(.*)\|$', START, re.M)
    assert {o[0]
            for o in rows} == set(
                re.findall(r'^    (lowlight_\w+)=', (ROOT/'settings.ini').read_text(), re.M))
    for name, use, words in rows:
        usage = help_of(name, use.split(), run)
        assert [o for o in re.findall(r'--[a-z][\w-]*', use + words) if o not in usage] == [], name

def test_python_version():
    least = re.search(r'^min_python\s*=\s*(\S+)', (ROOT/'settings.ini').read_text(), re.M)[1]
    assert f'Python {least} or newer' in README

def test_figures_come_from_a_run():
    table = re.search(r'<!-- figures:start -->\n(.*?)<!-- figures:end -->', README, re.S)[1]
    assert 'bundled checkpoint' in table, ('write nbs/figures/val.json with lowlight_evaluate '
                                           '--json, then run nbs/readme.py')

def claim_rows(text):
    "The rows of the table of claims: words, figure, command."
    table = re.search(r'<!-- claims:start -->\n(.*?)<!-- claims:end -->', text, re.S)[1]
    return [[c.strip() for c in o.strip('|').split(' | ')] for o in table.strip().splitlines()[2:]]

def commandless(rows, run):
    "The rows whose command isn't one: no such program, option, script or test."
    bad = []
    for words, _figure, command in rows:
        program, *rest = command.strip('`| ').split()
        if program.startswith('lowlight_'):
            usage = help_of(program, rest, run)
            if [o for o in rest if o.startswith('--') and o not in usage]: bad.append(words)
        elif program in ('python', 'pytest'):
            if not (ROOT/rest[0]).is_file(): bad.append(words)
        else: bad.append(words)
    return bad

@pytest.mark.slow
def test_claims_have_commands(run):
    rows = claim_rows(RESULTS)
    assert len(rows) >= 10 and all(len(o) == 3 and o[2].startswith('`') for o in rows)
    assert commandless(rows, run) == []
    assert commandless([['words', '1 dB', '`python nbs/figures/no_such.py`'],
                        ['more', '2 dB', '`lowlight_evaluate --faith`'], ['most', '3', '`true`']],
                       run) == ['words', 'more', 'most']

def unproven(text):
    "Measured figures in running text that stand in no table of figures."
    shown = ' '.join(re.findall(r'<!-- figures:start -->.*?<!-- figures:end -->', text, re.S))
    prose = re.sub(r'<!-- (?:figures|parts):start -->.*?end -->|<img[^>]*>|```.*?```|`[^`]*`', '', text, flags=re.S)
    return [
        o for o in re.findall(
            r'[-+]?\d[\d.,]*(?: (?:dB|seconds|s|MB|GB|megapixels|million parameters)|%)(?!\w)',
            prose) if o not in shown
    ]

def test_figures_in_the_text_are_shown():
    assert unproven(README) == []
    assert unproven(README + ' It gains 31.00 dB and takes 12% more memory.') == ['31.00 dB', '12%']
