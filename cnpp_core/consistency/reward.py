"""How far a picture's condition is from the wanted one, as a loss whose gradient reaches it.

The reward of ControlNet++ (arXiv 2404.07987, section 3.3): what guidance follows while a picture is
sampled, and what a ControlNet is trained with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..condition import Condition
from .measure import Measure
from .metrics.losses import reward_loss
from .resize import resize_nearest


@dataclass(frozen=True, eq=False)
class Reward:
    """The wanted map and the annotator that finds it in pictures.

    annotate: pictures (B, 3, H, W) in 0..1 -> soft map (B, C, h, w), differentiable; for seg the
    logits of its classes. wanted: as `measure` reads it from the condition image. mask
    (B or 1, 1, H', W'): only where it is above 0.5 counts.
    """

    condition: Condition
    annotate: Callable[[Tensor], Tensor]
    measure: Measure
    wanted: Tensor
    mask: Tensor | None = None

    @classmethod
    def of(
        cls,
        condition: Condition,
        annotate: Callable[[Tensor], Tensor],
        measure: Measure,
        image: Tensor,
        mask: Tensor | None = None,
    ) -> Reward:
        """For a condition image (B or 1, 1 or 3, H, W); ValueError if it isn't of that kind."""
        wanted, _ = measure.read(image)
        return cls(condition, annotate, measure, wanted, mask)

    def losses(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B,), lower is better; differentiable in the pictures."""
        found = self.annotate(pictures)
        size = found.shape[-2:]
        wanted, mask = self.wanted.to(found.device), self.mask
        if wanted.shape[-2:] != size:
            wanted = self.measure.resize(wanted, *size)
        if mask is not None:
            mask = resize_nearest(mask.to(found.device), *size)
        if self.condition is Condition.SEG:
            return reward_loss(self.condition, found, wanted[:, 0], mask)
        return reward_loss(self.condition, found, wanted.to(found.dtype), mask)
