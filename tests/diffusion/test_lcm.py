"""LCM steps against diffusers' scheduler and against what a consistency model is."""

import pytest
import torch
from controlnet_pp.cnpp_core.diffusion.lcm import (
    boundary_scalings,
    consistency_function,
    lcm_grid,
    lcm_timesteps,
    sample_lcm,
)
from controlnet_pp.cnpp_core.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear()


def made_up_model(x, t):
    """Depends on both of its inputs, and on neither alone."""
    return torch.sin(x) + 0.001 * t.view(-1, 1, 1, 1) * x


def of_diffusers(original_steps=50):
    diffusers = pytest.importorskip("diffusers")
    return diffusers.LCMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        original_inference_steps=original_steps,
    )


@pytest.mark.parametrize("original_steps", [20, 50, 100])
def test_timesteps_are_diffusers(original_steps):
    theirs = of_diffusers(original_steps)
    for steps in range(1, original_steps + 1):
        theirs.set_timesteps(steps)
        assert lcm_timesteps(steps, original_steps) == theirs.timesteps.tolist()


def test_four_steps_are_the_published_ones():
    assert lcm_timesteps(4) == [999, 759, 499, 259]
    assert lcm_timesteps(50) == lcm_grid()[::-1] == list(range(999, 0, -20))


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_sampling_follows_diffusers_step_by_step(steps):
    theirs = of_diffusers()
    theirs.set_timesteps(steps)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    generator, wanted, inputs = torch.Generator().manual_seed(1), [], []
    x = noise * theirs.init_noise_sigma
    for t in theirs.timesteps:
        inputs.append(x)
        x, denoised = theirs.step(
            made_up_model(x, t.expand(2)), t, x, generator=generator, return_dict=False
        )
        wanted.append(denoised)
    seen, asked = [], []

    def model(x, t):
        asked.append(x)
        return made_up_model(x, t)

    found = sample_lcm(
        model,
        noise,
        SCHEDULE,
        lcm_timesteps(steps),
        lambda _, x0: seen.append(x0),
        generator=torch.Generator().manual_seed(1),
    )
    assert torch.equal(found, seen[-1])
    # 1e-5 of numbers of up to a few hundred, which the noisiest timestep makes of a made-up model.
    assert torch.allclose(torch.stack(asked), torch.stack(inputs), rtol=1e-5, atol=1e-5)
    assert torch.allclose(torch.stack(seen), torch.stack(wanted), rtol=1e-5, atol=1e-5)


def test_scalings_are_those_of_diffusers_and_keep_the_boundary():
    theirs = of_diffusers()
    t = torch.tensor([0, 1, 19, 500, 999])
    wanted = [theirs.get_scalings_for_boundary_condition_discrete(int(step)) for step in t]
    found = torch.stack(boundary_scalings(t), dim=1)
    assert torch.allclose(found, torch.tensor(wanted), rtol=1e-6, atol=0)
    assert found[0].tolist() == [1.0, 0.0]


def test_the_consistency_function_is_the_identity_at_0_and_the_estimate_where_noise_prevails():
    x_t, x0 = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    found = consistency_function(x_t, torch.tensor([0, 999]), x0)
    assert torch.equal(found[0], x_t[0])
    assert torch.allclose(found[1], x0[1], atol=1e-5)


def test_a_correction_is_what_gets_the_new_noise():
    wanted = torch.full((1, 4, 64, 64), 3.0)
    asked = []

    def model(x, t):
        asked.append(x)
        return torch.zeros_like(x)

    found = sample_lcm(
        model,
        torch.randn(1, 4, 64, 64),
        SCHEDULE,
        [999, 259],
        correct=lambda i, x0: wanted,
        generator=torch.Generator().manual_seed(0),
    )
    assert found is wanted
    alpha_bar = SCHEDULE.alphas_cumprod[259]
    assert asked[1].mean().item() == pytest.approx(3 * alpha_bar.sqrt().item(), rel=0.01)
    assert asked[1].std().item() == pytest.approx((1 - alpha_bar).sqrt().item(), rel=0.03)


@pytest.mark.parametrize(("steps", "grid"), [(0, 50), (51, 50), (4, 0), (4, 1001)])
def test_impossible_numbers_of_steps_are_refused(steps, grid):
    with pytest.raises(ValueError, match=f"{grid if grid != 50 else steps}"):
        lcm_timesteps(steps, grid)
