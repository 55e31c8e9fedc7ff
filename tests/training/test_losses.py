"""The diffusion loss and its weights, against formulas written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.diffusion.schedule import NoiseSchedule
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.cnpp_core.training.batch import State, TrainingBatch, dropped, noised
from controlnet_pp.cnpp_core.training.denoiser import Denoiser, PredictionType
from controlnet_pp.cnpp_core.training.losses import (
    DiffusionLoss,
    Recipe,
    Recipes,
    layout_weights,
    min_snr_weights,
)
from controlnet_pp.cnpp_core.training.trainer import Trainer, TrainSettings
from controlnet_pp.tests.training.tiny import (
    CONFIG,
    SCHEDULE,
    WITH_Y,
    always,
    batch,
    denoiser,
    filled,
    seeded,
)

ALPHA_BAR = SCHEDULE.alphas_cumprod
TYPES = list(PredictionType)


def drawn(x0, seed):
    """t and noise as `noised` draws them."""
    generator = seeded(seed)
    t = torch.randint(1000, (len(x0),), generator=generator)
    return t, torch.randn(x0.shape, generator=generator)


def mixed(a, b, t):
    alpha_bar = ALPHA_BAR[t].view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * a + (1 - alpha_bar).sqrt() * b


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("config", [CONFIG, WITH_Y], ids=["plain", "with y"])
def test_the_loss_is_the_error_of_noise_or_velocity(config, kind):
    one, model = batch(config=config), denoiser(config, prediction_type=kind)
    recipe = Recipe(model, noised(always(one), SCHEDULE), {"diffusion": (1.0, DiffusionLoss())})
    t, eps = drawn(one.x0, seed=3)
    x_t = mixed(one.x0, eps, t)
    wanted = eps if kind is PredictionType.EPS else mixed(eps, -one.x0, t)
    residuals = model.controlnet(x_t, one.hint, t, one.context, one.y)
    out = model.unet(x_t, t, one.context, one.y, residuals=residuals)
    assert recipe(seeded(3)).item() == pytest.approx((out - wanted).square().mean().item(), 1e-6)


@pytest.mark.parametrize("kind", TYPES)
def test_x0_and_noise_are_read_off_a_perfect_prediction(kind):
    one = batch()
    t, eps = drawn(one.x0, seed=4)
    model = denoiser(prediction_type=kind)
    said = model.predict(State(one, mixed(one.x0, eps, t), t, eps))
    perfect = replace(said, predicted=said.target)
    assert torch.allclose(perfect.x0, one.x0, atol=1e-3)
    assert torch.allclose(perfect.noise, eps, atol=1e-5)
    assert perfect.errors.max() == 0


def test_a_unet_learns_without_a_controlnet():
    one, unet = batch(), filled(UNet(CONFIG))
    recipe = Recipe(
        Denoiser(unet, SCHEDULE), noised(always(one), SCHEDULE), {"": (1.0, DiffusionLoss())}
    )
    t, eps = drawn(one.x0, seed=3)
    out = unet(mixed(one.x0, eps, t), t, one.context)
    loss = recipe(seeded(3))
    assert loss.item() == pytest.approx((out - eps).square().mean().item(), 1e-6)
    loss.backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1 / 16), (0.5, 0.504)])
def test_offset_noise_moves_the_mean_of_each_channel(offset, spread):
    nothing = TrainingBatch(torch.zeros(500, 4, 16, 16), torch.zeros(500, 1, 16))
    x_t = noised(always(nothing), SCHEDULE, offset)(seeded(0)).x_t
    means = x_t.mean(dim=(2, 3)) / x_t.std(dim=(2, 3))
    assert means.std().item() == pytest.approx(spread, rel=0.05)


def test_weights_count_the_error_at_its_own_timestep():
    one, model = batch(), denoiser()
    t, eps = drawn(one.x0, seed=3)
    said = model.predict(State(one, mixed(one.x0, eps, t), t, eps))
    noisiest = (torch.arange(1000) >= 500).float()
    expected = (
        sum(float(e) for e, step in zip(said.errors.detach(), t, strict=True) if step >= 500) / 4
    )
    assert 0 < expected < said.errors.mean().item()
    assert DiffusionLoss(noisiest)(said).item() == pytest.approx(expected, rel=1e-6)


def test_layout_weights_count_the_error_in_x0_up_to_a_bound():
    weights = layout_weights(SCHEDULE, most=25)
    x0 = torch.ones(1, 4, 2, 2)
    assert weights.mean().item() == pytest.approx(1)
    assert weights.max() / weights.min() == pytest.approx(25)

    def x0_error(t):
        step, eps, wrong = torch.tensor([t]), torch.zeros_like(x0), torch.full_like(x0, 0.1)
        x_t = SCHEDULE.q_sample(x0, step, eps)
        return (SCHEDULE.predict_x0(x_t, step, wrong) - x0).square().mean()

    inside = [t for t in range(1000) if 1 < SCHEDULE.sigmas[t] ** 2 < 25]
    first, last = inside[0], inside[-1]
    # The same error in the noise, as an error in x0.
    assert weights[last] / weights[first] == pytest.approx(
        (x0_error(last) / x0_error(first)).item(), rel=1e-4
    )


@pytest.mark.parametrize("kind", TYPES)
def test_min_snr_weights_are_one_weight_of_the_error_in_x0(kind):
    """Whatever is predicted, the loss is min(SNR, 5) times the squared error of x0."""
    weights = min_snr_weights(SCHEDULE, 5.0, kind)
    one, model = batch(rows=6), denoiser(prediction_type=kind)
    t = torch.tensor([20, 120, 250, 400, 600, 900])
    eps = torch.randn(one.x0.shape, generator=seeded(1))
    said = model.predict(State(one, mixed(one.x0, eps, t), t, eps))
    snr = ALPHA_BAR[t] / (1 - ALPHA_BAR[t])
    assert (snr > 5).any()
    assert (snr < 5).any()
    in_x0 = (said.x0 - one.x0).square().flatten(1).mean(1)
    assert torch.allclose(weights[t] * said.errors, snr.clamp(max=5) * in_x0, rtol=1e-3)


def test_terms_share_one_forward_and_are_added_with_their_weights():
    model, calls = denoiser(), []
    model.unet.out.register_forward_hook(lambda *_: calls.append(1))
    terms = {"a": (1.0, DiffusionLoss()), "b": (0.25, lambda p: p.predicted.square().mean())}
    recipe = Recipe(model, noised(always(batch()), SCHEDULE), terms)
    loss = recipe(seeded(0))
    assert len(calls) == 1
    values = {name: value.item() for name, value in recipe.values.items()}
    assert loss.item() == pytest.approx(values["a"] + 0.25 * values["b"], rel=1e-6)
    assert not any(value.requires_grad for value in recipe.values.values())


def test_recipes_draw_one_after_the_other():
    model = denoiser()
    parts = [
        Recipe(model, noised(always(batch(seed=s)), SCHEDULE), {f"{s}": (s + 1.0, DiffusionLoss())})
        for s in (0, 1)
    ]
    one_by_one = seeded(5)
    losses = [part(one_by_one).item() for part in parts]
    both = Recipes(*parts)
    assert both(seeded(5)).item() == pytest.approx(sum(losses), rel=1e-6)
    assert [value.item() for value in both.values.values()] == [losses[0], losses[1] / 2]
    with pytest.raises(ValueError, match="a term called '1'"):
        Recipes(parts[1], parts[1])


def test_cfg_takes_the_empty_prompt_in():
    one, model = batch(config=WITH_Y), denoiser(WITH_Y)
    t, eps = drawn(one.x0, seed=6)
    state = State(one, mixed(one.x0, eps, t), t, eps)
    nothing = replace(one, context=one.empty.expand(4, -1, -1), y=one.empty_y.expand(4, -1))
    cond = model.predict(state).predicted
    empty = model.predict(replace(state, batch=nothing)).predicted
    guided = model.predict(state, cfg=3.0).predicted
    assert torch.allclose(guided, empty + 3 * (cond - empty), atol=1e-5)
    assert not torch.allclose(guided, cond, atol=1e-2)


def test_another_hint_is_predicted_without_the_encoder_of_the_unet():
    one, model = batch(), denoiser()
    t, eps = drawn(one.x0, seed=6)
    state = State(one, mixed(one.x0, eps, t), t, eps)
    other = filled(ControlNet(CONFIG), seed=9)
    whole = replace(model, controlnet=other).predict(
        replace(state, batch=replace(one, hint=one.losing_hint))
    )
    said, calls = model.predict(state), []
    model.unet.input_blocks[0].register_forward_hook(lambda *_: calls.append(1))
    again = said.again(one.losing_hint, other)
    assert torch.equal(again.predicted, whole.predicted)
    assert not torch.allclose(again.predicted, said.predicted, atol=1e-3)
    assert not calls


def test_what_a_batch_lacks_is_named():
    model = denoiser()
    state = noised(always(batch()), SCHEDULE)(seeded(0))

    def without(**fields):
        return replace(state, batch=replace(state.batch, **fields))

    with pytest.raises(ValueError, match="hint for every picture"):
        model.predict(without(hint=None))
    with pytest.raises(ValueError, match="`empty`"):
        model.predict(without(empty=None), cfg=2.0)
    with pytest.raises(ValueError, match="5 channels, the UNet takes 4"):
        model.predict(replace(state, x_t=torch.zeros(4, 5, 8, 8)))
    with pytest.raises(ValueError, match="`noised` states"):
        DiffusionLoss()(model.predict(replace(state, eps=None)))


def test_a_controlnet_learns_through_a_frozen_unet():
    torch.manual_seed(0)
    unet = UNet(CONFIG).requires_grad_(False)
    controlnet = ControlNet.from_unet(unet)
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    states = noised(always(batch()), SCHEDULE)
    recipe = Recipe(Denoiser(unet, SCHEDULE, controlnet), states, {"": (1.0, DiffusionLoss())})

    def loss(_):  # the same noise each time: the network can learn it by heart
        return recipe(seeded(5))

    start = loss(None).item()
    Trainer(controlnet, TrainSettings(steps=25, learning_rate=3e-3, warmup=1)).run(loss)
    assert loss(None).item() < 0.8 * start
    assert any(conv[0].weight.any() for conv in controlnet.zero_convs)
    assert all(torch.equal(before[key], value) for key, value in unet.state_dict().items())


def test_prompts_are_dropped_in_the_given_share_of_rows():
    without = dropped(4000, 0.25, seeded(0))
    assert without.float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_noised_rows_lose_the_prompts_that_are_dropped():
    context, empty, y = torch.ones(3, 2, 4), torch.zeros(1, 2, 4), torch.ones(3, 5)
    without = torch.tensor([True, False, True])
    batch = TrainingBatch(
        torch.zeros(3, 4, 8, 8),
        context,
        y=y,
        empty=empty,
        empty_y=torch.zeros(1, 5),
        dropped=without,
    )
    learnt = noised(lambda _: batch, NoiseSchedule.scaled_linear())(seeded(0)).batch
    assert learnt.context.mean((1, 2)).tolist() == learnt.y.mean(1).tolist() == [0, 1, 0]
    assert batch.context.min() == 1  # a sampler's states keep theirs


@pytest.mark.parametrize("lacks", ["empty", "empty_y"])
def test_prompts_can_not_be_dropped_without_a_prompt_of_nothing(lacks):
    given = {"empty": torch.zeros(1, 2, 4), "empty_y": torch.zeros(1, 5)} | {lacks: None}
    batch = TrainingBatch(
        torch.zeros(1, 4, 8, 8),
        torch.ones(1, 2, 4),
        y=torch.ones(1, 5),
        dropped=torch.tensor([True]),
        **given,
    )
    with pytest.raises(ValueError, match="`empty` "):
        batch.without_dropped()
