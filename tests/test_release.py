"A release: what the workflows do, what is built, and what the command that makes one refuses."
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT/'.github/workflows'
SYSTEMS = ['ubuntu-24.04', 'macos-14', 'windows-2022']
FILES = 'settings.ini', 'CITATION.cff', 'CHANGELOG.md', 'lowlight_nat/__init__.py', '.ci/release.py'


def workflow(name):
    "A workflow, read; YAML takes the key `on` for True."
    yaml = pytest.importorskip('yaml')
    return yaml.safe_load((WORKFLOWS/f'{name}.yml').read_text(encoding='utf-8'))

def commands(job):
    "All that a job's steps run."
    return '\n'.join(o.get('run', '') for o in job['steps'])

def git(folder, *args):
    "What a git command prints."
    done = subprocess.run(['git', *args], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout

@pytest.fixture
def clone(tmp_path):
    "A repository with the files that a release touches, and changes to tell of."
    for name in FILES:
        (tmp_path/name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT/name, tmp_path/name)
    changes = '# Changes\n\n## 9.8.7 (unreleased)\n\n- More light.\n\n## 0.1.0\n\n- Light.\n'
    (tmp_path/'CHANGELOG.md').write_text(changes)
    git(tmp_path, 'init', '-q', '-b', 'main')
    git(tmp_path, 'config', 'user.name', 'test')
    git(tmp_path, 'config', 'user.email', 'test@localhost')
    git(tmp_path, 'config', 'commit.gpgsign', 'false')
    git(tmp_path, 'config', 'tag.gpgsign', 'false')
    git(tmp_path, 'add', '-A')
    git(tmp_path, 'commit', '-q', '-m', 'start')
    return tmp_path

def make_release(clone, *args):
    "Run the command in a clone."
    line = [sys.executable, '.ci/release.py', *args]
    return subprocess.run(line, cwd=clone, capture_output=True, text=True)


# --- workflows ---

def test_pull_requests_are_tested_everywhere():
    jobs = workflow('test')['jobs']
    assert set(jobs) == {'quick', 'full'}
    matrix = jobs['quick']['strategy']['matrix']
    assert matrix == {'os': SYSTEMS, 'python': ['3.10', '3.11', '3.12', '3.13']}
    assert '-m "not slow"' in commands(jobs['quick']) and 'bash .ci/run' in commands(jobs['full'])

def test_a_tag_is_built_installed_and_published():
    flow = workflow('release')
    jobs = flow['jobs']
    assert flow[True] == {'push': {'tags': ['v*']}}
    assert list(jobs) == ['build', 'install', 'publish']
    for word in 'release.py --tag', 'python -m build', 'twine check --strict', 'check.py dist':
        assert word in commands(jobs['build'])
    assert jobs['install']['strategy']['matrix']['os'] == SYSTEMS
    assert 'lowlight_enhance" samples -o enhanced' in commands(jobs['install'])
    publish = jobs['publish']
    assert publish['needs'] == ['build', 'install'] and publish['environment'] == 'pypi'
    assert publish['permissions'] == {'id-token': 'write'}

@pytest.mark.parametrize('path', sorted(WORKFLOWS.glob('*.yml')), ids=lambda p: p.stem)
def test_actions_are_pinned(path):
    used = re.findall(r'uses: (\S+)', path.read_text(encoding='utf-8'))
    assert used and [o for o in used if not re.fullmatch(r'[\w-]+/[\w-]+@[0-9a-f]{40}', o)] == []


# --- the command ---

def test_release_writes_commits_and_tags(clone):
    done = make_release(clone, '9.8.7')
    assert done.returncode == 0, done.stderr
    assert all('9.8.7' in (clone/o).read_text() for o in FILES[:4])
    assert '## 9.8.7\n' in (clone/'CHANGELOG.md').read_text()
    assert '## 0.1.0' in (clone/'CHANGELOG.md').read_text()
    last = git(clone, 'log', '-1', '--oneline', '--decorate')
    assert 'tag: v9.8.7' in last and 'Release 9.8.7' in last
    assert make_release(clone, '--tag', 'v9.8.7').returncode == 0
    assert 'says 9.8.7' in make_release(clone, '--tag', 'v9.8.6').stderr
    assert 'there already' in make_release(clone, '9.8.7').stderr

REFUSED = [('9.8', 'is no version'), ('0.0.1', 'older than'), ('9.9.9', 'has no section')]

@pytest.mark.parametrize('version, sentence', REFUSED)
def test_release_refuses(clone, version, sentence):
    done = make_release(clone, version)
    assert done.returncode and sentence in done.stderr and 'Traceback' not in done.stderr

def test_release_refuses_a_dirty_tree(clone):
    (clone/'settings.ini').write_text((clone/'settings.ini').read_text() + '\n')
    before = (clone/'CITATION.cff').read_text()
    done = make_release(clone, '9.8.7')
    assert done.returncode and 'not committed' in done.stderr and 'settings.ini' in done.stderr
    assert (clone/'CITATION.cff').read_text() == before


# --- what is built ---

@pytest.mark.slow
def test_wheel_and_sdist(tmp_path):
    copy = tmp_path/'copy'
    unwanted = '.git _proc *.egg-info __pycache__ .venv build dist'
    ignore = shutil.ignore_patterns(*unwanted.split())
    shutil.copytree(ROOT, copy, ignore=ignore, symlinks=True)
    out = str(tmp_path/'dist')
    build = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    check = [sys.executable, '.ci/check.py', 'dist', out]
    said = subprocess.run(check, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.count('small.safetensors') == 2, 'in the wheel and in the sdist'

@pytest.fixture
def told(monkeypatch):
    "What setup.py tells setuptools."
    setuptools = pytest.importorskip('setuptools')
    seen = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **kwargs: seen.update(kwargs))
    runpy.run_path(str(ROOT/'setup.py'))
    return seen

def test_links_lead_somewhere_from_pypi(told):
    found = re.findall(r'\]\(([^)\s]+)\)|<img src="(.*?)"', told['long_description'])
    links = [o for pair in found for o in pair if o]
    assert len(links) > 10 and [o for o in links if not o.startswith(('https://', '#'))] == []
    assert any(o.endswith('raw/main/nbs/figures/before_after.jpg') for o in links)
    assert sum('raw/main/nbs/figures/gallery_' in o for o in links) == 6

def test_all_is_every_extra_of_the_package(told):
    extras = told['extras_require']
    names = 'train app deploy metrics raw heif tiff notebooks all dev'
    assert set(names.split()) <= set(extras)
    for name in extras.keys() - {'dev', 'notebooks'}:
        assert set(extras[name]) <= set(extras['all']), name
