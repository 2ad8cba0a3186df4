"""What all tests share: where the project is, the real pairs and reference arrays where there are
any, and a command runner."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault('MPLBACKEND', 'Agg')
if 'PYTEST_XDIST_WORKER' in os.environ:
    # side by side, each worker has a core; read when torch is imported
    os.environ.setdefault('OMP_NUM_THREADS', '1')
ROOT = Path(__file__).resolve().parents[1]


def folder_of(var, *needed):
    "The folder that `var` names, or a skip that says what is missing."
    value = os.environ.get(var)
    if not value:
        pytest.skip(f'{var} is not set: it names the folder that holds {", ".join(needed)}')
    path = Path(value)
    absent = [o for o in needed if not (path/o).exists()]
    if absent: pytest.fail(f'{var} is set, but {", ".join(absent)} is not in the folder it names')
    return path

@pytest.fixture(scope='session')
def root():
    "The folder of the project."
    return ROOT

@pytest.fixture(scope='session')
def lol_data():
    "The folder of real pairs, with `train/{low,high}` and `val/{low,high}`."
    return folder_of('LOWLIGHT_DATA', 'train', 'val')

@pytest.fixture(scope='session')
def parity():
    "The folder of reference arrays of GLARE's network."
    return folder_of('LOWLIGHT_PARITY', 'glare_reference.npz', 'keys.json', 'tolerances.json')

@pytest.fixture(scope='session')
def run():
    """Run a shell line in a folder, with this Python's commands first on the path; fails with what
    it printed."""
    def _run(line, cwd=ROOT, timeout=300):
        env = dict(os.environ,
                   PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]))
        r = subprocess.run(line, shell=True, cwd=cwd, env=env, timeout=timeout, text=True,
                           encoding='utf-8', stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT)
        assert r.returncode == 0, f'`{line}` ended with {r.returncode}:\n{r.stdout[-4000:]}'
        return r.stdout
    return _run

@pytest.fixture(scope='session')
def chromium():
    "Starts a headless Chromium that keeps what it keeps in a folder; a skip that says what is missing."
    webdriver = pytest.importorskip('selenium.webdriver', reason="selenium isn't installed: pip install -e '.[dev]'")
    program = shutil.which('chromium') or shutil.which('google-chrome')
    server = shutil.which('chromedriver')
    if not program or not server:
        pytest.skip('there is no chromium with chromedriver: on Debian, apt-get install chromium chromium-driver')
    def start(folder, *flags, **capabilities):
        o = webdriver.ChromeOptions()
        o.binary_location = program
        for flag in ('headless=new', 'no-sandbox', 'disable-gpu', 'no-first-run', 'disable-background-networking',
                     'disable-component-update', 'disable-sync', 'disable-dev-shm-usage',
                     f'user-data-dir={folder/"user"}', *flags): o.add_argument(f'--{flag}')
        for k, v in capabilities.items(): o.set_capability(f'goog:{k}', v)
        return webdriver.Chrome(options=o, service=webdriver.ChromeService(server))
    return start
