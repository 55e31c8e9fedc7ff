"""What a diffusion model or its ControlNet is trained to make small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.schedule import NoiseSchedule
from ..network.controlnet import ControlNet
from ..network.unet import UNet


def diffusion_loss(
    unet: UNet,
    schedule: NoiseSchedule,
    x0: Tensor,
    context: Tensor,
    generator: torch.Generator,
    *,
    y: Tensor | None = None,
    controlnet: ControlNet | None = None,
    hint: Tensor | None = None,
    noise_offset: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the predicted noise (arXiv 2006.11239, equation 14); a scalar.

    x0 (B, 4, H, W) latents as the model takes them, context (B, L, context_dim), hint
    (B, hint_channels, 8H, 8W) in 0..1 if a ControlNet takes part (arXiv 2302.05543, equation 5).
    Timesteps and noise come from ``generator``, a CPU one, whatever the device of x0.

    ``noise_offset`` adds a constant of that deviation to each channel of the noise. Without it the
    mean colour survives the noise even at the last timestep, so a sampler's first noise decides it
    instead of the prompt (crosslabs.org/blog/diffusion-with-offset-noise).

    ``weights`` (T,): how much the error counts at each timestep; without them 1, as published.
    """
    t = torch.randint(len(schedule), (x0.shape[0],), generator=generator).to(x0.device)
    eps = torch.randn(x0.shape, generator=generator)
    if noise_offset:
        eps += noise_offset * torch.randn(*x0.shape[:2], 1, 1, generator=generator)
    eps = eps.to(x0)
    x_t = schedule.q_sample(x0, t, eps)
    residuals = None
    if controlnet is not None:
        if hint is None:
            raise ValueError("A ControlNet is trained with a hint for every picture, found none.")
        residuals = controlnet(x_t, hint, t, context, y)
    predicted = unet(x_t, t, context, y, residuals=residuals)
    losses = F.mse_loss(predicted.float(), eps.float(), reduction="none").flatten(1).mean(1)
    return (losses if weights is None else losses * weights.to(losses)[t]).mean()


def layout_weights(schedule: NoiseSchedule, most: float = 25.0) -> Tensor:
    """Weights (T,) of mean 1 that count the error in x0 where noise prevails, up to ``most``.

    The error in x0 is that in the noise divided by the signal-to-noise ratio; the weights are
    clamp(1 / SNR, 1, most), scaled. An unweighted loss hardly notices the noisiest steps, where
    place and colour of things are decided: a network trained by it learns them last.
    """
    weights = schedule.sigmas.square().clamp(1.0, most)
    return weights / weights.mean()


def drop_text(
    context: Tensor, empty: Tensor, probability: float, generator: torch.Generator
) -> Tensor:
    """context (B, L, C) with some rows replaced by the empty prompt's (1 or B, L, C)."""
    dropped = torch.rand(context.shape[0], generator=generator) < probability
    return torch.where(dropped.to(context.device)[:, None, None], empty, context)
