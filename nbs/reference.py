"""Make the pages of the site that are lists and tables: `python nbs/reference.py` (`.ci/pages.py` calls it too).

api.qmd comes from the modules, results.qmd from what measuring scripts wrote into figures/; in limits.qmd, learning_path.qmd, architecture.qmd
and CONTRIBUTING.md what stands between two markers is filled in. Run twice it changes nothing; `--check` writes nothing and says what is stale.
The standard library is all it needs.
"""
import ast, json, re, runpy, sys
from pathlib import Path

NBS = Path(__file__).resolve().parent
ROOT = NBS.parent
RUN = NBS/'figures/run'
GIT = 'https://github.com/lowlight-nat/lowlight_nat'
readme = runpy.run_path(str(NBS/'readme.py'))
frontmatter = readme['frontmatter']


def read(path): return json.loads(path.read_text(encoding='utf-8'))

def front(title, description):
    "The frontmatter of a page."
    return f'---\ntitle: "{title}"\ndescription: "{description}"\nimage: figures/card.jpg\n---\n\n<!-- made by nbs/reference.py; do not edit -->\n'

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

def is_patch(node): return any('patch' in ast.unparse(o) for o in node.decorator_list)

def names(module):
    """Name, anchor in the chapter, first line of the docstring, and the class a method belongs to;
    in the module's order."""
    tree = ast.parse(module_source(module))
    public = next((ast.literal_eval(o.value)
                   for o in tree.body
                   if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__'),
                  [])
    out = []
    defined = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and is_patch(node) and node.name[0] != '_':
            owners = [o.strip() for o in ast.unparse(node.args.args[0].annotation).split('|')]
            # nbdev heads a method that is wrapped once more by its name alone, and one of several
            # classes not at all
            for owner in owners:
                anchor = owner if len(owners) > 1 else node.name if len(
                    node.decorator_list) > 1 else f'{owner}.{node.name}'
                if owner[0] != '_':
                    out.append((f'{owner}.{node.name}', anchor.lower(), first_line(node), owner))
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in public:
            defined.add(node.name)
            out.append((node.name, node.name.lower(), first_line(node), None))
            if isinstance(node, ast.ClassDef):
                out += [(f'{node.name}.{m.name}', node.name.lower(), first_line(m), node.name)
                        for m in node.body
                        if isinstance(m, ast.FunctionDef) and m.name[0] != '_' and first_line(m)]
    rest = [o for o in public if o not in defined]
    return out, rest

def anchor_of(module): return module.replace('.', '-')

def api():
    "The page of all functions and classes."
    parts = [
        front(
            'API reference',
            'Every function and class that the package exports, with one line on what it does and the place in the book that explains and shows it.'
        ),
        'Every module is the code of one chapter. A name leads to its signature, with a comment on each parameter, in the section that builds, shows and tests it. '
        f'`from lowlight_nat.models.vqgan import VQGAN` imports from a module, and `from lowlight_nat import Enhancer` what the front door offers; the source is on [GitHub]({GIT}/tree/main/lowlight_nat). In the chapters, names of PyTorch and fastai '
        'lead to their own documentation.', ''
    ]
    about = list(chapters())
    parts += ['::: {.module-list}', ' · '.join(f'[{m}](#{anchor_of(m)})' for m, *_ in about), ':::', '']
    for module, notebook, title, description in about:
        found, rest = names(module)
        parts += [
            f'## {module} {{#{anchor_of(module)}}}', '', f'[{title}]({notebook}): {description}', '',
            '| name | what it does |', '|:--|:--|'
        ]
        for name, anchor, line, owner in found:
            parts.append(
                f"| {'&emsp;' if owner else ''}[`{name}`]({notebook}#{anchor}) | {line.replace('|', chr(92) + '|')} |"
            )
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
        tree = ast.parse(module_source(module))
        def put(name, to):
            if name in said and to != name.lower():
                out[page + name.lower()] = page + to if to else ''
        for o in tree.body:
            if isinstance(o, ast.FunctionDef) and is_patch(o):
                owners = [w.strip() for w in ast.unparse(o.args.args[0].annotation).split('|')]
                for w in owners:
                    put(
                        f'{w}.{o.name}', '' if '_' in (o.name[0], w[0]) else
                        (w if len(owners) > 1 else
                         o.name if len(o.decorator_list) > 1 else f'{w}.{o.name}').lower())
            elif isinstance(o, ast.FunctionDef) and o.name[0] == '_': put(o.name, '')
            elif isinstance(o, ast.ClassDef):
                if o.name[0] == '_': put(o.name, '')
                for m in o.body:
                    if isinstance(m, ast.FunctionDef):
                        put(f'{o.name}.{m.name}', '' if o.name[0] == '_' else o.name.lower())
    return '\n'.join(f"  ['{k}'] = '{v}'," for k, v in sorted(out.items()))


# --- the results ---

def number(v, f):
    if v is None: return '-'
    if isinstance(v, bool): return 'yes' if v else 'no'
    return format(v, f) if f and isinstance(v, (int, float)) else str(v)

def table(rows, cols):
    "`rows` as Markdown; `cols` gives key, heading and format of each column."
    cells = [[number(r.get(k), f) for k, _, f in cols] for r in rows]
    return '\n'.join([
        '| ' + ' | '.join(h for _, h, _ in cols) + ' |', '|' + '|'.join('--:' if f else ':--'
                                                                        for *_, f in cols) + '|',
        *['| ' + ' | '.join(x.replace('|', '\\|') for x in r) + ' |' for r in cells]
    ])

VERSION_0_1 = 'Measured by version 0.1, which took working memory from the system: the scratch space of the libraries is in it.'
SCORES = [('psnr_gt_mean', 'PSNR GT-mean', '.2f'), ('ssim_gt_mean', 'SSIM GT-mean', '.4f'),
          ('psnr', 'PSNR raw', '.2f'), ('ssim', 'SSIM raw', '.4f')]

def named(d): return [dict(name=k, **v) for k, v in d.items()]

def circumstances(d):
    "On what, with what and when, in one line."
    v = d.get('versions') or {}
    says = [
        d.get('device'),
        d.get('cpu') or d.get('machine'), f"{d['threads']} threads" if 'threads' in d else None,
        f"seed {d['seed']}" if 'seed' in d else None,
        f"seeds {', '.join(map(str, d['seeds']))}" if 'seeds' in d else None,
        f"PyTorch {v.get('torch') or d.get('torch')}" if v.get('torch') or d.get('torch') else None,
        d.get('date')
    ]
    return '; '.join(str(o) for o in says if o and isinstance(o, str))

def proof(d):
    "The command that gives the figures, and its circumstances."
    c = d.get('command')
    if isinstance(c, list): c = '\n'.join(c)
    where = circumstances(d)
    return f'\n```sh\n{c}\n```\n' + (f'\n{where}.\n' if where else '')

def cost(d):
    rows = [
        dict(o, gmac=o['multiply_adds']/1e9, mparams=o['params_used']/1e6,
             extra_time=100*o['extra_time'], extra_memory=100*o['extra_memory']) for o in d['rows']
    ]
    cols = [('system', 'system', ''), ('mparams', 'parameters in use, millions', '.2f'),
            ('gmac', 'multiply-adds, billions', '.1f'), ('seconds', 's a picture', '.3f'),
            ('extra_time', 'more time, %', '+.1f'),
            ('extra_memory', 'more weights and working memory, %', '+.1f')]
    return f"Preset {d['preset']}, {d['size'][0]}x{d['size'][1]} pixels, {d['dtype']}, {d['rounds']} rounds, {100*d['masked']:.0f}% of the places masked, weights: {d['weights']}.\n\n" + table(
        rows, cols)

def lab(rows):
    by = {}
    for r in rows: by.setdefault(r['form'], []).append(r)
    out = [
        dict(form=k, seeds=len(v), params=v[0]['params'], steps=v[0]['steps'],
             psnr=sum(o['psnr_gt_mean']
                      for o in v)/len(v), ssim=sum(o['ssim_gt_mean']
                                                   for o in v)/len(v))
        for k, v in by.items()
    ]
    return table(out, [('form', 'form of the network', ''), ('seeds', 'seeds', 'd'),
                       ('steps', 'steps', 'd'), ('params', 'parameters', ',d'),
                       ('psnr', 'PSNR GT-mean', '.2f'), ('ssim', 'SSIM GT-mean', '.4f')])

def systems():
    rows = [
        dict(read(RUN/f'system_{k}.json'), name=t)
        for k, t in dict(glare='GLARE (both NATs off)', latent='+ NAT on the latent',
                         decoder='+ NAT on the features', both='both').items()
    ]
    return table(rows, [('name', 'system', ''), *SCORES]) + '\n\n```sh\n' + '\n'.join(
        r['command'] for r in rows) + '\n```\n'

def table_of(d): return d['table']
def plain(cols, rows='rows'):
    return lambda d: table(d[rows] if isinstance(d[rows], list) else named(d[rows]), cols)

MAPS = [('name', 'map', ''), ('auroc_wrong', 'AUROC wrong token', '.3f'),
        ('auroc_tenth', 'AUROC worst tenth', '.3f'), ('auroc_fifth', 'AUROC worst fifth', '.3f'),
        ('spearman', 'rank correlation', '.3f'), ('ause', 'AUSE', '.3f')]
# file: heading, the page that explains it, how its table is made, and a sentence
RESULTS = {
    'val_twelve': ('The bundled checkpoint on the validation set of version 0.1', 'limits.qmd',
                   lambda d: table([d], SCORES), ''),
    'exp_table1': (
        'Table 1: systems trained from nothing', 'part5_truth/20_tables.ipynb', table_of,
        'Each system trained on the same pictures and scored by the same protocol, but not for the same time: the last column counts the seconds that a row had for itself, the line under the table those that the rows of GLARE share.'
    ),
    'exp_ablation': ('What each NAT adds where it was trained for', 'part5_truth/20_tables.ipynb', table_of,
                     ''),
    'perceptual': (
        'The same systems by a perceptual distance', 'part5_truth/20_tables.ipynb',
        plain(
            [('system', 'system', ''), ('ablation', 'trained each for itself', '.4f'),
             ('low', 'lowest', '.4f'), ('high', 'highest',
                                        '.4f'), ('bundled', 'bundled weights, switched', '.4f')]),
        "Features of the bundled codebook's encoder, at equal grey mean; less is better. It is not LPIPS."
    ),
    'exp_table2': ('Table 2: rounds', 'part5_truth/19_runs.ipynb', table_of,
                   'The bundled checkpoint with 0 to 8 rounds.'),
    'exp_tau': ('Threshold and rounds', 'part5_truth/19_runs.ipynb', table_of, ''),
    'exp_brightness': ('Darker input', 'part5_truth/19_runs.ipynb', table_of, ''),
    'exp_figure3': ('Figure 3: picture by picture', 'part5_truth/19_runs.ipynb', table_of, ''),
    'exp_uncertainty': ('Does the uncertainty know?', 'part3_doubt/10_calibration.ipynb', table_of, ''),
    'uncertainty': ('The same, with the maps that the chapter draws', 'part3_doubt/10_calibration.ipynb',
                    plain(MAPS, 'maps'), ''),
    'rounds': ('Rounds, measured on the tokens', 'part3_doubt/11_latent_nat.ipynb',
               plain([('name', 'reading', ''), ('masked', 'masked', '.3f'),
                      ('cross_entropy', 'cross-entropy', '.3f'), ('accuracy', 'accuracy', '.3f'),
                      ('psnr_gt_mean', 'PSNR GT-mean', '.2f'),
                      ('ssim_gt_mean', 'SSIM GT-mean', '.4f')]), ''),
    'exposure': ('Exposure heads', 'part2_vocabulary/08_light.ipynb',
                 plain([('name', 'head', ''), ('val error', 'error of the level', '.3f'),
                        ('raw PSNR', 'PSNR raw', '.2f'), ('GT-mean PSNR', 'PSNR GT-mean', '.2f'),
                        ('cv error', 'error, cross-validated', '.3f')]), ''),
    'lights': ('Sparing the lights', 'part2_vocabulary/08_light.ipynb',
               plain([
                   ('weight', 'weight', 'd'),
                   *((f'{s} {k}', f'{k}, {n}', f)
                     for s, n in (('val', 'val'), ('train', 'training pieces'))
                     for k, f in (('GT-mean PSNR', '.2f'), ('raw PSNR', '.2f'), ('moved', '.3f')))
               ]), 'The level lowered where it would clip, by how much clipping counts.'),
    'quantizers': ('Quantizers', 'part2_vocabulary/05_quantizers.ipynb',
                   plain([('name', 'quantizer', ''), ('n_codes', 'codes', 'd'),
                          ('psnr', 'PSNR', '.2f'), ('ssim', 'SSIM', '.3f'),
                          ('used', 'codes in use', '.3f'), ('perplexity', 'perplexity', '.1f')]),
                   'Reconstruction of well-lit pictures after a short training each.'),
    'flow_vs_regression': ('Flow or regression', 'part2_vocabulary/07_flow.ipynb',
                           plain([('name', 'aligner', ''), ('latent_l1', 'latent L1', '.3f'),
                                  ('high_frequency', 'high frequency kept', '.3f'), *SCORES],
                                 'mean'), 'Means over the seeds, at equal steps.'),
    'lab': ('Fifteen forms of the network', 'part5_truth/21_lab_nat_gain.ipynb', lab, 'At equal steps.'),
    'lab_oracles': (
        'Where the error lies', 'part5_truth/21_lab_nat_gain.ipynb',
        lambda d: table([dict(name=k, v=v)
                         for k, v in d['val'].items()], [('name', 'corrected with the truth', ''),
                                                         ('v', 'PSNR GT-mean', '.2f')]), ''),
    'cost_small': ('What the NATs cost', 'part5_truth/22_cost.ipynb', cost, VERSION_0_1),
    'cost_small_bfloat16': ('The same in bfloat16', 'part5_truth/22_cost.ipynb', cost, VERSION_0_1),
    'cost_base_float32': ('The official size', 'part5_truth/22_cost.ipynb', cost, VERSION_0_1),
    'cost_base_bfloat16': ('The official size in bfloat16', 'part5_truth/22_cost.ipynb', cost, VERSION_0_1),
    'speed': (
        'Seconds a picture', 'part6_using/23_enhancer.ipynb',
        plain([('precision',
                'precision', ''), ('chosen', 'chosen by itself', ''), ('first', 'first, s', '.2f'),
               ('median', 'median, s', '.2f'),
               ('fastest',
                'fastest, s', '.2f'), ('peak_gb', 'peak, GB', '.2f')]),
        'A picture of 400x600, seven times, where nothing else was at work. bfloat16 is for processors that have it; what float32 takes on an older one was reported to us, and is not in the table: about 2.2 s on a processor with AVX2 only.'
    ),
    'big_picture': ('24 megapixels', 'part6_using/23_enhancer.ipynb',
                    lambda d: table([d], [('size', 'pixels', ''), ('tile', 'tile', 'd'),
                                          ('precision', 'precision', ''),
                                          ('loaded_gb', 'GB when loaded', '.2f'),
                                          ('peak_gb', 'GB at most', '.2f'),
                                          ('over_loaded_gb', 'GB over what was loaded', '.2f'),
                                          ('seconds', 's', 'd')]), ''),
    'half_precision': ('float16 weights', 'part3_doubt/13_lowlight_nat.ipynb',
                       lambda d: table([d], [('psnr', 'PSNR against float32', '.2f'),
                                             ('same_tokens', 'share of equal tokens', '.4f')]), ''),
    'deploy': ('Exported forms', 'part6_using/27_onnx.ipynb', table_of, ''),
    'unpaired': ('Fine-tuning without pairs', 'part6_using/26_unpaired.ipynb',
                 plain([('run', 'run', ''), *SCORES]), ''),
    'mutants': (
        'Can the checks fail?', 'architecture.qmd', lambda d:
        f"{sum(o['noticed'] for o in d['rows'])} of {len(d['rows'])} deliberate faults were noticed by the tests.",
        ''),
}
# measured on the twelve validation pictures of version 0.1, which are no longer the set
TWELVE = [
    'val_twelve', 'exp_table1', 'exp_ablation', 'perceptual', 'exposure', 'lights', 'quantizers',
    'flow_vs_regression', 'lab', 'lab_oracles', 'deploy', 'unpaired', 'exp_tau', 'exp_brightness',
    'exp_table2', 'rounds',
]
TWELVE_SAID = 'Measured on [the twelve validation pictures of version 0.1](limits.qmd#twelve), which are no longer the set.'
SYSTEMS = [f'system_{o}' for o in ('glare', 'latent', 'decoder', 'both')]

def results():
    "The page of everything measured."
    parts = [
        front('Results',
              'Everything that was measured, each table with the command that gives it again.'),
        'No figure on this page was typed: a script wrote each table from the file that the command left behind. *Raw* compares the picture as it is; *GT-mean* first scales the result '
        'to the mean brightness of the truth ([Metrics](part1_light/02_fidelity.ipynb) says what that hides). LPIPS and FID stand nowhere here, because their published networks were not at hand. '
        'Seconds hold for the machine that is named, and others were at work on it. What the talk reports, beside what we measured, is in the course.',
        '', '## The bundled checkpoint', '', readme['figures'](), '',
        '## One network, four systems', '',
        'The bundled checkpoint with its parts switched off, which it was trained with half of the time, on the same pictures as above; [Lab](part5_truth/21_lab_nat_gain.ipynb) looks into why the gain is small.',
        '',
        systems()
    ]
    files = {p.stem: p for p in sorted(RUN.glob('*.json'))}
    for stem, (title, page, make, words) in RESULTS.items():
        if stem not in files: continue
        d = read(files[stem])
        old = f' {TWELVE_SAID}' if stem in TWELVE else ''
        parts += [
            f'## {title}', '', f'{words} Explained in [{page_title(page)}]({page}).{old}'.strip(),
            '',
            make(d).strip()
        ]
        parts.append(
            proof(d) if isinstance(d, dict) else '\n```sh\n' + d[0]['command']
            + '   # and so on, one form at a time\n```\n')
    other = [o for o in files if o not in RESULTS and o not in SYSTEMS]
    if other:
        parts += [
            '## Other runs', '',
            table([
                dict(file=f'`{o}.json`', command=f"`{read(files[o]).get('command', '-')}`")
                for o in other
            ], [('file', 'file in `nbs/figures/run`', ''), ('command', 'command', '')]), ''
        ]
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
    return (
        f"Version 0.1 was measured on {old['n']} whole pictures of LOL-v1. {len(names['old']) - len(gone)} of "
        f"them are among the {new['n']} of today's validation set; {', '.join(gone)} is not, since it shows a "
        f"scene of the training data, as the fingerprints said, and is a training "
        f"picture now. On its own twelve the bundled checkpoint has {old['psnr_gt_mean']:.2f} dB GT-mean and "
        f"{old['psnr']:.2f} dB raw, on the twenty of today {new['psnr_gt_mean']:.2f} and {new['psnr']:.2f} dB.\n\n"
        f"Of the {new['n']} scenes the bundled checkpoint has seen **{len(new['trained_on'])}** "
        f"({', '.join(new['trained_on'])}): version 0.1 was trained on crops of them, and a figure on such a scene may flatter. On the other "
        f"{len(unseen)} it has {readme['mean'](unseen, 'psnr_gt_mean'):.2f} dB GT-mean and "
        f"{readme['mean'](unseen, 'psnr'):.2f} dB raw. `lowlight_evaluate` says so by itself, from the fingerprints "
        f"in the checkpoint.\n\n"
        f"What was measured on the twelve and not again: everything that was trained from nothing to be compared, the "
        f"sweeps over settings, and the curves of the trainings ({others} tables of the [results](results.qmd), each of which says so). Two such "
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

def path_rows():
    "Every chapter, by part of the book."
    pages = runpy.run_path(str(ROOT/'.ci/pages.py'))
    parts = pages['sections'](pages['pages']())
    rows = ['| part | chapters |', '|:--|:--|']
    for part, _ in pages['NAVBAR'][1][1]:
        if part in parts:
            rows.append(f"| {part} | " + ', '.join(f'[{page_title(o)}]({o})' for o in parts[part])
                        + ' |')
    return '\n'.join(rows)

def made():
    "Each file that is made or filled in, and its text."
    use, terms, reaches, fails = card()
    fills = {
        NBS/'limits.qmd': dict(use=use, terms=terms, reaches=reaches, fails=fails,
                               twelve=twelve()), NBS/'learning_path.qmd': dict(parts=path_rows()),
        NBS/'architecture.qmd': dict(levels=level_list()),
        ROOT/'CONTRIBUTING.md': dict(levels=level_list())
    }
    out = {NBS/'api.qmd': api(), NBS/'results.qmd': results()}
    lua = NBS/'site.lua'
    out[lua] = re.sub(
        r'(-- moved:start\n).*?(  -- moved:end)', lambda m: f'{m[1]}{moved()}\n{m[2]}',
        lua.read_text(encoding='utf-8'), flags=re.S)
    for path, bodies in fills.items():
        if not path.exists(): continue
        text = path.read_text(encoding='utf-8')
        for name, body in bodies.items():
            if f'<!-- {name}:start -->' not in text:
                raise SystemExit(f'{path.name} has no marker <!-- {name}:start -->')
            text = re.sub(rf'(<!-- {name}:start -->\n).*?(<!-- {name}:end -->)',
                          lambda m: f'{m[1]}\n{body}\n\n{m[2]}', text, flags=re.S)
        out[path] = text
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
