"""What a network learns from: pictures with their conditions, and noisy latents of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.schedule import NoiseSchedule


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Some pictures of a data set, on the device that trains.

    x0 (B, C, H, W) latents as the model takes them, context (B, L, context_dim), y (B, adm) for
    SDXL, hint (B, hint_channels, 8H, 8W) in 0..1 where a ControlNet takes part. Some losses need
    more: `empty` (1 or B, L, context_dim) and `empty_y` are the prompt of nothing, for cfg;
    `losing_hint`, like hint, is one that the picture follows less; `wanted` is the map that the
    reward compares with (the soft magnitude of canny, classes of pixels, joints), which it
    otherwise reads from the hint.
    """

    x0: Tensor
    context: Tensor
    hint: Tensor | None = None
    y: Tensor | None = None
    empty: Tensor | None = None
    empty_y: Tensor | None = None
    losing_hint: Tensor | None = None
    wanted: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x0)


# A batch of a data set. The same state of the generator, a CPU one, draws the same batch again.
Draw = Callable[[torch.Generator], TrainingBatch]


@dataclass(frozen=True, eq=False)
class State:
    """Noisy latents x_t (B, C, H, W) of a batch at timesteps t (B,).

    eps, like x_t, is the noise in them; None where a sampler made them, which has no x0 to begin
    with.
    """

    batch: TrainingBatch
    x_t: Tensor
    t: Tensor
    eps: Tensor | None = None


States = Callable[[torch.Generator], State]


def noised(draw: Draw, schedule: NoiseSchedule, noise_offset: float = 0.0) -> States:
    """States as diffusion models are trained on them: any timestep, and noise on the true x0.

    ``noise_offset`` adds a constant of that deviation to each channel of the noise. Without it the
    mean colour survives the noise even at the last timestep, so a sampler's first noise decides it
    instead of the prompt (crosslabs.org/blog/diffusion-with-offset-noise).
    """

    def states(generator: torch.Generator) -> State:
        batch = draw(generator)
        x0 = batch.x0
        t = torch.randint(len(schedule), (len(x0),), generator=generator).to(x0.device)
        eps = torch.randn(x0.shape, generator=generator)
        if noise_offset:
            eps += noise_offset * torch.randn(*x0.shape[:2], 1, 1, generator=generator)
        eps = eps.to(x0)
        return State(batch, schedule.q_sample(x0, t, eps), t, eps)

    return states


def drop_text(
    context: Tensor, empty: Tensor, probability: float, generator: torch.Generator
) -> Tensor:
    """context (B, L, C) with some rows replaced by the empty prompt's (1 or B, L, C)."""
    dropped = torch.rand(context.shape[0], generator=generator) < probability
    return torch.where(dropped.to(context.device)[:, None, None], empty, context)
