"""Run every notebook and say how long each took, slowest last:
`python .ci/durations.py [--write FILE] [COMMAND]`.

With `--write nbs/seconds.json` the seconds are kept in a file, from which the line under each
chapter's title is made. Two notebooks at a time, one thread each. Fails if a notebook fails.
Seconds are printed and never a reason to fail, since they depend on what else the machine does; a
notebook over 4 minutes, or all over 15, is named.
"""
import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EACH = 4*60     # seconds of one notebook
ALL = 15*60     # and of all together


def run(command):
    "Run `command`, show what it prints; the seconds of each notebook, and of all by the clock."
    began = time.time()
    times = {}
    p = subprocess.Popen(
        shlex.split(command) + ['--timing'], cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE, text=True)
    for line in p.stdout:
        print(line, end='', flush=True)
        if m := re.fullmatch(r'(\S+\.ipynb): (\d+) secs', line.strip()): times[m[1]] = int(m[2])
    if p.wait(): sys.exit(f'`{command}` ended with {p.returncode}')
    if not times: sys.exit(f'`{command} --timing` named no notebook')
    return times, time.time() - began

def too_slow(times, total):
    "What takes longer than a reader should wait, in words."
    bad = [f'{k} took {v} s; the aim is {EACH}' for k, v in times.items() if v > EACH]
    return bad + ([f'all together took {total:.0f} s; the aim is {ALL}'] if total > ALL else [])

def cpu():
    "The name of the processor, as Linux says it."
    try: text = Path('/proc/cpuinfo').read_text(encoding='utf-8')
    except OSError: return 'unknown'
    return (re.findall(r'^model name\s*: (.+)$', text, re.M) or ['unknown'])[0]

def by_page(times):
    "The seconds of each notebook under its path as seen from nbs/; nbdev says only its name."
    found = {}
    for p in (ROOT/'nbs').rglob('*.ipynb'):
        where = p.relative_to(ROOT/'nbs')
        if any(o[0] in '._' for o in where.parts): continue
        found.setdefault(p.name, []).append(where.as_posix())
    double = [o for o in times if len(found[o]) > 1]
    if double: sys.exit(f'several notebooks are called {", ".join(double)}: rename all but one')
    return {page: times[name] for page, name in sorted((found[o][0], o) for o in times)}

def write(path, command, times, total):
    "Keep what was measured, as `contents.seconds` reads it."
    d = dict(command=command, cpu=cpu(), date=str(date.today()), total=round(total), seconds=by_page(times))
    Path(path).write_text(json.dumps(d, indent=1) + '\n', encoding='utf-8')

def main(args):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--write', metavar='FILE', help='keep the seconds in this file, as JSON')
    known, rest = p.parse_known_args(args)
    command = ' '.join(rest) or 'nbdev_test --n_workers 2'
    times, total = run(command)
    for name, seconds in sorted(times.items(), key=lambda o: o[1]): print(f'{seconds:5} s  {name}')
    print(f'{len(times)} notebooks in {total:.0f} s')
    for line in too_slow(times, total): print('slow:', line)
    if known.write: write(known.write, f'python .ci/durations.py --write {known.write}', times, total)


if __name__ == '__main__': main(sys.argv[1:])
