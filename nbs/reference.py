"""Make the pages of the site that are lists and tables: `python nbs/reference.py` (`.ci/pages.py` calls it too).

api.qmd comes from the modules, results.qmd from what measuring scripts wrote into figures/,
changelog.qmd from CHANGELOG.md and citation.qmd from CITATION.cff. In limits.qmd, learning_path.qmd,
architecture.qmd and CONTRIBUTING.md what stands between two markers is filled in. Run twice it
changes nothing; `--check` writes nothing and says what is stale. The standard library is all it needs.
"""
import ast
import json
import re
import runpy
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parent
ROOT = NBS.parent
RUN = NBS/'figures/run'
sys.path.insert(0, str(NBS))
import contents  # noqa: E402  the one list of all pages

GIT = 'https://github.com/lowlight-nat/lowlight_nat'
readme = runpy.run_path(str(NBS/'readme.py'))
frontmatter = readme['frontmatter']


def read(path): return json.loads(path.read_text(encoding='utf-8'))

def front(title, description):
    "The frontmatter of a page."
    return (f'---\ntitle: "{title}"\ndescription: "{description}"\nimage: '
            'figures/card.jpg\n---\n\n<!-- made by nbs/reference.py; do not edit -->\n')

def chapters():
    "Module, notebook, title and description of each chapter that writes a module, in reading order."
    for p in readme['chapter_files']():
        nb = read(p)
        fm = frontmatter(nb)
        module = readme['module_of'](nb)
        if module: yield module, p.relative_to(NBS).as_posix(), fm['title'], fm['description']

def published(notebook):
    "The page that nbdev makes of a notebook: the same place, without the number."
    folder, _, name = notebook.rpartition('/')
    return f"{folder}/{re.sub(r'^[0-9]+_', '', name).removesuffix('.ipynb')}.html"

def module_source(module):
    "What the file of a module holds."
    return (ROOT/'lowlight_nat'/f"{module.replace('.', '/')}.py").read_text(encoding='utf-8')


# --- the functions ---

def first_line(node): return ((ast.get_docstring(node) or '').splitlines() or [''])[0]

def definitions(module):
    """What a module defines, in its order: name, the anchor at which nbdev shows it ('': it
    doesn't), first line of the docstring, and the class a method belongs to."""
    for node in ast.parse(module_source(module)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            anchor = '' if node.name[0] == '_' else node.name.lower()
            yield node.name, anchor, first_line(node), None
            for m in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(m, ast.FunctionDef): yield f'{node.name}.{m.name}', anchor, first_line(m), node.name

def names(module):
    "The definitions that readers are shown, and the other names that a module exports."
    exports = re.search(r'^__all__ = (\[.*?\])', module_source(module), re.M | re.S)
    public = ast.literal_eval(exports[1]) if exports else []
    found = [(name, anchor, line, owner) for name, anchor, line, owner in definitions(module)
             if (owner and anchor and line and name.split('.')[1][0] != '_') or name in public]
    return found, [o for o in public if o not in {name for name, *_ in found}]

def anchor_of(module): return module.replace('.', '-')

def api():
    "The page of all functions and classes."
    parts = [
        front(
            'API reference',
            'Look up every function and class, with one line on what it does and the chapter '
            'that explains it.'
        ),
        'Every module is the code of one chapter. A name leads to its signature, with a comment on '
        'each parameter, in the section that builds, shows and tests it. '
        f'`from lowlight_nat.models.vqgan import VQGAN` imports from a module, and `from '
        f'lowlight_nat import Enhancer` what the front door offers; the source is on '
        f'[GitHub]({GIT}/tree/main/lowlight_nat). In the chapters, names of PyTorch and fastai '
        'lead to their own documentation.', ''
    ]
    about = list(chapters())
    parts += ['::: {.module-list}', ' · '.join(f'[{m}](#{anchor_of(m)})' for m, *_ in about), ':::', '']
    for module, notebook, title, description in about:
        found, rest = names(module)
        parts += [f'## {module} {{#{anchor_of(module)}}}', '', f'[{title}]({notebook}): {description}', '',
                  '| name | what it does |', '|:--|:--|']
        for name, anchor, line, owner in found:
            link = f"{'&emsp;' if owner else ''}[`{name}`]({notebook}#{anchor})"
            parts.append(f"| {link} | {line.replace('|', chr(92) + '|')} |")
        if rest: parts += ['', 'Also exported: ' + ', '.join(f'`{o}`' for o in rest) + '.']
        parts.append('')
    return '\n'.join(parts)


def moved():
    """Names in the text whose link nbdev makes to an anchor that isn't there: methods shown with
    their class, wrapped ones, private ones (these lead nowhere)."""
    said = {
        t
        for p in NBS.rglob('*.ipynb') if p.name[0] != '.'
        for c in read(p)['cells']
        for t in re.findall(r'`([\w.]+)(?:\(\))?`', ''.join(c['source']))
    }
    out = {}
    for module, notebook, *_ in chapters():
        page = f'{published(notebook)}#'
        for name, anchor, *_ in definitions(module):
            if name in said and anchor != name.lower(): out[page + name.lower()] = anchor and page + anchor
    return '\n'.join(f"  ['{k}'] = '{v}'," for k, v in sorted(out.items()))


# --- the results ---

def number(v, f):
    if v is None: return '-'
    if isinstance(v, bool): return 'yes' if v else 'no'
    return format(v, f) if f and isinstance(v, (int, float)) else str(v)

def table(rows, columns):
    "`rows` as Markdown; `columns` says `key=heading:format | ...`, without a format where words stand."
    named = [o.strip().partition('=')[::2] for o in columns.split(' | ')]
    columns = [(key, *words.partition(':')[::2]) for key, words in named]
    def row(cells): return '| ' + ' | '.join(cells) + ' |'
    rule = '|'.join('--:' if f else ':--' for *_, f in columns)
    body = [[number(r.get(k), f).replace('|', '\\|') for k, _, f in columns] for r in rows]
    return '\n'.join([row(o for _, o, _ in columns), f'|{rule}|', *map(row, body)])

NAT_0_1 = 'With the latent NAT of version 0.1; the script is at commit `5accf14`.'
VERSION_0_1 = ('Measured by version 0.1, which took working memory from the system: '
               'the scratch space of the libraries is in it.')
SCORES = 'psnr_gt_mean=PSNR GT-mean:.2f | ssim_gt_mean=SSIM GT-mean:.4f | psnr=PSNR raw:.2f | ssim=SSIM raw:.4f'

def rows_of(d):
    "The rows that a file holds, or the file as the only one."
    rows = d.get('mean') or d.get('maps') or d.get('rows') or [d]
    return [dict(name=k, **v) for k, v in rows.items()] if isinstance(rows, dict) else rows

def circumstances(d):
    "On what, with what and when, in one line."
    torch = (d.get('versions') or {}).get('torch') or d.get('torch')
    says = [d.get('device'), d.get('cpu') or d.get('machine'), 'threads' in d and f"{d['threads']} threads",
            'seed' in d and f"seed {d['seed']}", 'seeds' in d and f"seeds {', '.join(map(str, d['seeds']))}",
            torch and f'PyTorch {torch}', d.get('date')]
    return '; '.join(o for o in says if o and isinstance(o, str))

def proof(d):
    "The command that gives the figures, and its circumstances."
    c = d.get('command')
    if isinstance(c, list): c = '\n'.join(c)
    where = circumstances(d)
    return f'\n```sh\n{c}\n```\n' + (f'\n{where}.\n' if where else '')

def cost(d):
    rows = [dict(o, gmac=o['multiply_adds']/1e9, mparams=o['params_used']/1e6,
                 time=100*o['extra_time'], memory=100*o['extra_memory']) for o in d['rows']]
    height, width = d['size']
    return (f"Preset {d['preset']}, {height}x{width} pixels, {d['dtype']}, {d['rounds']} rounds, "
            f"{100*d['masked']:.0f}% of the places masked, weights: {d['weights']}.\n\n"
            + table(rows, 'system=system | mparams=parameters in use, millions:.2f | '
                    'gmac=multiply-adds, billions:.1f | seconds=s a picture:.3f | '
                    'time=more time, %:+.1f | memory=more weights and working memory, %:+.1f'))

def near(d):
    "How near the quick way is to the full one, and what it costs."
    rows = [dict(o, pictures=f"{o['n']} of {k}") for k in ('val', 'look') for o in d.get(k, [])]
    o = d['large']
    cost = (f"24 megapixels on one thread: {o['enhance']:.1f} s of the processor to enhance, "
            f"{o['read'] + o['save']:.1f} s to read and write; at most {o['over_gb']:.2f} GB over the "
            f"weights and the picture ({o['picture_gb']:.2f} GB).")
    return table(rows, 'pictures=pictures | side=sides of the copy:.2f | how=carried | psnr=PSNR:.2f | '
                 'least=least PSNR:.2f | blurred=PSNR blurred:.2f | ssim=SSIM:.4f') + '\n\n' + cost

def lab(rows):
    by = {}
    for r in rows: by.setdefault(r['form'], []).append(r)
    mean = readme['mean']
    out = [dict(v[0], seeds=len(v), psnr=mean(v, 'psnr_gt_mean'), ssim=mean(v, 'ssim_gt_mean')) for v in by.values()]
    return table(out, 'form=form of the network | seeds=seeds:d | steps=steps:d | params=parameters:,d | '
                 'psnr=PSNR GT-mean:.2f | ssim=SSIM GT-mean:.4f')

SYSTEMS = {'system_glare': 'GLARE (both NATs off)', 'system_latent': '+ NAT on the latent',
           'system_decoder': '+ NAT on the features', 'system_both': 'both'}

def systems():
    rows = [dict(read(RUN/f'{k}.json'), name=t) for k, t in SYSTEMS.items()]
    commands = '\n'.join(r['command'] for r in rows)
    return f"{table(rows, f'name=system | {SCORES}')}\n\n```sh\n{commands}\n```"

def oracles(d):
    rows = [dict(name=k, v=v) for k, v in d['val'].items()]
    return table(rows, 'name=corrected with the truth | v=PSNR GT-mean:.2f')

def photographs(d):
    bars = table(d['bars'], 'picture=picture | asked=asked | value=value:.4f | reached=reached')
    each = table(d['rows'], 'name=picture | mean_in=mean grey, input:.3f | mean=result:.3f | '
                 'p5_in=5th percentile, input:.3f | p5=result:.3f | p25_in=25th percentile, input:.3f | '
                 'p25=result:.3f | white_in=white, input:.4f | white=result:.4f')
    return f'{bars}\n\n{each}'

def light(d):
    rows = [dict(name=f'{picture}, {name}', **d[key][picture])
            for key, name in (('train', 'trained on'), ('val', 'new scenes'))
            for picture in ('lifted', 'lit', 'network')]
    level = ', '.join(f"{name}: {d[key]['level']['rms']:.2f} (mean {d[key]['level']['bias']:+.2f})"
                      for key, name in (('train', 'trained on'), ('val', 'new scenes')))
    return f'{table(rows, SCORES)}\n\nError of the level in stops, rms; {level}.'

def noticed(d):
    return f"{sum(o['noticed'] for o in d['rows'])} of {len(d['rows'])} deliberate faults were noticed by the tests."

# file: heading, chapter that explains it, its table (columns, or a function of the file; without: as it stands in
# the file), and a sentence
RESULTS = {
    'val_twelve': ('The bundled checkpoint on the validation set of version 0.1', 'limits.qmd',
                   lambda d: table([d], SCORES)),
    'exp_table1': (
        'Table 1: systems trained from nothing', 'tables', '',
        'Each system trained on the same pictures and scored by the same protocol, but not for the '
        'same time: the last column counts the seconds that a row had for itself, the line under '
        'the table those that the rows of GLARE share.'),
    'exp_ablation': ('What each NAT adds where it was trained for', 'tables', ''),
    'perceptual': (
        'The same systems by a perceptual distance', 'tables',
        'system=system | ablation=trained each for itself:.4f | low=lowest:.4f | high=highest:.4f | '
        'bundled=bundled weights, switched:.4f',
        "Features of the bundled codebook's encoder, at equal grey mean; less is better. It is not LPIPS."),
    'exp_table2': ('Table 2: rounds', 'runs', '', 'The bundled checkpoint with 0 to 8 rounds.'),
    'exp_tau': ('Threshold and rounds', 'runs', ''),
    'exp_brightness': ('Darker input', 'runs', ''),
    'exp_figure3': ('Figure 3: picture by picture', 'runs', ''),
    'exp_uncertainty': ('Does the uncertainty know?', 'calibration', ''),
    'uncertainty': (
        'The same, with the maps that the chapter draws', 'calibration',
        'name=map | auroc_wrong=AUROC wrong token:.3f | auroc_tenth=AUROC worst tenth:.3f | '
        'auroc_fifth=AUROC worst fifth:.3f | spearman=rank correlation:.3f | ause=AUSE:.3f'),
    'rounds': (
        'Rounds, measured on the tokens', 'latent_nat',
        'name=reading | masked=masked:.3f | cross_entropy=cross-entropy:.3f | accuracy=accuracy:.3f | '
        'psnr_gt_mean=PSNR GT-mean:.2f | ssim_gt_mean=SSIM GT-mean:.4f', NAT_0_1),
    'light': (
        'The light alone, and the whole network', 'light', light,
        'On pictures that it was trained on, and on new scenes; the two stand apart on purpose.'),
    'look': (
        'Photographs without a truth', 'light', photographs,
        'Nineteen dark, backlit, night and bright photographs of the sets LIME, NPE, MEF and others, which we may not '
        'show. Greys in [0,1]; *texture*: what a mean over 3x3 pixels takes away, of the darkest tenth.'),
    'lights': (
        'Sparing the lights', 'light',
        'weight=weight:d | ' + ' | '.join(
            f'{s} GT-mean PSNR=GT-mean PSNR, {n}:.2f | {s} raw PSNR=raw PSNR, {n}:.2f | {s} moved=moved, {n}:.3f'
            for s, n in (('val', 'val'), ('train', 'training pieces'))),
        'The level lowered where it would clip, by how much clipping counts.'),
    'quantizers': (
        'Quantizers', 'quantizers',
        'name=quantizer | n_codes=codes:d | psnr=PSNR:.2f | ssim=SSIM:.3f | used=codes in use:.3f | '
        'perplexity=perplexity:.1f',
        'Reconstruction of well-lit pictures after a short training each.'),
    'vqgan_terms': (
        'The codebook without one term of its loss', 'vqgan',
        'name=loss | psnr=PSNR:.2f | fineness=fine detail kept:.3f | perplexity=perplexity:.1f | '
        'spread=spread of the latent:.2f',
        'A toy with one token for 64 pixels, after a short training on the six sample pictures.'),
    'flow_vs_regression': (
        'Flow or regression', 'flow',
        f'name=aligner | latent_l1=latent L1:.3f | high_frequency=high frequency kept:.3f | {SCORES}',
        'Means over the seeds, at equal steps.'),
    'lab': ('Fifteen forms of the network', 'lab_nat_gain', lab, 'At equal steps.', NAT_0_1),
    'lab_oracles': ('Where the error lies', 'lab_nat_gain', oracles),
    'cost_small': ('What the NATs cost', 'cost', cost),
    'cost_small_bfloat16': ('The same in bfloat16', 'cost', cost, VERSION_0_1),
    'cost_base_float32': ('The official size', 'cost', cost, VERSION_0_1),
    'cost_base_bfloat16': ('The official size in bfloat16', 'cost', cost, VERSION_0_1),
    'speed': (
        'Seconds a picture', 'enhancer',
        'precision=precision | chosen=chosen by itself | first=first, s:.2f | median=median, s:.2f | '
        'fastest=fastest, s:.2f | peak_gb=peak, GB:.2f',
        'A picture of 400x600, seven times, where nothing else was at work. bfloat16 is for '
        'processors that have it; what float32 takes on an older one was reported to us, and is '
        'not in the table: about 2.2 s on a processor with AVX2 only.'),
    'big_picture': (
        '24 megapixels', 'enhancer',
        'size=pixels | tile=tile:d | precision=precision | loaded_gb=GB when loaded:.2f | '
        'peak_gb=GB at most:.2f | over_loaded_gb=GB over what was loaded:.2f | seconds=s:d',
        'Measured with the network of version 0.1, and not yet again.'),
    'guided': ('Large pictures quickly', 'guided', near),
    'half_precision': ('float16 weights', 'checkpoint',
                       'psnr=PSNR against float32:.2f | same_tokens=share of equal tokens:.4f'),
    'deploy': ('Exported forms', 'onnx', ''),
    'unpaired': ('Fine-tuning without pairs', 'unpaired', f'run=run | {SCORES}'),
    'mutants': ('Can the checks fail?', 'architecture.qmd', noticed),
}
# measured on the twelve validation pictures of version 0.1, which are no longer the set
TWELVE = [
    'val_twelve', 'exp_table1', 'exp_ablation', 'perceptual', 'quantizers',
    'flow_vs_regression', 'lab', 'lab_oracles', 'deploy', 'unpaired', 'rounds',
]
TWELVE_SAID = ('Measured with the network of version 0.1 on [the twelve validation pictures of then]'
               '(limits.qmd#twelve), which are no longer the set.')
RESULTS_SAY = '''No figure on this page was typed: a script wrote each table from the file that the command left \
behind. *Raw* compares the picture as it is; *GT-mean* first scales the result to the mean brightness of the truth \
([Metrics](part1_light/02_fidelity.ipynb) says what that hides). We give no LPIPS and FID, since their \
published networks were not at hand. Seconds hold for the machine that is named, and others were at work on it. What \
the talk reports, next to what we measured, is [a page of the course](course/claims.ipynb).

## The bundled checkpoint

{figures}

## Claims, and the command that shows each

`DIR`, or `lol`, is the folder of LOL-v1.

<!-- claims:start -->
{claims}
<!-- claims:end -->

## One network, four systems

The bundled checkpoint with its parts switched off, which it was trained with half of the time, on the same pictures \
as above; [Lab](part5_truth/21_lab_nat_gain.ipynb) looks into why the gain is small.

{systems}
'''

def result(stem, d):
    "The section of one file."
    title, page, make, *words = RESULTS[stem]
    page = next((p.relative_to(NBS).as_posix() for p in NBS.glob(f'*/[0-9][0-9]_{page}.ipynb')), page)
    said = [*words, f'Explained in [{page_title(page)}]({page}).', *[TWELVE_SAID]*(stem in TWELVE)]
    shown = make(d) if callable(make) else table(rows_of(d), make) if make else d['table']
    shell = proof(d) if isinstance(d, dict) else f"\n```sh\n{d[0]['command']}   # and so on, one form at a time\n```\n"
    return f"## {title}\n\n{' '.join(said)}\n\n{shown.strip()}\n{shell}"

def results():
    "The page of everything measured."
    files = {p.stem: read(p) for p in sorted(RUN.glob('*.json'))}
    parts = [front('Results', 'Look up everything that we measured, with the command that gives each table again.'),
             RESULTS_SAY.format(figures=readme['all_figures'](), claims=readme['claims'](), systems=systems()),
             *(result(o, files[o]) for o in RESULTS if o in files)]
    other = [dict(file=f'`{o}.json`', command=f"`{d.get('command', '-')}`") for o, d in files.items()
             if o not in RESULTS and o not in SYSTEMS]
    if other: parts += ['## Other runs\n', table(other, 'file=file in `nbs/figures/run` | command=command')]
    return '\n'.join(parts).rstrip() + '\n'

def page_title(page):
    "The title in a page's frontmatter."
    path = NBS/page
    if not path.exists(): return page
    if path.suffix == '.ipynb': return frontmatter(read(path))['title']
    return re.search(r'^title: "?(.*?)"?$', path.read_text(encoding='utf-8'), re.M)[1]


# --- what is filled in ---

def twelve():
    """What became of the validation set of version 0.1, read from what was measured on it and on
    the new one."""
    old = read(RUN/'val_twelve.json')
    new = read(NBS/'figures/val.json')
    names = {k: [r['name'] for r in d['rows']] for k, d in dict(old=old, new=new).items()}
    gone = [o for o in names['old'] if o not in names['new']]
    unseen = readme['without'](new)
    others = len(set(TWELVE)) - 1
    seen = new['trained_on']
    known = (
        f"Of the {new['n']} scenes the bundled checkpoint has seen **{len(seen)}** ({', '.join(seen)}), and a figure "
        f"on such a scene may flatter. On the other {len(unseen)} it has "
        f"{readme['mean'](unseen, 'psnr_gt_mean'):.2f} dB GT-mean and {readme['mean'](unseen, 'psnr'):.2f} dB raw."
        if seen else f"Of the {new['n']} scenes the bundled checkpoint has seen **none**.")
    return (
        f"Version 0.1 was measured on {old['n']} whole pictures of LOL-v1. {len(names['old']) - len(gone)} of "
        f"them are among the {new['n']} of today's validation set; {', '.join(gone)} is not, since it shows a "
        f"scene of the training data, as the fingerprints said, and is a training "
        f"picture now. On its own twelve the checkpoint of version 0.1 had {old['psnr_gt_mean']:.2f} dB GT-mean and "
        f"{old['psnr']:.2f} dB raw.\n\n"
        f"{known} `lowlight_evaluate` says so by itself, from the fingerprints in the checkpoint.\n\n"
        f"What was measured on the twelve and not again: what was trained from nothing to be compared, and "
        f"some sweeps over settings, with the network of version 0.1 ({others} tables of the "
        "[results](results.qmd), each of which says so). Two such "
        f"figures may be compared with each other, and not with a figure of the twenty.")

def level_list():
    "The rooms by level, as a numbered list, read from the imports."
    drawing = runpy.run_path(str(NBS/'figures/architecture.py'))
    what = drawing['WHAT']
    found = drawing['levels'](drawing['rooms']())
    return '\n'.join(f"{i}. {', '.join(f'`{r}` ({what[r]})' for r in level)}" for i, level in enumerate(found, 1))

def card():
    """The parts of the model card that say what the weights are for, on what terms, and where they
    fail."""
    text = (ROOT/'lowlight_nat/weights/README.md').read_text(encoding='utf-8')
    said = {
        o: re.search(rf'^\*\*{o}\*\* (.*)$', text, re.M)[1]
        for o in ('Data and terms.', 'What it is for.', 'What it reaches.')
    }
    fails = text.split('## Where it fails\n')[1].strip().replace('../../nbs/', '')
    return said['What it is for.'], said['Data and terms.'], said['What it reaches.'].split(
        ' The same weights')[0], fails

def hours(minutes): return f'{minutes/60:.1f} hours' if minutes >= 90 else f'{minutes} minutes'

def two_hours():
    "The short path as a table, and the minutes of it all."
    rows = [dict(n=i, page=f'[{contents.numbered_title(o)}]({o})', minutes=contents.reading(o), gives=gives)
            for i, (o, gives) in enumerate(contents.TWO_HOURS, 1)]
    total = sum(o['minutes'] for o in rows)
    return (table(rows, 'n=:d | page=read | minutes=minutes:d | gives=what it gives you')
            + f'\n\nTogether: {hours(total)} of reading.')

def part_table(part, pages):
    "A part of the book: what it gives, and its chapters with the minutes they take."
    rows = [dict(page=f'[{contents.numbered_title(o)}]({o})', minutes=contents.reading(o),
                 about=contents.front(o, 'description')) for o in pages]
    total = sum(o['minutes'] for o in rows)
    return (f'### {part.title}\n\n{part.about} {hours(total).capitalize()} to read.\n\n'
            + table(rows, 'page=chapter | minutes=minutes:d | about=what you do there'))

def everything(numbered):
    "The numbered parts of the book, or the others."
    pages = contents.sections()
    return '\n\n'.join(part_table(o, pages[o.title]) for o in contents.book() if o.numbered == numbered)

def all_hours():
    "How long all numbered chapters take to read."
    pages = contents.numbers()
    return f'All {len(pages)} chapters: {hours(sum(map(contents.reading, pages)))} of reading.'


# --- changes, and how to cite ---

def changelog():
    "CHANGELOG.md as a page."
    text = (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')
    versions = text[text.index('\n## '):].strip()
    return f"{front('Changelog', 'See what changed from version to version, and what was removed.')}\n{versions}\n"

def entries(text):
    "The works that CITATION.cff names: the package first, then what it builds on."
    own, *others = re.split(r'^ *- type: conference-paper\n', text, flags=re.M)
    return [own.partition('\nreferences:')[0], *others]

def said(text, key):
    "What a work in CITATION.cff says under a key; empty if nothing."
    m = re.search(rf'^ *(?:- )?{key}: *"?(.*?)"?$', text, re.M)
    return m[1] if m else ''

def bibtex(text):
    "A work in CITATION.cff as BibTeX."
    names = re.findall(r'family-names: "?(.*?)"?\n *given-names: "?(.*?)"?$', text, re.M)
    authors = ' and '.join(f'{family}, {given}' for family, given in names)
    title = said(text, 'title')
    arxiv = re.search(r'arXiv:([\d.]+)', text)
    software = said(text, 'type') == 'software'
    fields = dict(title=f'{{{title}}}', author=authors or f"{{{said(text, 'name')}}}",
                  booktitle=said(text, 'collection-title'), year=said(text, 'year'),
                  version=said(text, 'version') if software else '', url=said(text, 'url') if software else '',
                  eprint=arxiv[1] if arxiv else '', archiveprefix='arXiv' if arxiv else '')
    key = 'lowlight_nat' if software else f"{names[0][0].lower()}{fields['year']}"
    lines = [f'  {k} = {{{v}}},' for k, v in fields.items() if v]
    return '\n'.join([f"@{'software' if software else 'inproceedings'}{{{key},", *lines, '}'])

CITATION = '''If you use the package, its weights or the book, please cite it, and the work that it builds on. \
The same is in [CITATION.cff]({git}/blob/main/CITATION.cff), which GitHub and Zotero read.

## The package and the book

{own}

## What it builds on

GLARE gives the codebook, the conditional encoder, the flow and the fusion decoder. MaskGIT gives the schedule of \
masks and the decoding in rounds. The weights were trained on LOL-v1, which the third of these papers introduced.

{others}
'''

def citation():
    "CITATION.cff as a page with BibTeX."
    own, *others = [f'```bibtex\n{bibtex(o)}\n```' for o in entries((ROOT/'CITATION.cff').read_text(encoding='utf-8'))]
    text = CITATION.format(git=GIT, own=own, others='\n\n'.join(sorted(others, key=lambda o: 'wei2018' in o)))
    return f"{front('How to cite', 'Copy BibTeX for the package, and for the papers that it builds on.')}\n{text}"


def made():
    "Each file that is made or filled in, and its text."
    use, terms, reaches, fails = card()
    levels = level_list()
    fills = {
        NBS/'limits.qmd': dict(use=use, terms=terms, reaches=reaches, fails=fails, twelve=twelve()),
        NBS/'learning_path.qmd': dict(two=two_hours(), total=all_hours(), parts=everything(numbered=True),
                                      rest=everything(numbered=False)),
        NBS/'architecture.qmd': dict(levels=levels),
        ROOT/'CONTRIBUTING.md': dict(levels=levels),
    }
    lua = (NBS/'site.lua').read_text(encoding='utf-8')
    found = re.sub(r'(-- moved:start\n).*?(  -- moved:end)', lambda m: f'{m[1]}{moved()}\n{m[2]}', lua, flags=re.S)
    out = {NBS/'api.qmd': api(), NBS/'results.qmd': results(), NBS/'site.lua': found,
           NBS/'changelog.qmd': changelog(), NBS/'citation.qmd': citation()}
    for path, bodies in fills.items():
        out[path] = path.read_text(encoding='utf-8')
        for name, body in bodies.items():
            if f'<!-- {name}:start -->' not in out[path]:
                raise SystemExit(f'{path.name} has no marker <!-- {name}:start -->')
            out[path] = readme['fill'](out[path], name, f'\n{body}\n')
    return out

def main(check=False):
    "Write what is stale; with `check`, only name it."
    stale = [(p, s)
             for p, s in made().items()
             if not p.exists() or p.read_text(encoding='utf-8') != s]
    if not check:
        for p, s in stale: p.write_text(s, encoding='utf-8')
    return [p.relative_to(ROOT).as_posix() for p, _ in stale]


if __name__ == '__main__':
    stale = main(check='--check' in sys.argv)
    if '--check' in sys.argv and stale:
        sys.exit(f"out of date: {', '.join(stale)}; run `python nbs/reference.py`")
    print(*stale or ['nothing to do'], sep='\n')
