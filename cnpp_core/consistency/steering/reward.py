"""How far a picture's condition is from the wanted one, as a loss whose gradient reaches it.

The reward of ControlNet++ (arXiv 2404.07987, section 3.3), as guidance follows it while a picture
is sampled: which loss and which measure a kind of condition has, its row in `condition` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from ..agreement.measure import Measure
from ..losses import Loss
from ..resize import resize_nearest, same_aspect


@dataclass(frozen=True, eq=False)
class Reward:
    """The wanted map and the annotator that finds it in pictures.

    annotate: pictures (B, 3, H, W) in 0..1 -> soft map (B, C, h, w), differentiable; for seg the
    logits of its classes, for pose a heat map per joint, for lines how surely one is there, 0..1.
    loss: compares it with what `measure` makes of `wanted`, which it has read from the condition
    image. mask (B or 1, 1, H', W'): only where it is above 0.5 counts.
    """

    annotate: Callable[[Tensor], Tensor]
    loss: Loss
    measure: Measure
    wanted: Tensor
    mask: Tensor | None = None

    @classmethod
    def of(
        cls,
        annotate: Callable[[Tensor], Tensor],
        loss: Loss,
        measure: Measure,
        image: Tensor,
        mask: Tensor | None = None,
    ) -> Reward:
        """For a condition image (B or 1, 1 or 3, H, W); ValueError if it isn't of that kind.

        Also for a mask that is empty, of another shape, or under which nothing is wanted.
        """
        wanted, _ = measure.read(image)
        if mask is not None:
            _check_mask(mask, image)
        if (empty := _nothing_stated(measure, wanted, mask)) is not None:
            raise ValueError(
                f"Nothing is left to follow in condition {empty + 1}: it has nothing inside the "
                "mask. Paint a part white where the condition says something, or disconnect the "
                "mask."
            )
        return cls(annotate, loss, measure, wanted, mask)

    def rows(self, start: int, stop: int) -> Reward:
        """For some pictures of the batch only."""
        wanted = self.wanted if len(self.wanted) == 1 else self.wanted[start:stop]
        mask = self.mask
        if mask is not None and len(mask) > 1:
            mask = mask[start:stop]
        return replace(self, wanted=wanted, mask=mask)

    def losses(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B,), lower is better; differentiable in the pictures."""
        found = self.annotate(pictures)
        height, width = found.shape[-2:]
        wanted = self.measure.target(self.wanted.to(found.device), height, width)
        mask = self.mask
        if mask is not None:
            mask = resize_nearest(mask.to(found.device), height, width)
        return self.loss(found, wanted, mask)


def _check_mask(mask: Tensor, image: Tensor) -> None:
    empty = ~(mask > 0.5).flatten(1).any(1)
    if empty.any():
        raise ValueError(
            f"The mask is empty (nothing above 0.5) in number {int(empty.int().argmax()) + 1}. "
            "Paint the part to be followed white, or disconnect the mask."
        )
    if not same_aspect(mask.shape[-2:], image.shape[-2:]):
        sizes = [f"{t.shape[-1]}x{t.shape[-2]}" for t in (mask, image)]
        raise ValueError(
            f"The mask is {sizes[0]} pixels and the condition {sizes[1]} (width x height): not the "
            "same shape, so they can't be laid over each other. Crop or pad the mask to the "
            "condition's shape."
        )
    if len(mask) > 1 and len(image) > 1 and len(mask) != len(image):
        raise ValueError(
            f"There are {len(mask)} masks and {len(image)} conditions; connect one for all "
            "pictures, or one for each."
        )


def _nothing_stated(measure: Measure, wanted: Tensor, mask: Tensor | None) -> int | None:
    """The first condition that says nothing at all, or nothing under its mask."""
    there = measure.stated(wanted)
    if there is None:
        return None
    if mask is not None:
        inside = resize_nearest(mask, *wanted.shape[-2:]) > 0.5
        there = there & inside.to(there.device)
    empty = ~there.flatten(1).any(1)
    return int(empty.int().argmax()) % len(wanted) if empty.any() else None
