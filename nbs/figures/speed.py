"""Time and memory of one 400x600 picture, weights loaded, on two threads of a CPU: `python nbs/figures/speed.py`.

Each precision gets a process of its own, so that its peak is its own. Writes `run/speed.json`, and leaves in it what
was reported from other processors. Run it where nothing else is at work.
"""
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent

def measure(bf16, n=7):
    """In this process: median seconds of n pictures after one to warm up, and the peak of resident
    memory"""
    import torch

    from lowlight_nat.inference.enhancer import Enhancer
    torch.manual_seed(0)
    torch.set_num_threads(2)
    enhance = Enhancer.from_pretrained(device='cpu')
    x = torch.rand(3, 400, 600)*.1
    times = []
    enhance.bf16, chosen = bf16, enhance.bf16
    for _ in range(n + 1):
        t = time.perf_counter()
        enhance(x)
        times.append(time.perf_counter() - t)
    peak = next(int(o.split()[1])*1024 for o in open('/proc/self/status') if o.startswith('VmHWM'))
    return dict(precision='bfloat16' if bf16 else 'float32', chosen=bf16 == chosen, first=round(
        times[0], 2), median=round(statistics.median(times[1:]), 3),
                fastest=round(min(times[1:]), 3), peak_gb=round(peak/1e9, 3))

if __name__ == '__main__':
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1] == 'bfloat16')))
        sys.exit()
    rows = [
        json.loads(
            subprocess.run([sys.executable, __file__, p], env=dict(os.environ, OMP_NUM_THREADS='2'),
                           capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        for p in ('float32', 'bfloat16')
    ]
    try:
        cpu = next(
            l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration): cpu = 'unknown'
    path = HERE/'run/speed.json'
    reported = json.loads(path.read_text()).get('reported', []) if path.exists() else []
    res = dict(command='python nbs/figures/speed.py', size=[400, 600], threads=2, cpu=cpu,
               rows=rows, reported=reported)
    path.write_text(json.dumps(res, indent=1) + '\n')
    print(json.dumps(res, indent=1))
