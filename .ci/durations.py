"""Run every notebook and say how long each took: `python .ci/durations.py`, which writes the table in CONTRIBUTING.md.

`--check [COMMAND]` writes nothing and is what `.ci/run` calls. Two notebooks at a time, one thread each. Fails if a notebook fails. Seconds are
printed and never a reason to fail, since they depend on what else the machine does; a notebook over 4 minutes, or all over 15, is named.
"""
import os, re, shlex, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# seconds
EACH = 4*60
ALL = 15*60


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

def table(times, total):
    "The table of CONTRIBUTING.md, slowest first."
    rows = [f'| `{k}` | {v} |' for k, v in sorted(times.items(), key=lambda o: (-o[1], o[0]))]
    return '\n'.join([
        f'{len(times)} notebooks took {total/60:.1f} minutes together, by the clock; the slowest took {max(times.values())} seconds.',
        '', '| notebook | seconds |', '|---|---|', *rows
    ])

def write(text, path=ROOT/'CONTRIBUTING.md'):
    "Put the table between its markers."
    old = path.read_text(encoding='utf-8')
    new, n = re.subn(r'(<!-- durations:start -->\n).*?(<!-- durations:end -->)',
                     lambda m: f'{m[1]}\n{text}\n\n{m[2]}', old, flags=re.S)
    if not n: sys.exit(f'{path.name} has no marker <!-- durations:start -->')
    path.write_text(new, encoding='utf-8')

def main(args):
    check = '--check' in args
    command = ' '.join(o for o in args if o != '--check') or 'nbdev_test --n_workers 2'
    times, total = run(command)
    if not check: write(table(times, total))
    print(f'{len(times)} notebooks in {total:.0f} s; slowest: '
          + ', '.join(f'{k} {v} s' for k, v in sorted(times.items(), key=lambda o: -o[1])[:3]))
    for line in too_slow(times, total): print('slow:', line)


if __name__ == '__main__': main(sys.argv[1:])
