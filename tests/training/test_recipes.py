"""Recipes by name: which terms they have, over which states, by which losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from controlnet_pp.annotators.canny import canny_magnitude, canny_strength
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.losses import line_loss, mse
from controlnet_pp.cnpp_core.training.batch import noised
from controlnet_pp.cnpp_core.training.denoiser import PredictionType
from controlnet_pp.cnpp_core.training.losses import DiffusionLoss, layout_weights, min_snr_weights
from controlnet_pp.cnpp_core.training.recipes import (
    RECIPES,
    DiffusionSettings,
    RewardSettings,
    plain,
    published_weight,
)
from controlnet_pp.cnpp_core.training.reward import EfficientReward
from controlnet_pp.cnpp_core.training.trajectories import Trajectories, TrajectorySettings
from controlnet_pp.tests.training.test_reward import Decoder, frozen
from controlnet_pp.tests.training.tiny import SCHEDULE, always, batch, denoiser, seeded

KIND = Condition.CANNY
EDGES = (torch.rand(4, 1, 64, 64, generator=seeded(8)) > 0.9).float().expand(-1, 3, -1, -1)
DRAW = always(replace(batch(), hint=EDGES))


def made(settings, model=None):
    model = model or denoiser()
    recipe = RECIPES[settings.recipe]
    reward = recipe.model(KIND, frozen(Decoder, 1), canny_magnitude, canny_strength)
    return recipe.make(model, DRAW, reward, settings, lambda: model), reward


@pytest.mark.parametrize("prediction", PredictionType)
def test_the_weights_of_timesteps_are_those_of_their_name(prediction):
    model = denoiser(prediction_type=prediction)
    weights = {
        "none": None,
        "min snr": min_snr_weights(SCHEDULE, prediction_type=prediction),
        "layout": layout_weights(SCHEDULE),
    }
    state = noised(DRAW, SCHEDULE, 0.2)(seeded(3))
    for name, weight in weights.items():
        recipe = plain(model, DRAW, DiffusionSettings(name, 0.2, weight=2.0))
        expected = 2 * DiffusionLoss(weight)(model.predict(state))
        assert torch.isclose(recipe(seeded(3)), expected, rtol=1e-5), name


def test_the_published_recipe_adds_the_reward_of_one_step_on_the_same_states():
    model = denoiser()
    recipe, reward = made(RewardSettings(weight=0.7, most_t=600), model)
    assert (reward.annotate, reward.loss) == (canny_magnitude, mse)
    prediction = model.predict(noised(DRAW, SCHEDULE)(seeded(2)))
    expected = DiffusionLoss()(prediction) + 0.7 * EfficientReward(reward, 600)(prediction)
    assert (prediction.state.t <= 600).any()
    assert torch.isclose(recipe(seeded(2)), expected, rtol=1e-5)


def test_the_other_recipe_rewards_states_of_the_sampler_by_what_guidance_follows():
    settings = RewardSettings(
        recipe="on trajectories",
        weight=0.7,
        trajectories=TrajectorySettings(steps=2, cfg=2.0, pool=1),
        diffusion=DiffusionSettings(weight=3.0),
    )
    recipe, reward = made(settings)
    assert (reward.annotate, reward.loss) == (canny_strength, line_loss)
    assert [type(one.states) is Trajectories for one in recipe.recipes] == [False, True]
    assert [one.cfg for one in recipe.recipes] == [1.0, 2.0]
    total = recipe(seeded(1))
    expected = 3 * recipe.values["diffusion"] + 0.7 * recipe.values["reward"]
    assert torch.isclose(total, expected, rtol=1e-5)


def test_a_plan_takes_the_dearest_batch_and_samples_little():
    dearest = RewardSettings(recipe="on trajectories").dearest
    assert (dearest.most_t, dearest.trajectories.pool) == (999, 1)
    assert dearest.recipe == "on trajectories"


def test_published_weights():
    assert [published_weight(kind) for kind in (Condition.SEG, Condition.LINEART)] == [0.5, 0.5]
    assert published_weight(Condition.CANNY) == published_weight(Condition.DEPTH) == 1.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: RewardSettings(recipe="best"), "one of published, on trajectories"),
        (lambda: RewardSettings(weight=-1), "weight is -1"),
        (lambda: RewardSettings(most_t=1000), "0 to 999"),
        (lambda: RewardSettings(least_sigma=0), "above 0"),
        (lambda: DiffusionSettings("snr"), "one of none, min snr, layout"),
        (lambda: DiffusionSettings(noise_offset=-0.1), "noise_offset is -0.1"),
    ],
)
def test_settings_out_of_range_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
