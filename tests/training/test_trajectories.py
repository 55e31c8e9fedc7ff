"""States of the sampler's own trajectories: which they are, how many, and when they are new."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.diffusion.ddim import ddim_timesteps, sample_ddim, with_cfg
from controlnet_pp.cnpp_core.training.batch import TrainingBatch, noised
from controlnet_pp.cnpp_core.training.checkpoints import Checkpoints
from controlnet_pp.cnpp_core.training.losses import DiffusionLoss, Recipe, Recipes
from controlnet_pp.cnpp_core.training.modes import Mode, set_mode, trained_parts, with_parts
from controlnet_pp.cnpp_core.training.settings import TrainSettings
from controlnet_pp.cnpp_core.training.trainer import Trainer
from controlnet_pp.cnpp_core.training.trajectories import Trajectories, TrajectorySettings
from controlnet_pp.tests.training.regression import curve, same_weights
from controlnet_pp.tests.training.tiny import SCHEDULE, batch, denoiser, seeded

DATA = batch(rows=6)


def draw(generator):
    rows = torch.randint(6, (2,), generator=generator)
    return TrainingBatch(
        DATA.x0[rows], DATA.context[rows], DATA.hint[rows], empty=DATA.empty, losing_hint=rows
    )


def sampled(model, one, noise, steps, cfg):
    """The latents that DDIM comes through, by timestep."""
    seen, hints = {}, torch.cat([one.hint, one.hint])

    def eps(x, t, context):
        seen[int(t[0])] = x[: len(one)]
        return model.unet(x, t, context, residuals=model.controlnet(x, hints, t, context))

    with torch.no_grad():
        empty = one.empty.expand_as(one.context)
        timesteps = ddim_timesteps(steps)
        sample_ddim(with_cfg(eps, one.context, empty, cfg), noise, SCHEDULE, timesteps)
    return seen


def test_states_are_those_of_the_sampler_with_the_prompts_and_hints_of_their_rows():
    model = denoiser()
    pool = Trajectories(lambda: model, draw, TrajectorySettings(steps=4, cfg=3.0, pool=1))
    state = pool(seeded(0))
    one = state.batch
    rows = one.losing_hint
    assert torch.equal(one.hint, DATA.hint[rows])
    seed = int(torch.randint(2**62, (), generator=seeded(0)))
    own = seeded(seed)
    assert torch.equal(draw(own).losing_hint, rows)
    noise = torch.randn(one.x0.shape, generator=own)
    seen = sampled(model, one, noise, 4, 3.0)
    assert set(state.t.tolist()) <= set(ddim_timesteps(4))
    for row, t in enumerate(state.t.tolist()):
        assert torch.allclose(state.x_t[row], seen[t][row], atol=1e-4)
    assert state.eps is None
    assert not state.x_t.requires_grad


def test_all_chosen_steps_come_up_and_no_others():
    model = denoiser()
    settings = TrajectorySettings(steps=5, least_t=200, most_t=700, pool=2, every=1000)
    pool, generator = Trajectories(lambda: model, draw, settings), seeded(1)
    steps = {t for _ in range(30) for t in pool(generator).t.tolist()}
    assert steps == {t for t in ddim_timesteps(5) if 200 <= t <= 700}


def test_the_same_generator_gives_the_same_states():
    def states(seed):
        model, generator = denoiser(), seeded(seed)
        pool = Trajectories(lambda: model, draw, TrajectorySettings(steps=3, pool=2, every=2))
        return [pool(generator) for _ in range(5)]

    first, second, other = states(1), states(1), states(2)
    assert all(torch.equal(a.x_t, b.x_t) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0].x_t, other[0].x_t)


def test_the_oldest_trajectory_is_sampled_anew_with_the_network_as_it_is_then():
    """Two of them, one new every three draws."""
    blind = denoiser()
    with torch.no_grad():
        for parameter in blind.unet.out.parameters():
            parameter.zero_()
    networks = [denoiser(), blind]
    pool = Trajectories(lambda: networks[0], draw, TrajectorySettings(steps=2, pool=2, every=3))
    generator = seeded(3)

    def kept_after(draws):
        for _ in range(draws):
            pool(generator)
        state = pool.state_dict()
        return [state[f"{i}.x_t"] for i in range(2)]

    def is_of_the_blind(x_t):
        """Without any predicted noise DDIM scales x_t, by the square root of alpha_bar."""
        scale = (SCHEDULE.alphas_cumprod[1] / SCHEDULE.alphas_cumprod[501]).sqrt()
        return torch.allclose(x_t[1], scale * x_t[0], atol=1e-4)

    start = kept_after(3)
    networks.reverse()
    then, end = kept_after(1), kept_after(3)
    assert torch.equal(then[0], start[1])
    assert torch.equal(end[0], then[1])
    assert [is_of_the_blind(x_t) for x_t in (*start, *end)] == [False, False, True, True]


def test_a_pool_goes_on_from_what_was_saved():
    model, settings = denoiser(), TrajectorySettings(steps=3, pool=2, every=2)
    pool, generator = Trajectories(lambda: model, draw, settings), seeded(4)
    for _ in range(3):
        pool(generator)
    saved, at = pool.state_dict(), generator.get_state()
    expected = [pool(generator) for _ in range(3)]
    again, generator = Trajectories(lambda: model, draw, settings), torch.Generator()
    again.load_state_dict(saved)
    generator.set_state(at)
    for state in expected:
        assert torch.equal(again(generator).x_t, state.x_t)


def training(folder=None):
    """A trainer and its recipes, one of them over trajectories of the averaged weights."""
    model = denoiser()
    set_mode(model, Mode.SD_LOCKED)
    settings = TrainSettings(steps=9, learning_rate=1e-2, warmup=1, ema_decay=0.5)
    checkpoints = Checkpoints(folder) if folder else None
    trainer = Trainer(trained_parts(model, [Mode.SD_LOCKED]), settings, checkpoints=checkpoints)
    pool = Trajectories(
        lambda: with_parts(model, trainer.averaged),
        draw,
        TrajectorySettings(steps=3, pool=2, every=3),
    )
    plain = Recipe(model, noised(draw, SCHEDULE), {"diffusion": (1.0, DiffusionLoss())})
    small = Recipe(model, pool, {"small": (1.0, lambda prediction: prediction.x0.abs().mean())})
    return trainer, Recipes(plain, small)


def test_a_training_on_trajectories_is_resumed_to_the_bit(tmp_path):
    whole, recipes = training()
    losses = curve(whole, recipes)
    first, recipes = training(tmp_path)
    begun = curve(first, recipes, lambda step, _: step == 5)
    second, recipes = training(tmp_path)
    assert second.resume()
    assert begun + curve(second, recipes) == losses
    assert same_weights(second.module, whole.module)
    assert same_weights(second.averaged, whole.averaged)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"least_t": 5, "most_t": 9}, "None of 10 sampling steps lies in the timesteps 5 to 9"),
        ({"pool": 0}, "must be at least 1"),
        ({"every": 0}, "must be at least 1"),
    ],
)
def test_settings_that_leave_nothing_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(TrajectorySettings(), **wrong)
