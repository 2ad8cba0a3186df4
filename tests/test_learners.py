"One Learner a stage, used as fastai users do: rates, freezing, prediction, validation, saving, exporting; on a toy."
import warnings
from copy import deepcopy
from dataclasses import replace

import matplotlib
import pytest
import torch

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from fastai.callback.core import Callback
from fastai.learner import load_learner

import lowlight_nat.training.learner as T
from lowlight_nat.data.loaders import LowLightBlock, LowLightDataLoaders
from lowlight_nat.data.pairs import Pair
from lowlight_nat.io.images import write_image
from lowlight_nat.models.config import ModelConfig, TrainPlan
from lowlight_nat.models.lowlight_nat import LowLightNAT
from lowlight_nat.training.callbacks import EMAWeights, Preview, ValidateEvery, sum_terms
from lowlight_nat.training.losses import gt_mean_loss, l1_loss
from lowlight_nat.training.stages import STAGES, misjudge, trainable

TOY = replace(ModelConfig.tiny(), n_codes=16, vq_channels=(8, 8), enc_channels=(8, 8, 8), cond=8,
              flow_steps=1, flow_hidden=8, dec_channels=(8, 8), dilations=(1, 2), nat_width=16,
              nat_depth=1, feat_width=16, feat_depth=1, light_channels=(8, 8, 16))
PLAN = replace(TrainPlan.tiny().each_stage(bs=2, crop=32), context=(48, 48), bf16=False, seed=0)
pytestmark = pytest.mark.filterwarnings('ignore')
LEARNERS = dict(light=T.light_learner, codebook=T.codebook_learner, flow=T.flow_learner, nat=T.nat_learner,
                decoder=T.decoder_learner)
every_stage = pytest.mark.parametrize('name', list(STAGES))


def pictures(n=3, size=48):
    g = torch.Generator().manual_seed(0)
    return [
        torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=g), size=(size, size),
                                        mode='bilinear')[0] for _ in range(n)
    ]

def toy_dls(val=2, val_bs=1):
    return LowLightDataLoaders.from_synthetic(pictures(), val_images=pictures()[:val], size=48,
                                              bs=2, val_bs=val_bs, items_per_epoch=6, device='cpu')

def learner(name, path, plan=PLAN, dls=None, cbs=(), **kwargs):
    "A Learner of a model whose codebook has started; always the same"
    torch.manual_seed(0)
    model = LowLightNAT(TOY)
    model.vqgan.start(torch.stack(pictures()))
    return LEARNERS[name](dls or toy_dls(), model, plan, cbs, path=path, **kwargs)

def quiet(learn, f, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): return f(*args, **kwargs)

def state(learn): return {k: v.clone() for k, v in learn.model.state_dict().items()}
def moved(a, b): return sorted(k for k in a if not torch.equal(a[k], b[k]))


@every_stage
def test_fit_and_one_cycle_move_the_stage_and_nothing_else(name, tmp_path):
    learn = learner(name, tmp_path)
    before = state(learn)
    quiet(learn, learn.fit, 1, 1e-3)
    middle = state(learn)
    quiet(learn, learn.fit_one_cycle, 1, 1e-3)
    after = state(learn)
    names = {p: n for n, p in learn.model.named_parameters()}
    own = {names[p] for g in STAGES[name].groups(learn.model.model) for p in g}
    for a, b in (before, middle), (middle, after):
        assert set(moved(a, b)) & own
        # modules: codes and their averages are no parameters
        assert {k.split('.')[1] for k in moved(a, b)} <= {k.split('.')[1] for k in own}
    assert torch.isfinite(torch.tensor(learn.recorder.losses)).all()

@every_stage
def test_loss_terms_are_metrics_by_name(name, tmp_path):
    learn = learner(name, tmp_path)
    quiet(learn, learn.fit, 1, 1e-3)
    names = list(learn.recorder.metric_names)[1:-1]
    own_level = ['raw_psnr', 'level_stops'] if name == 'light' else []
    assert names == ['train_loss', 'valid_loss', *STAGES[name].terms, 'gt_mean_psnr',
                     'gt_mean_ssim', *own_level]
    row = dict(zip(names, learn.recorder.values[-1]))
    terms = [row[t] for t in STAGES[name].terms if row[t] is not None]
    assert row['valid_loss'] == pytest.approx(sum(terms), rel=1e-4) and row['gt_mean_psnr'] > 0

@every_stage
@pytest.mark.slow
def test_lr_find_leaves_no_trace(name, tmp_path):
    "A training after it ends with the same bits as one without."
    def run(search):
        learn = learner(name, tmp_path)
        start = state(learn)
        if search:
            quiet(learn, learn.lr_find, num_it=20, show_plot=False)
            assert not moved(start,
                             state(learn)) and learn.opt is None and learn.dls.train.draws == 0
        random = torch.get_rng_state()
        quiet(learn, learn.fit_one_cycle, 2, 1e-3)
        if search:
            between = state(learn), deepcopy(learn.opt.state_dict())
            quiet(learn, learn.lr_find, num_it=20, show_plot=False)
            assert not moved(between[0], state(learn))
            for a, b in zip(between[1]['state'], learn.opt.state_dict()['state']):
                assert a.keys() == b.keys() and all(
                    torch.equal(a[k], b[k]) for k in ('grad_avg', 'sqr_avg') if k in a)
        quiet(learn, learn.fit_one_cycle, 1, 1e-3)
        return random, state(learn)
    r, a = run(False)
    s, b = run(True)
    assert torch.equal(r, s) and not moved(a, b)

def test_lr_find_suggests_and_leaves_codebook_and_files_alone(tmp_path):
    torch.manual_seed(0)
    # its codebook has not started
    learn = T.codebook_learner(toy_dls(), TOY, PLAN,
                               [ValidateEvery(2), Preview(tmp_path/'previews')], path=tmp_path)
    found = quiet(learn, learn.lr_find, num_it=30)
    plt.close('all')
    assert 1e-7 < found.valley < 10 and not learn.model.model.vqgan.quantizer.started and not (
        tmp_path/'previews').exists()
    assert any(isinstance(cb, EMAWeights) for cb in learn.cbs)   # they rested, and are back

def test_lr_find_ends_quietly_where_the_loss_explodes(tmp_path):
    class Explode(Callback):
        def after_pred(self):
            if self.training and self.learn.train_iter > 14:
                self.learn.pred.terms['l1'] = self.learn.pred.terms['l1']*float('nan')
    # one callback alone, as fastai takes it
    learn = learner('codebook', tmp_path, cbs=Explode())
    start = state(learn)
    quiet(learn, learn.lr_find, num_it=40, show_plot=False)
    assert len(learn.recorder.losses) == 15 and not moved(start, state(learn))

def test_lr_find_interrupted_puts_back_too(tmp_path):
    class Stop(Callback):
        def before_batch(self):
            if self.learn.train_iter == 5: raise KeyboardInterrupt
    learn = learner('flow', tmp_path, cbs=[Stop()])
    start = state(learn)
    with pytest.raises(KeyboardInterrupt): quiet(learn, learn.lr_find, num_it=20, show_plot=False)
    assert not moved(start, state(learn)) and learn.dls.train.draws == 0 and any(
        isinstance(cb, EMAWeights) for cb in learn.cbs)


@every_stage
def test_unfreeze_never_unfreezes_what_a_stage_leaves_alone(name, tmp_path):
    learn = learner(name, tmp_path)
    groups = STAGES[name].groups(learn.model.model)
    def trained():
        return {p for p in learn.model.parameters() if p.requires_grad}
    own = {p for g in groups for p in g}
    start = state(learn)
    learn.freeze()
    assert trained() == set(groups[-1])
    learn.freeze_to(-2)
    assert trained() == {p for g in groups[-2:] for p in g}
    learn.unfreeze()
    assert trained() == own
    quiet(learn, learn.fit, 1, 1e-3)
    if name != 'codebook':
        assert not [k for k in moved(start, state(learn)) if '.vqgan.' in k] and not any(
            p.requires_grad for p in learn.model.model.vqgan.parameters())
        assert learn.model.model.vqgan.training is False

@every_stage
@pytest.mark.slow
def test_a_frozen_group_keeps_every_bit_after_a_training(name, tmp_path):
    "Nor does weight decay reach it: its last gradients are gone."
    learn = learner(name, tmp_path)
    quiet(learn, learn.fit, 1, 1e-3)
    learn.freeze()
    names = {p: n for n, p in learn.model.named_parameters()}
    before = state(learn)
    quiet(learn, learn.fit, 1, 1e-3)
    after = state(learn)
    groups = STAGES[name].groups(learn.model.model)
    assert not set(moved(before, after)) & {names[p] for g in groups[:-1] for p in g}
    assert set(moved(before, after)) & {names[p] for p in groups[-1]}

@every_stage
@pytest.mark.slow
def test_rates_by_slice(name, tmp_path):
    learn = learner(name, tmp_path)
    n = len(STAGES[name].groups(learn.model.model))
    seen = []
    class Rates(Callback):
        order = 70
        def before_step(self): seen.append([h['lr'] for h in self.opt.hypers])
    quiet(learn, learn.fit, 1, slice(1e-5, 1e-3), cbs=Rates())
    assert len(
        seen[0]) == n and seen[0][0] == pytest.approx(1e-5) and seen[0][-1] == pytest.approx(1e-3)
    seen.clear()
    quiet(learn, learn.fit_one_cycle, 1, slice(1e-5, 1e-3), cbs=Rates())
    assert all(r[0] < r[-1] for r in seen)

@pytest.mark.slow
def test_groups_change_no_bit_of_the_training(tmp_path):
    "One group, as fastai has by default, and ours."
    from fastai.torch_core import trainable_params
    def run(**kwargs):
        learn = learner('decoder', tmp_path, **kwargs)
        quiet(learn, learn.fit_one_cycle, 2, 1e-3)
        return state(learn)
    assert not moved(run(), run(splitter=trainable_params))


@every_stage
@pytest.mark.slow
def test_predictions_are_pictures(name, tmp_path):
    learn = learner(name, tmp_path)
    quiet(learn, learn.fit, 1, 1e-3)
    before = state(learn)
    preds, truth = quiet(learn, learn.get_preds)
    assert preds.shape == truth.shape == (2, 3, 48, 48) and type(preds) is type(truth)
    xs = list(learn.dls.valid)
    with torch.no_grad(): expected = torch.cat([learn.model.eval()(*b).x for b in xs])
    assert torch.equal(preds, expected) and torch.equal(truth, torch.cat([b[1] for b in xs]))
    _, _, decoded, losses = quiet(learn, learn.get_preds, with_decoded=True, with_loss=True)
    assert torch.equal(decoded, preds) and losses.shape == (2,)
    assert losses.mean() == pytest.approx(quiet(learn, learn.validate)[0], rel=1e-5)
    on_train = quiet(learn, learn.get_preds, ds_idx=0)[0]
    assert on_train.shape == (6, 3, 48, 48) and learn.dls.train.draws == 6   # of the fit alone
    assert not moved(before, state(learn))

@every_stage
@pytest.mark.slow
def test_losses_of_larger_batches(name, tmp_path):
    learn = learner(name, tmp_path, dls=toy_dls(val_bs=2))
    losses = quiet(learn, learn.get_preds, with_loss=True)[2]
    assert losses.shape == (2, ) and losses[0] == losses[1] == pytest.approx(
        quiet(learn, learn.validate)[0], rel=1e-5)

@every_stage
@pytest.mark.slow
def test_validate_needs_no_training_and_is_never_skipped(name, tmp_path):
    learn = learner(name, tmp_path, cbs=[ValidateEvery(7), Preview(tmp_path/'previews')])
    fresh = quiet(learn, learn.validate)
    assert len(fresh) == 1 + len(STAGES[name].terms) + 2 + 2*(name == 'light')
    assert fresh[1 + len(STAGES[name].terms)] > 0
    quiet(learn, learn.fit, 1, 1e-3)
    in_training = learn.recorder.values[-1][1:]
    def numbers(vs):
        return [v for v in vs if v is not None]
    # averaged weights, in training as after it
    assert numbers(in_training) == pytest.approx(numbers(quiet(learn, learn.validate)))
    pictures = sorted((tmp_path/'previews').iterdir())
    quiet(learn, learn.validate)
    assert sorted((tmp_path/'previews').iterdir()) == pictures

@every_stage
@pytest.mark.slow
def test_show_results_draws_input_prediction_and_truth(name, tmp_path):
    learn = learner(name, tmp_path, dls=toy_dls(val_bs=2))
    plt.close('all')
    quiet(learn, learn.show_results, max_n=2)
    axes = [a for a in plt.gcf().axes if a.images]
    assert [a.get_title() for a in axes] == ['x_low']*2 + ['prediction']*2 + ['x_high']*2
    shown = torch.tensor(axes[2].images[0].get_array()).permute(2, 0, 1)
    shown = shown.float()/255 if shown.dtype == torch.uint8 else shown.float()
    assert (shown - quiet(learn, learn.get_preds)[0][0].clamp(0, 1)).abs().max() < .01
    plt.close('all')

@every_stage
@pytest.mark.slow
def test_predict_takes_any_picture(name, tmp_path):
    learn = learner(name, tmp_path)
    x = pictures(1)[0][:, :37, :45]*(1 if name == 'codebook' else .2)
    write_image(x, tmp_path/'dark.png')
    shown, decoded, raw = learn.predict(x)
    assert shown.shape == raw.shape == x.shape and torch.equal(
        decoded, raw) and (raw >= 0).all() and (raw <= 1).all()
    assert (learn.predict(tmp_path/'dark.png')[2] - raw).abs().max() < .05
    if name == 'decoder':
        whole = pictures(1)[0]*.2
        with torch.no_grad():
            assert torch.equal(learn.predict(whole)[2], learn.model.model.eval()(whole[None]).x[0])


@every_stage
@pytest.mark.slow
def test_save_and_load_with_the_optimiser(name, tmp_path):
    learn = learner(name, tmp_path)
    quiet(learn, learn.fit_one_cycle, 1, 1e-3)
    kept = state(learn)
    opt = deepcopy(learn.opt.state_dict())
    learn.save('here')
    quiet(learn, learn.fit, 1, 1e-2)
    assert moved(kept, state(learn))
    other = learner(name, tmp_path)
    for l in learn, other:
        with warnings.catch_warnings():
            # "could not load the optimizer state"
            warnings.simplefilter('error', UserWarning)
            l.load('here')
        assert not moved(kept, state(l))
        back = l.opt.state_dict()
        assert len(back['hypers']) == len(opt['hypers']) and len(back['state']) == len(opt['state'])
        for a, b in zip(opt['state'], back['state']):
            for k in ('grad_avg', 'sqr_avg'):
                assert (k in a) == (k in b) and (k not in a or torch.equal(a[k], b[k]))

@every_stage
@pytest.mark.slow
def test_export_and_load_learner(name, tmp_path):
    learn = learner(name, tmp_path, plan=replace(PLAN, bf16=True, adversarial=.5))
    quiet(learn, learn.fit, 1, 1e-3)
    preds = quiet(learn, learn.get_preds)[0]
    learn.export('a.pkl')
    assert quiet(learn, learn.validate) is not None   # and the Learner itself works on
    back = load_learner(tmp_path/'a.pkl')
    assert not moved(state(learn), state(back)) and len(back.dls.valid.dataset) == 0
    dls = toy_dls()
    assert torch.equal(quiet(back, back.get_preds, dl=dls.valid)[0], preds)
    assert torch.equal(back.predict(pictures(1)[0])[2], learn.predict(pictures(1)[0])[2])
    assert (back.model.cfg, back.model.plan) == (learn.model.cfg, learn.model.plan)
    # it can be trained again
    back.dls = dls
    quiet(back, back.fit, 1, 1e-3)

@pytest.mark.slow
def test_a_data_block_works_as_well(tmp_path):
    for i, x in enumerate(pictures(6)): write_image(x, tmp_path/f'{i}.png')
    pairs = [Pair(tmp_path/f'{i}.png', tmp_path/f'{i}.png', str(i)) for i in range(6)]
    dls = LowLightBlock(48, val_fraction=.4).dataloaders(pairs, bs=2, num_workers=0,
                                                         device=torch.device('cpu'))
    learn = learner('flow', tmp_path, dls=dls)
    quiet(learn, learn.fit_one_cycle, 1, 1e-3)
    quiet(learn, learn.lr_find, num_it=10, show_plot=False)
    assert quiet(learn, learn.get_preds)[0].shape[1:] == (3, 48, 48)
    quiet(learn, learn.show_results, max_n=2)
    plt.close('all')


def test_a_configuration_makes_a_fresh_model(tmp_path):
    learn = T.nat_learner(toy_dls(), TOY, PLAN, path=tmp_path)
    assert learn.model.cfg == TOY and learn.path == tmp_path
    # trained in place
    model = LowLightNAT(TOY)
    assert T.nat_learner(toy_dls(), model, PLAN).model.model is model

def test_what_fastai_takes_reaches_it(tmp_path):
    learn = learner('flow', tmp_path, metrics=[], wd=.01, loss_func=sum_terms)
    assert (list(learn.metrics), learn.wd, learn.path) == ([], .01, tmp_path)

@pytest.mark.slow
def test_gt_mean_is_an_option_of_the_decoder(tmp_path, monkeypatch):
    assert not learner('decoder', tmp_path).model.use_gt_mean
    learn = learner('decoder', tmp_path, use_gt_mean=True)
    stage = learn.model.eval()
    x, y = toy_dls().valid.one_batch()
    g = torch.Generator().manual_seed(1)
    # an untrained one is so far off that both forms agree
    near = .9*stage.truth(x, y).x + .02*torch.randn(x.shape, generator=g)
    real = stage.model.decode
    def decode(*args, **kwargs):
        d = real(*args, **kwargs)
        d.x = near
        return d
    def terms(on):
        stage.use_gt_mean = on
        return stage(x, y).terms
    with monkeypatch.context() as m, torch.no_grad():
        m.setattr(stage.model, 'decode', decode)
        off = terms(False)
        on = terms(True)
    assert {k
            for k in off
            if not torch.equal(off[k], on[k])} == {'l1', 'ssim'} and on['l1'] < off['l1']
    assert torch.equal(on['l1'], gt_mean_loss(l1_loss, near,
                                              stage.truth(x, y).x)) and torch.equal(
                                                  off['l1'], l1_loss(near,
                                                                     stage.truth(x, y).x))
    quiet(learn, learn.fit, 1, 1e-3)
    assert learn.recorder.losses[-1].isfinite()

def test_rounds_of_the_nat_on_features_can_be_set(monkeypatch):
    torch.manual_seed(0)
    stage = STAGES['decoder'](LowLightNAT(TOY), PLAN).train()
    asked = []
    real = LowLightNAT.decode
    def decode(self, a, r, rounds=None, **kwargs):
        asked.append(rounds)
        return real(self, a, r, rounds=rounds, **kwargs)
    monkeypatch.setattr(LowLightNAT, 'decode', decode)
    x = torch.stack(pictures())
    # of the configuration; or switched off, in a share `nat_off` of the batches
    for _ in range(8): stage(x*.2, x)
    assert set(asked) == {None, 0}
    asked.clear()
    stage.rounds = 2
    for _ in range(8): stage(x*.2, x)
    assert set(asked) == {0, 2}

@pytest.mark.parametrize('name', ['nat', 'decoder'])
def test_in_evaluation_stages_show_doubt_and_mask(name):
    stage = STAGES[name](LowLightNAT(TOY), PLAN).eval()
    x = torch.stack(pictures())
    with torch.no_grad():
        pair = stage(x*.2, x)
        alone = stage(x*.2)
    for out in pair, alone:
        assert out.entropy.shape == out.mask.shape == (3, 12, 12) and out.mask.dtype == torch.bool
    assert torch.equal(pair.entropy, alone.entropy) and alone.terms == {}
    assert stage.train()(x*.2, x).entropy is None

def test_light_and_picture_are_cut_and_turned_alike():
    "What a stage sees of a crop is what it would see there in the whole picture"
    torch.manual_seed(0)
    model = LowLightNAT(TOY).eval()
    with torch.no_grad():
        for p in model.light.parameters(): p.add_(0.02*torch.randn_like(p))
    stage = STAGES['flow'](model, replace(PLAN, transpose=True)).train()
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 6, 9), size=(64, 96), mode='bilinear')
    whole = stage.eval().view(.2*x, x)
    lit = whole.light.on(whole.x_low)
    part = whole.cut(8, 36, 32)
    assert torch.equal(part.x, whole.x[..., 8:40, 36:68])
    inside = part.light.on(part.x_low)[..., 4:-4, 4:-4]   # at its border a crop knows less
    assert torch.allclose(inside, lit[..., 12:36, 40:64], atol=1e-5)
    turned = part.transposed()
    assert torch.allclose(turned.light.on(turned.x_low).transpose(2, 3), part.light.on(part.x_low))
    # in training: crops of the same light, some of it misjudged, some of them turned
    stage.train()
    shapes = set()
    for _ in range(20):
        t = stage.view(.2*x, x)
        assert t.x.shape == (2, 3, 32, 32) and t.light.field.shape == (2, 12, 8, 8)
        assert not t.light.field.requires_grad and torch.equal(t.light.mean, whole.light.mean)
        shapes.add((t.light.on(t.x_low)/t.x_low.clamp(min=1e-3)).mean().item())
    assert len(shapes) == 20
    assert STAGES['codebook'](model, PLAN).train().view(x, x).light is None


def test_callbacks_of_a_training_rest_outside_of_it(tmp_path):
    learn = learner('codebook', tmp_path)
    with learn.resting():
        assert not any(isinstance(cb, T.RESTING) for cb in learn.cbs)
    assert any(isinstance(cb, T.RESTING) for cb in learn.cbs)

def test_until_nan_stops_without_an_error(tmp_path):
    class Explode(Callback):
        "The loss becomes infinite at the third batch"
        def after_loss(self):
            if self.learn.train_iter >= 2: self.learn.loss_grad = self.loss_grad*float('inf')
    learn = learner('codebook', tmp_path)
    with learn.resting():
        quiet(learn, learn.fit, 1, 1e-3, cbs=[T.UntilNaN(), Explode()])
    assert learn.train_iter == 2

def test_metrics_at_equal_level_and_at_their_own():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))*0.8
    darker = T.StageOutput(x/2)
    assert T.gt_mean_ssim(darker, x) == pytest.approx(1., abs=1e-4)
    assert T.gt_mean_psnr(darker, x) > 60
    assert T.level_stops(darker, x) == pytest.approx(1., abs=1e-4)
    assert T.raw_psnr(T.StageOutput(x + 0.1), x) == pytest.approx(20., abs=1e-2)


# --- what a stage may change ---

PARTS = dict(light=('light',), codebook=('vqgan',), flow=('encoder', 'flow', 'spread'), nat=('nat',),
             decoder=('encoder', 'flow', 'spread', 'nat', 'fusion'))
FROZEN_PARTS = dict(flow=('spread',), nat=('nat',), decoder=('nat', 'fusion.nat'))

def parameters(model, names):
    "All parameters of some parts; the level is fitted and not trained"
    parts = [model.get_submodule(name) for name in names]
    return {p for m in parts for n, p in m.named_parameters() if not n.startswith('level.')}

def in_groups(model, name): return [p for g in STAGES[name].groups(model) for p in g]

@every_stage
def test_groups_hold_what_a_stage_trains_and_nothing_twice(name):
    model = LowLightNAT(TOY)
    trained = in_groups(model, name)
    assert set(trained) == parameters(model, PARTS[name])
    assert len(trained) == len(set(trained))
    assert len(STAGES[name].groups(model)) > 1

@pytest.mark.parametrize('name', list(FROZEN_PARTS))
def test_groups_of_a_frozen_network(name):
    model = LowLightNAT(replace(TOY, frozen=True))
    assert set(in_groups(model, name)) == parameters(model, FROZEN_PARTS[name])

@every_stage
def test_trainable_opens_the_groups_alone(name):
    model = LowLightNAT(TOY)
    trainable(model, name)
    assert {p for p in model.parameters() if p.requires_grad} == set(in_groups(model, name))

def test_a_lost_latent_makes_every_term_nan():
    model = LowLightNAT(TOY)
    model.vqgan.start(torch.stack(pictures()))
    stage = STAGES['decoder'](model, PLAN)
    with torch.no_grad(): aligned = model.align(torch.stack(pictures()))
    assert all(v.isnan() for v in stage.lost(aligned).values())

def test_misjudge_is_a_little_wrong_or_not_at_all():
    x = torch.stack(pictures())
    light = LowLightNAT(TOY).light.eval()(0.1*x)
    torch.manual_seed(0)
    ratio = (misjudge(light, share=1.).on(0.1*x)/light.on(0.1*x)).mean((2, 3))
    assert 0.001 < (ratio - 1).abs().mean() < 0.3
    assert torch.equal(misjudge(light, share=0.).field, light.field)
