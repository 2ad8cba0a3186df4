"""A stranger's way from nothing to an enhanced picture, by the clock: a clone, the README's first
command in an empty environment, then the five lines of Python. Writes run/stranger.json:
`python nbs/figures/stranger.py`"""
import json
import os
import re
import subprocess
import tempfile
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
README = (ROOT/'README.md').read_text(encoding='utf-8')
UNITS = dict(kB=1e3, MB=1e6, GB=1e9)


def cpu():
    "The name of the processor, as Linux says it."
    try: text = Path('/proc/cpuinfo').read_text()
    except OSError: return 'unknown'
    return (re.findall(r'^model name\s*: (.+)$', text, re.M) or ['unknown'])[0]

def block(mark):
    "The fenced block of the README under the comment `mark`."
    return re.search(rf'<!-- {mark} -->\n```\w+\n(.*?)\n```', README, re.S)[1]

def timed(command, folder):
    "Run a shell command without what this environment has set; its seconds and what it printed."
    hidden = ('PYTHONPATH', 'VIRTUAL_ENV', 'OMP_NUM_THREADS')
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    if 'VIRTUAL_ENV' in os.environ:
        env['PATH'] = env['PATH'].replace(os.environ['VIRTUAL_ENV'] + '/bin:', '')
    began = time.time()
    done = subprocess.run(['bash', '-ec', command], cwd=folder, env=dict(env, PIP_NO_CACHE_DIR='1'),
                          capture_output=True, text=True)
    if done.returncode: raise SystemExit(f'`{command}`: {done.stdout[-2000:]}{done.stderr[-2000:]}')
    return time.time() - began, done.stdout

def fetched(said):
    "Bytes of what pip says it downloaded, or took from a mirror on a disk."
    sizes = re.findall(r'^ *Downloading \S+.*?\(([\d.]+) (kB|MB|GB)\)', said, re.M)
    files = [Path(o) for o in re.findall(r'^ *Processing (/\S+\.whl)', said, re.M)]
    return sum(float(n)*UNITS[unit] for n, unit in sizes) + sum(p.stat().st_size for p in files)

def steps():
    "What is typed, part by part, with what it's for."
    venv, activate, install, enhance = block('command: enhance').split(' && ')
    yield 'copy the repository', f'git clone -q {ROOT} clone', '.'
    yield 'make an environment', venv, 'clone'
    yield 'install, download included', f'{activate} && {install}', 'clone'
    yield 'enhance the six samples', f'{activate} && {enhance}', 'clone'
    lines = block('python: example')
    yield 'run the five lines of Python', f"{activate} && python - <<'END'\n{lines}\nEND", 'clone'

def main():
    rows = []
    said = ''
    with tempfile.TemporaryDirectory() as box:
        for name, command, folder in steps():
            seconds, printed = timed(command, Path(box)/folder)
            said += printed
            rows.append(dict(step=name, seconds=round(seconds, 1)))
            print(rows[-1], flush=True)
        venv = Path(box)/'clone/.venv'
        disk = sum(p.stat().st_size for p in venv.rglob('*') if p.is_file() and not p.is_symlink())
    res = dict(command='python nbs/figures/stranger.py', cpu=cpu(), cores=os.cpu_count(),
               date=str(date.today()), fetched_gb=round(fetched(said)/1e9, 2),
               disk_gb=round(disk/1e9, 2), rows=rows)
    (HERE/'run/stranger.json').write_text(json.dumps(res, indent=1) + '\n', encoding='utf-8')
    print(json.dumps({k: v for k, v in res.items() if k != 'rows'}))


if __name__ == '__main__': main()
