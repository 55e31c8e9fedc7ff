"""Schedule and sampler against diffusers and against what the equations say."""

import pytest
import torch
from controlnet_pp.cnpp_core.diffusion.ddim import (
    ddim_timesteps,
    encode,
    sample_ddim,
    with_cfg,
)
from controlnet_pp.cnpp_core.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear()


def linear_eps_model(x, t):
    """A made-up denoiser that depends on both of its inputs."""
    return 0.3 * x + 0.001 * t.view(-1, 1, 1, 1).to(x)


def test_the_schedule_is_stable_diffusions():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    assert torch.allclose(SCHEDULE.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-4)
    assert SCHEDULE.sigmas[-1] == pytest.approx(14.6146, abs=1e-3)  # the published sigma_max


def test_predicted_x0_undoes_the_noise():
    x0, eps = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    t = torch.tensor([0, 10, 500, 999])
    x_t = SCHEDULE.q_sample(x0, t, eps)
    assert torch.allclose(SCHEDULE.predict_x0(x_t, t, eps), x0, atol=1e-4)


def test_noised_unit_variance_latents_keep_unit_variance():
    x0, eps = torch.randn(3, 4, 64, 64), torch.randn(3, 4, 64, 64)
    x_t = SCHEDULE.q_sample(x0, torch.tensor([5, 400, 990]), eps)
    assert torch.allclose(x_t.std(dim=(1, 2, 3)), torch.ones(3), atol=0.03)


def of_diffusers(name, steps=20):
    """One of diffusers' DDIM schedulers, set as Stable Diffusion and ComfyUI have it."""
    diffusers = pytest.importorskip("diffusers")
    theirs = getattr(diffusers, name)(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    theirs.set_timesteps(steps)
    return theirs


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_sampling_follows_diffusers_ddim_step_by_step(eta):
    theirs = of_diffusers("DDIMScheduler")
    timesteps = ddim_timesteps(20)
    assert timesteps == theirs.timesteps.tolist()

    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    generator, estimates = torch.Generator().manual_seed(1), []
    x = (1 - theirs.alphas_cumprod[timesteps[0]]).sqrt() * noise
    for t in theirs.timesteps:
        eps = linear_eps_model(x, t.expand(2))
        step = theirs.step(eps, t, x, eta=eta, generator=generator)
        x = step.prev_sample
        estimates.append(step.pred_original_sample)
    seen = []
    ours = sample_ddim(
        linear_eps_model,
        noise,
        SCHEDULE,
        timesteps,
        lambda _, x0: seen.append(x0),
        eta=eta,
        generator=torch.Generator().manual_seed(1),
    )
    # diffusers' last step lands on alpha_bar = 1, which is the last estimate of x0
    assert torch.allclose(ours, x, rtol=1e-4, atol=1e-4)
    assert torch.allclose(torch.stack(seen), torch.stack(estimates), rtol=1e-4, atol=1e-4)


def test_without_eta_no_noise_is_drawn():
    noise, generator = torch.randn(1, 4, 8, 8), torch.Generator().manual_seed(0)
    before = generator.get_state()
    args = (linear_eps_model, noise, SCHEDULE, ddim_timesteps(5))
    assert torch.equal(sample_ddim(*args, eta=0.0, generator=generator), sample_ddim(*args))
    assert torch.equal(generator.get_state(), before)


def test_new_noise_leaves_the_noise_level_as_it_was():
    """Of a perfect denoiser of nothing, x is the noise itself."""
    spreads = []

    def only_noise(x, t):
        level = (1 - SCHEDULE.alphas_cumprod[t]).sqrt().view(-1, 1, 1, 1)
        spreads.append((x / level).std().item())
        return x / level

    noise, generator = torch.randn(1, 4, 128, 128), torch.Generator().manual_seed(0)
    sample_ddim(only_noise, noise, SCHEDULE, ddim_timesteps(10), eta=1.0, generator=generator)
    assert spreads == pytest.approx([1.0] * 10, abs=0.02)


@pytest.mark.parametrize(
    ("eta", "message"), [(0.5, "give a generator"), (-0.1, "eta is -0.1"), (1.5, "eta is 1.5")]
)
def test_an_eta_that_can_not_be_done_is_refused(eta, message):
    with pytest.raises(ValueError, match=message):
        sample_ddim(linear_eps_model, torch.randn(1, 4, 8, 8), SCHEDULE, [500, 1], eta=eta)


def test_encoding_follows_diffusers_inverse_ddim():
    theirs = of_diffusers("DDIMInverseScheduler")
    timesteps = ddim_timesteps(20)
    assert timesteps[::-1] == theirs.timesteps.tolist()
    x0 = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = x0
    for t in theirs.timesteps:
        x = theirs.step(linear_eps_model(x, t.expand(2)), t, x).prev_sample
    noise = encode(linear_eps_model, x0, SCHEDULE, timesteps)
    level = (1 - theirs.alphas_cumprod[timesteps[0]]).sqrt()
    assert torch.allclose(level * noise, x, rtol=1e-4, atol=1e-4)


def test_what_was_encoded_is_sampled_again_the_closer_the_more_steps():
    x0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def error(steps):
        timesteps = ddim_timesteps(steps)
        noise = encode(linear_eps_model, x0, SCHEDULE, timesteps)
        return (sample_ddim(linear_eps_model, noise, SCHEDULE, timesteps) - x0).abs().max().item()

    errors = [error(steps) for steps in (10, 50, 200)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_a_perfect_denoiser_is_followed_to_its_picture():
    x0 = torch.randn(1, 4, 8, 8)

    def knows_x0(x, t):
        alpha_bar = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (x - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()

    result = sample_ddim(knows_x0, torch.randn(1, 4, 8, 8), SCHEDULE, ddim_timesteps(10))
    assert torch.allclose(result, x0, atol=1e-3)


def test_after_a_correction_the_noise_is_what_the_corrected_estimate_leaves_of_x():
    timesteps, alphas = ddim_timesteps(5), SCHEDULE.alphas_cumprod.double()
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    wanted = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    x = (1 - alphas[timesteps[0]]).sqrt() * noise
    x0, estimates = x, []
    for i, t in enumerate(timesteps):
        eps = linear_eps_model(x, torch.full((2,), t))
        x0 = (x - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
        if i % 2:
            x0 = 0.5 * x0 + 0.5 * wanted
            eps = (x - alphas[t].sqrt() * x0) / (1 - alphas[t]).sqrt()
        estimates.append(x0)
        if i + 1 < len(timesteps):
            after = alphas[timesteps[i + 1]]
            x = after.sqrt() * x0 + (1 - after).sqrt() * eps
    seen = []
    found = sample_ddim(
        linear_eps_model,
        noise.float(),
        SCHEDULE,
        timesteps,
        lambda _, estimate: seen.append(estimate),
        lambda i, estimate: 0.5 * estimate + 0.5 * wanted.float() if i % 2 else estimate,
    )
    assert torch.equal(found, seen[-1])
    for mine, reference in zip(seen, estimates, strict=True):
        assert torch.allclose(mine.double(), reference, rtol=1e-4, atol=1e-4)


def test_each_step_is_reported_and_may_stop_the_sampling():
    seen = []

    def stop_at_three(i, x0):
        seen.append((i, tuple(x0.shape)))
        if i == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_ddim(
            linear_eps_model, torch.randn(1, 4, 8, 8), SCHEDULE, ddim_timesteps(10), stop_at_three
        )
    assert seen == [(i, (1, 4, 8, 8)) for i in range(4)]


@pytest.mark.parametrize(("cfg", "expected"), [(1.0, 2.0), (0.0, 5.0), (3.0, -4.0)])
def test_guidance_goes_from_the_empty_prompt_through_the_prompt(cfg, expected):
    model = with_cfg(
        lambda x, t, context: context.mean(dim=(1, 2)).view(-1, 1, 1, 1).expand_as(x),
        cond=torch.full((1, 3, 2), 2.0),
        uncond=torch.full((1, 3, 2), 5.0),
        cfg=cfg,
    )
    eps = model(torch.zeros(1, 4, 2, 2), torch.zeros(1))
    assert torch.allclose(eps, torch.full((1, 4, 2, 2), expected))


def test_at_cfg_1_the_empty_prompt_is_not_computed():
    cond, seen = torch.randn(2, 3, 4), []

    def model(x, t, context):
        seen.append(context)
        return x

    with_cfg(model, cond, torch.zeros(2, 3, 4), 1.0)(torch.zeros(2, 4, 2, 2), torch.zeros(2))
    assert len(seen) == 1
    assert torch.equal(seen[0], cond)


def test_an_impossible_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="0 sampling steps"):
        ddim_timesteps(0)
