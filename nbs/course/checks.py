"""Self-checks of the course: `check('1.2', answer)` says whether an answer is right, and gives a hint if it isn't.

The tasks stand in `exercises_N.ipynb`; what is checked, and each hint, in `checks_N.py`.
"""
import functools
import importlib

import torch
from torch import Tensor

# name to (level, function); name to the last verdict: open, wrong or right
CHECKS = {}
verdicts = {}

class NotSolved(Exception): "The answer is still the three dots of the stub"

def exercise(
    name:str, # session and number, '1.2'
    level:int, # 1: one line; 2: several, thought through; 3: a small piece of work
): # decorator of a function that gets the answer, and raises an AssertionError with a hint if it is wrong
    "Register a check."
    def put(f):
        CHECKS[name] = level,f
        return f
    return put

def need(ok, hint:str):
    "The answer is wrong unless `ok`."
    if not ok: raise AssertionError(hint)

def close(a, b, hint:str, eps:float=1e-4):
    """`a`, from the answer, must have the shape of `b` and be as large up to `eps`, relative to
    numbers above one."""
    need(a is not None, 'it returns nothing: is there a `return`?')
    a, b = (o.detach().double() if isinstance(o, Tensor) else torch.as_tensor(
        o, dtype=torch.float64) for o in (a, b))
    need(a.shape==b.shape, f'the shape is {tuple(a.shape)}, {tuple(b.shape)} is wanted. {hint}')
    need(bool((((a-b).abs()<=eps*b.abs().clamp(min=1)) | (a==b)).all()), hint)

def choose(letter, right:str, reasons:dict):
    "The answer is one of the letters; `reasons` says of each wrong one what to look at again."
    letters = sorted([right, *reasons])
    need(letter in letters, f"answer with one of the letters {', '.join(letters)}, for example 'a'")
    need(letter == right, reasons.get(letter, ''))

def _dots(o): return o is ... or isinstance(o, (tuple,list)) and any(_dots(p) for p in o)

def _guard(o):
    "An answer that says so when it comes upon the dots of the stub."
    if _dots(o): raise NotSolved
    if isinstance(o, (tuple,list)): return type(o)(map(_guard, o))
    if isinstance(o, type) or not callable(o): return o
    @functools.wraps(o)
    def f(*args, **kwargs):
        res = o(*args, **kwargs)
        if _dots(res): raise NotSolved
        return res
    return f

def judge(
    name:str, # session and number
    answer, # function, class, number or tuple of them
)->tuple: # 'open', 'wrong' or 'right'; a sentence
    "What is to be said of an answer."
    importlib.import_module(f"checks_{name.split('.')[0]}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        try: CHECKS[name][1](_guard(answer))
        except NotSolved: return 'open', 'not solved yet'
        except AssertionError as e: return 'wrong', f'not right yet: {e}'
        except Exception as e:
            if 'ellipsis' in str(e).lower(): return 'open', 'not solved yet: dots are left in it'
            return 'wrong', f'not right yet: it stops with {type(e).__name__}: {e}'
    return 'right', 'right'

def check(name:str, answer):
    "Judge an answer, and print what is to be said of it."
    verdicts[name],said = judge(name, answer)
    print(f'{name}: {said}')

def right(name:str)->bool: # was the last answer right? What there is to see is drawn only then
    "Has the exercise been solved?"
    return verdicts.get(name)=='right'
