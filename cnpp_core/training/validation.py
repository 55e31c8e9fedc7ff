"""How well a network in training is followed: held-out conditions drawn, and found again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..consistency.agreement.measure import Measure
from ..consistency.check import check_consistency
from ..diffusion.ddim import ddim_timesteps, sample_ddim
from ..diffusion.schedule import LATENT_SCALE
from .batch import State, TrainingBatch
from .denoiser import Denoiser
from .modes import with_parts

SCORE = "score"

# Pictures (B, 3, H, W) in 0..1 and the hints that they were drawn from: a score for each.
Check = Callable[[Tensor, Tensor], Sequence[float]]
# Called with the step, pictures (B, 3, H, W) in 0..1 of every batch, and the mean score, if any.
OnPictures = Callable[[int, list[Tensor], float | None], None]


@dataclass(frozen=True, eq=False)
class Validation:
    """A `Validate` of the trainer: draws held-out batches by the averaged weights and scores them.

    denoiser: the one in training. batches: of other pictures than it learns from; with `empty`,
    unless cfg is 1; of x0 only the size is looked at. decode: as `RewardModel`'s. check: None for
    conditions that nobody can judge. The noise is the same each time, so that pictures of two steps
    differ by what was learnt.
    """

    denoiser: Denoiser
    batches: Sequence[TrainingBatch]
    decode: Callable[[Tensor], Tensor]
    check: Check | None
    steps: int = 20
    cfg: float = 3.0
    seed: int = 0
    latent_scale: float = LATENT_SCALE
    on_pictures: OnPictures | None = None

    def __post_init__(self) -> None:
        if not self.batches:
            raise ValueError("A validation needs at least one batch of held-out pictures.")

    @torch.no_grad()
    def __call__(self, step: int, parts: nn.Module) -> dict[str, float]:
        """The mean score of all pictures, under the name "score"; nothing without a check."""
        denoiser = with_parts(self.denoiser, cast(nn.ModuleDict, parts))
        generator = torch.Generator().manual_seed(self.seed)
        pictures: list[Tensor] = []
        scores: list[float] = []
        for batch in self.batches:
            noise = torch.randn(batch.x0.shape, generator=generator).to(batch.x0)
            latents = sample(denoiser, batch, noise, self.steps, self.cfg) / self.latent_scale
            decoded = [self.decode(one) for one in latents.split(1)]  # in little memory
            pictures.append((torch.cat(decoded) / 2 + 0.5).clamp(0, 1))
            if self.check is not None:
                scores += self.check(pictures[-1], cast(Tensor, batch.hint))
        mean = sum(scores) / len(scores) if scores else None
        if self.on_pictures is not None:
            self.on_pictures(step, pictures, mean)
        return {} if mean is None else {SCORE: mean}


def sample(
    denoiser: Denoiser, batch: TrainingBatch, noise: Tensor, steps: int, cfg: float
) -> Tensor:
    """x0 (B, C, H, W) of noise like it, by DDIM with the prompts and hints of a batch."""

    def noise_of(x_t: Tensor, t: Tensor) -> Tensor:
        return denoiser.predict(State(batch, x_t, t), cfg).noise

    return sample_ddim(noise_of, noise, denoiser.schedule, ddim_timesteps(steps))


def check_by(find: Callable[[Tensor], Tensor], measure: Measure) -> Check:
    """What the consistency check says, with an annotator of the kind and what agreement means."""
    return lambda pictures, hints: check_consistency(pictures, hints, find, measure).per_image
