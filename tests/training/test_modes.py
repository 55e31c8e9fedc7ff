"""What each mode trains, by the names of parameters, and what it leaves alone, bit for bit."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.cnpp_core.training.batch import noised
from controlnet_pp.cnpp_core.training.denoiser import Denoiser
from controlnet_pp.cnpp_core.training.losses import DiffusionLoss, Recipe
from controlnet_pp.cnpp_core.training.modes import Mode, set_mode, trained_parts, with_parts
from controlnet_pp.cnpp_core.training.trainer import Trainer, TrainSettings
from controlnet_pp.tests.training.tiny import CONFIG, SCHEDULE, always, batch, denoiser, seeded
from torch import nn

DECODER = ("unet.output_blocks.", "unet.out.")
ZERO_CONVS = "controlnet.zero_convs."
TRAINS = {
    Mode.MIDDLE_ONLY: lambda name: (
        name.startswith("controlnet.") and not name.startswith(ZERO_CONVS)
    ),
    Mode.SD_LOCKED: lambda name: name.startswith("controlnet."),
    Mode.SD_DECODER_UNLOCKED: lambda name: name.startswith(("controlnet.", *DECODER)),
}


def recipe(model):
    return Recipe(model, noised(always(batch()), SCHEDULE), {"": (1.0, DiffusionLoss())})


def whole(model):
    return nn.ModuleDict({"controlnet": model.controlnet, "unet": model.unet})


def weights(model):
    return {name: p.detach().clone() for name, p in whole(model).named_parameters()}


@pytest.mark.parametrize("mode", Mode)
def test_gradients_reach_the_parameters_of_the_mode_and_no_others(mode):
    model = denoiser()
    set_mode(model, mode)
    recipe(model)(seeded(0)).backward()
    for name, parameter in whole(model).named_parameters():
        expected = TRAINS[mode](name)
        assert parameter.requires_grad == expected, name
        assert (parameter.grad is not None and bool(parameter.grad.any())) == expected, name


@pytest.mark.parametrize("mode", Mode)
def test_training_changes_what_the_mode_trains_and_nothing_else(mode):
    model = denoiser()
    parts = trained_parts(model, [mode])
    set_mode(model, mode)
    before = weights(model)
    settings = TrainSettings(steps=2, learning_rate=1e-2, warmup=1, weight_decay=0.1)
    Trainer(parts, settings).run(recipe(model))
    for name, after in weights(model).items():
        assert torch.equal(after, before[name]) != TRAINS[mode](name), name


def test_middle_only_adds_the_middle_residual_and_computes_no_other():
    model, calls = denoiser(), []
    set_mode(model, Mode.MIDDLE_ONLY)
    for conv in model.controlnet.zero_convs:
        conv.register_forward_hook(lambda *_: calls.append(1))
    states = noised(always(batch()), SCHEDULE)
    state = states(seeded(1))
    one = state.batch
    residuals = model.controlnet(state.x_t, one.hint, state.t, one.context)
    assert len(calls) == CONFIG.blocks - 1
    calls.clear()
    said = model.predict(state).predicted
    assert not calls
    cut = [None] * (CONFIG.blocks - 1) + residuals[-1:]
    assert torch.equal(said, model.unet(state.x_t, state.t, one.context, residuals=cut))
    every = model.unet(state.x_t, state.t, one.context, residuals=residuals)
    assert not torch.allclose(said, every, atol=1e-2)


def test_middle_only_cuts_the_others_of_a_network_that_others_run_in_their_own_way():
    model, divided = denoiser(), denoiser()
    model.controlnet.forward = model.controlnet.forward  # as a wrapper or compiler sets it
    state = noised(always(batch()), SCHEDULE)(seeded(1))
    for each in (model, divided):
        set_mode(each, Mode.MIDDLE_ONLY)
    assert torch.equal(model.predict(state).predicted, divided.predict(state).predicted)


def test_no_graph_is_kept_of_the_encoder_of_a_locked_unet():
    model, seen = denoiser(), []
    for block in (*model.unet.input_blocks, model.unet.middle_block):
        block.register_forward_hook(lambda *args: seen.append(args[-1].requires_grad))
    for mode in Mode:
        set_mode(model, mode)
        recipe(model)(seeded(0))
    assert len(seen) == len(Mode) * CONFIG.blocks
    assert not any(seen)


def test_a_run_goes_on_with_all_blocks_after_the_middle():
    """As if it had been two runs, but for what the optimiser remembers."""
    model = denoiser()
    parts = trained_parts(model, [Mode.MIDDLE_ONLY, Mode.SD_LOCKED])
    trainer = Trainer(parts, TrainSettings(steps=4, learning_rate=1e-2, warmup=1))
    set_mode(model, Mode.MIDDLE_ONLY)
    start = weights(model)
    after_middle = {}

    def switch(step, _):
        if step == 2:
            after_middle.update(weights(model))
            set_mode(model, Mode.SD_LOCKED)

    trainer.run(recipe(model), switch)
    end = weights(model)
    for name in start:
        if name.startswith(ZERO_CONVS):
            assert torch.equal(after_middle[name], start[name]), name
        if name.startswith("controlnet."):
            assert not torch.equal(end[name], after_middle[name]), name
        else:
            assert torch.equal(end[name], start[name]), name


def test_the_averaged_weights_predict_in_place_of_the_trained_ones():
    model = denoiser()
    parts = trained_parts(model, [Mode.SD_DECODER_UNLOCKED])
    set_mode(model, Mode.SD_DECODER_UNLOCKED)
    trainer = Trainer(parts, TrainSettings(steps=3, learning_rate=1e-2, warmup=1))
    start = weights(model)
    trainer.run(recipe(model))
    averaged = with_parts(model, trainer.averaged)
    state = noised(always(batch()), SCHEDULE)(seeded(2))
    said = averaged.predict(state).predicted
    for name, value in whole(averaged).named_parameters():
        assert torch.equal(value, start[name]) != TRAINS[Mode.SD_DECODER_UNLOCKED](name), name
    whole(model).load_state_dict(whole(averaged).state_dict())
    assert torch.equal(model.predict(state).predicted, said)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_locked_unet_may_be_of_half_precision(autocast):
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        model = denoiser()
        model.unet.to(dtype)
        set_mode(model, Mode.SD_LOCKED)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype != torch.float32):
            loss = recipe(model)(seeded(0))
        assert loss.dtype == torch.float32
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.controlnet.parameters()]))
    assert gradients[1].dtype == torch.float32
    assert (gradients[0] - gradients[1]).norm() < 0.1 * gradients[0].norm()


def test_modes_need_a_controlnet():
    with pytest.raises(ValueError, match="there is none"):
        set_mode(Denoiser(UNet(CONFIG), SCHEDULE), Mode.SD_LOCKED)
