"""The stage of the latent NAT: its terms, latents kept on disk, what the decoder's stage hears and
what it leaves alone; on a toy."""
import json
from dataclasses import replace

import pytest
import torch

import lowlight_nat.training.latents as S
import lowlight_nat.training.learner as L
import lowlight_nat.training.stages as G
from lowlight_nat.data.loaders import LowLightDataLoaders
from lowlight_nat.models.config import ModelConfig, TrainPlan
from lowlight_nat.models.lowlight_nat import LowLightNAT
from lowlight_nat.training.stages import SHOWN, DecoderStage, Latents, NATStage, token_bound, true_tokens

TOY = replace(ModelConfig.tiny(), n_codes=16, vq_channels=(8, 8), enc_channels=(8, 8, 8), cond=8,
              flow_steps=1, flow_hidden=8, dec_channels=(8, 8), dilations=(1, 2), nat_width=16,
              nat_depth=1, feat_width=16, feat_depth=1, light_channels=(8, 8, 16))
PLAN = replace(TrainPlan.tiny().each_stage(steps=12, bs=2, crop=32), context=(48, 48), bf16=False)
pytestmark = pytest.mark.filterwarnings('ignore')


def pictures(n=3, size=48):
    g = torch.Generator().manual_seed(0)
    small = torch.rand(n, 3, 4, 4, generator=g)
    return torch.nn.functional.interpolate(small, size=(size, size), mode='bilinear')

def toy_dls(size=48, n=6):
    x = [*pictures()]
    return LowLightDataLoaders.from_synthetic(x, val_images=x[:2], size=size, bs=2,
                                              items_per_epoch=n, device='cpu')

@pytest.fixture
def model():
    torch.manual_seed(0)
    model = LowLightNAT(TOY)
    model.vqgan.start(pictures())
    return model

def latents(model, x_low, x_high):
    with torch.no_grad():
        a = model.align(x_low)
        z = model.vqgan.encode(model.normalise(x_high)[0]).float()
    return Latents(a.z_tilde, a.cond, a.sigma, a.light.overview, true_tokens(model, z))

def state(model): return {k: v.clone() for k, v in model.state_dict().items()}
def moved(a, b): return {k.split('.')[0] for k in a if not torch.equal(a[k], b[k])}


# --- the stage of the NAT ---

def test_the_nat_pays_for_hidden_tokens_and_nothing_else_learns(model, monkeypatch):
    "A batch of pictures is a batch of their latents"
    kept = torch.rand(3, 12, 12) < .4
    monkeypatch.setattr(G, 'random_kept', lambda shape, device=None: kept)
    monkeypatch.setattr('lowlight_nat.models.latent_nat.stretched', lambda grid, reach: 1.)
    monkeypatch.setattr(G, 'misjudge', lambda light: light)
    x = pictures()
    stage = NATStage(model, replace(PLAN, nat=replace(PLAN.nat, crop=48))).train()
    out = stage(.2*x, x)
    out.terms['tokens'].backward()
    assert set(out.terms) == {'tokens'} and out.x is None
    learnt = {n.split('.')[0] for n, p in model.named_parameters() if p.grad is not None}
    assert learnt == {'nat'}
    l = latents(model, .2*x, x)
    for again in stage(*vars(l).values()).terms['tokens'], token_bound(model, l, kept):
        assert torch.allclose(again, out.terms['tokens'], rtol=1e-5)
    assert token_bound(model, l, torch.ones_like(kept)) == 0

def test_validation_asks_with_more_and_more_shown(model):
    x = pictures()
    stage = NATStage(model, PLAN).eval()
    with torch.no_grad():
        out = stage(.2*x, x)
        again = stage(.2*x, x)
    assert [*out.terms] == ['shown_0', 'shown_3', 'shown_25', 'shown_90'] == [*stage.terms[1:]]
    assert out.terms == again.terms and out.x.shape == x.shape and len(SHOWN) == 4
    assert out.mask.all(), 'the picture shown is the one look with nothing known'

def test_the_shown_say_something_of_the_hidden(model):
    "Truth that is off by one shift everywhere: a fresh NAT hears it from a quarter of the tokens"
    l = latents(model, .2*pictures(), pictures())
    codes = model.vqgan.quantizer.codes
    z = torch.nn.functional.embedding(l.tokens, codes).permute(0, 3, 1, 2)
    l = replace(l, z_tilde=z + 0.5*codes.std())
    even = torch.rand(l.tokens.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        none, quarter = (token_bound(model, l, even < share).item() for share in (0, .25))
    assert quarter < none - .05


# --- latents on disk ---

@pytest.fixture
def counted(monkeypatch):
    "How often latents were computed"
    real = S.latents_of
    calls = []
    def latents_of(*args):
        calls.append(args)
        return real(*args)
    monkeypatch.setattr(S, 'latents_of', latents_of)
    return calls

def test_latents_are_computed_once(model, tmp_path, counted):
    data = toy_dls().train.dataset
    folder = tmp_path/'latents'
    paths = S.keep_latents(model, data, folder, 4, dict(after='a'))
    S.keep_latents(model, data, folder, 4, dict(after='a'))
    assert len(counted) == 4 and [p.name for p in paths] == [f'0000{k}.safetensors' for k in range(4)]
    # what a run that was stopped had not come to
    paths[2].unlink()
    S.keep_latents(model, data, folder, 6, dict(after='a'))
    assert len(counted) == 7
    assert data.size == 48, 'the data are as they were'

def test_latents_of_something_else_are_computed_anew(model, tmp_path, counted):
    data = toy_dls().train.dataset
    folder = tmp_path/'latents'
    S.keep_latents(model, data, folder, 4, dict(after='a'))
    S.keep_latents(model, data, folder, 2, dict(after='b'))
    assert len(counted) == 6
    assert sorted(p.name for p in folder.glob('*.safetensors')) == ['00000.safetensors',
                                                                   '00001.safetensors']
    (folder/'stamp.json').unlink()   # removed first, perhaps, by somebody who then was stopped
    S.keep_latents(model, data, folder, 2, dict(after='b'))
    assert len(counted) == 8 and json.loads((folder/'stamp.json').read_text()) == dict(after='b')

def test_latents_are_those_of_the_pictures(model, tmp_path):
    dls = toy_dls()
    kept = S.latent_dls(model, dls, tmp_path/'latents', 48, 2, 6, 2, dict(after='a'))
    whole = Latents(*kept.train.dataset.draw(0))
    dls.train.dataset.size = None
    x_low, x_high = dls.train.dataset.draw(kept.train.dataset._file(0))
    l = latents(model.eval(), x_low[None], x_high[None])
    flips = [[], [-1], [-2], [-1, -2]]
    same = [f for f in flips if torch.equal(whole.tokens.flip(f), l.tokens[0])]
    assert same and torch.allclose(whole.z_tilde.flip(same[0]), l.z_tilde[0], atol=1e-2)
    assert len(kept.train) == 3 and kept.valid is dls.valid

def test_a_batch_of_latents_knows_its_files(model, tmp_path):
    "Pairs are drawn in shuffled passes, so a file's number is not its pair's"
    dls = toy_dls()
    kept = S.latent_dls(model, dls, tmp_path/'latents', 32, 2, 6, 3, dict(after='a')).train
    data = kept.dataset
    for k in range(6):
        number = data._file(k)
        assert data.index(k) == dls.train.dataset.index(number)
    next(iter(kept))
    assert kept.last_names == [data.pairs[data.index(k)].name for k in (0, 1)]

def test_pictures_smaller_than_the_crop_are_mirrored_on(model, tmp_path):
    kept = S.latent_dls(model, toy_dls(), tmp_path/'latents', 80, 2, 2, 1, dict(after='a'))
    tokens = kept.train.dataset.draw(0)[-1]
    assert tokens.shape == (20, 20)
    one = tokens if torch.equal(tokens[:, 11], tokens[:, 12]) else tokens.flip(-1)
    assert torch.equal(one[:, 12:], one[:, 4:12].flip(-1))

def test_a_broken_file_is_named_in_one_sentence(model, tmp_path):
    kept = S.latent_dls(model, toy_dls(), tmp_path/'latents', 32, 2, 6, 1, dict(after='a'))
    for content in b'', b'no latents', None:
        for path in kept.train.dataset.paths:
            path.write_bytes(content) if content is not None else path.unlink(missing_ok=True)
        with pytest.raises(ValueError, match=r'safetensors.*--resume') as e:
            kept.train.dataset.draw(0)
        assert '\n' not in str(e.value)


# --- the decoder's stage ---

def heard_by(stage, monkeypatch, steps=30):
    "What the decoder was given in training: the shares of known places, None where nothing is said"
    shares = []
    real = LowLightNAT.refine
    def refine(self, a, known=None, rounds=None, **kwargs):
        shares.append(None if known is None else known.where.float().mean().item())
        assert rounds == (0 if known is None else 1)
        return real(self, a, known=known, rounds=rounds, **kwargs)
    monkeypatch.setattr(LowLightNAT, 'refine', refine)
    x = pictures()
    t = stage.truth(.2*x, x)
    with torch.no_grad(): a = stage.model.align(t.x_low, light=t.light)
    torch.manual_seed(0)
    for _ in range(steps): stage.latent(a, t)
    return shares

@pytest.mark.parametrize('heard', [0., .6, 1.])
def test_a_share_of_the_steps_hears_true_tokens(model, monkeypatch, heard):
    stage = DecoderStage(model, replace(PLAN, heard=heard)).train()
    shares = heard_by(stage, monkeypatch)
    told = [s for s in shares if s is not None]
    assert abs(len(told)/30 - heard) < .25 and (heard not in (0, 1) or len(told) == 30*heard)
    if heard == 1: assert 1. in told and min(told) < .2 and len(set(told)) > 5

def test_without_the_latent_nat_nothing_is_heard(model, monkeypatch):
    stage = DecoderStage(model, replace(PLAN, heard=1.), nats=(False, True)).train()
    assert set(heard_by(stage, monkeypatch, 5)) == {None}

def test_in_use_nobody_tells_the_truth(model, monkeypatch):
    asked = []
    real = LowLightNAT.refine
    def refine(self, a, **kwargs):
        asked.append(kwargs)
        return real(self, a, **kwargs)
    monkeypatch.setattr(LowLightNAT, 'refine', refine)
    x = pictures()
    for on in True, False:
        model.cfg = replace(TOY, latent_nat=on)
        stage = DecoderStage(model, replace(PLAN, heard=1.)).eval()
        with torch.no_grad(): stage(.2*x, x)
        assert asked[-1].get('known') is None and asked[-1]['rounds'] == TOY.rounds*on

@pytest.mark.parametrize('thaw', [False, True])
def test_what_is_not_aligned_stays_bit_for_bit(model, tmp_path, thaw):
    "Weight decay, moving average and `unfreeze` leave it alone, too"
    plan = replace(PLAN, align=False, heard=1.)
    learn = L.decoder_learner(toy_dls(), model, plan, path=tmp_path)
    before = state(model)
    if thaw: learn.unfreeze()
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
    assert moved(before, state(model)) == {'fusion'}
    assert learn.model.terms == ('l1', 'ssim', 'low_band')

def test_with_align_all_but_the_codebook_goes_on(model, tmp_path):
    learn = L.decoder_learner(toy_dls(), model, replace(PLAN, align=True), path=tmp_path)
    before = state(model)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-2)
    assert moved(before, state(model)) == {'encoder', 'flow', 'spread', 'nat', 'fusion'}
