"""Are the checks able to fail? `python tests/mutants.py` breaks the package on purpose, one line at a time, in a copy, and runs the
tests that should notice; a mutant that survives is a test that proves nothing. The same tests must pass where nothing is broken. With `--json FILE` the outcome is kept.

`tests/test_mutants.py` holds that every line to be broken still stands in the package, and breaks one of them on every run.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# what is broken, module, the line as it is, the line broken, the tests that should notice
MUTANTS = [
    ('1x1 convolution: log-determinant of one place instead of all', 'flow', 'torch.linalg.slogdet(self.weight)[1]*z[0, 0].numel()', 'torch.linalg.slogdet(self.weight)[1]', 'test_flow.py::test_promises_at_random_weights'),
    ('affine layer: shift before scale in the inverse', 'flow', 'return u*(-s).exp() - t', 'return (u - t)*(-s).exp()', 'test_flow.py::test_promises_at_random_weights'),
    ('affine layer: log-scale without its bound', 'flow', 'self.bound*a.tanh()', 'self.bound*a', 'test_flow.py'),
    ('quantizer: half the commitment', 'quantizers', 'return self.beta*F.mse_loss(z.float(), e.detach())', 'return 0.5*self.beta*F.mse_loss(z.float(), e.detach())', 'test_quantizers.py'),
    ('quantizer: moving average of the sums runs late', 'quantizers', 'self.total.lerp_(total, 1 - self.decay)', 'self.total.lerp_(total, 0.9*(1 - self.decay))', 'test_quantizers.py'),
    ('token statistics: entropy of one place too many', 'masking', 'torch.linalg.vecdot(p, l.sub_(top))', 'torch.linalg.vecdot(p, l)', 'test_masking.py'),
    ('calibration: searches the wrong way', 'masking', 'if nc < nd: b, d, nd, c', 'if nc > nd: b, d, nd, c', 'test_masking.py'),
    ('latent NAT: read out without subtracting the prior', 'nat', 'z + q.mean - before', 'z + q.mean', 'test_model.py'),
    ('latent NAT: exponentials cut off too early', 'nat', 'clamp(min=-80).exp()', 'clamp(min=-1).exp()', 'test_references.py test_model.py test_masking.py'),
    ('NAT on features: kept cells are not corrected', 'decoder', 'if self.kept and r == 0: change = self.change(x, at, cells)', 'if False: change = self.change(x, at, cells)', 'test_model.py::test_four_systems'),
    ('user\'s mask: the NAT on features goes beyond it', 'decoder', '*(1 if allow is None else allow[:, None])', '', 'test_enhance.py::test_outside_the_mask_no_nat_had_a_hand'),
    ('user\'s mask: the NAT on the latent does not heed it', 'model', 'mask = mask & allow', 'mask = mask & True', 'test_enhance.py::test_outside_the_mask_no_nat_had_a_hand'),
    ('user\'s mask: every tile gets its upper left part', 'enhance', 'allow[:,top:bottom,left:right]', 'allow[:,:bottom-top,:right-left]', 'test_enhance.py::test_the_mask_is_cut_with_the_tiles'),
    ('strength: input and result exchanged', 'enhance', 'y.lerp_(x, 1-s.strength)', 'y.lerp_(x, s.strength)', 'test_enhance.py::test_strength'),
    ('film: every frame is the last', 'enhance', 'now = states[min(r, len(states)-1)]', 'now = states[-1]', 'test_enhance.py::test_the_film_begins_without_a_nat_and_ends_with_the_result'),
    ('batches: all pictures get the level of the first', 'enhance', 'record.levels[i], histories', 'record.levels[0], histories', 'test_enhance.py::test_batches_keep_their_history'),
    ('mix-up: the two sides exchanged', 'decoder', 'return m*self.match(f_low) + (1 - m)*h', 'return (1 - m)*self.match(f_low) + m*h', 'test_model.py'),
    ('model: level without the norm', 'model', 'if spared else l).exp()/c.norm_level', 'if spared else l).exp()', 'test_exposure.py::test_lights_lower_the_level_within_its_doubt'),
    ('lights: all levels give way, those of a head that is sure too', 'exposure', 'slope = (l - log_level)*precision + ', 'slope = ', 'test_exposure.py::test_the_spared_level_is_the_likeliest'),
    ('lights: Enhancer does not look for them', 'enhance', 'self.model.gain(x_norm[None,:,::k,::k], ', 'self.model.gain(0*x_norm[None,:,::k,::k], ', 'test_exposure.py::test_lights_of_the_whole_picture_decide_and_the_user_overrules'),
    ('bright pictures: the level may fall below their own', 'model', 'return torch.maximum(log_level, own.clamp(min=1e-6).log())', 'return log_level', 'test_exposure.py::test_a_bright_picture_never_gets_darker'),
    ('bright pictures: the gain is not raised', 'exposure', 'g = torch.minimum(g + short/slope, most)', 'g = gain', 'test_exposure.py::test_a_bright_picture_never_gets_darker'),
    ('GLARE: attention scaled by the width, not its root', 'glare', 'k*k.shape[-1]**-.5', 'k*k.shape[-1]**-1.', 'test_glare_parity.py::test_array'),
    ('GLARE: downsampling pads on the other side', 'glare', 'F.pad(x, (0, 1, 0, 1))', 'F.pad(x, (1, 0, 1, 0))', 'test_glare_parity.py::test_array'),
    ('GLARE: norm with another epsilon', 'glare', 'super().__init__(32, ch, eps=1e-6)', 'super().__init__(32, ch, eps=1e-3)', 'test_glare_parity.py::test_array'),
    ('GLARE: ratio of means upside down', 'glare_release', 'return (h.mean()/x_vq.mean()).view(1, 1, 1, 1)', 'return (x_vq.mean()/h.mean()).view(1, 1, 1, 1)', 'test_glare_parity.py::test_array'),
    ('GLARE release: missing tensors are not mentioned', 'glare_release', "names.items() if k not in state]", "names.items() if k in ()]", 'test_glare_parity.py::test_loader_lists_all_that_does_not_fit'),
    ('MS-SSIM: luminance at every scale', 'losses', 's = cs if j < M - 1 else l*cs', 's = l*cs', 'test_references.py::test_ms_ssim_loss_is_torchmetrics'),
    ('stage 3: never a whole piece', 'stages', 'if self.whole and torch.rand(()) < self.cfg.whole', 'if self.whole and False', 'test_training.py::test_the_last_stage_sees_whole_pieces_now_and_then'),
    ('exposure head: fitted on synthetic darkness too', 'training', 'ds.synthetic = ds.relight = 0.', 'ds.relight = 0.', 'test_training.py::test_the_exposure_head_is_fitted_alone'),
    ('SSIM: another constant', 'metrics', 'C1,C2 = .01**2,.03**2', 'C1,C2 = .01**2,.04**2', 'test_metrics.py'),
    ('GT-mean: red and blue exchanged', 'metrics', '[.299,.587,.114]', '[.114,.587,.299]', 'test_metrics.py'),
    ('pipeline: what a stage stands on is not compared', 'training', "if not after and about.get('after') != stands_on(out, name): return False", 'if False: return False', 'test_training.py::test_a_new_codebook_makes_what_stands_on_it_stale'),
    ('temperature: the factor is left out', 'model', '2*self.cfg.factor*sigma**2', '2*sigma**2', 'test_model.py::test_the_factor_scales_the_variance'),
    ('factor: fitted without the spread', 'training', '/(2*a.sigma.float().flatten(1)[:, i, None]**2))', '/2.)', 'test_training.py::test_the_factor_mends_a_head_that_says_too_little'),
    ('record: a torn line stops the run', 'record', 'except ValueError: continue', 'except ValueError: raise', 'test_experiments.py::test_torn_line_and_damaged_settings'),
    ('record: rows are made again', 'record', 'if key not in self.done:', 'if True:', 'test_experiments.py::test_torn_line_and_damaged_settings'),
    ('Pareto: cost does not count', 'experiments', 'c<=a and g>=b and', 'g>=b and', 'test_experiments.py::test_pareto_and_crops'),
    ('evaluation: scores of the first picture only', 'experiments', 'sum(r[k] for r in rs)/len(rs) for k in keys', 'rs[0][k] for k in keys', 'test_cli.py::test_evaluate'),
    ('fingerprints: every scene is another', 'fingerprints', 'if a[i] >= threshold]', 'if a[i] >= 1.]', 'test_cli.py::test_evaluate_says_which_scenes_were_trained_on'),
    ('colour: from sRGB where to sRGB is asked', 'colour', 'np.linalg.inv(dst.matrix)@src.matrix', 'np.linalg.inv(src.matrix)@dst.matrix', 'test_colour.py::test_little_cms_converts_as_we_do'),
    ('colour: the result stays sRGB under the profile of the file', 'pictures', "like.space if 'icc_profile' in info else None", 'None', 'test_colour.py::test_what_is_not_changed_comes_back'),
    ('formats: Pillow may choose any, PostScript too', 'files', 'formats=readable_formats(name)', 'formats=None', 'test_images.py::test_postscript_starts_nothing'),
]

def source(module): return (ROOT/'lowlight_nat'/f'{module}.py').read_text(encoding='utf-8')

@lru_cache
def green(tests): # names of tests
    "Do they pass where nothing is broken? A test that fails anyway notices nothing"
    return outcome(('nothing', 'model', '', '', tests))['passed']

def outcome(mutant, timeout=600):
    "Run the tests on the broken copy: row of the table"
    what, module, old, new, tests = mutant
    start = time.time()
    with tempfile.TemporaryDirectory() as tmp:
        shutil.copytree(ROOT/'lowlight_nat', Path(tmp)/'lowlight_nat', ignore=shutil.ignore_patterns('__pycache__'))
        path = Path(tmp)/'lowlight_nat'/f'{module}.py'
        assert not old or path.read_text(encoding='utf-8').count(old) == 1, f'{module}: the line to be broken is not there once: {old}'
        if old: path.write_text(path.read_text(encoding='utf-8').replace(old, new), encoding='utf-8')
        code = f"import sys; sys.path.insert(0, {tmp!r}); import lowlight_nat; assert lowlight_nat.__file__.startswith({tmp!r}); import pytest; sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', '-p', 'no:warnings', *({str(ROOT/'tests')!r} + '/' + t for t in {tests!r}.split())]))"
        r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=timeout, cwd=ROOT, env=dict(os.environ, PYTHONPATH=tmp))
    failed = [l.split(' - ')[0].removeprefix('FAILED ').removeprefix('tests/') for l in r.stdout.splitlines() if l.startswith('FAILED')]
    return dict(broken=what, module=module, tests=tests, passed=r.returncode == 0, noticed=r.returncode == 1 and bool(failed) and (not old or green(tests)), by=failed[0] if failed else None, seconds=round(time.time() - start))

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--json', type=Path, help='file for the outcome'); p.add_argument('--module', help='only the mutants of one module')
    a, rows = p.parse_args(), []
    for m in MUTANTS:
        if a.module and m[1] != a.module: continue
        rows.append(outcome(m)); r = rows[-1]
        print(f"{'noticed ' if r['noticed'] else 'SURVIVED'} {r['broken']} ({r['by'] or r['tests']}, {r['seconds']} s)", flush=True)
    if a.json: a.json.write_text(json.dumps(dict(command='python tests/mutants.py --json nbs/figures/run/mutants.json', rows=rows), indent=1) + '\n')
    sys.exit(0 if all(r['noticed'] for r in rows) else 1)
