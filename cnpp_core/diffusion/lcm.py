"""Latent consistency models (arXiv 2310.04378): from any noise level to x0 in one step or a few."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .ddim import EpsModel
from .schedule import NoiseSchedule

ORIGINAL_STEPS = 50  # of the DDIM solver that the published models are distilled from
SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def lcm_grid(original_steps: int = ORIGINAL_STEPS, train_steps: int = 1000) -> list[int]:
    """The timesteps that a model is distilled on, from clean to noisy: 19, 39, ... 999.

    They lie ``train_steps // original_steps`` apart, the skipping step k of the paper.
    """
    if not 1 <= original_steps <= train_steps:
        raise ValueError(f"A grid of {original_steps} steps; 1 to {train_steps} are possible.")
    skip = train_steps // original_steps
    return [skip * (n + 1) - 1 for n in range(original_steps)]


def lcm_timesteps(
    steps: int, original_steps: int = ORIGINAL_STEPS, train_steps: int = 1000
) -> list[int]:
    """Timesteps from noisy to clean: every so many of the grid, beginning with the noisiest.

    The same as ComfyUI's scheduler `simple` gives for a model with ModelSamplingDiscrete `lcm`; its
    `sgm_uniform` leaves the grid wherever ``steps`` does not divide 49.
    """
    if not 1 <= steps <= original_steps:
        raise ValueError(
            f"{steps} sampling steps were asked for; 1 to {original_steps} are possible with LCM."
        )
    noisy_first = lcm_grid(original_steps, train_steps)[::-1]
    return [noisy_first[i * original_steps // steps] for i in range(steps)]


def boundary_scalings(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out, float32 (...), at timesteps t (...); at 0 they are 1 and 0.

    Those of arXiv 2303.01469, appendix C, with the timestep scaled as the published code does it.
    """
    scaled = TIMESTEP_SCALING * t.float()
    c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    return c_skip, scaled / (scaled**2 + SIGMA_DATA**2).sqrt()


def consistency_function(x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
    """x_t and the x0 that a network estimates of it, (B, C, H, W), mixed at timesteps t (B,).

    c_skip x_t + c_out x0 (arXiv 2310.04378, section 4.1): x_t itself at 0, all but x0 elsewhere.
    """
    c_skip, c_out = (c.to(x0).view(-1, *[1] * (x0.ndim - 1)) for c in boundary_scalings(t))
    return c_skip * x_t + c_out * x0


def sample_lcm(
    model: EpsModel,
    noise: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    on_step: Callable[[int, Tensor], None] | None = None,
    correct: Callable[[int, Tensor], Tensor] | None = None,
    *,
    generator: torch.Generator,
) -> Tensor:
    """x0 (B, C, H, W) from noise of unit variance (arXiv 2310.04378, multistep sampling).

    Each step goes all the way to x0; in between, new noise from ``generator``, a CPU one, takes it
    to the level of the next timestep. ``model`` is one distilled for this, usually without
    guidance: cfg went into its weights. ``correct`` and ``on_step`` as in `sample_ddim`.
    """
    x = x0 = noise
    for i, t in enumerate(timesteps):
        rows = torch.full((len(x),), t, device=x.device)
        x0 = consistency_function(x, rows, schedule.predict_x0(x, rows, model(x, rows)))
        if correct is not None:
            x0 = correct(i, x0)
        if i + 1 < len(timesteps):
            fresh = torch.randn(x.shape, generator=generator).to(x)
            x = schedule.q_sample(x0, torch.full_like(rows, timesteps[i + 1]), fresh)
        if on_step is not None:
            on_step(i, x0)
    return x0
