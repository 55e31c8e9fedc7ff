"""DDIM sampling and its inverse (arXiv 2010.02502), and classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .schedule import NoiseSchedule

EpsModel = Callable[[Tensor, Tensor], Tensor]  # (x_t (B, C, H, W), t (B,)) -> eps like x_t


def ddim_timesteps(steps: int, train_steps: int = 1000) -> list[int]:
    """Timesteps from noisy to clean, evenly spaced and counted from 1, as ComfyUI's ddim_uniform.

    Where ``steps`` does not divide ``train_steps`` there may be one more than asked for.
    """
    if not 1 <= steps <= train_steps:
        raise ValueError(f"{steps} sampling steps were asked for; 1 to {train_steps} are possible.")
    stride = max(train_steps // steps, 1)
    return list(range(1, train_steps, stride))[::-1]


def sample_ddim(
    model: EpsModel,
    noise: Tensor,
    schedule: NoiseSchedule,
    timesteps: Sequence[int],
    on_step: Callable[[int, Tensor], None] | None = None,
    correct: Callable[[int, Tensor], Tensor] | None = None,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x0 (B, C, H, W) from noise of unit variance (arXiv 2010.02502, equation 12).

    Starts at the noise level of the first timestep and ends with the last one's estimate of x0.
    ``eta`` 0..1 renews a part of the noise at each step: none of it at 0, as much as DDPM at 1
    (equation 16). The new noise comes from ``generator``, a CPU one, whatever the device of x0.

    ``correct(i, x0)`` may give another estimate to go on with; the noise then follows from it.
    ``on_step(i, x0)`` is called after each step with the estimate so far; it may raise to stop.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; give a number from 0 (no new noise) to 1 (as DDPM).")
    if eta and generator is None:
        raise ValueError(f"With eta {eta} there is new noise at each step: give a generator.")
    x = schedule.q_sample(torch.zeros_like(noise), _row(timesteps[0], noise), noise)
    x0 = x
    for i, t in enumerate(timesteps):
        rows = _row(t, x)
        eps = model(x, rows)
        x0 = schedule.predict_x0(x, rows, eps)
        if correct is not None:
            x0 = correct(i, x0)
            eps = schedule.eps_of(x, rows, x0)
        if i + 1 < len(timesteps):
            if eta:
                share = eta**2 * _new_in_ddpm(schedule, t, timesteps[i + 1])
                fresh = torch.randn(eps.shape, generator=generator).to(eps)
                eps = (1 - share) ** 0.5 * eps + share**0.5 * fresh
            x = schedule.q_sample(x0, _row(timesteps[i + 1], x), eps)
        if on_step is not None:
            on_step(i, x0)
    return x0


def encode(
    model: EpsModel, x0: Tensor, schedule: NoiseSchedule, timesteps: Sequence[int]
) -> Tensor:
    """The noise of unit variance that `sample_ddim` makes x0 of with the same arguments, eta 0.

    x0 (B, C, H, W) -> like it. Each step of the sampler is taken backwards (arXiv 2010.02502,
    section 4.3), with the noise that the model sees in the latents of the step before; so the
    way back is the closer, the more steps there are and the nearer cfg is to 1.
    """
    x, before = x0, None
    for t in reversed(timesteps):
        rows = _row(t, x)
        eps = model(x, rows)
        clean = x if before is None else schedule.predict_x0(x, before, eps)
        x, before = schedule.q_sample(clean, rows, eps), rows
    return schedule.eps_of(x, _row(timesteps[0], x), torch.zeros_like(x))


def with_cfg(model: Callable[..., Tensor], cond: Tensor, uncond: Tensor, cfg: float) -> EpsModel:
    """Classifier-free guidance (arXiv 2207.12598, equation 6): uncond + cfg * (cond - uncond).

    model(x, t, context) -> eps; cond and uncond are contexts (B, L, C). Both halves go through the
    model in one batch, cond first; at cfg 1 nothing is left of uncond, and it is not computed.
    """
    if cfg == 1:
        return lambda x, t: model(x, t, cond)
    context = torch.cat([cond, uncond])

    def eps_model(x: Tensor, t: Tensor) -> Tensor:
        eps_cond, eps_uncond = model(torch.cat([x, x]), torch.cat([t, t]), context).chunk(2)
        return eps_uncond + cfg * (eps_cond - eps_uncond)

    return eps_model


def _row(t: int, like: Tensor) -> Tensor:
    return torch.full((like.shape[0],), t, device=like.device, dtype=torch.long)


def _new_in_ddpm(schedule: NoiseSchedule, t: int, after: int) -> float:
    """The share of the noise, in variance, that DDPM renews on its way from t to ``after``."""
    here, there = schedule.alphas_cumprod[[t, after]].double().tolist()
    return (1 - here / there) / (1 - here)
