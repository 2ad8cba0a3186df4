"""Are the checks able to fail? `python tests/mutants.py` breaks the package on purpose, one
expression at a time, in a copy, and runs the
tests that should notice; a mutant that survives is a test that proves nothing. The same tests must
pass where nothing is broken. With `--json FILE` the outcome is kept.

What is broken is found in the syntax tree: by the name of the function around it and by the code as
`ast.unparse` writes it. So code may be
formatted anew, commented, or moved to another module or class, and the mutants stay as they are.

`tests/test_mutants.py` holds that each mutant is found once, and breaks one of them on every run.
"""
import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT/'lowlight_nat'

# what is broken, function around it ('': none), code as it is, code broken, the tests that should
# notice
MUTANTS = [
    ('1x1 convolution: log-determinant of one place instead of all', 'forward',
     'torch.linalg.slogdet(self.weight)[1] * z[0, 0].numel()',
     'torch.linalg.slogdet(self.weight)[1]', 'test_flow.py::test_promises_at_random_weights'),
    ('affine layer: shift before scale in the inverse', 'inverse', 'return u * (-s).exp() - t',
     'return (u - t) * (-s).exp()', 'test_flow.py::test_promises_at_random_weights'),
    ('affine layer: log-scale without its bound', 'params', 'self.bound * a.tanh()',
     'self.bound * a', 'test_flow.py'),
    ('quantizer: half the commitment', 'loss',
     'return self.beta * F.mse_loss(z.float(), e.detach())',
     'return 0.5 * self.beta * F.mse_loss(z.float(), e.detach())', 'test_quantizers.py'),
    ('quantizer: moving average of the sums runs late', 'learn',
     'self.total.lerp_(total, 1 - self.decay)', 'self.total.lerp_(total, 0.9 * (1 - self.decay))',
     'test_quantizers.py'),
    ('token statistics: entropy of one place too many', '_statistics',
     'torch.linalg.vecdot(p, logits.sub_(top))', 'torch.linalg.vecdot(p, logits)', 'test_masking.py'),
    ('calibration: searches the wrong way', '_golden_section', 'nc < nd', 'nc > nd',
     'test_masking.py'),
    ('latent NAT: read out without subtracting the prior', '_read',
     'z + q.mean - mean_prior_code(z, codes, T)', 'z + q.mean', 'test_model.py'),
    ('latent NAT: exponentials cut off too early', 'read_out', 'clamp(min=-80).exp()',
     'clamp(min=-1).exp()', 'test_references.py test_model.py test_masking.py'),
    ('NAT on features: kept cells are not corrected', 'forward', 'self.to_change(x)) if self.kept',
     'self.to_change(x) * 0) if self.kept', 'test_model.py::test_four_systems'),
    ('guided upsampling: the small result is shifted by half a pixel', 'linear_taps',
     '(torch.arange(N, dtype=torch.float64) + 0.5) * n / N - 0.5',
     'torch.arange(N, dtype=torch.float64) * n / N',
     'test_guided.py::test_carry_is_bilinear_enlarging_of_twelve_numbers'),
    ('guided upsampling: rows and columns of the transform mixed up', 'colour_slopes',
     "torch.einsum('cj...,jk...->ck...', covariance(v, u, mv, mu), inverse)",
     "torch.einsum('jc...,jk...->ck...', covariance(v, u, mv, mu), inverse)",
     'test_guided.py::test_slopes_are_those_of_a_solver'),
    ("user's mask: the NAT on features goes beyond it", 'forward',
     'h = h + (new if allow is None else new * allow[:, None])', 'h = h + new',
     'test_enhance.py::test_outside_the_mask_no_nat_had_a_hand'),
    ("user's mask: the NAT on the latent does not heed it", 'refine', 'mask & allow', 'mask & True',
     'test_enhance.py::test_outside_the_mask_no_nat_had_a_hand'),
    ("user's mask: every tile gets its upper left part", 'one', 'allow[:, top:bottom, left:right]',
     'allow[:, :bottom - top, :right - left]',
     'test_enhance.py::test_the_mask_is_cut_with_the_tiles'),
    ('strength: input and result exchanged', 'lay_over', 'y.lerp_(x, 1 - strength)',
     'y.lerp_(x, strength)', 'test_enhance.py::test_strength'),
    ('mask: a result is seen outside it', 'lay_over', '1 - strength * opacity', '1 - strength',
     'test_tone.py::test_outside_the_mask_is_the_photograph'),
    ("light's colour: noise in black is believed", 'colour_factor',
     'luma(here) ** 2 / (luma(here) ** 2 + BLACK ** 2)', 'luma(here) * 0 + 1',
     'test_tone.py::test_noise_in_black_has_no_colour'),
    ("light's colour: brightness changes with it", 'change', 'z * (g / luma(z).clamp(min=1e-06))',
     'z', 'test_tone.py::test_a_warm_lamp_stays_warm'),
    ('shadows: the base is the pixel itself', 'base_lines', 'a = var / (var + TEXTURE)',
     'a = var / (var + 1e-09)', 'test_tone.py::test_texture_of_shadows_stays'),
    ('shadows: kept ones become darker than the input', 'change',
     '(own / b.clamp(min=0.0001)).clamp(max=1)', '0 * own',
     'test_tone.py::test_shadows_are_kept_down_to_the_input'),
    ('shards: the last picture of each is in none', 'shard_jobs', 'if part(j) == shard.i',
     'if part(j) == shard.i and j is not jobs[-1]',
     'test_folders.py::test_a_shard_depends_on_the_name_only'),
    ('parts: those of other computers are swept', 'clean_parts', 'm[2] == _machine()', 'True',
     'test_images.py::test_what_another_computer_writes_is_left_alone'),
    ('film: every frame is the last', '_film', 'now = states[min(r, len(states) - 1)]',
     'now = states[-1]',
     'test_enhance.py::test_the_film_begins_without_a_nat_and_ends_with_the_result'),
    ('batches: all pictures get the level of the first', '_together', '_level(lights[i])',
     '_level(lights[0])', 'test_enhance.py::test_batches_keep_their_history'),
    ('mix-up: the two sides exchanged', 'forward', 'return m * self.match(f_low) + (1 - m) * h',
     'return (1 - m) * self.match(f_low) + m * h', 'test_model.py'),
    ('model: level without the norm', 'gain', '.exp() / c.norm_level', '.exp()',
     'test_light.py::test_lights_lower_the_level_within_its_doubt'),
    ('lights: all levels give way, those of a head that is sure too', 'spare_lights',
     '(l - log_level) * precision + ', '',
     'test_light.py::test_the_spared_level_is_the_likeliest'),
    ('lights: Enhancer does not look for them', '_brightness', 'self.model.gain(seen,',
     'self.model.gain(0 * seen,',
     'test_light.py::test_lights_of_the_whole_picture_decide_and_the_user_overrules'),
    ('bright pictures: the level may fall below their own', 'at_least',
     'return torch.maximum(log_level, own.clamp(min=1e-06).log())', 'return log_level',
     'test_light.py::test_a_bright_picture_never_gets_darker'),
    ('bright pictures: the gain is not raised', 'keep_bright',
     'g = torch.minimum(g + short / slope, most)', 'g = gain',
     'test_light.py::test_a_bright_picture_never_gets_darker'),
    ('GLARE: attention scaled by the width, not its root', 'glare_attention', 'k * k.shape[-1] ** (-0.5)',
     'k * k.shape[-1] ** (-1.0)', 'test_glare_parity.py::test_array'),
    ('GLARE: downsampling pads on the other side', 'forward', 'F.pad(x, (0, 1, 0, 1))',
     'F.pad(x, (1, 0, 1, 0))', 'test_glare_parity.py::test_array'),
    ('GLARE: norm with another epsilon', '__init__', 'super().__init__(32, ch, eps=1e-06)',
     'super().__init__(32, ch, eps=0.001)', 'test_glare_parity.py::test_array'),
    ('GLARE: ratio of means upside down', 'mean_ratio',
     'return (h.mean() / x_vq.mean()).view(1, 1, 1, 1)',
     'return (x_vq.mean() / h.mean()).view(1, 1, 1, 1)', 'test_glare_parity.py::test_array'),
    ('GLARE release: missing tensors are not mentioned', '_complaints', 'if k not in state',
     'if k in ()', 'test_glare_parity.py::test_loader_lists_all_that_does_not_fit'),
    ('MS-SSIM: luminance at every scale', 'ms_ssim_loss', 's = cs if j < M - 1 else l * cs',
     's = l * cs', 'test_references.py::test_ms_ssim_loss_is_torchmetrics'),
    ('stage 3: never a whole piece', 'view', 'torch.rand(()) < self.plan.whole', 'False',
     'test_training.py::test_the_last_stage_sees_whole_pieces_now_and_then'),
    ('light: the last weights are kept, not the best', 'after_fit', 'p.copy_(best)', 'p.copy_(p)',
     'test_training.py::test_the_light_that_was_best_on_new_scenes_is_kept'),
    ('crops: their light is cut elsewhere', 'cut',
     'self.light.cut(top, left, size, size)', 'self.light.cut(left, top, size, size)',
     'test_learners.py::test_light_and_picture_are_cut_and_turned_alike'),
    ('night: the dark part comes back', 'night', 'm ** 2', 'm ** 0',
     'test_data.py::test_scenes_keep_what_is_right'),
    ('whole pictures: stretched, not made to fit', 'fit_picture',
     'min(height / H, width / W)', 'max(height / H, width / W)',
     'test_data.py::test_whole_pictures_of_one_size'),
    ('SSIM: another constant', 'ssim_parts', 'C2 = 0.03 ** 2',
     'C2 = 0.04 ** 2', 'test_metrics.py'),
    ('GT-mean: red and blue exchanged', '', 'GREY = [0.299, 0.587, 0.114]',
     'GREY = [0.114, 0.587, 0.299]', 'test_metrics.py'),
    ('pipeline: what a stage stands on is not compared', 'is_done',
     "start != stands_on(out, name)", 'False',
     'test_training.py::test_a_new_codebook_makes_what_stands_on_it_stale'),
    ('temperature: the factor is left out', 'doubt',
     'T = 2 * self.cfg.factor * sigma ** 2',
     'T = 2 * sigma ** 2',
     'test_model.py::test_the_factor_scales_the_variance'),
    ('factor: fitted without the spread', 'set_factor',
     ' / (2 * sigma ** 2)', ' / 2.0',
     'test_training.py::test_the_factor_mends_a_head_that_says_too_little'),
    ('record: a torn line stops the run', '_read', 'except ValueError', 'except KeyError',
     'test_experiments.py::test_torn_line_and_damaged_settings'),
    ('record: rows are made again', 'row', 'key not in self.done', 'True',
     'test_experiments.py::test_torn_line_and_damaged_settings'),
    ('Pareto: cost does not count', 'pareto', 'c <= a and ', '',
     'test_experiments.py::test_pareto_and_crops'),
    ('evaluation: scores of the first picture only', 'mean', 'sum((r[k] for r in rs)) / len(rs)',
     'rs[0][k]', 'test_cli.py::test_evaluate'),
    ('fingerprints: every scene is another', 'overlaps', 'a[i] >= threshold', 'a[i] >= 1.0',
     'test_cli.py::test_evaluate_says_which_scenes_were_trained_on'),
    ('colour: from sRGB where to sRGB is asked', '_convert',
     'np.linalg.inv(dst.matrix) @ src.matrix', 'np.linalg.inv(src.matrix) @ dst.matrix',
     'test_colour.py::test_little_cms_converts_as_we_do'),
    ('colour: the result stays sRGB under the profile of the file', 'go',
     "like.space if 'icc_profile' in info else None", 'None',
     'test_colour.py::test_what_is_not_changed_comes_back'),
    ('formats: Pillow may choose any, PostScript too', 'open_bytes',
     'formats=readable_formats(name)', 'formats=None',
     'test_images.py::test_postscript_starts_nothing'),
]

@lru_cache
def functions():
    "Every module and function of the package: path, node, name, code"
    found = []
    for path in sorted(PACKAGE.rglob('*.py')):
        if path.name == '_modidx.py': continue
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, (ast.Module, ast.FunctionDef)):
                found.append((path, node, getattr(node, 'name', ''), ast.unparse(node)))
    return found

def places(function, old): # name, code
    "Where the code stands in a function of that name: path, node of the function, its code"
    return [(path, node, code) for path, node, name, code in functions() if name == function
            for _ in range(code.count(old))]

def broken(function, old, new): # name, code as it is, code broken
    "The module to be broken, and its source with the mutant in it"
    (path, node, code), = places(function, old)
    start, end = (node.lineno, node.end_lineno) if function else (1, None)
    if function and node.decorator_list: start = node.decorator_list[0].lineno
    lines = path.read_text(encoding='utf-8').splitlines()
    indent = ' '*node.col_offset if function else ''
    lines[start - 1:end] = [indent + l for l in code.replace(old, new).splitlines()]
    return path, '\n'.join(lines) + '\n'

@lru_cache
def green(tests): # names of tests
    "Do they pass where nothing is broken? A test that fails anyway notices nothing"
    return outcome(('nothing', None, None, None, tests))['passed']

def outcome(mutant, timeout=600):
    "Run the tests on the broken copy: row of the table"
    what, function, old, new, tests = mutant
    start = time.time()
    module = None
    with tempfile.TemporaryDirectory() as tmp:
        shutil.copytree(PACKAGE,
                        Path(tmp)/'lowlight_nat', ignore=shutil.ignore_patterns('__pycache__'))
        if old:
            path, source = broken(function, old, new)
            module = path.stem
            (Path(tmp)/path.relative_to(ROOT)).write_text(source, encoding='utf-8')
        code = (f"import sys; sys.path.insert(0, {tmp!r}); import lowlight_nat; assert "
                f"lowlight_nat.__file__.startswith({tmp!r}); import pytest; "
                f"sys.exit(pytest.main(['-q', '-x', '-p', 'no:cacheprovider', '-p', 'no:warnings', "
                f"*({str(ROOT/'tests')!r} + '/' + t for t in {tests!r}.split())]))")
        r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                           timeout=timeout, cwd=ROOT, env=dict(os.environ, PYTHONPATH=tmp))
    failed = [
        l.split(' - ')[0].removeprefix('FAILED ').removeprefix('tests/')
        for l in r.stdout.splitlines()
        if l.startswith('FAILED')
    ]
    noticed = r.returncode == 1 and bool(failed) and (not old or green(tests))
    return dict(broken=what, module=module, tests=tests, passed=r.returncode == 0, noticed=noticed,
                by=failed[0] if failed else None, seconds=round(time.time() - start))

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--json', type=Path, help='file for the outcome')
    p.add_argument('--only', default='',
                   help='only the mutants whose description holds these words')
    a = p.parse_args()
    rows = []
    for m in MUTANTS:
        if a.only not in m[0]: continue
        rows.append(outcome(m))
        r = rows[-1]
        print(
            f"{'noticed ' if r['noticed'] else 'SURVIVED'} {r['broken']} ({r['by'] or r['tests']}, {r['seconds']} s)",
            flush=True)
    if a.json:
        a.json.write_text(
            json.dumps(
                dict(command='python tests/mutants.py --json nbs/figures/run/mutants.json',
                     rows=rows), indent=1) + '\n')
    sys.exit(0 if all(r['noticed'] for r in rows) else 1)
