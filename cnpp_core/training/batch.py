"""What a network learns from: pictures with their conditions, and noisy latents of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..diffusion.schedule import NoiseSchedule


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Some pictures of a data set, on the device that trains.

    x0 (B, C, H, W) latents as the model takes them, context (B, L, context_dim), y (B, adm) for
    SDXL, hint (B, hint_channels, 8H, 8W) in 0..1 where a ControlNet takes part. Some losses need
    more: `empty` (1 or B, L, context_dim) and `empty_y` are the prompt of nothing, for cfg, and for
    the `dropped` rows, (B,) bool, which are denoised without their prompt (a sampler needs it);
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
    dropped: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x0)

    def without_dropped(self) -> TrainingBatch:
        """The same with the prompt of nothing in the dropped rows; ValueError if it has none."""
        if self.dropped is None:
            return self
        if self.empty is None or (self.y is not None and self.empty_y is None):
            raise ValueError(
                "Prompts are dropped from a batch that has no prompt of nothing; give it `empty` "
                "(and `empty_y` for SDXL)."
            )
        y = self.y
        if y is not None and self.empty_y is not None:
            y = torch.where(self.dropped[:, None], self.empty_y, y)
        context = torch.where(self.dropped[:, None, None], self.empty, self.context)
        return replace(self, context=context, y=y, dropped=None)


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

    Dropped rows lose their prompt here.

    ``noise_offset`` adds a constant of that deviation to each channel of the noise. Without it the
    mean colour survives the noise even at the last timestep, so a sampler's first noise decides it
    instead of the prompt (crosslabs.org/blog/diffusion-with-offset-noise).
    """

    def states(generator: torch.Generator) -> State:
        batch = draw(generator).without_dropped()
        x0 = batch.x0
        t = torch.randint(len(schedule), (len(x0),), generator=generator).to(x0.device)
        eps = torch.randn(x0.shape, generator=generator)
        if noise_offset:
            eps += noise_offset * torch.randn(*x0.shape[:2], 1, 1, generator=generator)
        eps = eps.to(x0)
        return State(batch, schedule.q_sample(x0, t, eps), t, eps)

    return states


def dropped(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Which of so many rows lose their prompt, (count,) bool."""
    return torch.rand(count, generator=generator) < probability
