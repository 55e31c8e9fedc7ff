"""The preference of CPO against its formula, and what it needs to run."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.training.batch import State
from controlnet_pp.cnpp_core.training.modes import Mode, set_mode
from controlnet_pp.cnpp_core.training.preference import Preference
from controlnet_pp.tests.training.tiny import CONFIG, SCHEDULE, batch, denoiser, filled, seeded

MARGIN, BETA, SMOOTHING = 1e-3, 1000.0, 0.1


def reference():
    return filled(ControlNet(CONFIG), seed=8).requires_grad_(False)


def state(t=(0, 100, 500, 900)):
    one, t = batch(), torch.tensor(t)
    eps = torch.randn(one.x0.shape, generator=seeded(2))
    return State(one, SCHEDULE.q_sample(one.x0, t, eps), t, eps)


def error(model, controlnet, at, hint):
    one = at.batch
    residuals = controlnet(at.x_t, hint, at.t, one.context)
    out = model.unet(at.x_t, at.t, one.context, residuals=residuals)
    return (out - at.eps).square().mean((1, 2, 3))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_hand(model, frozen, at):
    """Row by row, as numbers; and the differences between winning and losing."""
    one, losses = at.batch, []
    with torch.no_grad():
        d, d_ref = (
            (error(model, net, at, one.hint) - error(model, net, at, one.losing_hint)).tolist()
            for net in (model.controlnet, frozen)
        )
    for a, b in zip(d, d_ref, strict=True):
        towards = sigmoid(BETA / 2 * (a - b)) * max(a + MARGIN, 0)
        away = sigmoid(-BETA / 2 * (a - b)) * max(-a + MARGIN, 0)
        losses.append((1 - SMOOTHING) * towards + SMOOTHING * away)
    return losses, d


def test_it_is_the_clamped_difference_of_errors_weighted_against_the_reference():
    model, frozen, at = denoiser(), reference(), state()
    losses, d = by_hand(model, frozen, at)
    assert min(d) < -MARGIN  # both sides of the clamp take part
    assert max(d) > -MARGIN
    loss = Preference(frozen, MARGIN, BETA, SMOOTHING)(model.predict(at))
    assert loss.item() == pytest.approx(sum(losses[1:]) / 3, rel=1e-4)  # without the row of t = 0


def test_its_gradient_is_that_of_the_errors_alone():
    model, frozen, at = denoiser(), reference(), state()
    one = at.batch
    parameters = list(model.controlnet.parameters())
    loss = Preference(frozen, MARGIN, BETA, SMOOTHING)(model.predict(at))
    ours = torch.autograd.grad(loss, parameters)
    d = error(model, model.controlnet, at, one.hint)
    d = d - error(model, model.controlnet, at, one.losing_hint)
    with torch.no_grad():
        d_ref = error(model, frozen, at, one.hint) - error(model, frozen, at, one.losing_hint)
        weight = torch.sigmoid(BETA / 2 * (d - d_ref))
        slope = (1 - SMOOTHING) * weight * (d > -MARGIN) - SMOOTHING * (1 - weight) * (d < MARGIN)
        slope[0] = 0
    expected = torch.autograd.grad((slope * d).sum() / 3, parameters)
    ours, expected = (torch.cat([g.flatten() for g in each]) for each in (ours, expected))
    assert (ours - expected).norm() < 1e-3 * expected.norm()


def test_a_step_along_it_widens_the_lead_of_the_winning_hint():
    model, at = denoiser(), state((100, 300, 500, 900))
    frozen, one = filled(ControlNet(CONFIG), seed=1).requires_grad_(False), at.batch
    set_mode(model, Mode.SD_LOCKED)

    def lead():
        with torch.no_grad():
            errors = [error(model, model.controlnet, at, h) for h in (one.losing_hint, one.hint)]
        return (errors[0] - errors[1]).mean().item()

    before, optimizer = lead(), torch.optim.SGD(model.controlnet.parameters(), lr=1e-3)
    # Within so wide a margin no row is far enough yet.
    Preference(frozen, margin=10.0, smoothing=0.0)(model.predict(at)).backward()
    optimizer.step()
    assert lead() > before
    assert all(p.grad is None for p in frozen.parameters())


def test_the_encoder_of_the_unet_runs_once_for_all_four_predictions():
    model, calls = denoiser(), {"encoder": 0, "decoder": 0}

    def count(part):
        def hook(*_):
            calls[part] += 1

        return hook

    model.unet.middle_block.register_forward_hook(count("encoder"))
    model.unet.out.register_forward_hook(count("decoder"))
    Preference(reference())(model.predict(state()))
    assert calls == {"encoder": 1, "decoder": 4}


def test_what_it_can_not_do_is_named():
    model, at = denoiser(), state()
    lonely = replace(at, batch=replace(at.batch, losing_hint=None))
    with pytest.raises(ValueError, match="a winning and a losing hint"):
        Preference(reference())(model.predict(lonely))
    set_mode(model, Mode.SD_DECODER_UNLOCKED)
    with pytest.raises(ValueError, match="choose the mode SD locked"):
        Preference(reference())(model.predict(at))
