"""The network without its Python: the dense form is the model, the ONNX file agrees with it, its
variants are smaller, and what can't be is said in a sentence."""
import json
import os
import sys
from dataclasses import replace

import pytest
import torch
from fastcore.basics import AttrDict

from lowlight_nat.evaluation.fidelity import psnr
from lowlight_nat.experiments.cost import dark_picture
from lowlight_nat.export.onnx import (
    OnnxEnhancer,
    _translations,
    compiled,
    export_onnx,
    exported_program,
    has_compiler,
    quantize_dynamic,
    to_half,
    to_onnx,
    weights_sha256,
    write_onnx,
)
from lowlight_nat.export.static_graph import OUTPUT_NAMES, DenseModel
from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.io.files import ImageError
from lowlight_nat.io.images import read_image
from lowlight_nat.models.checkpoint import load_model
from lowlight_nat.models.config import ModelConfig
from lowlight_nat.models.fusion import DeformAlign
from lowlight_nat.models.lowlight_nat import LowLightNAT

pytestmark = pytest.mark.slow

ROUNDS = 2   # of the exported files here: the first that masks again

@pytest.fixture(scope='module')
def model(): return load_model('small')

def crop(root, name='coffee.png', size=(72, 104)):
    "A piece of a sample, made dark."
    x = read_image(root/'samples'/name)[None, :, 60:60+size[0], 150:150+size[1]]
    return (x**2.2/12)**(1/2.2)

def micro(**kw):
    "The smallest network with every part, random weights, none of them zero."
    torch.manual_seed(0)
    cfg = dict(flow_steps=1, nat_depth=1, feat_depth=1, dilations=(1,), rounds=1)
    m = LowLightNAT(replace(ModelConfig.tiny(), **cfg, **kw)).eval()
    for p in m.parameters(): p.data.add_(torch.randn_like(p)*.02)
    return m

def differ(a, b): return (a.float() - b.float()).abs().max().item()


# --- the dense form ---

@pytest.mark.parametrize('rounds', (0, 1, 4))
def test_dense_is_the_model(model, root, rounds):
    for size in (72, 104), (16, 136), (56, 24):
        x = crop(root, size=size)
        for latent, feature in ((True, True), (True, False),
                                (False, True)) if size == (72, 104) else ((True, True), ):
            with torch.inference_mode():
                a = model(x, rounds=rounds, latent_nat=latent, decoder_nat=feature)
                b = AttrDict(zip(OUTPUT_NAMES, DenseModel(model, rounds, latent, feature)(x)))
            assert all(differ(getattr(a, k), b[k]) < 1e-4 for k in OUTPUT_NAMES), (size, latent, feature)

def test_dense_does_what_rounds_do(model, root):
    "The sameness above is no sameness of doing nothing."
    x = crop(root)
    with torch.inference_mode():
        outs = [DenseModel(model, r, latent_nat=True)(x) for r in (0, 1, 4)]
        off = DenseModel(model, 4, latent_nat=False)(x)
    assert 0.05 < outs[0][2].float().mean() < 0.95
    assert differ(outs[0][0], outs[1][0]) > 1e-3 and differ(
        outs[1][0], outs[2][0]) > 1e-5 and differ(outs[2][0], off[0]) > 1e-5

@pytest.mark.parametrize('kw', (dict(deform=True), dict(mask_by='spread'), dict(factor=2.5),
                                dict(light_bins=6), dict(quantizer='fsq'), dict(feat_kept=False)), ids=str)
def test_dense_of_other_networks(kw):
    m = micro(**kw)
    x = dark_picture((80, 56), 3)
    with torch.inference_mode():
        m.cfg = replace(m.cfg, tau=m.doubt(m.align(x)).map.median().item())
        a = m(x, rounds=3)
        b = DenseModel(m, 3)(x)
    assert .3 < a.mask.float().mean() < .7
    assert differ(a.x, b[0]) < 1e-4 and differ(a.level, b[4]) < 1e-5 and (a.mask == b[2]).all()

def test_dense_refuses():
    with pytest.raises(ValueError, match='rounds=-1'): DenseModel(micro(), -1)
    glare = AttrDict(cfg=replace(ModelConfig.base(), rounds=1))
    with pytest.raises(ValueError, match="arch='glare'"): DenseModel(glare)


# --- the file ---

@pytest.fixture(scope='module')
def program(model): return exported_program(model, ROUNDS)

@pytest.fixture(scope='module')
def proto(program):
    for name in ('onnx', 'onnxruntime', 'onnxscript'): pytest.importorskip(name)
    return to_onnx(program)

@pytest.fixture(scope='module')
def files(model, proto, tmp_path_factory):
    "The bundled network as float32, float16 and int8 files; exported once."
    from lowlight_nat.export.onnx import _stamp
    d = tmp_path_factory.mktemp('onnx')
    m = _stamp(proto, model, ROUNDS, 20)
    return {
        k: write_onnx(f(m), d/f'{k}.onnx')
        for k, f in dict(float32=lambda m: m, float16=to_half, int8=quantize_dynamic).items()
    }

def test_exported_program_is_the_model(model, program, root):
    for size in (72, 104), (48, 200):
        x = crop(root, size=size)
        with torch.inference_mode():
            assert differ(program.module()(x)[0], model(x, rounds=ROUNDS).x) < 1e-4

def test_onnx_agrees(model, files, root):
    """To 1e-3 at every pixel, and nearly always much closer: the larger the picture, the longer the
    sums."""
    e = OnnxEnhancer(files['float32'], threads=1)
    for name, size in ('coffee.png',
                       (72, 104)), ('astronaut.webp',
                                    (128, 96)), ('coffee.png',
                                                 (16, 200)), ('chelsea.jpg',
                                                              (96, 96)), ('coffee.png',
                                                                          (232,
                                                                           240)), ('chelsea.jpg',
                                                                                   (232, 240)):
        x = crop(root, name, size)
        with torch.inference_mode(): a = model(x, rounds=ROUNDS)
        b = e.run(x)
        assert differ(a.entropy, b.entropy) < 1e-5 and differ(a.sigma, b.sigma) < 1e-5 and differ(
            a.level, b.level) < 1e-5 and torch.equal(a.mask, b.mask), (name, size)
        assert differ(a.x, b.x) < 1e-3 and psnr(a.x, b.x).item() > 100, (name, size)

class Statistics(torch.nn.Module):
    def forward(self, x): return x.mean((1, 2, 3)), x.std((2, 3), correction=0)

def test_long_sums_are_exact():
    "onnxruntime adds up one after the other, in float32 unless it is told otherwise."
    import onnxruntime as ort
    x = dark_picture((512, 768), 5)
    ep = torch.export.export(Statistics(), (x,))
    def off(**kw):
        p = torch.onnx.export(ep, (), None, dynamo=True, optimize=False, verbose=False,
                              **kw).model_proto
        s = ort.InferenceSession(p.SerializeToString(), providers=['CPUExecutionProvider'])
        return [
            abs(torch.from_numpy(o)/t.float() - 1).max().item()
            for o, t in zip(s.run(None, {s.get_inputs()[0].name: x.numpy()}),
                            Statistics()(x.double()))
        ]
    plain = off()
    ours = off(custom_translation_table=_translations())
    assert max(ours) < 1e-6 < plain[0], (plain, ours)

def test_onnx_says_what_it_is(model, files):
    meta = OnnxEnhancer(files['float32'], 1).meta
    assert ModelConfig.from_json(json.dumps(meta.config)) == model.cfg
    assert (meta.rounds, meta.tau, meta.dtype, meta.opset) == (ROUNDS, model.cfg.tau, 'float32', 20)
    assert meta.sha256 == weights_sha256(load_model('small')) != weights_sha256(micro())
    text = files['float32'].read_bytes()
    # no paths of the machine that exported it
    assert b'stack_trace' not in text and b'.py"' not in text

def test_measured_table(root):
    "What the script wrote: the float16 file is little more than half, and float32 is the model."
    run = json.loads((root/'nbs/figures/run/deploy.json').read_text())
    rows = {r['variant']: r for r in run['rows']}
    assert rows['onnx float16']['mb'] < 0.65*rows['onnx float32']['mb']
    assert rows['onnx float32']['largest'] < 1e-3 and rows['dense form']['largest'] < 1e-4

def test_variants_are_smaller_and_near(model, files, root):
    x = crop(root)
    with torch.inference_mode(): a = model(x, rounds=ROUNDS).x
    mb = {k: p.stat().st_size/1e6 for k, p in files.items()}
    near = {k: psnr(OnnxEnhancer(p, 1).run(x).x, a).item() for k, p in files.items()}
    print(mb, near)
    # few layers are products of matrices, since the NAT on the latent is left out
    assert mb['float16'] < .65*mb['float32'] and mb['int8'] < .97*mb['float32']
    assert near['float32'] > 60 and near['float16'] > 45 and near['int8'] > 25
    assert min(near['float32'], near['float16']) > near['int8']   # fewer bits, further away

def test_onnx_enhancer_is_an_enhancer(model, files, root, tmp_path):
    from PIL import Image
    im = Image.open(root/'samples/coffee.png').convert('RGB').crop(
        (100, 60, 171, 111)).point(lambda v: v//6)
    im.putalpha(200)
    im.save(tmp_path/'a.png')
    a = Enhancer(model, 'cpu')(tmp_path/'a.png', rounds=ROUNDS)
    b = OnnxEnhancer(files['float32'], 1)(tmp_path/'a.png')
    assert a.x.shape == b.x.shape == (
        3, 51, 71) and a.entropy.shape == b.entropy.shape and b.mask.dtype == torch.bool
    assert psnr(a.x, b.x).item() > 35 and abs(a.level - b.level) < .02 and b.image.mode == 'RGBA'
    b.save(tmp_path/'b.png')
    assert Image.open(tmp_path/'b.png').size == (71, 51)
    assert OnnxEnhancer(files['float32'], 1)(torch.rand(3, 5, 3)/9).x.shape == (3, 5, 3)


# --- deformable convolution ---

@pytest.mark.parametrize('opset', (19, 22))
def test_deform_conv_is_one_operator(opset, tmp_path):
    for name in ('onnx', 'onnxscript'): pytest.importorskip(name)
    ort = pytest.importorskip('onnxruntime')
    torch.manual_seed(0)
    m = DeformAlign(8, 12).eval().requires_grad_(False)
    m.offset[-1].weight.normal_(0, .3)
    m.bias.normal_()
    shape = {2: torch.export.Dim('h', min=2, max=99), 3: torch.export.Dim('w', min=2, max=99)}
    p = torch.onnx.export(m, (torch.rand(1, 8, 9, 7), torch.rand(1, 12, 9, 7)), None, dynamo=True,
                          dynamic_shapes=(shape, shape), opset_version=opset,
                          custom_translation_table=_translations(), optimize=False, verbose=False)
    assert [o.op_type for o in p.model_proto.graph.node
            ].count('DeformConv') == 1 and 'GridSample' not in str(p.model_proto.graph)
    s = ort.InferenceSession(p.model_proto.SerializeToString(), providers=['CPUExecutionProvider'])
    x = torch.rand(1, 8, 12, 17)
    h = torch.rand(1, 12, 12, 17)
    got = torch.from_numpy(
        s.run(None, dict(zip([i.name for i in s.get_inputs()], (x.numpy(), h.numpy()))))[0])
    plain = torch.nn.functional.conv2d(x, m.weight, m.bias, padding=1)
    assert differ(got, m(x, h)) < 1e-4 and differ(got, plain) > .1   # the offsets count


# --- compile ---

def test_compile_sees_one_graph():
    m = micro()
    x = dark_picture((32, 48), 3)
    with torch.inference_mode():
        # fullgraph: a break is an error
        assert differ(compiled(m, backend='eager')(x)[0], m(x).x) < 1e-4

def test_compile_falls_back(monkeypatch):
    monkeypatch.setattr('shutil.which', lambda *a, **k: None)
    assert not has_compiler()
    with pytest.warns(UserWarning, match='needs a C\\+\\+ compiler'):
        assert isinstance(compiled(micro()), DenseModel)

def test_compile_is_the_model():
    if not has_compiler():
        pytest.skip('there is no C++ compiler, which torch.compile needs on a processor')
    if not os.environ.get('LOWLIGHT_COMPILE'):
        pytest.skip('LOWLIGHT_COMPILE is not set: it allows a test that compiles for minutes')
    m = micro()
    x = dark_picture((32, 48), 3)
    with torch.inference_mode(): assert differ(compiled(m)(x)[0], m(x).x) < 1e-3


# --- the command, and what is refused ---

def test_command(model, proto, root, tmp_path, monkeypatch, capsys):
    "The command, with the slow steps, which are tested above, taken from there."
    import lowlight_nat.export.onnx as d
    from lowlight_nat.cli import lowlight_export
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(d, 'exported_program', lambda *a: asked.append(a))
    monkeypatch.setattr(d, 'to_onnx', lambda program, opset: proto)
    assert lowlight_export.main(
        'out.onnx --opset 17'.split()) == 2 and 'between 18' in capsys.readouterr().err
    assert lowlight_export.main('out.onnx --rounds -1'.split()) == 2 and asked == []
    assert lowlight_export.main(
        f'out.onnx --rounds {ROUNDS} --dtype float16 --no-latent-nat'.split()) == 0
    assert asked[0][1:] == (ROUNDS, False, True) and 'out.onnx' in capsys.readouterr().out
    meta = OnnxEnhancer('out.onnx', 1).meta
    assert (meta.rounds, meta.dtype, meta.latent_nat, meta.sha256) == (ROUNDS, 'float16', False,
                                                                       weights_sha256(model))

def test_refused(tmp_path, model, files):
    import onnx
    for kw, said in (dict(dtype='float8'), 'dtype='), (dict(opset=7), 'opset=7'):
        with pytest.raises(ValueError, match=said): export_onnx(model, tmp_path/'a.onnx', **kw)
    with pytest.raises(ValueError, match='must end in .onnx'): export_onnx(model, tmp_path/'a.pt')
    with pytest.raises(FileNotFoundError, match='lowlight_export'):
        OnnxEnhancer(tmp_path/'none.onnx')
    (tmp_path/'bad.onnx').write_bytes(b'no graph')
    with pytest.raises(ValueError, match="can't load"): OnnxEnhancer(tmp_path/'bad.onnx')
    m = onnx.load(files['float32'])
    del m.metadata_props[:]
    with pytest.raises(ValueError, match='not one of lowlight_nat'):
        OnnxEnhancer(write_onnx(m, tmp_path/'other.onnx'))
    with pytest.raises(ImageError, match='works in tiles'):
        OnnxEnhancer(files['float32'], 1, pixels=1000)(torch.rand(3, 40, 40))
    assert not list(tmp_path.glob('*.part'))

def test_missing_package(monkeypatch, tmp_path):
    for name in 'onnx', 'onnxruntime', 'onnxscript':
        monkeypatch.setitem(sys.modules, name, None)
    for f in (lambda: OnnxEnhancer(tmp_path/'a.onnx'),
              lambda: export_onnx(micro(), tmp_path/'a.onnx')):
        with pytest.raises(ImportError, match=r'ONNX needs onnx.*pip install -e "\.\[deploy\]"'):
            f()
