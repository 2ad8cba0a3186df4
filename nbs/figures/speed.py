"""Time and memory of one 400x600 picture, weights loaded, on two threads of a CPU: `python nbs/figures/speed.py`.

Each precision gets a process of its own, so that its peak is its own. The last row leaves out the instructions that
a processor with AVX2 only does not have. Writes `run/speed.json`. Seconds by the clock mean little where other
programs are at work; seconds of the processor, on one thread, mean more: `--processor` measures those alone, and
keeps what the file says of the clock.
"""
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PATH = HERE/'run/speed.json'
OLDER = dict(ATEN_CPU_CAPABILITY='avx2', ONEDNN_MAX_CPU_ISA='AVX2')   # PyTorch as on a processor without AVX-512
ROWS = {                                                              # name: bfloat16, environment
    'float32': (False, {}),
    'bfloat16': (True, {}),
    'float32 with AVX2 only': (False, OLDER),
}

def prepare(bf16, threads):
    "In this process: an Enhancer in that precision, a picture, and whether it would have chosen the precision itself"
    import torch
    from lowlight_nat.enhance import Enhancer
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    enhance = Enhancer.from_pretrained(device='cpu')
    chosen = enhance.bf16 == bf16
    enhance.bf16 = bf16
    return enhance, torch.rand(3, 400, 600)*.1, chosen

def clock(bf16, n=7):
    "Seconds by the clock of n pictures after one to warm up, and the peak of resident memory"
    enhance, x, chosen = prepare(bf16, 2)
    times = []
    for _ in range(n + 1):
        start = time.perf_counter()
        enhance(x)
        times.append(time.perf_counter() - start)
    status = Path('/proc/self/status').read_text()
    peak = next(int(o.split()[1])*1024 for o in status.splitlines() if o.startswith('VmHWM'))
    return dict(chosen=chosen, first=round(times[0], 2), median=round(statistics.median(times[1:]), 3),
                fastest=round(min(times[1:]), 3), peak_gb=round(peak/1e9, 3))

def processor(bf16, n=5):
    "Seconds of the processor, on one thread: the least of n pictures after one to warm up"
    enhance, x, _ = prepare(bf16, 1)
    enhance(x)
    times = []
    for _ in range(n):
        start = time.process_time()
        enhance(x)
        times.append(time.process_time() - start)
    return dict(processor=round(min(times), 3))

def in_a_process(what, name):
    "What `clock` or `processor` says in a process of its own"
    bf16, env = ROWS[name]
    threads = '2' if what == 'clock' else '1'
    env = dict(os.environ, OMP_NUM_THREADS=threads, **env)
    line = [sys.executable, __file__, what, 'bfloat16' if bf16 else 'float32']
    printed = subprocess.run(line, env=env, capture_output=True, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])

def cpu():
    "The name of the processor"
    try: lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError: return 'unknown'
    return next((l.split(':')[1].strip() for l in lines if l.startswith('model name')), 'unknown')

def main(kinds):
    "Measure, and write the file"
    old = json.loads(PATH.read_text()) if PATH.exists() else dict(rows=[])
    rows = {name: {} for name in ROWS}
    if 'clock' not in kinds: rows |= {r['precision']: r for r in old['rows'] if r['precision'] in ROWS}
    for name in ROWS:
        for what in kinds: rows[name] |= in_a_process(what, name)
        rows[name]['precision'] = name
        rows[name]['chosen'] = rows[name].get('chosen', False) and name != 'float32 with AVX2 only'
    res = dict(command='python nbs/figures/speed.py', size=[400, 600], threads=2, cpu=cpu(), rows=[*rows.values()])
    PATH.write_text(json.dumps(res, indent=1) + '\n')
    print(json.dumps(res, indent=1))


if __name__ == '__main__':
    if sys.argv[1:2] in (['clock'], ['processor']):
        measure = dict(clock=clock, processor=processor)[sys.argv[1]]
        print(json.dumps(measure(sys.argv[2] == 'bfloat16')))
    else: main(['processor'] if '--processor' in sys.argv else ['clock', 'processor'])
