"Memory and speed of training: writes run/memory.json beside this file. Parts given as arguments are measured anew, the others kept; see `python nbs/figures/memory.py --help`"
import argparse, json, platform, statistics, time, torch
from dataclasses import replace
from functools import partial
from pathlib import Path
from lowlight_nat.callbacks import sum_terms
from lowlight_nat.darkness import random_low_light
from lowlight_nat.data import LowLightDataLoaders
from lowlight_nat.layers import has_bf16
from lowlight_nat.model import LowLightNAT, ModelConfig, TrainPlan
from lowlight_nat.stages import STAGES, trainable
from lowlight_nat.training_memory import chosen, checkpoint_activations, measured_memory, plan_memory, step_memory, step_speed

PATH = Path(__file__).parent/'run'/'memory.json'
CASES = dict(tiny=[(64, 2), (128, 4)], small=[(64, 4), (128, 2)])

def keep(part, rows):
    "Put a part into the file as far as it is done"
    run = json.loads(PATH.read_text()) if PATH.exists() else {}
    run[part] = rows + [r for r in run.get(part, []) if part == 'speed' and r['preset'] not in {o['preset'] for o in rows}]
    run |= dict(command='python nbs/figures/memory.py', torch=torch.__version__, machine=platform.machine())
    tmp = PATH.with_suffix('.part'); tmp.write_text(json.dumps(run, indent=1)); tmp.replace(PATH)

def checked():
    "Estimate against measurement, on this CPU"
    rows = []
    for preset, cases in CASES.items():
        for size, batch in cases:
            for stage in STAGES:
                cfg, plan = ModelConfig.preset(preset), TrainPlan.preset(preset)
                est, real = step_memory(cfg, size, batch, stage).peak, measured_memory(LowLightNAT(cfg), size, batch, stage)
                rows.append(dict(preset=preset, size=size, batch=batch, stage=stage, estimate=est, measured=real, off=round(est/real - 1, 4)))
                print(rows[-1], flush=True); keep('checked', rows)

def seconds(model, stage, size, batch):
    "CPU seconds of forward and backward of one step"
    trainable(model, stage); model.zero_grad()
    s, x = STAGES[stage](model, TrainPlan.preset(model.cfg.name).each_stage(crop=size)).train(), torch.rand(batch, 3, size, size)
    t = time.process_time()
    with chosen(0.5): sum_terms(s(x*0.1, x)).backward()
    return time.process_time() - t

def checkpointing():
    "Bytes saved and time lost"
    rows = []
    for preset, size, batch in ('tiny', 64, 4), ('small', 128, 2):
        cfg = ModelConfig.preset(preset); model = LowLightNAT(cfg)
        for stage in STAGES:
            ts = {on: [] for on in (False, True)}
            for _ in range(3):
                for on in ts: ts[on].append(seconds(checkpoint_activations(model, on), stage, size, batch))
            off, on = (measured_memory(checkpoint_activations(LowLightNAT(cfg), o), size, batch, stage) for o in (False, True))
            slower = statistics.median(b/a for a, b in zip(*(t[1:] for t in ts.values()))) - 1
            rows.append(dict(preset=preset, size=size, batch=batch, stage=stage, plain_MB=off/1e6, checkpointed_MB=on/1e6, saved=1 - on/off, slower=slower))
            print(rows[-1], flush=True); keep('checkpointing', rows)

def plans():
    "The plan of `base` for four cards"
    rows = []
    for stage in STAGES:
        for gb in 8, 12, 24, 80:
            rows.append(dict(budget_gb=gb, **plan_memory(ModelConfig.base(), 256, 8, gb, stage))); print(rows[-1], flush=True); keep('plans', rows)

def base():
    "GB of `base` at batch 8 with checkpointing"
    rows = []
    for stage in STAGES:
        rows.append(dict(stage=stage, batch=8, checkpointing=True, gb=step_memory(ModelConfig.base(), 256, 8, stage, True).peak/2**30)); print(rows[-1], flush=True); keep('base', rows)

def speed(folder, presets):
    "Steps per second, and the share of time waiting for data: micro-batch 1; for `small` also the plan's batches, without and with a process that draws"
    def make(plan, stage, workers):   # as `training.folder_dls` and `train_stage` have it, and a process that draws
        how = dict(bright=stage == 'codebook', synthetic=plan.synthetic, darken=partial(random_low_light, exposure=(-8., -1.)), relight=plan.relight, transpose=plan.transpose)
        return lambda size, bs, n: LowLightDataLoaders.from_folder(folder, size=size, bs=bs, items_per_epoch=n, num_workers=workers, **how)
    rows = []
    for preset in presets:
        cfg, plan = ModelConfig.preset(preset), TrainPlan.preset(preset)
        for batch, workers in ((1, 0), (None, 0), (None, 1)) if preset != 'base' else ((1, 0),):
            model = LowLightNAT(cfg)
            for stage in STAGES:
                r = step_speed(model, make(plan, stage, workers), stage, batch, **(dict(steps=2, warm=1) if preset == 'base' else dict(steps=8, warm=2)))
                rows.append(dict(preset=preset, stage=stage, crop=plan.stages()[stage].crop, threads=torch.get_num_threads(), workers=workers,
                                 precision='bfloat16' if plan.bf16 and has_bf16(torch.device('cpu')) else 'float32', **r)); print(rows[-1], flush=True); keep('speed', rows)

if __name__ == '__main__':
    p = argparse.ArgumentParser()
    p.add_argument('parts', nargs='*', default=['checked', 'checkpointing', 'base', 'plans'], help='some of checked, checkpointing, base, plans, speed; speed needs --data')
    p.add_argument('--data', help='folder of pairs, for speed')
    p.add_argument('--presets', nargs='*', default=['small', 'base'], help='for speed')
    args = p.parse_args()
    for part in args.parts:
        if part == 'speed': speed(args.data, args.presets)
        else: globals()[part]()
