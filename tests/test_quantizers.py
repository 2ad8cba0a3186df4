"Quantizers against vector-quantize-pytorch: same codes, same input, same result; and old checkpoints."
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lowlight_nat.models.quantizers import (
    KINDS,
    CosineQuantizer,
    FSQuantizer,
    NearestQuantizer,
    VectorQuantizer,
    fsq_levels,
    kmeans,
    make_quantizer,
    pass_through,
    rotate_to,
    squared_distances,
)
from lowlight_nat.models.vqgan import VQGAN

K = 32
D = 4


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(7)

@pytest.fixture
def vqp():
    return pytest.importorskip('vector_quantize_pytorch',
                               reason='needs vector-quantize-pytorch, the outside reference')

def close(a, b, eps=1e-5): torch.testing.assert_close(a, b, atol=eps, rtol=eps)

def pair(vqp, kind, rotation=False, beta=0.25, weight=None):
    "Ours and theirs with the same codes"
    ours = make_quantizer(kind, K, D, decay=0.9, beta=beta, rotation=rotation)
    ours.started.fill_(True)
    extra = dict(nearest=dict(learnable_codebook=True, ema_update=False), ema={},
                 cosine=dict(use_cosine_sim=True))[kind]
    theirs = vqp.VectorQuantize(dim=D, codebook_size=K, decay=0.9,
                                commitment_weight=beta if weight is None else weight,
                                accept_image_fmap=True, rotation_trick=rotation, **extra)
    book = theirs._codebook
    book.embed.data.copy_(ours.codes[None])
    if kind != 'nearest':
        book.embed_avg.data.copy_(ours.codes[None])
        book.cluster_size.data.fill_(1.)
    return ours.train(), theirs.train()

def latents():
    a = 1.5*torch.randn(2, D, 9, 7)
    return a.clone().requires_grad_(), a.clone().requires_grad_()


@pytest.mark.parametrize('kind', ['nearest', 'ema', 'cosine'])
def test_same_tokens_and_codes(vqp, kind):
    ours, theirs = pair(vqp, kind)
    za, _ = latents()
    a = ours.eval()(za)
    zq, tokens, _ = theirs.eval()(za)
    assert torch.equal(a.tokens, tokens) and a.tokens.unique().numel() > 10
    close(a.zq, zq)

@pytest.mark.parametrize('rotation', [False, True])
@pytest.mark.parametrize('kind', ['ema', 'cosine'])
def test_same_loss_and_gradient(vqp, kind, rotation):
    ours, theirs = pair(vqp, kind, rotation)
    za, zb = latents()
    a = ours(za)
    zq, _, loss = theirs(zb)
    close(a.loss, loss.squeeze())
    close(a.zq, zq)
    w = torch.randn_like(za)
    ((a.zq*w).sum() + a.loss).backward()
    ((zq*w).sum() + loss.sum()).backward()
    close(za.grad, zb.grad, 1e-4)

@pytest.mark.parametrize('rotation', [False, True])
def test_learned_codes_same_loss_and_gradient(vqp, rotation):
    """Theirs is one squared error with both gradients and one weight; ours is that at beta = 1, but
    counts the value of both terms"""
    ours, theirs = pair(vqp, 'nearest', rotation, beta=1.)
    za, zb = latents()
    a = ours(za)
    zq, _, loss = theirs(zb)
    close(a.loss, 2*loss.squeeze())
    w = torch.randn_like(za)
    ((a.zq*w).sum() + a.loss).backward()
    ((zq.mul(w)).sum() + loss.sum()).backward()
    close(ours.codes.grad, theirs._codebook.embed.grad[0])
    close(za.grad, zb.grad, 1e-4)
    quarter = pair(vqp, 'nearest', beta=0.25, weight=1.25)
    close(quarter[0](za).loss, quarter[1](zb)[2].squeeze())     # 1 + beta times the same error

def test_beta_weighs_the_commitment_only():
    q = NearestQuantizer(K, D, beta=0.25)
    q.started.fill_(True)
    grads = []
    for beta in 0.25, 1.:
        q.beta = beta
        z = torch.ones(1, D, 3, 3).requires_grad_()
        grads.append(torch.autograd.grad(q(z).loss, (z, q.codes)))
    close(4*grads[0][0], grads[1][0])
    close(grads[0][1], grads[1][1])

@pytest.mark.parametrize('kind', ['ema', 'cosine'])
def test_same_moving_average_step(vqp, kind):
    ours, theirs = pair(vqp, kind)
    book = theirs._codebook
    for _ in range(2):
        z = 1.5*torch.randn(4, D, 16, 16)
        ours(z)
        theirs(z)
        close(ours.count, book.cluster_size[0], 1e-4)
        close(ours.total, book.embed_avg[0], 1e-4)
        close(ours.codes, book.embed[0], 1e-3)     # theirs smooths the counts a little


@pytest.mark.parametrize('levels', [(8, 5, 5, 5), (5, 5, 5, 4), (3, 3, 3, 3), (8, 6, 5), (7, 4, 3)])
def test_fsq(vqp, levels):
    ours = FSQuantizer(dim=len(levels), levels=levels)
    theirs = vqp.FSQ(list(levels))
    ours.started.fill_(True)
    close(ours.codes, theirs.implicit_codebook)
    za = 2*torch.randn(2, len(levels), 9, 7)
    zb = za.clone().requires_grad_()
    za.requires_grad_()
    a = ours(za)
    zq, tokens = theirs(zb)
    assert torch.equal(a.tokens, tokens.long()) and a.loss == 0
    close(a.zq, zq)
    w = torch.randn_like(za)
    (a.zq*w).sum().backward()
    (zq*w).sum().backward()
    close(za.grad, zb.grad)

def test_rotation_trick(vqp):
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to as theirs
    za, zb = latents()
    e = torch.randn(2, D, 9, 7)
    def last(t):
        return t.permute(0, 2, 3, 1)
    a = rotate_to(za, e)
    b = theirs(last(zb), last(e))
    close(last(a), b)
    w = torch.randn_like(za)
    (a*w).sum().backward()
    (b*last(w)).sum().backward()
    close(za.grad, zb.grad, 1e-4)

def test_rotation_keeps_the_angle():
    "The gradient's angle with the code becomes the turned gradient's angle with the latent"
    z, _ = latents()
    e = torch.randn(2, D, 9, 7)
    g = torch.randn(2, D, 9, 7)
    turned = torch.autograd.grad((pass_through(z, e, True)*g).sum(), z)[0]
    close(F.cosine_similarity(turned, z.detach()), F.cosine_similarity(g, e), 1e-4)
    close(turned.norm(dim=1), g.norm(dim=1)*e.norm(dim=1)/z.detach().norm(dim=1), 1e-4)


# --- ours alone ---

def test_ema_is_what_it_was():
    """State names, and two steps against the plain recursion: checkpoints of earlier versions load
    and train on"""
    q = VQGAN((8, 8), dim=D, n_codes=K, blocks=1)
    assert {k
            for k in q.state_dict()
            if k.startswith('quantizer.')
            } == {f'quantizer.{k}'
                  for k in ('codes', 'count', 'total', 'started')}
    q = VectorQuantizer(K, D, 0.9, 0.25)
    q.started.fill_(True)
    codes, count, total = q.codes.clone(), torch.ones(K), q.codes.clone()
    for _ in range(2):
        z = torch.randn(2, D, 8, 8)
        out = q(z)
        t = squared_distances(z, codes).argmin(-1)
        e = F.embedding(t, codes).permute(0, 3, 1, 2)
        assert torch.equal(out.tokens, t) and torch.equal(out.zq, z + (e - z)) and torch.equal(
            out.loss, 0.25*F.mse_loss(z, e))
        hot = F.one_hot(t.flatten(), K).float()
        count = 0.9*count + 0.1*hot.sum(0)
        total = 0.9*total + 0.1*hot.T @ z.permute(0, 2, 3, 1).reshape(-1, D)
        close(q.codes, total/count[:, None], 1e-4)
        codes = q.codes.clone()

def test_bundled_checkpoint_loads():
    from lowlight_nat.models.checkpoint import load_model, weights_path
    model = load_model(weights_path('small'))
    assert isinstance(model.vqgan.quantizer, VectorQuantizer) and bool(
        model.vqgan.quantizer.started)

@pytest.mark.parametrize('kind', KINDS)
def test_state_comes_back(kind):
    a, b = (VQGAN((8, 8), dim=D, n_codes=100, blocks=1, quantizer=kind) for _ in range(2))
    x = torch.rand(2, 3, 64, 64)
    a.start(x)
    a.train()(x)
    a.eval()
    b.eval().load_state_dict(a.state_dict())
    assert torch.equal(a(x).tokens, b(x).tokens) and torch.equal(a(x).x_rec, b(x).x_rec)

@pytest.mark.parametrize('kind', KINDS)
def test_half_precision_input(kind):
    q = make_quantizer(kind, 100, D)
    z = torch.randn(2, D, 16, 16)
    q.start(z)
    q.eval()
    with torch.autocast('cpu', dtype=torch.bfloat16): out = q(z.bfloat16())
    assert torch.equal(out.tokens, q(z.bfloat16().float()).tokens)

def test_too_few_points_say_what_to_change():
    with pytest.raises(ValueError, match=r'64 points.*512.*bs.*n_codes'):
        VQGAN((8, 8), n_codes=512).start(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match='fewer codes'): kmeans(torch.randn(3, 2), 4)

def test_levels():
    for n, d in (256, 3), (512, 3), (512, 4), (1024, 4), (8192, 3), (100, 2), (1000, 4):
        levels = fsq_levels(n, d)
        size = torch.tensor(levels).prod().item()
        assert max(levels) - min(levels) <= 1 and size <= n and size*(min(levels)
                                                                      + 1) > n*min(levels)
    with pytest.raises(ValueError, match='at least 81'): make_quantizer('fsq', 64, 4)

def test_cosine_ignores_length():
    q = CosineQuantizer(K, D)
    z = torch.randn(1, D, 8, 8)
    assert torch.equal(q.nearest(z), q.nearest(5*z))
    close(q.codes.norm(dim=1), torch.ones(K))

def test_the_table_is_the_scripts():
    "Every kind has its row, and the run says how it came about"
    run = json.loads((Path(__file__).parents[1]/'nbs/figures/run/quantizers.json').read_text())
    assert {'command', 'seed', 'steps', 'versions', 'pairs'
            } <= set(run) and set(KINDS) == {r['quantizer']
                                             for r in run['rows']}
    assert {'ema, rotation', 'ema, early', 'none'} <= {r['name'] for r in run['rows']}
    quantised = [r for r in run['rows'] if r['start'] < 1]
    assert all(0 < r['used'] <= 1 and 1 <= r['perplexity'] <= r['n_codes'] and r['psnr'] > 15
               for r in quantised)

@pytest.mark.parametrize('kw', [dict(dim='8'), dict(dim=0), dict(n_codes=0), dict(n_codes=1.5)])
def test_finite_scalar_quantizer_refuses_odd_sizes_in_one_sentence(kw):
    with pytest.raises(ValueError, match=f'^{next(iter(kw))}=.* must be a whole number'):
        FSQuantizer(**kw)

@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('rotation', [False, True])
def test_every_kind_keeps_the_promises(kind, rotation):
    "Nothing before the start; then codes, a finite gradient, tokens below K"
    q = make_quantizer(kind, 100, D, rotation=rotation)
    z = torch.randn(4, D, 16, 16, requires_grad=True)
    assert torch.equal(q(z).zq, z)
    q.start(z.detach(), torch.Generator().manual_seed(0))
    out = q(z)
    (out.zq.pow(2).mean() + out.loss).backward()
    assert z.grad.isfinite().all() and z.grad.abs().sum() > 0
    q.eval()
    out = q(z.detach())
    close(out.zq, q.lookup(out.tokens))
    assert q.codes.shape == (q.n_codes, D) and out.tokens.max() < q.n_codes
    assert isinstance(q.revive(z.detach()), int)

def test_states_that_checkpoints_know():
    assert set(VectorQuantizer(8, 2).state_dict()) == {'codes', 'count', 'total', 'started'}
    assert set(make_quantizer('fsq', 100, 3).state_dict()) == {'started'}

@pytest.mark.parametrize('kind', ['nearest', 'ema', 'cosine'])
def test_dead_codes_return(kind):
    q = make_quantizer(kind, 16, D)
    z = torch.randn(4, D, 16, 16)
    q.start(z)
    q.count[:5] = 0
    old = q.codes.detach().clone()
    assert q.revive(z) == 5
    assert (q.codes != old).any(1).sum() == 5
    assert q.revive(z) == 0

@pytest.mark.parametrize('make', [NearestQuantizer, VectorQuantizer, CosineQuantizer])
def test_vocabulary_comes_first(make):
    with pytest.raises(ValueError, match='exchanged'): make(4, 512)

def test_odd_settings_are_refused():
    with pytest.raises(ValueError, match='fewer than 3 levels'): FSQuantizer(4, 512)
    with pytest.raises(ValueError, match='decay=3'): VectorQuantizer(8, 2, decay=3)

def test_finite_scalar_quantizer_at_its_bounds():
    q = FSQuantizer(512, 4)
    big = torch.tensor([-1e3, 1e3]).view(1, 1, 1, 2).expand(1, 4, 1, 2)
    assert q.nearest(big).flatten().tolist() == [0, 499]
    assert [fsq_levels(512, d) for d in (3, 4)] == [(8, 8, 8), (5, 5, 5, 4)]

@pytest.mark.parametrize('kind', KINDS)
def test_vqgan_learns_through_every_quantizer(kind):
    "A gradient reaches the encoder's first layer, by the rotation trick too"
    vqgan = VQGAN((8, 16), dim=D, n_codes=100, blocks=1, quantizer=kind, rotation=True)
    vqgan.start(torch.rand(4, 3, 64, 64))
    x = torch.rand(2, 3, 32, 48)
    out = vqgan(x)
    assert out.x_rec.shape == x.shape
    (out.x_rec.mean() + out.commit).backward()
    assert vqgan.encoder.body[1].weight.grad.abs().sum() > 0

def test_terms_begin_where_the_run_says():
    "No codebook term before quantisation, and no critic before its start"
    run = json.loads((Path(__file__).parents[1]/'nbs/figures/run/quantizers.json').read_text())
    parts = run['parts']
    before = [r for r in parts['curve'] if r['step'] < run['start']*run['steps'] - 1]
    assert before and all(r['codebook'] == 0 for r in before) and parts['curve'][-1]['codebook'] > 0
    assert min(r['step'] for r in parts['gan']) >= int(parts['gan_start']*run['steps']) - 1

def test_each_term_was_left_out_once():
    run = json.loads((Path(__file__).parents[1]/'nbs/figures/run/vqgan_terms.json').read_text())
    names = [r['name'] for r in run['rows']]
    terms = 'L1', 'structure', 'perceptual', 'commitment', 'critic'
    assert names[:-2] == ['all terms', *(f'without {o}' for o in terms)]
    assert names[-2:] == ['L1 and commitment only', 'critic 8 times as strong']
    assert {'command', 'seed', 'steps', 'versions', 'detail'} <= set(run)
