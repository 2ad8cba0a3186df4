"""What the text says of the runs and the weights is what their files say: figures, counts, sets of
pictures, and what a stored output is called."""
import json
import re
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lowlight_nat.data.overlap import unpack
from lowlight_nat.models.checkpoint import read_metadata, weights_path

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'
RUN = NBS/'figures/run'


def notebooks():
    "Every notebook of the book and of the course."
    return sorted(p for p in NBS.rglob('*.ipynb')
                  if not any(o[0] in '._' for o in p.relative_to(NBS).parts))

def read(name): return json.loads((RUN/f'{name}.json').read_text(encoding='utf-8'))
def val(): return json.loads((NBS/'figures/val.json').read_text(encoding='utf-8'))
def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])

def printed(cell):
    "What a cell printed or showed, as text."
    parts = []
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        text = o.get('text') or data.get('text/markdown') or data.get('text/plain') or ''
        parts.append(''.join(text))
    return '\n'.join(parts)

def texts():
    """Every page, slide and front page: name and words, those of notebooks without what their cells
    printed."""
    for p in notebooks(): yield p.relative_to(NBS).as_posix(), '\n'.join(source(c) for c in cells(p))
    pages = [
        *NBS.glob('*.qmd'), *(NBS/'course').glob('*.qmd'), ROOT/'README.md', ROOT/'CONTRIBUTING.md'
    ]
    for p in pages: yield p.name, p.read_text(encoding='utf-8')
    yield 'card', (ROOT/'lowlight_nat/weights/README.md').read_text(encoding='utf-8')

def page(name): return dict(texts())[name]

def seen(d): return d.get('trained_on', [])
def unseen(d): return [r for r in d['rows'] if r['name'] not in seen(d)]
def mean(rows, key): return sum(r[key] for r in rows)/len(rows)


# --- the pictures that are measured on ---

OLD_CURVES = ['nat.csv']

@pytest.fixture(scope='module')
def twelve():
    """The files that were measured on the validation set of version 0.1, as the page of results has
    them."""
    import runpy
    return runpy.run_path(str(NBS/'reference.py'))['TWELVE']

def pictures(d):
    "How many validation pictures a file says it was measured on; None: it doesn't say."
    if isinstance(d, list): return len(d[0]['each'])
    if isinstance(d.get('data'), dict): return d['data']['n']
    return next((d[k]
                 for k in ('pictures', 'validation_pictures', 'n', 'val')
                 if isinstance(d.get(k), int)), None)

def test_files_of_the_old_set_are_told_apart(twelve):
    said = {p.stem: pictures(json.loads(p.read_text(encoding='utf-8'))) for p in RUN.glob('*.json')}
    assert {k for k, n in said.items() if n == 12} <= set(twelve)
    assert {k for k, n in said.items() if n not in (12, None)} & set(twelve) == set()
    few = {'decoding_rounds'}   # a hundred finished pictures for each
    assert {n for k, n in said.items() if n and k not in few} == {12, val()['n']}
    assert set(twelve) <= set(said)

def test_results_say_which_set(twelve):
    sections = re.split(r'^## ', page('results.qmd'), flags=re.M)
    old = [
        s.splitlines()[0]
        for s in sections
        if 'limits.qmd#twelve), which are no longer the set.' in s
    ]
    assert len(old) == len(twelve)

def test_chapters_that_show_the_old_set_say_so(twelve):
    files = [f'run/{o}.json' for o in twelve] + [f'run/{o}' for o in OLD_CURVES]
    silent = []
    said = 0
    for p in notebooks():
        text = '\n'.join(source(c) for c in cells(p))
        if not any(o in text or f"read('{Path(o).stem}')" in text for o in files): continue
        said += 1
        if 'limits.qmd#twelve' not in text: silent.append(p.name)
    assert silent == [] and said >= 7

def test_the_weights_tell_what_they_saw(lol_data):
    "The names in the weights' fingerprints are those that `trained_on` lists."
    names = set(unpack_names())
    there = {p.stem for p in (Path(lol_data)/'val/high').iterdir()}
    d = val()
    assert {r['name'] for r in d['rows']} == there and set(seen(d)) == names & there

def unpack_names():
    return [f.name for f in unpack(read_metadata(weights_path('small')).about['fingerprints'])]

def test_every_front_says_how_many_were_seen():
    d = val()
    few = unseen(d)
    assert set(seen(d)) <= set(unpack_names())
    if not seen(d):
        for name in ('README.md', 'index.ipynb', 'results.qmd'):
            assert 'The weights have seen none of these scenes' in page(name), name
        assert 'of scenes that they were not trained on' in page('card')
        return
    without = f"{mean(few, 'psnr_gt_mean'):.2f}"
    for name in ('README.md', 'index.ipynb', 'results.qmd', 'limits.qmd'):
        text = page(name)
        assert re.search(rf"\b{len(seen(d))}\b", text) and without in text, name
        assert ('{#twelve}' if name == 'limits.qmd' else 'limits.qmd#twelve') in text, name
    card = page('card')
    assert f"{len(seen(d))} of which show scenes that these weights were trained on" in card
    assert f'The {len(few)} others: **{without} dB' in card

def test_the_four_systems_are_of_one_set():
    systems = [read(f'system_{o}') for o in ('glare', 'latent', 'decoder', 'both')]
    names = [[r['name'] for r in d['rows']] for d in systems]
    assert all(o == [r['name'] for r in val()['rows']] for o in names)
    # the default: the NAT on the features, and none on the latent where nothing is known
    assert abs(systems[2]['psnr_gt_mean'] - val()['psnr_gt_mean']) < 1e-6
    change = read('exp_figure3')['rows']
    assert abs(mean(change, 'change')
               - (systems[3]['psnr_gt_mean'] - systems[0]['psnr_gt_mean'])) < 0.01


# --- stored outputs ---

def stale(all_cells):
    """Cells that printed that something is not set or not measured, beside a text that speaks of a
    stored run."""
    told = any(
        re.search(r'[Ss]tored (above|below|here)|stand stored', source(c))
        for c in all_cells
        if c['cell_type'] == 'markdown')
    return [
        c['id']
        for c in all_cells
        if re.search(r'\bis not set\b', printed(c)) and (told or 'LOWLIGHT_DATA' in printed(c))
    ]

def test_no_output_says_not_set():
    assert {p.name: s for p in notebooks() if (s := stale(cells(p)))} == {}

def test_a_stale_output_is_noticed():
    text = dict(cell_type='markdown', id='a', source=['Stored above is a run.'])
    empty = dict(cell_type='code', id='b', source=[],
                 outputs=[dict(output_type='stream', text=['DATA is not set\n'])])
    assert stale([empty, text]) == ['b'] and stale([empty]) == []
    empty['outputs'][0]['text'] = ['LOWLIGHT_DATA is not set']
    assert stale([empty]) == ['b']


# --- commands ---

def test_every_command_is_named():
    c = ConfigParser(delimiters=['='])
    c.read(ROOT/'settings.ini', encoding='utf-8')
    commands = re.findall(r'^ *(lowlight_\w+)=', c['DEFAULT']['console_scripts'], re.M)
    assert len(commands) > 4
    for name in ('start.ipynb', 'part6_using/25_cli.ipynb'):
        assert [o for o in commands if f'`{o}' not in page(name)] == [], name


# --- the weights ---

def cfg(): return read_metadata(weights_path('small')).config

def test_factor_and_kept_are_printed():
    """Chapter Masking prints the factor of the bundled model, chapter Decoder whether it corrects
    kept cells."""
    masking = '\n'.join(printed(c) for c in cells(NBS/'part3_doubt/11_masking.ipynb'))
    assert f'uses the factor {cfg().factor:.2f} and masks where the entropy exceeds {cfg().tau:.2f}' in masking
    decoder = '\n'.join(printed(c) for c in cells(NBS/'part3_doubt/13_fusion.ipynb'))
    assert f'trained with kept={cfg().feat_kept}' in decoder

def test_the_training_ends_at_the_bundled_weights():
    "The last validation of the training, on all pictures, is what `lowlight_evaluate` says"
    run = pd.read_csv(RUN/'together.csv').query("split == 'val'")
    end = json.loads((NBS/'figures/val.json').read_text())
    assert abs(run.gt_mean_psnr.iloc[-1] - end['psnr_gt_mean']) < 0.1
    decoder = '\n'.join(printed(c) for c in cells(NBS/'part3_doubt/13_fusion.ipynb'))
    assert f"{end['psnr_gt_mean']:.2f} dB" in decoder


# --- the curves ---

def test_the_loss_of_the_nat_of_version_0_1():
    run = pd.read_csv(RUN/'nat.csv')
    valid = run[run.split == 'val']
    assert valid.loss.is_monotonic_decreasing and valid.step.iloc[-1] == 150
    rows = read('rounds')['rows']
    nats = rows['delta, R=0']['cross_entropy'] - rows['delta, R=1']['cross_entropy']
    assert 0.2 < nats < 0.3
    # likelier, and no nearer to the truth
    assert rows['delta, R=1']['error_after'] > rows['delta, R=0']['error_after'] - 1e-3

# --- uncertainty ---

def test_tenth_and_fifth_are_named():
    rows = {r['map']: r for r in read('exp_uncertainty')['rows']}
    line = next(l for l in page('results.qmd').splitlines() if 'It knows where it guessed' in l)
    for key in ('sigma', 'entropy, T = 1'):
        assert (f"{rows[key]['auroc_tenth']:.2f} of the worst tenth, "
                f"{rows[key]['auroc_fifth']:.2f} of the worst fifth") in line
    assert rows['sigma']['auroc_tenth'] != rows['sigma']['auroc_fifth']
    assert 'AUROC worst tenth | AUROC worst fifth' in page('results.qmd')


# --- table 1 ---

def training_seconds():
    "System: its seconds of training, with what it shares."
    d = read('exp_table1')
    shared = int(re.search(r'one training of (\d+) s', d['note'])[1])
    return {
        r['system']: r['seconds_train'] + shared*(r['system'] not in ('LLFlow', 'Restormer'))
        for r in d['rows']
        if r['seconds_train']
    }

def test_table_1_says_the_seconds():
    took = training_seconds()
    assert max(took.values()) > 5*min(took.values())
    table = '\n'.join(printed(c) for c in cells(NBS/'part5_truth/20_tables.ipynb'))
    claims = '\n'.join(printed(c) for c in cells(NBS/'course/claims.ipynb'))
    said = {'+NAT latent': '+ NAT on latent', '+NAT latent & decoder': '+ both NATs'}   # in the chapter's words
    for system, s in took.items():
        assert re.search(rf'^{re.escape(said.get(system, system))} .*\b{s:,} s with what it shares', table,
                         re.M), system
        assert f'{system} {s:,}' in claims, system


# --- seconds ---

def test_seconds_of_both_precisions_stand_together():
    d = read('speed')
    assert {r['precision'] for r in d['rows']} == {'float32', 'bfloat16'} and d['reported']
    line = next(l for l in page('results.qmd').splitlines() if 'It runs without a GPU' in l)
    assert all(f"{r['median']:.2f} s in {r['precision']}" in line for r in d['rows']), line
    assert all(f"about {o['about']} s in {o['precision']}" in line for o in d['reported']), line
    shown = '\n'.join(printed(c) for c in cells(NBS/'part6_using/23_enhancer.ipynb'))
    assert all(r['precision'] in shown for r in d['rows']) and all(f"about {o['about']} s" in shown
                                                                   for o in d['reported'])
    assert all(f"about {o['about']} s" in page('results.qmd') for o in d['reported'])


# --- the page of claims: what its words say of the figures ---

def gains(system): return next(r for r in read('exp_ablation')['rows'] if r['system'] == system)
def switched(system, key='psnr_gt_mean'): return read(f'system_{system}')[key] - read('system_glare')[key]
def table_1(): return {r['system']: r for r in read('exp_table1')['rows']}
def talk():
    "The talk's figures, as the page types them."
    space = {}
    for c in cells(NBS/'course/claims.ipynb'):
        if source(c).startswith("# the talk's figures"): exec(source(c), space)
    return space['talk']

def interval(changes, draws=10_000):
    means = np.random.default_rng(42).choice(changes, (draws, len(changes))).mean(1)
    return np.quantile(means, [.025, .975])

@pytest.fixture(scope='module')
def seen_by_the_test():
    "The smallest effect that the pictures show, that of the seeds, and the interval of the mean change."
    change = np.array([r['change'] for r in read('exp_figure3')['rows']])
    lab = pd.DataFrame(read('lab'))
    return (2*change.std(ddof=1)/len(change)**.5, np.ptp(lab[lab.form == 'plain'].psnr_gt_mean), *interval(change))

def test_the_talk_agrees_with_itself_but_for_restormer():
    said = talk()
    p = said['psnr']
    assert round(p['+NAT latent & decoder'] - p['GLARE'], 2) == said['gain']
    assert p['Restormer'] - p['+NAT latent & decoder'] > 3
    assert said['steps']*said['batch']/said['epochs'] > 485*2

def test_a_decibel_would_be_seen_and_a_tenth_not(seen_by_the_test):
    see, spread, low, high = seen_by_the_test
    p = talk()['psnr']
    assert .1 < see < .3 and spread < .4 and low < 0 < high
    assert p['+NAT latent & decoder'] - p['GLARE'] > 3*(see + spread)

def test_no_gain_is_reproduced(seen_by_the_test):
    see = seen_by_the_test[0]
    assert gains('+NAT latent')['psnr_gain_high'] < 0
    assert abs(gains('+NAT latent & decoder')['psnr_gain']) < .1 and abs(switched('both')) < .1
    assert -see < switched('latent') < 0
    ssim = gains('+NAT latent & decoder')['ssim_gt_mean'] - gains('GLARE')['ssim_gt_mean']
    assert abs(ssim) < 2e-3 and abs(switched('both', 'ssim_gt_mean')) < 2e-3
    assert 'lpips' not in json.dumps(read('exp_table1')['rows']).lower()

def test_order_of_table_1():
    t1 = table_1()
    both = t1['+NAT latent & decoder']
    assert min(both['psnr_gt_mean'], t1['GLARE']['psnr_gt_mean']) > t1['LLFlow']['psnr_gt_mean'] + 1
    assert t1['Restormer']['psnr_gt_mean'] < both['psnr_gt_mean']
    assert t1['Restormer']['seconds_each'] > both['seconds_each']

def test_only_the_first_round_changes_anything():
    r2 = {r['rounds']: r['psnr_gt_mean'] for r in read('exp_table2')['rows']}
    assert max(abs(r2[b] - r2[a]) for a, b in ((0, 1), (1, 2), (2, 4), (4, 6), (6, 8))) < .05
    costs = [v['cross_entropy'] for k, v in read('rounds')['rows'].items() if k.startswith('delta')]
    assert costs[1] < costs[0] - .1 and max(costs[1:]) - min(costs[1:]) < .01

def test_entropy_needs_a_predicted_spread():
    s = {k: v['spearman'] for k, v in read('uncertainty')['maps'].items()}
    assert s['entropy, T = 1'] < 0 and s['entropy, one T, calibrated'] < 0
    assert .3 < s['entropy, T = 2 sigma^2'] < s['sigma'] - .1

def test_attention_gains_without_the_mask(seen_by_the_test):
    forms = pd.DataFrame(read('lab')).groupby('form').psnr_gt_mean
    others = max(forms.max()[k] for k in ('plain', 'alone', 'features', 'noattention'))
    assert forms.min()['nomask'] > others
    assert forms.mean()['features'] - forms.mean()['noattention'] < seen_by_the_test[1]

def test_memory_of_the_large_preset_is_as_the_talk_says():
    def extra(name): return {r['system']: r for r in read(name)['rows']}['both']['extra_memory']
    assert extra('cost_base_bfloat16') < talk()['memory'] < extra('cost_small')

def test_level_is_robust_and_the_darkest_loses_three_decibels():
    br = {r['scale']: r for r in read('exp_brightness')['rows']}
    assert 2.7 < br[1.0]['psnr_gt_mean'] - br[.3]['psnr_gt_mean'] < 3.4
    assert all(abs(r['level'] - 1) < .05 for r in br.values())

def test_overview_has_every_claim():
    page = cells(NBS/'course/claims.ipynb')
    cards = [line for c in page for line in re.findall(r'^\| \| (.+) \|$', all_printed(c), re.M)]
    overview = next(printed(c) for c in page if 'tbl-claims' in source(c))
    assert len(cards) >= 12 and overview.count('unmeasured') >= 3
    assert re.findall(r'^\| (.+?) \| \d+ \|', overview, re.M) == cards

def all_printed(cell): return '\n'.join(printed(dict(outputs=[o])) for o in cell.get('outputs', []))
