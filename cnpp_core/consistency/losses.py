"""How far what an annotator finds is from what was wanted: losses, whoever makes them small.

All have one signature, `Loss`, whether a network is trained by them or one picture is steered.
`mse`, `relative_mse` and `cross_entropy` are the rewards of ControlNet++ as published (arXiv
2404.07987, section 3.3 and table 6). Where these give no direction to a single picture there is
another, which says why.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .metrics.batch import as_pair, at_least_float32, inside, masked_mean
from .metrics.depth import stretched
from .metrics.edges import dilate
from .metrics.regions import IGNORE

STROKE_REACH = 0.015  # of the shorter side: half the width of a stroke of the scribble annotators


class Loss(Protocol):
    """A loss per picture, (B,); lower is better. Differentiable in `found`."""

    def __call__(self, found: Tensor, wanted: Tensor, mask: Tensor | None = None, /) -> Tensor:
        """found (B, C, H, W), wanted of the same size, batch B or 1.

        mask (B or 1, 1, H, W): only where it is above 0.5 counts.
        """
        ...


def mse(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of (B, C, H, W) per picture, (B,); NaN where the mask is empty.

        mean((found - wanted)^2)

    wanted: batch B or 1; mask: (B or 1, 1, H, W).
    """
    found, wanted = as_pair(found, wanted, "a map")
    return masked_mean((found - wanted) ** 2, inside(mask, found))


def relative_mse(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """`mse` of depth maps (B, 1, H, W), each divided by its own maximum, per picture, (B,).

        mean((found / max(found) - wanted / max(wanted))^2)

    wanted: batch B or 1; mask: (B or 1, 1, H, W). Units don't matter, offsets do.
    """
    found, wanted = (x / x.amax((1, 2, 3), keepdim=True).clamp(min=1e-8) for x in (found, wanted))
    return mse(found, wanted, mask)


def stretched_mse(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """`mse` of depth maps (B, 1, H, W), each stretched to 0..1, per picture, (B,).

    As the check compares them, whatever their ranges.
    """
    return mse(stretched(found), stretched(wanted), mask)


def cross_entropy(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross entropy of logits (B, K, H, W) with classes (B or 1, 1, H, W), per picture, (B,).

    The mean is over pixels that are neither IGNORE nor masked; NaN where there are none.
    """
    found = at_least_float32(found)
    classes = wanted.to(found.device).expand(len(found), -1, -1, -1).long()
    loss = F.cross_entropy(found, classes[:, 0], ignore_index=IGNORE, reduction="none")
    counted = classes != IGNORE
    if mask is not None:
        counted = counted & (mask.to(found.device) > 0.5)
    return masked_mean(loss[:, None], counted)


def line_loss(
    found: Tensor, wanted: Tensor, mask: Tensor | None = None, *, reach: int = 0, gap: int = 2
) -> Tensor:
    """How much of the wanted lines is lost and how much was invented, per picture, (B,) in 0..2.

        mean over the wanted pixels of (1 - found)^2 + mean away from them of found^2

    so that a few pixels of line weigh as much as all the rest: the mean square over all pixels
    calls black the best answer, and off its ridges the thinned map of canny has no gradient at all.

    found: (B, 1, H, W), how surely a line is there, 0..1; it may be some pixels wide. wanted: the
    lines (B or 1, 1, H, W) bool. reach: a wanted pixel is kept by the surest pixel so near to it.
    gap: nothing so near to a wanted pixel is invented.
    """
    found, wanted = as_pair(found, wanted, "a map of lines", channels=1)
    counted = inside(mask, found)
    lines = wanted > 0.5
    kept = F.max_pool2d(found, 2 * reach + 1, stride=1, padding=reach) if reach else found
    lost = _mean_or_zero((1 - kept) ** 2, lines, counted)
    return lost + _mean_or_zero(found**2, ~dilate(lines, gap), counted)


def stroke_loss(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """`line_loss` (B,) where the wanted lines (B or 1, 1, H, W) are thick strokes.

    found: (B, 1, H, W), the middles of strokes as soft edges, 0..1.
    """
    reach = max(1, round(STROKE_REACH * min(found.shape[-2:])))
    return line_loss(found, wanted, mask, reach=reach, gap=0)


def normal_loss(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of vectors, only where one is wanted, per picture, (B,).

    found: normals as colours (B, 3, H, W) in 0..1; wanted: unit vectors, 0 where there is none.
    """
    there = (wanted != 0).any(1, keepdim=True).expand(len(found), -1, -1, -1)
    counted = there if mask is None else there & (mask > 0.5)
    return mse(found * 2 - 1, wanted, counted.to(found.dtype))


def joint_loss(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """`mse` of heat maps (B, J, H, W) in 0..1, per picture, (B,).

    If one map was found for all joints, it is compared with the highest of the wanted ones.
    """
    return mse(found, wanted.amax(1, keepdim=True) if found.shape[1] == 1 else wanted, mask)


def _mean_or_zero(values: Tensor, where: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of (B, 1, H, W) there, per picture; 0 where there is nothing."""
    there = where if counted is None else where & counted
    # Not by masked_mean: its NaN for an empty picture would reach the other term.
    total = there.flatten(1).sum(1).clamp(min=1)
    return torch.where(there, values, 0).flatten(1).sum(1) / total
