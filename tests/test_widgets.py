"Widgets without a browser: what they compute, what they keep, and what they say of wrong settings and files."
import ast
import base64
import json
import subprocess
import sys
from collections import Counter
from datetime import datetime, timezone
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('ipywidgets', reason="ipywidgets isn't installed: pip install -e '.[app]'")
from lowlight_nat.app.steps import Steps, as_html, before_after, curve_svg
from lowlight_nat.app.widgets import App, Brush, Explorer, Inspector, LightView, Monitor, Upload, live, write_app
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.models.config import ModelConfig, TrainPlan
from lowlight_nat.models.lowlight_nat import LowLightNAT


@pytest.fixture(scope='module')
def enhancer():
    "The smallest preset with weights drawn at random; all branches that begin at zero are stirred."
    torch.manual_seed(0)
    model = LowLightNAT(ModelConfig.tiny())
    with torch.no_grad():
        for p in model.parameters(): p.add_(.02*torch.randn_like(p))
    return Enhancer(model, 'cpu')

@pytest.fixture
def photo():
    g = torch.Generator().manual_seed(3)
    return Image.fromarray((torch.rand(37, 50, 3, generator=g)*60).byte().numpy())

@pytest.fixture
def steps(enhancer, photo): return Steps(enhancer, photo)

def file_of(im, kind='PNG'):
    b = BytesIO()
    im.save(b, kind)
    return b.getvalue()

def array(im): return np.array(im).astype(int)


def test_steps_are_the_model(enhancer, photo, steps):
    "Every combination of settings gives the picture of `Enhancer`, as far as 8 bits can say."
    m = Counter()
    for kw in (dict(), dict(tau=0.), dict(tau=1.), dict(tau=.9, rounds=0), dict(tau=.3, rounds=1),
               dict(tau=.3, rounds=3, mix=.7), dict(exposure=.3)):
        want = enhancer(photo, **kw).image
        got = steps.picture(steps.mask(kw.get('tau')), rounds=kw.get('rounds'), mix=kw.get('mix'),
                            exposure=kw.get('exposure'))
        assert abs(array(want)-array(got)).max() <= 1, kw
        m[got.tobytes()] += 1
    assert len(m) >= 5, 'the settings must make a difference, or nothing was compared'

def test_rounds_in_between(steps):
    m = steps.mask(0.)
    whole = steps.refine(m, rounds=4)
    probs = []
    for r in (1, 2, 3):
        part = steps.refine(m, rounds=4, upto=r)
        assert len(part.history) == r and torch.equal(part.tokens, whole.history[r-1].tokens)
        probs.append(part.z)
    assert not torch.equal(probs[0], whole.z)
    assert torch.equal(steps.refine(m, rounds=4, upto=0).z, steps.align().z_tilde.float())

def test_nothing_is_computed_twice(steps):
    steps.picture()
    first = Counter(steps.ran)
    steps.picture()
    steps.picture(exposure=.5)
    assert steps.ran == first
    steps.picture(mix=.1)
    assert steps.ran - first == Counter(decode=1)
    steps.picture(steps.mask(1.))
    assert steps.ran - first == Counter(decode=2, refine=1)
    assert first == Counter(align=1, doubt=1, refine=1, decode=1)

def test_memory_has_an_end(enhancer, photo):
    s = Steps(enhancer, photo, keep=6)
    for i in range(12): s.picture(mix=i/20)
    assert len(s.kept) == 6 and s.ran['align'] == 1, 'what is used stays, what is old goes'

def test_a_large_picture_is_shrunk(enhancer):
    s = Steps(enhancer, Image.new('RGB', (200, 100), (9, 9, 9)), pixels=5000)
    assert s.full == (100, 200) and s.size == (50, 100) and s.picture().size == (100, 50)

def test_explorer_follows_its_sliders(steps):
    e = Explorer(steps)
    e.tau.value = 0.
    shown = e.view.value
    e.shown.value = 1
    assert e.view.value != shown and 'after round 1 of 4' in e.view.value
    e.rounds.value = 0
    assert e.shown.max == e.shown.value == 0 and 'after round 0 of 0' in e.view.value
    e.tau.value = 1.
    assert not e.maps().mask.any()

def test_inspector_probabilities(steps):
    t = Inspector(steps)
    assert (t.row.max, t.col.max) == (9, 12)
    for r, c in ((0, 0), (9, 12)):
        t.row.value = r
        t.col.value = c
        top = steps.top_codes(r, c, 512)
        assert abs(top.p.sum().item()-1) < 1e-4 and sorted(top.codes.tolist()) == list(range(512))
        assert t.marked().size == (50, 37) and f'row {r}, column {c}' in t.view.value

def test_inspector_goes_where_is_clicked_or_typed(steps):
    "The click itself is tested in a browser; it fills in the field."
    t = Inspector(steps)
    assert t.at.value == f'{t.row.value}, {t.col.value}' == '5, 6'
    t.at.value = '3, 11'
    assert (t.row.value, t.col.value) == (3, 11) and 'row 3, column 11' in t.view.value
    t.row.value = 7
    assert t.at.value == '7, 11' and 'row 7, column 11' in t.view.value
    t.at.value = '-4,99'
    assert (t.row.value, t.col.value) == (0, 12) and t.at.value == '0, 12'
    shown = t.view.value
    n = steps.ran['decode']
    for bad in 'here', '3', '1,2,3', '<b>, 2':
        t.at.value = bad
        assert 'names no place' in t.said.value and '<b>' not in t.said.value and t.view.value == shown
    assert steps.ran['decode'] == n == 1, 'a place changes no picture'
    assert t.view.value.count('onclick="') == 1 and Inspector().go() is None

def test_brush_touches_what_is_marked(steps):
    t = Brush(steps)
    t.rows.value = (2, 4)
    t.cols.value = (3, 6)
    m = t.mask()
    changed = (steps.refine(m).z - steps.align().z_tilde).abs().sum(1) > 1e-6
    assert m.sum() == 6 and changed.any() and not (changed & ~m).any()
    t.add.click()
    t.rows.value = (6, 7)
    assert t.mask().sum() == 6 + 3
    t.own.value = False
    assert torch.equal(t.mask(), m | steps.brush([(6, 3, 7, 6)]) | steps.mask())
    t.clear.click()
    assert t.boxes == []

def test_the_light_is_the_model_s(enhancer, photo, steps):
    "Level, deviation and lit picture are those that the network goes on from."
    t = LightView(steps)
    g = steps.glance()
    res = enhancer(photo)
    assert g.level == pytest.approx(res.level, rel=1e-4) and g.std == pytest.approx(res.level_std, rel=1e-4)
    assert f'level {g.level:.2f}, within {g.std:.0%}' in t.view.value
    assert t.view.value.count('<img ') == 3 and steps.ran['align'] == 1 and not steps.ran['decode']
    assert g.lit.size == g.card.size == g.attention.size == photo.size
    lit = steps.align().x_lit[0, :, :37, :50].clamp(0, 1)
    assert (torch.from_numpy(array(g.lit)).permute(2, 0, 1)/255 - lit).abs().max() < .6/255

def test_before_after_ends(photo):
    a = photo
    b = Image.new('RGB', photo.size, 'red')
    assert (array(before_after(a, b, 1)) == array(a)).all() and (array(before_after(a, b, 0))
                                                                 == array(b)).all()

def test_upload_and_save(enhancer, photo):
    "What is saved is what the command would write: whole, with its transparency and 16 bits."
    got = []
    u = Upload(enhancer, got.append, lambda: dict(tau=.2))
    rgba = photo.copy()
    rgba.putalpha(Image.new('L', photo.size, 77))
    u.file.value = (dict(name='../night.png', type='image/png', size=1, content=memoryview(
        file_of(rgba)), last_modified=datetime.now(timezone.utc)), )
    assert len(got) == 1 and not u.save.disabled
    u.save.click()
    assert 'download="night_enhanced.png"' in u.view.value and 'ready' in u.said.value
    im = Image.open(BytesIO(base64.b64decode(u.view.value.split('base64,')[1].split('"')[0])))
    assert im.mode == 'RGBA' and (array(im) == array(enhancer(rgba, tau=.2).image)).all()

@pytest.mark.parametrize('data, name', [
    (b'', 'empty.png'), (b'<html>', 'page.jpg'), (b'\x89PNG\r\n\x1a\n1234', 'cut.png'),
    (b'x'*99, '<img src=x onerror=alert(1)>.png')])
def test_upload_of_what_is_no_picture(enhancer, data, name):
    u = Upload(enhancer)
    u.open(data, name)
    assert u.save.disabled and u.steps is None and '<img' not in u.said.value and 'Traceback' not in u.said.value
    assert u.said.value.count('<p role="status"') == 1 and len(u.said.value) > 60

def test_a_bad_picture_leaves_the_last_one_unsaved(enhancer, photo):
    u = Upload(enhancer)
    u.open(file_of(photo), 'a.png')
    u.open(b'no', 'b.png')
    assert u.save.disabled and u.view.value == ''

def test_error_becomes_a_sentence(steps):
    e = Explorer(steps)
    steps.model.cfg, cfg = None, steps.model.cfg      # anything that raises one of the named errors
    steps.refine = lambda *a, **kw: (_ for _ in ()).throw(RuntimeError('out of memory'))
    try: e.tau.value = .123
    finally: steps.model.cfg = cfg
    assert 'out of memory' in e.said.value

def test_words_are_escaped_and_everywhere(enhancer, photo):
    assert '<b>' not in as_html(photo, '"<b>', '<b>') and '&quot;&lt;b&gt;' in as_html(
        photo, '"<b>')
    app = App(enhancer)
    app.upload.open(file_of(photo), 'a.png')
    for i, tool in enumerate(app.tools):
        app.which.value = i
        assert tool.view.value.count('<img ') == tool.view.value.count('<img alt="') > 0
        assert 'alt=""' not in tool.view.value
        for w in tool.controls():
            assert getattr(w, 'description', None) or all(o.description for o in w.children)

def test_app_draws_what_is_seen(enhancer, photo):
    app = App(enhancer)
    app.upload.open(file_of(photo), 'a.png')
    assert [bool(t.view.value) for t in app.tools] == [True, False, False, False, False]
    app.which.value = 2
    assert [bool(t.view.value) for t in app.tools] == [True, False, True, False, False]
    assert app.settings() == dict(exposure=None)

def test_monitor_of_a_learner():
    import fastai.callback.progress  # which gives a Learner `no_bar`
    from fastai.test_utils import synth_learner
    m = Monitor(seconds=60)
    learn = synth_learner(cbs=[live(m, 7)])
    with learn.no_bar(), learn.no_logging(): learn.fit(3)
    assert [s
            for s, _ in m.terms['loss']] == list(range(7, learn.train_iter + 1, 7)) and m.drawn == 2
    assert '<svg' in m.box.value and '<img' not in m.box.value

@pytest.mark.slow
def test_monitor_of_a_stage(tmp_path):
    "Terms of the loss and a preview, from the stage that this project trains."
    from dataclasses import replace

    import fastai.callback.progress
    from fastai.data.core import DataLoaders
    from torch.utils.data import DataLoader

    from lowlight_nat.training.learner import decoder_learner
    g = torch.Generator().manual_seed(0)
    pairs = [(torch.rand(3, 64, 64, generator=g)*.1, torch.rand(3, 64, 64, generator=g))
             for _ in range(4)]
    dls = DataLoaders(*(DataLoader(pairs, 2) for _ in range(2)))
    m = Monitor(seconds=0)
    learn = decoder_learner(dls, ModelConfig.tiny(),
                            replace(TrainPlan.tiny().each_stage(crop=64), bf16=False), [live(m, 1)])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    # some terms are not in every batch
    assert len(m.terms['loss']) == 2 and {'l1', 'ssim'} < set(m.terms)
    assert m.preview.width % 64 == 0 and m.preview.width >= 192 and m.preview.height == 64

def test_curve_of_nothing_and_of_nan():
    assert 'no finite value' in curve_svg('a', []) and 'polyline' not in curve_svg(
        'a', [(0, float('inf'))])
    assert curve_svg('<b>', [(1, 2.)]).count('&lt;b&gt;') == 2

def test_app_file_is_a_notebook(tmp_path):
    nb = json.loads(write_app(tmp_path, 'a "quoted" name.safetensors', 'cpu').read_text())
    (cell,) = nb['cells']
    assert nb['nbformat'] == 4 and cell['cell_type'] == 'code'
    call = ast.parse(''.join(cell['source'])).body[-1].value
    assert call.func.id == 'app' and [ast.literal_eval(o)
                                      for o in call.args] == ['a "quoted" name.safetensors', 'cpu']

@pytest.mark.slow
def test_commands_do_not_need_the_widgets():
    "Other commands start without ipywidgets and Voila."
    code = "import sys; import lowlight_nat.cli; print([o for o in ('ipywidgets', 'voila') if o in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=True).stdout.strip() == '[]'
