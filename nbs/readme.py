"""Make README.md from nbs/index.ipynb, so that the two tell one story: `python nbs/readme.py`.

The parts of the book come from contents.py, the measured figures from figures/val.json (written by
`lowlight_evaluate --data DIR --split val --json nbs/figures/val.json`); both are first written into the index.
Run twice it changes nothing. The standard library is all it needs.
"""
import json
import re
import sys
from pathlib import Path
from posixpath import normpath

NBS = Path(__file__).resolve().parent
ROOT = NBS.parent
sys.path.insert(0, str(NBS))
import contents  # noqa: E402  the one list of all pages

HIDDEN = re.compile(r'^#\|\s*(hide|include: *false)\b', re.M)


def source(cell): return ''.join(cell['source'])

def frontmatter(nb):
    "The `key: value` lines of the raw cell a notebook begins with."
    pairs = (o.split(':', 1) for o in source(nb['cells'][0]).splitlines() if ':' in o)
    return {k.strip(): v.strip().strip('"') for k, v in pairs}

def module_of(nb):
    "The module that a notebook writes, as `room.module`; None if it writes none."
    found = (re.search(r'^#\|\s*default_exp\s+(\S+)', source(c), re.M) for c in nb['cells'])
    return next((m[1] for m in found if m), None)

def chapter_files():
    "The notebooks of the book: its parts in order, then the workshop and the networks of others."
    last = ['workshop', 'networks']
    found = NBS.glob('*/[0-9][0-9]_*.ipynb')
    return sorted(found, key=lambda p: (last.index(p.parent.name) if p.parent.name in last else -1, p))

def part_line(part, pages):
    "One line of the list of parts: where it begins, its chapters, and what a reader can do after it."
    order = [contents.numbers()[o] for o in pages if o in contents.numbers()]
    chapters = f', {order[0]}-{order[-1]}' if order else ''
    return f'- [{part.title}]({pages[0]}){chapters}: {part.about}'

def parts():
    "The parts of the book as a list, in reading order."
    pages = contents.sections()
    return '\n'.join(part_line(o, pages[o.title]) for o in contents.book())

def without(d):
    "The pictures of a result of `lowlight_evaluate` whose scenes the weights have not seen."
    return [r for r in d['rows'] if r['name'] not in d.get('trained_on', [])]

def mean(rows, key):
    "The mean of one figure over rows."
    return sum(r[key] for r in rows)/len(rows)

def overlap(d):
    "How many of the scenes the weights have seen, and how that is known."
    seen = d.get('trained_on', [])
    if not seen: return 'The weights have seen none of these scenes.'
    scenes = 'scene was' if len(seen) == 1 else 'scenes were'
    return (
        f"**{len(seen)} of the {d['n']} {scenes} trained on** ({', '.join(seen)}), as the fingerprints in "
        f"the checkpoint show: a figure on such a scene may flatter, and the last row is without them."
    )

FIGURES = {'psnr': ('PSNR, dB', '.2f'), 'ssim': ('SSIM', '.3f'),
           'psnr_gt_mean': ('PSNR GT-mean, dB', '.2f'), 'ssim_gt_mean': ('SSIM GT-mean', '.3f')}

def read(name):
    "What a measurement wrote into figures/."
    return json.loads((NBS/f'figures/{name}.json').read_text(encoding='utf-8'))

def measured():
    "The measured figures as a table, and how many of the scenes the weights have seen."
    d = read('val')
    new = without(d)
    found = {'the dark picture itself': d['input'], 'bundled checkpoint': d}
    if len(new) < d['n']:
        unseen = {k: mean(new, k) for k in FIGURES}
        found[f'bundled checkpoint, the {len(new)} scenes it has not seen'] = unseen
    headings = ' | '.join(heading for heading, _ in FIGURES.values())
    cells = {name: ' | '.join(format(o[k], f) for k, (_, f) in FIGURES.items()) for name, o in found.items()}
    rows = '\n'.join(f'| {name} | {numbers} |' for name, numbers in cells.items())
    return f'''On {d['n']} pairs of real photographs (whole pictures of LOL-v1), mean over the pictures:

| | {headings} |
|---|{'---|'*len(FIGURES)}
{rows}

{overlap(d)}'''

def command():
    "The command that gives the measured figures."
    return f"```sh\n{read('val')['command']}\n```"

def figures():
    "The measured figures on the front page."
    return f'''{measured()} GT-mean scales the result to the mean brightness of the truth before measuring \
([Metrics](part1_light/02_fidelity.ipynb)). The command:

{command()}'''

def all_figures():
    "The same on the page of results, with what was measured before."
    return f'''{measured()}

GT-mean scales the result to the mean brightness of the truth before measuring, which sets the question \
of exposure aside; the chapter [Metrics](part1_light/02_fidelity.ipynb) says what that hides. Figures \
that stand elsewhere with "twelve pictures" were measured on the validation set of version 0.1, [which \
is no longer the set](limits.qmd#twelve). The command:

{command()}'''

def seconds(speed):
    "What a picture takes in each precision, and what was reported from other processors."
    timed = sorted(speed['rows'], key=lambda r: r['median'])
    each = ', '.join(f"{r['median']:.2f} s in {r['precision']}" for r in timed)
    height, width = speed['size']
    said = f"a picture of {width}x{height} on {speed['threads']} threads of {speed['cpu']}: {each}"
    others = (f"on {o['cpu']}, as {o['source']} found, about {o['about']} s in {o['precision']}"
              for o in speed['reported'])
    return '; '.join([said, *others])

def row(d, **what):
    "The row of a measurement in which these values stand."
    return next(o for o in d['rows'] if all(o.get(k) == v for k, v in what.items()))

def running_time():
    "Minutes that all notebooks took, as `.ci/durations.py --write` measured."
    path = NBS/'seconds.json'
    if not path.exists(): return 'in less than 15 minutes, all together'
    d = json.loads(path.read_text(encoding='utf-8'))
    return f"in {d['total']/60:.0f} minutes, all {len(d['seconds'])} together on two cores of {d['cpu']}"

def claim_rows():
    """What is said of the package, the figure, and the command that shows it; each figure is read
    from the file that the command wrote."""
    val = read('val')
    new = without(val)
    seen = len(val['trained_on'])
    of = f'{seen} of {val["n"]} of scenes that it was trained on' if seen else 'of scenes that it was not trained on'
    others = (f"of the {len(new)} other scenes {mean(new, 'psnr_gt_mean'):.2f} dB GT-mean, "
              f"{mean(new, 'psnr'):.2f} raw; " if seen else '')
    yield (f'It brightens real photographs, {of}',
           f"{val['psnr_gt_mean']:.2f} dB and SSIM {val['ssim_gt_mean']:.3f} GT-mean, "
           f"{val['psnr']:.2f} dB and {val['ssim']:.3f} raw, mean of {val['n']} pairs; "
           f"{others}the dark pictures themselves: "
           f"{val['input']['psnr_gt_mean']:.2f} and {val['input']['psnr']:.2f} dB", val)
    cost = read('run/cost_small')
    both = row(cost, system='both')
    size = (ROOT/'lowlight_nat/weights/small.safetensors').stat().st_size
    yield 'It is small', f"{both['params']/1e6:.1f} million parameters, {size/1e6:.1f} MB", cost
    yield ('The two NATs cost time more than memory',
           f"{100*both['extra_time']:+.0f}% time, {100*both['extra_memory']:+.0f}% memory, "
           f"with {100*cost['masked']:.0f}% of the places masked", cost)
    ablation = read('run/exp_ablation')
    both = row(ablation, system='+NAT latent & decoder')
    gain = both['psnr_gt_mean'] - row(ablation, system='GLARE')['psnr_gt_mean']
    yield ('They gain little: systems trained with and without them',
           f"{gain:+.2f} dB GT-mean, mean of {both['seeds']} seeds, on {ablation['data']['n']} pictures", ablation)
    speed = read('run/speed')
    yield 'It runs without a GPU', seconds(speed), speed
    big = read('run/big_picture')
    yield ('Pictures may be large',
           f"{big['size'][0]*big['size'][1]/1e6:.0f} megapixels in {big['over_loaded_gb']:.1f} GB "
           f"over what is loaded, {big['seconds']} s", big)
    quick = read('run/guided')
    large = quick['large']
    near = next(o for o in quick['val'] if o['how'] == 'guided' and o['side'] == .5)
    yield ('And need no patience',
           f"{large['size'][0]*large['size'][1]/1e6:.0f} megapixels with `--fast` in "
           f"{large['enhance']:.0f} s of one thread and {large['over_gb']:.1f} GB; with a copy of half "
           f"the sides {near['psnr']:.1f} dB from the full result, {near['blurred']:.1f} dB without "
           f"the finest noise", quick)
    doubt = read('run/exp_uncertainty')
    def found(name):
        o = row(doubt, map=name)
        return f"{o['auroc_tenth']:.2f} of the worst tenth, {o['auroc_fifth']:.2f} of the worst fifth"
    yield ('It knows where it guessed',
           f"AUROC by the learned spread: {found('sigma')} of the places; "
           f"with the talk's entropy {found('entropy, T = 1')}", doubt)
    onnx = read('run/deploy')
    f32 = row(onnx, variant='onnx float32')
    i8 = row(onnx, variant='onnx int8, convolutions too')
    yield ('It runs without Python',
           f"ONNX: {f32['mb']:.1f} MB at {f32['psnr']:.0f} dB against the model, "
           f"int8 {i8['mb']:.1f} MB at {i8['psnr']:.0f} dB", onnx)
    yield ("The preset `base` is GLARE's official network",
           'equal within the tolerances of the reference arrays', dict(command='pytest tests/test_glare_parity.py'))
    mutants = read('run/mutants')
    noticed = sum(o['noticed'] for o in mutants['rows'])
    yield 'The checks can fail', f"{noticed} of {len(mutants['rows'])} deliberate faults noticed", mutants
    yield 'Every notebook runs from top to bottom', running_time(), dict(command='python .ci/durations.py')

def claims():
    "The claims as a table."
    rows = [f"| {words} | {figure} | `{run['command']}` |" for words, figure, run in claim_rows()]
    return '\n'.join(['| what we say | what was measured | the command that shows it |', '|---|---|---|', *rows])

def fill(text, name, body):
    "Put `body` between the two markers called `name`."
    mark = re.compile(rf'(<!-- {name}:start -->\n).*?(<!-- {name}:end -->)', re.S)
    return mark.sub(lambda m: f'{m[1]}{body}\n{m[2]}', text)

def filled(nb):
    "The index with its parts and figures up to date."
    for c in nb['cells']:
        if c['cell_type'] == 'markdown':
            text = fill(fill(source(c), 'parts', parts()), 'figures', figures())
            c['source'] = text.splitlines(keepends=True)
    return nb

def relink(text):
    "Links of a notebook in nbs/ as seen from the folder above."
    def one(m): return m[0] if re.match(r'[a-z]+:|#|/', m[1]) else f"]({normpath('nbs/' + m[1])})"
    return re.sub(r'\]\(([^)\s]+)\)', one, text)

def gallery(text):
    "Two pictures of the gallery side by side, as GitHub shows them; the site's style does the same."
    return re.sub(r'!\[(.*?)\]\((\S*/gallery_\w+\.jpg)\)', r'<img src="\2" width="49%" alt="\1">', text)

def outputs(cell):
    "What a code cell printed or showed, as Markdown."
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        if 'text' in o: yield '```\n' + ''.join(o['text']).rstrip() + '\n```'
        elif 'text/markdown' in data: yield ''.join(data['text/markdown']).rstrip()
        elif 'text/plain' in data: yield '```\n' + ''.join(data['text/plain']).rstrip() + '\n```'

def readme(nb):
    "The notebook as one Markdown text, without its hidden cells."
    fm = frontmatter(nb)
    parts = []
    for c in nb['cells'][1:]:
        s = source(c).strip()
        if c['cell_type'] == 'markdown': parts.append(gallery(relink(s)))
        elif c['cell_type'] == 'code' and s and not HIDDEN.search(s):
            parts += [f'```python\n{s}\n```', *outputs(c)]
    note = '<!-- made from nbs/index.ipynb by nbs/readme.py; edit the notebook -->'
    return '\n\n'.join([f"# {fm['title']}", note, f"> {fm['description']}", *parts]) + '\n'

def main(check=False):
    "Write index and README; with `check`, write nothing and say whether they would change."
    index = NBS/'index.ipynb'
    nb = filled(json.loads(index.read_text(encoding='utf-8')))
    new = {
        index: json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n',
        ROOT/'README.md': readme(nb)
    }
    stale = [
        p.relative_to(ROOT).as_posix()
        for p, s in new.items()
        if not p.exists() or p.read_text(encoding='utf-8') != s
    ]
    if check: return stale
    for p, s in new.items(): p.write_text(s, encoding='utf-8')


if __name__ == '__main__':
    stale = main(check='--check' in sys.argv)
    if stale: sys.exit(f"out of date: {', '.join(stale)}; run `python nbs/readme.py`")
