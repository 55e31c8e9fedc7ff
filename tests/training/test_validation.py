"""Held-out conditions drawn by the network in training, as the sampler of the core draws them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.consistency.agreement.lines import EdgeMeasure
from controlnet_pp.cnpp_core.diffusion.ddim import ddim_timesteps, sample_ddim, with_cfg
from controlnet_pp.cnpp_core.training.denoiser import PredictionType
from controlnet_pp.cnpp_core.training.modes import Mode, trained_parts
from controlnet_pp.cnpp_core.training.trainer import Trainer, TrainSettings
from controlnet_pp.cnpp_core.training.validation import Validation, check_by
from controlnet_pp.tests.training.tiny import SCHEDULE, batch, denoiser, filled, seeded

ONE, TWO = batch(2, seed=1), batch(1, seed=2)


def decode(latents):
    return latents[:, :3]


def brightness(pictures, hints):
    return pictures.mean((1, 2, 3)).tolist()


def validation_of(model, **settings):
    return Validation(model, [ONE, TWO], decode, brightness, steps=3, latent_scale=2.0, **settings)


def drawn(model, one, noise, cfg):
    """What the sampler makes of it, at cfg with both prompts in one batch."""
    hints = torch.cat([one.hint, one.hint])

    def eps(x, t, context):
        out = model.unet(x, t, context, residuals=model.controlnet(x, hints, t, context))
        if model.prediction_type is PredictionType.V:
            return SCHEDULE.q_sample(out, t, x)
        return out

    with torch.no_grad():
        empty = one.empty.expand_as(one.context)
        both = with_cfg(eps, one.context, empty, cfg)
        return decode(sample_ddim(both, noise, SCHEDULE, ddim_timesteps(3)) / 2.0) / 2 + 0.5


@pytest.mark.parametrize("prediction", PredictionType)
def test_pictures_are_those_of_the_sampler_and_the_score_their_mean(prediction):
    model, seen = denoiser(prediction_type=prediction), []
    parts = trained_parts(model, [Mode.SD_LOCKED])
    look = validation_of(model, cfg=2.0, seed=5, on_pictures=lambda *args: seen.append(args))
    score = look(7, parts)
    generator = seeded(5)
    expected = [
        drawn(model, one, torch.randn(one.x0.shape, generator=generator), 2.0).clamp(0, 1)
        for one in (ONE, TWO)
    ]
    ((step, pictures, mean),) = seen
    assert step == 7
    for ours, theirs in zip(pictures, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    means = torch.cat([picture.mean((1, 2, 3)) for picture in expected])
    assert score == {"score": pytest.approx(means.mean().item(), abs=1e-5)}
    assert mean == score["score"]


def test_the_averaged_weights_draw_and_the_same_noise_each_time():
    model = denoiser()
    parts = trained_parts(model, [Mode.SD_LOCKED])
    look, again = validation_of(model), validation_of(model)
    first = look(0, parts)
    torch.manual_seed(99)
    assert look(1, parts) == again(0, parts) == first
    other = Trainer(parts, TrainSettings(steps=1)).averaged
    filled(other, seed=9)
    assert look(2, other) != first
    assert look(3, parts) == first


def test_a_check_compares_the_condition_of_each_picture_with_its_own_hint():
    hints = (torch.rand(2, 1, 16, 16, generator=seeded(0)) > 0.7).float().expand(-1, 3, -1, -1)
    check = check_by(lambda pictures: pictures[:, :1], EdgeMeasure())
    assert list(check(hints, hints)) == [1.0, 1.0]
    swapped = check(hints.flip(0), hints)
    assert max(swapped) < 0.7


def test_nothing_to_look_at_is_refused():
    with pytest.raises(ValueError, match="at least one batch"):
        replace(validation_of(denoiser()), batches=[])


def test_pictures_that_nobody_can_judge_are_shown_without_a_score():
    model, seen = denoiser(), []
    look = replace(validation_of(model), check=None, on_pictures=lambda *args: seen.append(args))
    assert look(3, trained_parts(model, [Mode.SD_LOCKED])) == {}
    ((step, pictures, score),) = seen
    assert (step, len(pictures), score) == (3, 2, None)
