"""Run every notebook and say how long each took: `python .ci/durations.py [COMMAND]`, slowest last.

Two notebooks at a time, one thread each. Fails if a notebook fails. Seconds are printed and never a
reason to fail, since they depend on what else the machine does; a notebook over 4 minutes, or all
over 15, is named.
"""
import os
import re
import shlex
import subprocess
import sys
import time
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

def main(args):
    times, total = run(' '.join(args) or 'nbdev_test --n_workers 2')
    for name, seconds in sorted(times.items(), key=lambda o: o[1]): print(f'{seconds:5} s  {name}')
    print(f'{len(times)} notebooks in {total:.0f} s')
    for line in too_slow(times, total): print('slow:', line)


if __name__ == '__main__': main(sys.argv[1:])
