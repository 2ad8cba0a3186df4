"The project itself: its layout, its notebooks, what its modules import, and what it says of itself."
import ast
import hashlib
import importlib.metadata as metadata
import json
import re
import runpy
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
contents = SimpleNamespace(**runpy.run_path(str(NBS/'contents.py')))
CHAPTERS = sorted(NBS.glob('*/[0-9][0-9]_*.ipynb'))
PAGES = sorted(p for p in NBS.rglob('*.ipynb')
               if not any(o[0] in '._' for o in p.relative_to(NBS).parts))
MODULES = sorted(p for p in (ROOT/'lowlight_nat').rglob('*.py') if p.name[0] != '_')
# Rooms that know nothing of fastai
NO_FASTAI = [
    o for o in MODULES
    if o.relative_to(ROOT/'lowlight_nat').parts[0] in ('io', 'models', 'inference', 'evaluation',
                                                       'export')
]
by_name = pytest.mark.parametrize('path', PAGES, ids=lambda p: p.stem)


def dotted(path):
    "A module as it is imported."
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


def cfg():
    c = ConfigParser(delimiters=['='])
    c.read(ROOT/'settings.ini', encoding='utf-8')
    return c['DEFAULT']

def tracked():
    "The files that are committed, or would be by `git add -A`; all files where there is no git."
    git = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=ROOT,
                         capture_output=True)
    if git.returncode:
        return [
            p for p in ROOT.rglob('*')
            if p.is_file() and not any(o[0] == '.' for o in p.relative_to(ROOT).parts)
        ]
    return [p for o in git.stdout.decode().split('\0') if o and (p := ROOT/o).is_file()]

def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def code(path): return [c for c in cells(path) if c['cell_type'] == 'code' and source(c).strip()]

def parsed(src):
    "The statements of a cell; None if it holds magics or shell lines."
    try: return ast.parse(src).body
    except SyntaxError: return None


# --- layout ---

def test_quarto_link():
    link = NBS/'_quarto.yml'
    assert link.is_symlink() and link.readlink() == Path('../_quarto.yml')

def test_chapters_are_the_designs():
    "The rooms of the library, the parts of the book, and its chapters numbered as they are read."
    rooms = {p.parent.name for p in MODULES if p.parent != ROOT/'lowlight_nat'}
    assert {
        'io', 'data', 'models', 'training', 'evaluation', 'inference', 'export', 'app', 'peers'
    } <= rooms
    parts = [p for p in CHAPTERS if p.parent.name.startswith('part')]
    assert [int(p.name[:2]) for p in parts] == list(range(1, len(parts) + 1))
    assert len({p.name[3:] for p in CHAPTERS}) == len(CHAPTERS), 'pages are found by their name'

def site_pages(folder=NBS):
    "Every page of the site: notebooks and Quarto documents."
    found = (p.relative_to(folder) for o in ('*.ipynb', '*.qmd') for p in folder.rglob(o))
    return sorted(p.as_posix() for p in found if not any(o[0] in '._' for o in p.parts))

def test_sidebar_lists_every_page():
    script = runpy.run_path(str(ROOT/'.ci/pages.py'))
    text = (NBS/'sidebar.yml').read_text(encoding='utf-8')
    every = script['contents'].all_pages()
    assert text == script['sidebar'](every), 'run `python .ci/pages.py --list`'
    listed = re.findall(r'^ +(?:- |href: )(\S+\.(?:ipynb|qmd))$', text.split('  navbar:')[0], re.M)
    unlisted = script['contents'].UNLISTED
    assert sorted([*listed, *unlisted]) == site_pages()
    chapters = [o for o in listed if o.startswith('part')]
    assert listed[0] == 'index.ipynb' and chapters == sorted(chapters)
    with pytest.raises(AssertionError, match='99_nowhere.ipynb'):
        script['sidebar']([*every, '99_nowhere.ipynb'])

def test_sidebar_groups_the_course():
    "Slides, exercises, solutions and quizzes have sections of their own, in which all of them stand."
    pages = contents.grouped('Course', contents.sections()['Course'])
    groups = {o[0]: o[1] for o in pages if isinstance(o, tuple)}
    assert {k: len(v) for k, v in groups.items()} == dict(Slides=6, Exercises=6, Solutions=6, Quizzes=6)
    assert len(pages) <= 8

def test_seconds_are_kept_by_page(tmp_path):
    script = runpy.run_path(str(ROOT/'.ci/durations.py'))
    script['write'](tmp_path/'seconds.json', 'command', {'index.ipynb': 3, '08_flow.ipynb': 61}, 64.4)
    d = json.loads((tmp_path/'seconds.json').read_text(encoding='utf-8'))
    assert d['seconds'] == {'index.ipynb': 3, 'part2_vocabulary/08_flow.ipynb': 61} and d['total'] == 64
    assert set(d) == {'command', 'cpu', 'date', 'total', 'seconds'}

def test_contents_number_the_chapters():
    "The number in a file's name is its place in the list of contents, and each names what it needs before it."
    numbers = contents.numbers()
    assert {int(Path(page).name[:2]) for page in numbers} == set(numbers.values())
    assert all(int(Path(page).name[:2]) == n for page, n in numbers.items())
    by_name = {contents.name_of(page): n for page, n in numbers.items()}
    assert by_name.keys() == contents.NEEDS.keys()
    assert all(by_name[o] < by_name[name] for name, before in contents.NEEDS.items() for o in before)

def test_requirements():
    need, dev = (cfg()[k].split() for k in ('requirements', 'dev_requirements'))
    assert all('>=' in o for o in need), 'run-time requirements are ranges'
    assert [
        re.split('[<>=]', o)[0] for o in need
    ] == 'torch numpy pillow safetensors tqdm fastcore'.split(), 'what enhances needs no more'
    assert {re.split('[<>=]', o)[0]
            for o in cfg()['train_requirements'].split()} <= {re.split('[<>=]', o)[0]
                                                              for o in dev}

def test_version_is_one():
    import lowlight_nat
    assert lowlight_nat.__version__ == cfg()['version'] == metadata.version('lowlight_nat')
    assert f"## {cfg()['version']}" in (ROOT/'CHANGELOG.md').read_text()
    assert re.search(r'^version: (\S+)', (ROOT/'CITATION.cff').read_text(),
                     re.M)[1] == cfg()['version']

def test_weights_are_small():
    weights = list((ROOT/'lowlight_nat/weights').glob('*.safetensors'))
    assert weights and max(o.stat().st_size for o in weights) <= 12e6


# --- what is committed ---

def without_pictures(text):
    "A notebook's text less its embedded pictures, whose base64 may hold any letters."
    def strip(o):
        if isinstance(o, dict):
            return {
                k: strip(v)
                for k, v in o.items()
                if not k.startswith('image/p') and not k.startswith('image/j')
            }
        return [strip(v) for v in o] if isinstance(o, list) else o
    return json.dumps(strip(json.loads(text)))

def test_no_machine_paths():
    # in pieces, so that this file passes
    tops = ['wo'+'rk', 'tm'+'p', 'ro'+'ot', 'fa'+'rm', 'ho'+'me/[a-z]+', 'Us'+'ers/[A-Za-z]+']
    machine = re.compile(r'(?<![\w.])/(?:' + '|'.join(tops) + ')/')
    bad = []
    for p in tracked():
        try: text = p.read_text(encoding='utf-8')
        except UnicodeDecodeError: continue
        if p.suffix == '.ipynb': text = without_pictures(text)
        if m := machine.search(text):
            bad.append(f'{p.relative_to(ROOT)}: {text[max(0, m.start()-40):m.end()+40]!r}')
    assert bad == []

def test_no_picture_of_the_data_set(lol_data):
    theirs = {
        hashlib.sha256(p.read_bytes()).hexdigest()
        for p in lol_data.rglob('*')
        if p.is_file()
    }
    ours = {
        p: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in tracked()
        if p.suffix.lower() in ('.png', '.jpg', '.jpeg', '.webp', '.npz')
    }
    assert [p for p, h in ours.items() if h in theirs] == []

def test_figures_are_the_scripts():
    "Each form of the pipeline's drawing is what its script draws, with a part lit for every chapter."
    script = runpy.run_path(str(NBS/'figures/pipeline.py'))
    for name, form in (('pipeline', 'WIDE'), ('pipeline_upright', 'UPRIGHT')):
        svg = (NBS/f'figures/{name}.svg').read_text(encoding='utf-8')
        assert svg == script['drawing'](script[form]), 'run `python nbs/figures/pipeline.py`'
        assert re.findall(r'<g id="(\w+)" class="lit">', svg) == [p.stem[3:] for p in CHAPTERS]
    pages = [p.read_text(encoding='utf-8') for o in ('*.ipynb', '*.qmd') for p in NBS.rglob(o)]
    named = {m for text in pages for m in re.findall(r'pipeline\.svg \\?"(\w+)', text)}
    assert len(named) > 40 and named <= set(script['CHAPTERS'])
    dark = [o for o in script['CHAPTERS'] if o != 'lowlight_nat' and not script['lit'](script['WIDE'], o, [])[2:-4]]
    assert dark == [], 'say in LIGHTS of nbs/figures/pipeline.py what these light'


# --- notebooks ---

@by_name
def test_notebook_frame(path):
    first = cells(path)[0]
    last = code(path)[-1]
    assert first['cell_type'] == 'raw' and re.search(r'^title: .+^description: .+', source(first),
                                                     re.M | re.S)
    assert source(last).startswith('#| hide') and 'nbdev.nbdev_export()' in source(last)

@by_name
def test_notebook_outputs(path):
    outputs = [o for c in code(path) for o in c['outputs']]
    assert not any(o['output_type'] == 'error' for o in outputs)
    if path in CHAPTERS: assert outputs, 'the site shows stored outputs, and this chapter has none'

@by_name
def test_notebook_imports_stand_alone(path):
    """A cell that imports does nothing else: nbdev runs such cells, and only such, when it makes
    the site."""
    def mixed(body):
        kinds = {isinstance(o, (ast.Import, ast.ImportFrom)) for o in body}
        return len(kinds) == 2 and any(isinstance(o, (ast.Expr, ast.Assign)) for o in body)
    bad = [
        source(c)
        for c in code(path)
        if 'nbdev_export()' not in source(c) and (body := parsed(source(c))) and mixed(body)
    ]
    assert bad == []


# --- modules ---

@pytest.mark.slow
def test_import_is_light():
    """What enhances brings in none of the heavy packages that it doesn't need; seconds, which
    depend on disk and neighbours, are no test."""
    watched = 'IPython ipykernel jupyter jupyter_client fastai lpips matplotlib pandas spacy sklearn scipy'.split(
    )
    script = f"import sys, {', '.join(map(dotted, NO_FASTAI))}; print([o for o in {watched} if o in sys.modules])"
    out = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True,
                         check=True).stdout
    assert ast.literal_eval(out) == []

# Refuses what no one needs who only enhances, as if it weren't installed; then runs what its
# arguments say
REFUSE = '''
import runpy, sys
ABSENT = 'fastai fasttransform torchvision matplotlib lpips IPython ipywidgets pandas scipy sklearn spacy'.split()
class Refuse:
    def find_spec(self, name, *args):
        if name.split('.')[0] in ABSENT: raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Refuse())
'''

def without_extras(script, cwd=ROOT, rc=0):
    "What a script prints where only the run-time requirements can be imported."
    r = subprocess.run([sys.executable, '-c', REFUSE + script], cwd=cwd, capture_output=True,
                       text=True, encoding='utf-8', timeout=300)
    assert r.returncode == rc, r.stdout + r.stderr
    return r.stdout + r.stderr

@pytest.mark.slow
def test_enhances_without_extras(tmp_path):
    said = without_extras(f"""
from lowlight_nat.inference.enhancer import Enhancer
import lowlight_nat.app.steps
result = Enhancer.from_pretrained(device='cpu')('samples/chelsea.jpg')
result.image.save({str(tmp_path/'a.png')!r})
from lowlight_nat.cli import lowlight_enhance
assert lowlight_enhance.main(['samples/coffee.png', '-o', {str(tmp_path/'out')!r}, '--device', 'cpu']) == 0
print([o for o in ABSENT if o in sys.modules])
""")
    assert '[]' in said.splitlines(), said
    assert (tmp_path/'a.png').is_file() and (tmp_path/'out/coffee.png').is_file()

def test_commands_name_the_extra(tmp_path):
    calls = [("lowlight_train", ['--data', str(tmp_path), '--out',
                                 str(tmp_path/'out')],
              'Training needs fastai: run `pip install -e ".[train]"`'),
             ("lowlight_app", ['--no-browser'],
              'The app needs ipywidgets: run `pip install -e ".[app]"`')]
    for sub in 'low', 'high':
        (tmp_path/'train'/sub).mkdir(parents=True)
    for name, args, sentence in calls:
        script = f"from lowlight_nat import cli\nsys.exit(cli.{name}.main({args!r}))"
        said = without_extras(script, rc=2)
        assert sentence in said and 'Traceback' not in said

def test_modules_name_the_extra():
    "Each module can be imported without extras, or says in one sentence which one it needs."
    names = [dotted(p) for p in MODULES]
    script = f"""
import importlib
for name in {names}:
    try: importlib.import_module(name)
    except ImportError as e: print(name, e)
"""
    # PyTorch may say more
    said = dict(
        o.split(' ', 1) for o in without_extras(script).splitlines() if o.split(' ')[0] in names)
    assert not set(said) & ({dotted(p)
                             for p in NO_FASTAI} | {'lowlight_nat.cli', 'lowlight_nat.app.steps'})
    assert {'lowlight_nat.data.loaders', 'lowlight_nat.training.learner'} <= set(said)
    assert [
        o for o in said.values() if not re.fullmatch(
            r'.+ needs \w+: run `pip install -e "\.\[\w+\]"` in your clone of lowlight_nat\.', o)
    ] == []

def test_no_install_from_a_registry():
    "Until the first upload, every line that installs us names the clone or the repository."
    ours = re.compile('pip install (-[a-zA-Z-]+ )*["\'`]*' + 'lowlight' + '[_-]nat(?! @ git)')
    texts = [
        p for p in tracked()
        if p.suffix in ('.py', '.ipynb', '.qmd', '.md', '.ini', '.yml', '.toml')
    ]
    assert [p.name for p in texts if ours.search(p.read_text(encoding='utf-8'))] == []

@pytest.mark.slow
def test_console_scripts(run):
    scripts = {
        o.name: o
        for o in metadata.distribution('lowlight_nat').entry_points
        if o.group == 'console_scripts'
    }
    assert {'lowlight_enhance', 'lowlight_train', 'lowlight_evaluate',
            'lowlight_experiment'} <= set(scripts)
    for name, o in scripts.items():
        assert callable(o.load()), name
        assert 'usage' in run(f'{name} --help', timeout=120).lower()
