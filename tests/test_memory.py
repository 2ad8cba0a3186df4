"Memory of training: counted without numbers, measured with the real Learner, and spared by checkpointing."
import copy, os
from dataclasses import replace

import pytest, torch
from torch import nn
from lowlight_nat import training_memory as tm
from lowlight_nat.callbacks import sum_terms
from lowlight_nat.layers import ResBlock, TransformerBlock, has_bf16
from lowlight_nat.model import LowLightNAT, ModelConfig, TrainPlan
from lowlight_nat.stages import STAGES, trainable

pytestmark = [pytest.mark.filterwarnings('ignore'), pytest.mark.slow]
TOY = replace(ModelConfig.tiny(), n_codes=64, vq_channels=(16, 32), enc_channels=(16, 16, 16), cond=16, flow_steps=2, flow_hidden=16, dec_channels=(16, 24),
              deform=(True, False), nat_width=32, nat_depth=1, feat_width=32, feat_depth=1)
PLAN = replace(TrainPlan.tiny(), bf16=has_bf16(torch.device('cpu')))   # imitated, it takes copies that no plan counts
GLARE = replace(ModelConfig.base(), vq_channels=(32, 64, 128), n_codes=64, flow_steps=2, nat_width=32, nat_depth=1, nat_heads=4, feat_width=32, feat_depth=1)
PLANS = {TOY: PLAN, GLARE: replace(TrainPlan.base(), adversarial=0., perceptual=0.)}

@pytest.mark.parametrize('cfg,size,batch,stage,share', [(TOY, 64, 3, 'codebook', 0.9), (TOY, 64, 2, 'flow', 0.9), (TOY, 96, 2, 'nat', 0.9), (TOY, 64, 2, 'nat', 0.2),
                                                        (TOY, 64, 2, 'decoder', 0.9), (GLARE, 32, 1, 'decoder', 0.5)])
def test_estimate_is_within_15_percent_of_the_measured_peak(cfg, size, batch, stage, share):
    torch.manual_seed(0)
    estimate = tm.step_memory(cfg, size, batch, stage, share=share, plan=PLANS[cfg]).peak
    measured = tm.measured_memory(LowLightNAT(cfg), size, batch, stage, share=share, plan=PLANS[cfg])
    assert abs(estimate/measured - 1) < 0.15, (estimate, measured)

def test_estimate_is_within_15_percent_with_checkpointing():
    estimate = tm.step_memory(TOY, 64, 2, 'decoder', True, plan=PLAN).peak
    measured = tm.measured_memory(tm.checkpoint_activations(LowLightNAT(TOY)), 64, 2, 'decoder', plan=PLAN)
    assert abs(estimate/measured - 1) < 0.15, (estimate, measured)
    assert estimate < 0.95*tm.step_memory(TOY, 64, 2, 'decoder', plan=PLAN).peak

def test_the_critic_is_counted():
    plan = replace(PLAN, adversarial=0.75)
    estimate, measured = tm.step_memory(TOY, 64, 4, 'codebook', plan=plan).peak, tm.measured_memory(LowLightNAT(TOY), 64, 4, 'codebook', plan=plan)
    assert abs(estimate/measured - 1) < 0.15, (estimate, measured)
    assert estimate > 1.1*tm.step_memory(TOY, 64, 4, 'codebook', plan=PLAN).peak

def test_more_masked_places_take_more_memory():
    few, many = (tm.step_memory(TOY, 64, 2, 'nat', share=s, plan=PLAN).peak for s in (0.2, 0.9))
    assert many > 1.1*few

def test_masks_have_the_share_asked_for_and_rounds_mask_fewer():
    from lowlight_nat import masking, model, nat
    entropy = torch.rand(2, 20, 20)
    with tm.chosen(0.3):
        mask = model.uncertainty_mask(entropy, 0.9)
        again = nat.remask(entropy, mask, 0.5)
        assert torch.rand(3).tolist() == [0.5]*3
    assert abs(mask.sum().item() - 240) <= 2 and abs(again.sum().item() - 120) <= 2 and not (again & ~mask).any()
    assert model.uncertainty_mask is masking.uncertainty_mask and nat.remask is masking.remask

def _gradients(model, stage, plan):
    trainable(model, stage); model.zero_grad(); torch.manual_seed(1)
    x = torch.rand(2, 3, 32, 32)
    with tm.chosen(0.6): loss = sum_terms(STAGES[stage](model, plan).train()(x*0.1, x))
    loss.backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}

@pytest.mark.parametrize('cfg', [TOY, GLARE], ids=['compact', 'glare'])
@pytest.mark.parametrize('stage', list(STAGES))
def test_checkpointing_leaves_gradients_and_names_as_they_are(cfg, stage):
    torch.manual_seed(0)
    model = LowLightNAT(cfg); keys = list(model.state_dict())
    nn.init.normal_(model.nat.head.weight, std=0.1)
    own = replace(PLANS[cfg].each_stage(crop=32), bf16=False)
    _gradients(model, 'flow', own)   # activation norms set themselves on the first batch
    plain, again = _gradients(model, stage, own), _gradients(tm.checkpoint_activations(model), stage, own)
    assert plain.keys() == again.keys() and list(model.state_dict()) == keys
    for k in plain: torch.testing.assert_close(again[k], plain[k], rtol=1e-5, atol=1e-6)

def test_checkpointed_blocks_are_computed_again_and_only_with_gradients():
    calls = []
    class Counted(ResBlock):
        def forward(self, x): calls.append(1); return super().forward(x)
    net = tm.checkpoint_activations(nn.Sequential(Counted(8)))
    x = torch.rand(1, 8, 8, 8, requires_grad=True)
    net(x).sum().backward(); assert len(calls) == 2
    with torch.no_grad(): net(x)
    assert len(calls) == 3
    tm.checkpoint_activations(net, False)(x).sum().backward(); assert len(calls) == 4

def test_a_copy_calls_its_own_blocks():
    net = tm.checkpoint_activations(nn.Sequential(ResBlock(8)))
    twin, x = copy.deepcopy(net), torch.rand(1, 8, 8, 8)
    before = twin(x)
    with torch.no_grad(): net[0].body[-1].weight.add_(1)
    assert torch.equal(twin(x), before) and not torch.equal(net(x), before)

def test_plan_keeps_the_effective_batch_and_the_budget(monkeypatch):
    cost = lambda cfg, size, batch, stage, on, share, plan: tm.AttrDict(peak=(1 + batch*(0.5 if on else 1.))*2**30)
    monkeypatch.setattr(tm, 'step_memory', cost)
    plan = lambda gb, batch=8: tm.plan_memory(TOY, 64, batch, gb, 'decoder', reserve=0.)
    for gb, micro, on, fits in (80, 8, False, True), (9, 8, False, True), (8.9, 4, False, True), (3, 2, False, True), (1.9, 1, True, True), (1, 1, True, False):
        p = plan(gb)
        assert (p.micro, p.checkpointing, p.fits) == (micro, on, fits), (gb, p)
        assert p.n_acc == (None if micro == 8 else 8) and 8 % p.micro == 0 and (not fits or p.peak_gb <= gb) and p.whole_gb == 9
    assert plan(6, 6).micro == 3
    assert tm.plan_memory(TOY, 64, 8, 9, reserve=0.1).micro == 4

@pytest.mark.parametrize('bad,word', [(dict(size=60), 'size=60'), (dict(stage='last'), 'last'), (dict(batch=0), 'batch=0'), (dict(budget_gb=0), 'budget_gb=0')])
def test_plan_refuses_nonsense(bad, word):
    with pytest.raises(ValueError, match=word): tm.plan_memory(TOY, **bad)

def test_step_speed():
    from lowlight_nat.data import LowLightDataLoaders
    make = lambda size, bs, n: LowLightDataLoaders.from_synthetic([torch.rand(3, 64, 64) for _ in range(4)], val_images=[torch.rand(3, 32, 32)], size=size, bs=bs, items_per_epoch=n)
    r = tm.step_speed(LowLightNAT(TOY), make, 'flow', batch=2, steps=3, warm=1, plan=replace(PLAN.each_stage(crop=32), context=48))
    assert r.steps == 3 and r.batch == 2 and 0 <= r.waiting < 1 and abs(r.pictures_per_s - 2*r.steps_per_s) < 1e-6

def test_step_speed_of_a_micro_batch_with_fewer_places_than_codes():
    "k-means would refuse it, and belongs to no step"
    from lowlight_nat.data import LowLightDataLoaders
    make = lambda size, bs, n: LowLightDataLoaders.from_synthetic([torch.rand(3, 64, 64) for _ in range(4)], val_images=[torch.rand(3, 32, 32)], size=size, bs=bs, items_per_epoch=n)
    r = tm.step_speed(LowLightNAT(TOY), make, 'codebook', batch=1, steps=3, warm=1, plan=replace(PLAN.each_stage(crop=16), context=48))   # 16 places, 64 codes
    assert r.steps == 3 and r.pictures == 3
