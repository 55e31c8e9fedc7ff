"""How far a picture's condition is from the wanted one, as a loss whose gradient reaches it.

The reward of ControlNet++ (arXiv 2404.07987, section 3.3), as guidance follows it while a picture
is sampled. `metrics.reward_loss` is what the paper trains with. Where it gives no direction to a
single picture, `guidance_loss` differs, and says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...condition import Condition
from ..agreement.measure import Measure
from ..losses import line_loss, mse, reward_loss
from ..metrics.regions import IGNORE
from ..resize import resize_nearest, same_aspect

# OpenPose learns its heat maps with Gaussians of 7 pixels and looks at pictures 184 pixels high.
JOINT_SIGMA = 7 / 184
STROKE_REACH = 0.015  # of the shorter side: half the width of a stroke of the scribble annotators


@dataclass(frozen=True, eq=False)
class Reward:
    """The wanted map and the annotator that finds it in pictures.

    annotate: pictures (B, 3, H, W) in 0..1 -> soft map (B, C, h, w), differentiable; for seg the
    logits of its classes, for pose a heat map per joint, for lines how surely one is there, 0..1.
    wanted: as `measure` reads it from the condition image. mask (B or 1, 1, H', W'): only where it
    is above 0.5 counts.
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
        """For a condition image (B or 1, 1 or 3, H, W); ValueError if it isn't of that kind.

        Also for a mask that is empty, of another shape, or under which nothing is wanted.
        """
        wanted, _ = measure.read(image)
        if mask is not None:
            _check_mask(mask, image)
        if (empty := _nothing_wanted(condition, wanted, mask)) is not None:
            raise ValueError(
                f"Nothing is left to follow in condition {empty + 1}: it has nothing inside the "
                "mask. Paint a part white where the condition says something, or disconnect the "
                "mask."
            )
        return cls(condition, annotate, measure, wanted, mask)

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
        wanted, mask = self.wanted.to(found.device), self.mask
        if self.condition is Condition.POSE:
            wanted = joint_maps(wanted, height, width)
        elif wanted.shape[-2:] != (height, width):
            wanted = self.measure.resize(wanted, height, width)
        if mask is not None:
            mask = resize_nearest(mask.to(found.device), height, width)
        return guidance_loss(self.condition, found, wanted, mask)


def guidance_loss(
    condition: Condition, found: Tensor, wanted: Tensor, mask: Tensor | None = None
) -> Tensor:
    """What guidance lowers, per picture, (B,).

    found: a soft map (B, C, H, W), see `Reward`; wanted: of the same size, batch B or 1. As
    `reward_loss`, but for

    - canny, mlsd, scribble: `line_loss`. The mean square of a few thin lines on much black calls
      black the best answer, and off its ridges the thinned map of canny has no gradient at all;
    - normal: only where the condition has a normal, on vectors instead of colours;
    - pose: heat maps of the joints; if the annotator has one for all of them, their highest.
    """
    if condition in (Condition.CANNY, Condition.MLSD):
        return line_loss(found, wanted, mask)
    if condition is Condition.SCRIBBLE:  # strokes are thick, and the line in their middle is thin
        reach = max(1, round(STROKE_REACH * min(found.shape[-2:])))
        return line_loss(found, wanted, mask, reach=reach, gap=0)
    if condition is Condition.NORMAL:
        there = (wanted != 0).any(1, keepdim=True).expand(len(found), -1, -1, -1)
        inside = there if mask is None else there & (mask > 0.5)
        return mse(found * 2 - 1, wanted, inside.to(found.dtype))
    if condition is Condition.SEG:
        return reward_loss(condition, found, wanted[:, 0], mask)
    if condition is Condition.POSE and found.shape[1] == 1:
        wanted = wanted.amax(1, keepdim=True)
    return reward_loss(condition, found, wanted.to(found.dtype), mask)


def joint_maps(joints: Tensor, height: int, width: int) -> Tensor:
    """Joints (N, P, J, 3) as `PoseMeasure` reads them -> heat maps (N, J, height, width).

    A Gaussian of height 1 at each joint; of several people the highest counts.
    """
    sigma = JOINT_SIGMA * height
    y = torch.arange(height, device=joints.device) + 0.5
    x = torch.arange(width, device=joints.device) + 0.5
    down = (y - joints[..., 1, None] * height).square()  # (N, P, J, height)
    right = (x - joints[..., 0, None] * width).square()
    maps = torch.exp(-(down[..., None] + right[..., None, :]) / (2 * sigma**2))
    return (maps * (joints[..., 2, None, None] > 0)).amax(1)


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


def _nothing_wanted(condition: Condition, wanted: Tensor, mask: Tensor | None) -> int | None:
    """The first condition of a kind with gaps that says nothing at all under its mask."""
    if condition is Condition.SEG:
        there = wanted != IGNORE
    elif condition is Condition.NORMAL:
        there = (wanted != 0).any(1, keepdim=True)
    else:
        return None
    if mask is not None:
        inside = resize_nearest(mask, *wanted.shape[-2:]) > 0.5
        there = there & inside.to(there.device)
    empty = ~there.flatten(1).any(1)
    return int(empty.int().argmax()) % len(wanted) if empty.any() else None
