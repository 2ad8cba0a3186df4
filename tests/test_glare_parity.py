"GLARE's network, and the reading of its release, held against arrays that the official modules computed."
import json
import math
import pickle
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastcore.basics import AttrDict
from PIL import Image
from torch import nn

from lowlight_nat.models.checkpoint import load_model, save_model
from lowlight_nat.models.config import ModelConfig, TrainPlan
from lowlight_nat.models.flow import nll_bits
from lowlight_nat.models.glare import GlareSizes
from lowlight_nat.models.glare_weights import (
    UNUSED,
    glare_forward,
    glare_from_files,
    glare_names,
    load_glare,
    mean_ratio,
    read_weights,
)
from lowlight_nat.models.lowlight_nat import LowLightNAT

SMALL = GlareSizes(ch=32, n_codes=64, flow_steps=3)
# the absolute tolerances of the reference's notes
PICTURE = 1e-4
FEATURE = 3e-4
LOGDET = 1e-2
# a place nearer than this to a tie of two codes may fall either way; the nearest in the fixture is
# 3.7e-4
EXACT_INDEX = 1e-5


# --- the fixture's weights, by its formulas ---

def weight(key, kind, shape):
    """The value of one tensor: numpy's normal stream seeded by the key's CRC, scaled by the kind of
    tensor."""
    n = math.prod(shape)
    r = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(n).reshape(shape)
    if kind == 'embedding': v = r
    elif kind == 'invconv': v = np.linalg.qr(r)[0]*(1 + 0.05*np.diagonal(r))
    elif kind in ('actnorm_bias', 'actnorm_logs', 'zeroconv_logs'): v = 0.1*r
    elif kind == 'mix': v = {'0': -1.0, '1': -0.6}[key.split('.')[-2]] + 0.1*r
    elif kind == 'weight': v = r/np.sqrt(n // shape[0])
    elif kind == 'norm_weight': v = 1 + 0.1*r
    elif kind == 'bias': v = 0.1*r + (0.5 if key.endswith('dcn.bias') else 0)
    else: raise ValueError(f'{key}: no formula for the kind {kind!r}')
    return v

def kind_of(key, shape):
    "The kind of a tensor by the table of the notes; the first row that applies."
    parent, last = key.rsplit('.', 1)
    parent = parent.rsplit('.', 1)[-1]
    if key.endswith('embedding.weight'): return 'embedding'
    if parent == 'invconv' and last == 'weight': return 'invconv'
    if parent == 'actnorm' and last in ('bias', 'logs'): return f'actnorm_{last}'
    if last == 'logs': return 'zeroconv_logs'
    if last == 'w' and shape == [1]: return 'mix'
    if last == 'weight': return 'weight' if len(shape) > 1 else 'norm_weight'
    return 'bias'

def rebuilt(entries):
    "A state dict by the formulas; each tensor's probes are checked."
    state = {}
    for e in entries:
        k = e['key']
        shape = e['shape']
        assert kind_of(k, shape) == e['kind'], k
        v = weight(k, e['kind'], shape)
        assert zlib.crc32(k.encode()) == e['crc32'], k
        np.testing.assert_allclose(v.flatten()[:3], e['first3'][:v.size], rtol=1e-5, atol=1e-7,
                                   err_msg=k)
        np.testing.assert_allclose(v.sum(), e['sum'], rtol=1e-5, atol=1e-4, err_msg=k)
        state[k] = torch.from_numpy(v.astype(np.float32))
    return state

@pytest.fixture(scope='module')
def keys(parity): return json.loads((parity/'keys.json').read_text())

@pytest.fixture(scope='module')
def states(keys): return {f: rebuilt(entries) for f, entries in keys['small']['files'].items()}

@pytest.fixture(scope='module')
def release(states, tmp_path_factory):
    "The two files, as the release lays them out."
    folder = tmp_path_factory.mktemp('release')
    for f, state in states.items(): torch.save(state, folder/f)
    return folder

@pytest.fixture(scope='module')
def glare(release):
    return glare_from_files(release/'net_G.pth', release/'vqgan.pkl', SMALL, glare_compat=True)

def picture():
    "The fixture's input."
    c, i, j = np.meshgrid(np.arange(3.), np.arange(64.), np.arange(96.), indexing='ij')
    s = np.sin(2*np.pi*((c + 1)*i/32 + j/48) + c)*np.cos(2*np.pi*((c + 2)*j/40 - i/80))
    t = np.sin(0.9*i + 1.7*j + 2*c)
    return torch.from_numpy((0.40 + 0.22*s + 0.05*t)[None].astype(np.float32))


# --- what our network computes, under the reference's names ---

def watch(modules):
    "Record what each of the named modules gives."
    seen = {}
    def keep(name): return lambda m, args, out: seen.__setitem__(name, out.clone())
    return seen, [m.register_forward_hook(keep(name)) for name, m in modules.items()]

def bits_per_place(u, logdet, mean):
    "The package's bits per dimension, as the reference counts them: per place, (1,)"
    return nll_bits(u, logdet, mean).view(1)*u.shape[1]

def logp(u, mean): return -bits_per_place(u, torch.zeros(1), mean)*math.log(2)*u.shape[2:].numel()

def margin(z, codes):
    "Second-smallest minus smallest squared distance, in float64."
    d = (z.double().permute(0, 2, 3, 1)[..., None, :] - codes.double()).pow(2).sum(-1)
    two = d.topk(2, dim=-1, largest=False).values
    return two[..., 1] - two[..., 0]

def of_codebook(g, o, x):
    v = g.vqgan
    o.vq_h = v.encoder(x)[0]
    o.vq_z = v.encode(x)
    o.vq_indices = v.quantizer.nearest(o.vq_z)
    o.vq_zq = v.quantizer.lookup(o.vq_indices)
    # ours is the commitment term only
    o.vq_qloss = v.quantizer(o.vq_z).loss*(1 + v.quantizer.beta)/v.quantizer.beta
    o.vq_rec = v.decode(o.vq_zq)
    o.vq_feat0, o.vq_feat1 = v.features(o.vq_zq)
    o.vq_margin = margin(o.vq_z, v.quantizer.codes)

def of_encoder(g, o, x):
    o.enc_z, _ = g.encoder.encoder(o.log_input, keep=True)
    e = g.encoder(x)
    o.cond_feat = e.cond
    o.color_map = e.mu
    low, o.mid_feat1, o.mid_feat0 = e.feats
    assert torch.equal(low, e.cond)
    return e

def of_flow(g, o):
    c = o.cond_feat
    z = o.vq_z
    logdet = 0
    steps = []
    for layer in g.flow.layers:
        z, ld = layer(z, c)
        logdet = logdet + ld
        steps.append((z, logdet))
    o.flow_fwd_steps = torch.cat([a for a, _ in steps])
    o.flow_fwd_steps_logdet = torch.cat([b for _, b in steps])
    o.flow_fwd, o.flow_fwd_logdet = g.flow(o.vq_z, c)
    o.logp_mean_color_map = logp(o.flow_fwd, o.color_map)
    o.nll_mean_color_map = bits_per_place(o.flow_fwd, o.flow_fwd_logdet, o.color_map)
    o.nll_mean_gt_latent = bits_per_place(o.flow_fwd, o.flow_fwd_logdet, o.vq_z)
    o.flow_roundtrip = g.flow.inverse(o.flow_fwd, c)
    # the inverse's log-determinant, from the forward's
    o.flow_roundtrip_logdet = o.flow_fwd_logdet - g.flow(o.flow_roundtrip, c)[1]
    o.aligned = g.flow.inverse(o.color_map, c)
    o.aligned_logdet = -g.flow(o.aligned, c)[1]
    u = o.color_map
    back = []
    for layer in reversed(g.flow.layers):
        u = layer.inverse(u, c)
        back.append(u)
    o.flow_inv_steps = torch.cat(back)

def of_fusion(g, o, x, e):
    v = g.vqgan
    d = g.fusion
    o.aligned_indices = v.quantizer.nearest(o.aligned)
    o.aligned_zq = v.quantizer.lookup(o.aligned_indices)
    o.aligned_vq_rec = v.decode(o.aligned_zq)
    feats = v.features(o.aligned_zq)
    o.aligned_vq_feat0, o.aligned_vq_feat1 = feats
    o.aligned_margin = margin(o.aligned, v.quantizer.codes)
    seen, hooks = watch(
        dict(dd_mid=d.mid) | {f'dd_mix{i}': d.mix[i]
                              for i in (0, 1)} | {f'dd_warp{i}': d.warp[i]
                                                  for i in (0, 1)}
        | {f'dd_conv_offset{i}': d.warp[i].dcn.conv_offset
           for i in (0, 1)})
    o.final = d(o.aligned, e.feats, feats).x
    for h in hooks: h.remove()
    o.update(seen)
    for i in (0, 1):
        o[f'dd_ratio{i}'] = mean_ratio(o[f'dd_mix{i}'], o[f'dd_warp{i}'],
                                       glare_compat=True).flatten()

@pytest.fixture(scope='module')
def ours(glare):
    "Every quantity of the reference, computed by our modules."
    with torch.no_grad():
        x = picture()
        o = AttrDict(input=x, log_input=(x + 1e-3).clamp(min=1e-3).log())
        of_codebook(glare, o, x)
        e = of_encoder(glare, o, x)
        of_flow(glare, o)
        of_fusion(glare, o, x, e)
    return o

def part_of(name, value):
    """The stored part of a quantity: whole, every fourth place, one channel, or its channels' mean
    or deviation."""
    base, _, part = name.partition('__')
    if part == 'sub':
        a, b = (8, 8) if base == 'dd_conv_offset1' else (4, 4)
        return value[:, :, a//4::a, 2::b] if a == 4 else value[:, :, 1::8, 2::8]
    if part == 'ch5': return value[:, 5]
    if part == 'chan_mean': return value.double().mean((0, 2, 3))
    if part == 'chan_std': return value.double().std((0, 2, 3), correction=0)
    return value

WHOLE = '''
    input log_input vq_h vq_z vq_indices vq_zq vq_qloss vq_rec enc_z cond_feat color_map
    flow_fwd flow_fwd_logdet flow_fwd_steps flow_fwd_steps_logdet nll_mean_color_map
    logp_mean_color_map nll_mean_gt_latent flow_roundtrip flow_roundtrip_logdet aligned
    aligned_logdet flow_inv_steps aligned_indices aligned_zq aligned_vq_rec dd_ratio0 dd_ratio1
    final vq_margin aligned_margin
'''.split()
PARTLY = '''
    vq_feat0 vq_feat1 mid_feat0 mid_feat1 aligned_vq_feat0 aligned_vq_feat1 dd_mid dd_mix0
    dd_conv_offset0 dd_warp0 dd_mix1 dd_conv_offset1 dd_warp1
'''.split()
ARRAYS = WHOLE + [
    f'{o}__{part}' for o in PARTLY for part in ('sub', 'ch5', 'chan_mean', 'chan_std')
]

def tolerance(name):
    if name == 'input': return 1e-7
    if 'logdet' in name or name.startswith('logp'): return LOGDET
    return FEATURE if re.match('cond_feat|mid_feat|(aligned_)?vq_feat|dd_(mid|mix|warp|conv)',
                               name) else PICTURE

@pytest.fixture(scope='module')
def reference(parity):
    with np.load(parity/'glare_reference.npz') as f: return dict(f)

def test_every_array_is_compared(reference): assert sorted(reference) == sorted(ARRAYS)

@pytest.mark.parametrize('name', ARRAYS)
@pytest.mark.slow
def test_array(name, ours, reference):
    want = torch.from_numpy(np.asarray(reference[name]))
    got = part_of(name, ours[name.partition('__')[0]])
    if name.endswith('indices'):
        clear = torch.from_numpy(reference[name.replace('indices', 'margin')]) > EXACT_INDEX
        assert clear.all() and torch.equal(got.long()[clear], want.long()[clear])
        return
    assert got.shape == want.shape, f'{name}: shape {tuple(got.shape)}, in the reference {tuple(want.shape)}'
    torch.testing.assert_close(got.double(), want.double(), rtol=0, atol=tolerance(name))

def test_end_to_end(glare, reference):
    "The one function of inference gives the reference's picture and tokens."
    with torch.no_grad(): out = glare_forward(glare, picture())
    final = torch.from_numpy(reference['final'])
    torch.testing.assert_close(out.x, final, rtol=0, atol=PICTURE)
    assert torch.equal(out.tokens.int(), torch.from_numpy(reference['aligned_indices']))


# --- the ratio of means, mixing, the place of a NAT ---

@pytest.fixture(scope='module')
def plain(release): return glare_from_files(release/'net_G.pth', release/'vqgan.pkl', SMALL)

@torch.no_grad()
def test_default_ratio_is_the_official_for_one_picture(plain, reference):
    torch.testing.assert_close(
        glare_forward(plain, picture()).x, torch.from_numpy(reference['final']), rtol=0,
        atol=PICTURE)

@torch.no_grad()
def test_default_does_not_depend_on_the_batch(plain, glare):
    x = picture()[..., :32, :48]
    batch = torch.cat([x, x.flip(3)*0.1])
    for parts, same in ((plain, True), (glare, False)):
        change = (glare_forward(parts, x).x - glare_forward(parts, batch).x[:1]).abs().max()
        assert (change < PICTURE) == same, f'glare_compat={parts.fusion.glare_compat}: {change}'

def test_ratio_at_a_mean_of_zero():
    h = torch.ones(2, 4, 8, 8)
    v = torch.randn(2, 4, 8, 8)
    v = v - v.mean((1, 2, 3), keepdim=True)
    assert mean_ratio(h, v).abs().max() < 1 and mean_ratio(h, v*0).abs().max() == 0
    torch.testing.assert_close(mean_ratio(h*3, v + 2), torch.full((2, 1, 1, 1), 1.5), rtol=1e-4,
                               atol=0)

@torch.no_grad()
def test_mix_replaces_the_learned_weight(plain):
    x = picture()[..., :32, :48]
    a, b = (glare_forward(plain, x, mix=m).x for m in (0., 1.))
    assert (a - b).abs().max() > 1e-2
    with pytest.raises(ValueError, match='mix=1.5'): glare_forward(plain, x, mix=1.5)

def test_training_and_inference_agree(plain):
    "Activations that overwrite their input do so only where gradients are off."
    x = picture()[..., :32, :48]
    with torch.no_grad(): a = glare_forward(plain, x).x
    b = glare_forward(plain, x).x
    assert b.requires_grad
    torch.testing.assert_close(a, b.detach(), rtol=0, atol=1e-5)

@pytest.mark.slow
def test_nat_trains_with_glare_frozen(release):
    class NAT(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(128 + 64, 128, 1)
        def forward(self, h, f_low, mask, rounds, record, sigma=None, allow=None):
            return AttrDict(h=torch.where(mask[:, None], self.layer(torch.cat([h, f_low], 1)), h),
                            history=[rounds])
    g = glare_from_files(release/'net_G.pth', release/'vqgan.pkl', SMALL, nat=NAT())
    for part in vars(g).values(): part.train().requires_grad_(False)
    g.fusion.nat.requires_grad_(True)
    before = {(name, k): v.clone() for name, p in vars(g).items() for k, v in p.state_dict().items()}
    x = picture()[..., :32, :48]
    e = g.encoder(x)
    z = g.flow.inverse(e.mu, e.cond)
    g.flow(z, e.cond)   # in training mode: activation norms must not start anew
    vq = g.vqgan.features(g.vqgan.quantizer.lookup(g.vqgan.quantizer.nearest(z)))
    d = g.fusion(z, e.feats, vq, torch.ones(1, 8, 12, dtype=torch.bool), rounds=3)
    d.x.square().mean().backward()
    assert d.nat.history == [3]
    assert {k
            for k, p in g.fusion.named_parameters()
            if p.grad is not None} == {'nat.layer.weight', 'nat.layer.bias'}
    assert g.fusion.nat.layer.weight.grad.abs().max() > 0
    assert [
        k for name, p in vars(g).items() for k, v in p.state_dict().items()
        if not torch.equal(v, before[name, k])
    ] == []
    with torch.no_grad():
        off = g.fusion(z, e.feats, vq, None, rounds=0).x
        g.fusion.nat = None
        assert torch.equal(off, g.fusion(z, e.feats, vq).x)


@torch.no_grad()
def test_log_input(plain):
    "Black, and below it, goes in as log(0.001); the fixture's picture has no such values."
    seen = []
    hook = plain.encoder.encoder.conv_in.register_forward_pre_hook(
        lambda m, args: seen.append(args[0].clone()))
    x = torch.tensor([-1., 0., 1e-3, 5e-3, 1.]).view(1, 1, 5, 1).repeat(1, 3, 4, 4)[:, :, :16, :4]
    plain.encoder(x)
    hook.remove()
    assert torch.allclose(
        seen[0],
        torch.from_numpy(np.log(np.maximum(x.double().numpy() + 0.001, 0.001))).float(), atol=1e-5)


# --- what is never computed or stored ---

@torch.no_grad()
def test_inference_computes_no_codebook_picture(plain):
    seen, hooks = watch(
        dict(norm=plain.vqgan.decoder.norm_out, picture=plain.vqgan.decoder.conv_out,
             encoder=plain.vqgan.quant_conv, final=plain.fusion.residual_conv))
    glare_forward(plain, picture()[..., :32, :48])
    for h in hooks: h.remove()
    assert sorted(seen) == ['final']

@torch.no_grad()
def test_half_precision_is_close(plain):
    "Both decoders in bfloat16: the same codes, and at least 45 dB of the output's range."
    x = picture()
    a = glare_forward(plain, x)
    b = glare_forward(plain, x, half=torch.bfloat16)
    assert b.x.dtype == torch.bfloat16 and torch.equal(a.tokens, b.tokens)
    psnr = 10*torch.log10((a.x.max() - a.x.min())**2/(a.x - b.x.float()).square().mean()).item()
    assert psnr >= 45, psnr

@torch.no_grad()
def test_flow_stays_in_float32(plain):
    x = picture()[..., :32, :48]
    with torch.autocast('cpu', torch.bfloat16):
        e = plain.encoder(x)
        z = plain.flow.inverse(e.mu, e.cond)
        assert e.cond.dtype == torch.bfloat16 and z.dtype == torch.float32
        exact = plain.flow.inverse(e.mu, e.cond.float())
    assert torch.equal(z, exact) and torch.equal(z, plain.flow.inverse(e.mu, e.cond))


# --- names, shapes, and the loader ---

def test_names_and_shapes_at_full_width(keys):
    "Our names and the documented unused ones are exactly the 824 and 257 of the release."
    files = keys['base']['files']
    names = glare_names()
    assert {f: len(e) for f, e in files.items()} == {'vqgan.pkl': 257, 'net_G.pth': 824}
    for f, entries in files.items():
        mine = names[f.split('.')[0]]
        theirs = {e['key']: tuple(e['shape']) for e in entries}
        used = {e['key'] for e in entries if e['in_stage3'] or e['in_autoencoder']}
        assert {k: shape for k, (_, _, shape) in mine.items()} == {k: theirs[k] for k in used}
        assert all(k.startswith(UNUSED)
                   for k in set(theirs) - used) and not any(k.startswith(UNUSED) for k in used)

def save(state, path):
    torch.save(state, path)
    return path

@pytest.mark.parametrize('change', [
    'none', 'module. prefix', 'without the unused', 'with leftovers', 'float64', 'old format'])
@pytest.mark.slow
def test_loader_tolerates(change, states, release, plain, tmp_path):
    net = dict(states['net_G.pth'])
    vq = dict(states['vqgan.pkl'])
    new = {}
    if change == 'module. prefix': net = {f'module.{k}': v for k, v in net.items()}
    if change == 'without the unused':
        net, vq = ({k: v for k, v in s.items() if not k.startswith(UNUSED)} for s in (net, vq))
    if change == 'with leftovers':
        vq |= {
            'loss.logvar': torch.zeros(()), 'vgg_feat_extractor.mean': torch.zeros(3),
            'vgg_feat_extractor.vgg_net.conv1_1.weight': torch.zeros(1)
        }
    if change == 'float64': new = {k: v.double() for k, v in net.items()}
    if change == 'old format':
        torch.save(vq, tmp_path/'vqgan.pkl', _use_new_zipfile_serialization=False)
    else: save(vq, tmp_path/'vqgan.pkl')
    got = load_glare(save(new or net, tmp_path/'net_G.pth'), tmp_path/'vqgan.pkl', SMALL)
    for part, state in got.items():
        own = vars(plain)[part].state_dict()
        assert state.keys() == own.keys()
        assert all(torch.equal(v, own[k]) and v.dtype == own[k].dtype for k, v in state.items())

def test_loader_lists_all_that_does_not_fit(states, tmp_path):
    net = dict(states['net_G.pth'])
    vq = dict(states['vqgan.pkl'])
    del net['RRDB.color_conv.bias'], vq['decoder.mid.attn_1.q.weight']
    net['deformable_decoder.mix.1.w'] = torch.zeros(2)
    vq['quantize.embedding.weight'] = torch.zeros(65, 3)
    vq['surprise.weight'] = torch.zeros(1)
    a = save(net, tmp_path/'net_G.pth')
    b = save(vq, tmp_path/'vqgan.pkl')
    with pytest.raises(ValueError) as e: load_glare(a, b, SMALL)
    text = str(e.value)
    assert text.startswith('5 tensors') and len(text.splitlines()) == 6
    for line in (f'{a}: missing RRDB.color_conv.bias, shape (3,)',
                 f'{b}: missing decoder.mid.attn_1.q.weight, shape (128, 128, 1, 1)',
                 f'{a}: deformable_decoder.mix.1.w has shape (2,), needed is (1,)',
                 f'{b}: quantize.embedding.weight has shape (65, 3), needed is (64, 3)',
                 f'{b}: unknown surprise.weight'):
        assert line in text

def test_loader_names_both_files_where_they_are_swapped(release):
    with pytest.raises(ValueError) as e: load_glare(release/'vqgan.pkl', release/'net_G.pth', SMALL)
    assert 'in the order net_G, vqgan' in str(e.value) and 'net_G.pth: missing' in str(
        e.value) and 'vqgan.pkl: missing' in str(e.value)

class Trap:
    "Would run code where it is unpickled."
    fired = []
    def __reduce__(self): return Trap.fired.append, (1,)

def bad_files(folder, release):
    "A path for each kind of file that cannot be used, with what its error says."
    whole = (release/'net_G.pth').read_bytes()
    for name, data in dict(cut=whole[:len(whole)//2], empty=b'', text=b'not weights at all\n',
                           page=b'<!DOCTYPE html>').items():
        (folder/name).write_bytes(data)
        yield folder/name, ValueError, 'not a readable file of weights'
    (folder/'trap').write_bytes(pickle.dumps({'a': Trap()}, protocol=2))
    yield folder/'trap', ValueError, 'not a readable file of weights'
    yield save(dict(a=Trap), folder/'class'), ValueError, 'not a readable file of weights'
    for name, o in dict(list=[torch.zeros(1)], tensor=torch.zeros(1),
                        level={'state_dict': {'a': torch.zeros(1)}}, nothing={}).items():
        yield save(o, folder/name), ValueError, 'not a state dict'
    yield folder/'absent.pth', FileNotFoundError, 'no such file'
    yield folder, FileNotFoundError, 'no such file'

@pytest.mark.slow
def test_files_that_are_none(release, tmp_path):
    for path, kind, words in bad_files(tmp_path, release):
        for call in (lambda: read_weights(path),
                     lambda: load_glare(path, release/'vqgan.pkl', SMALL),
                     lambda: load_glare(release/'net_G.pth', path, SMALL)):
            with pytest.raises(kind) as e: call()
            text = str(e.value)
            assert words in text and str(path) in text and '\n' not in text, text
    assert not Trap.fired

def test_sizes_reach_every_part():
    s = replace(SMALL, ch=64, flow_levels=1, hidden=32, n_codes=16)
    names = glare_names(s)
    assert names['vqgan']['quantize.embedding.weight'][2] == (
        16, 3) and names['net_G']['RRDB.encoder.conv_in.weight'][2] == (64, 3, 3, 3)
    assert max(int(k.split('.')[2]) for k in names['net_G'] if k.startswith('flow')) == 4
    assert names['net_G']['flowUpsamplerNet.layers.2.affine.fAffine.0.weight'][2] == (32, 65, 3, 3)


# --- as a LowLightNAT ---

MINI = replace(ModelConfig.base(), vq_channels=(32, 64, 128), n_codes=64, flow_steps=3,
               nat_width=32, nat_depth=1, nat_heads=4, feat_width=32, feat_depth=1)

def test_from_glare_is_the_official_network(release, reference):
    model = LowLightNAT.from_glare(release/'net_G.pth', release/'vqgan.pkl', MINI)
    with torch.no_grad(): out = model(picture())
    assert model.cfg.rounds == 0 and out.history == []
    assert (out.x - torch.from_numpy(reference['final']).clamp(0, 1)).abs().max() < 1e-4
    assert (out.z_tilde - torch.from_numpy(reference['aligned'])).abs().max() < 1e-4

def test_from_glare_wants_the_right_sizes(release):
    with pytest.raises(ValueError, match='arch'):
        LowLightNAT.from_glare(release/'net_G.pth', release/'vqgan.pkl', ModelConfig.tiny())
    with pytest.raises(ValueError, match='codes|embedding'):
        LowLightNAT.from_glare(release/'net_G.pth', release/'vqgan.pkl', replace(MINI, n_codes=128))

@pytest.mark.slow
def test_from_glare_survives_save_and_load(release, tmp_path):
    model = LowLightNAT.from_glare(release/'net_G.pth', release/'vqgan.pkl', MINI)
    save_model(model, tmp_path/'glare.safetensors', half=False)
    again = load_model(tmp_path/'glare.safetensors')
    with torch.no_grad(): assert torch.equal(model(picture()).x, again(picture()).x)

@pytest.mark.slow
def test_nats_train_on_frozen_glare(release, tmp_path):
    from lowlight_nat.training.pipeline import train_pipeline
    for i in range(4):
        for folder, scale in ('low', 0.15), ('high', 1.):
            (tmp_path/'data'/'train'/folder).mkdir(parents=True, exist_ok=True)
            (tmp_path/'data'/'val'/folder).mkdir(parents=True, exist_ok=True)
            for split in 'train', 'val':
                Image.fromarray((picture()[0].permute(1, 2, 0).roll(i, 0).numpy()*scale*255).astype(
                    np.uint8)).save(tmp_path/'data'/split/folder/f'{split}{i}.png')
    model = LowLightNAT.from_glare(release/'net_G.pth', release/'vqgan.pkl', MINI)
    cfg = replace(model.cfg, rounds=2)
    plan = replace(TrainPlan.base().each_stage(crop=32, bs=2, steps=2), context=(64, 64), bf16=False)
    save_model(model, tmp_path/'out'/'codebook.safetensors', half=False)
    for stage in 'flow', 'nat', 'decoder':
        trained = train_pipeline(cfg, plan, tmp_path/'data', tmp_path/'out', stage)
    trained = load_model(tmp_path/'out'/'decoder.safetensors')
    moved = {
        n.split('.')[0] if not n.startswith('fusion.nat') else 'fusion.nat'
        for n, p in trained.named_parameters()
        if not torch.equal(p,
                           model.state_dict()[n])
    }
    assert moved == {'spread', 'nat', 'fusion.nat'}

@pytest.mark.slow
def test_from_glare_in_bfloat16_keeps_its_codes(release):
    """Encoder and flow stay in float32, the two decoders do not; at least 45 dB of the output's
    range."""
    model = LowLightNAT.from_glare(release/'net_G.pth', release/'vqgan.pkl', MINI)
    with torch.no_grad():
        exact = model(picture())
        with torch.autocast('cpu', torch.bfloat16): half = model(picture())
    assert torch.equal(half.tokens, exact.tokens) and torch.equal(half.z_tilde, exact.z_tilde)
    a = exact.x_norm
    b = half.x_norm.float()
    assert not torch.equal(a, b) and 10*torch.log10((a.max() - a.min())**2/
                                                    (a - b).square().mean()) >= 45
