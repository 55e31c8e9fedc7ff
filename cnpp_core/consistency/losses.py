"""The rewards of ControlNet++ as losses per picture (arXiv 2404.07987, section 3.3 and table 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..condition import Condition
from .metrics.batch import as_pair, at_least_float32, inside, masked_mean
from .metrics.edges import dilate
from .metrics.regions import IGNORE


def reward_loss(
    condition: Condition, prediction: Tensor, target: Tensor, mask: Tensor | None = None
) -> Tensor:
    """The published loss for a kind of condition, per picture, (B,); lower is better.

    prediction: the soft map (B, C, H, W) of a differentiable annotator; for seg its logits. target:
    the map that the condition holds, batch B or 1; for seg the classes (B or 1, H, W) with IGNORE.
    Depth is compared after both are divided by their own maximum, as published.
    """
    if condition is Condition.SEG:
        return cross_entropy(prediction, target, mask=mask)
    if condition is Condition.DEPTH:
        prediction, target = (
            x / x.amax((1, 2, 3), keepdim=True).clamp(min=1e-8) for x in (prediction, target)
        )
    return mse(prediction, target, mask)


def mse(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference of (B, C, H, W) per picture, (B,); NaN where the mask is empty."""
    prediction, target = as_pair(prediction, target, "a map")
    return masked_mean((prediction - target) ** 2, inside(mask, prediction))


def line_loss(
    found: Tensor, wanted: Tensor, mask: Tensor | None = None, *, reach: int = 0, gap: int = 2
) -> Tensor:
    """How much of the wanted lines is lost and how much was invented, per picture, (B,) in 0..2.

    The mean of (1 - found)^2 on the wanted pixels plus that of found^2 away from them, so that a
    few pixels of line weigh as much as all the rest. Differentiable in `found`.

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


def _mean_or_zero(values: Tensor, where: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of (B, 1, H, W) there, per picture; 0 where there is nothing."""
    there = where if counted is None else where & counted
    # Not by masked_mean: its NaN for an empty picture would reach the other term.
    total = there.flatten(1).sum(1).clamp(min=1)
    return torch.where(there, values, 0).flatten(1).sum(1) / total


def cross_entropy(
    logits: Tensor, target: Tensor, ignore_index: int = IGNORE, mask: Tensor | None = None
) -> Tensor:
    """Cross entropy of (B, K, H, W) logits with classes (B or 1, H, W), per picture, (B,).

    The mean is over the pixels that are neither ignored nor masked; NaN where there are none.
    """
    logits = at_least_float32(logits)
    target = target.to(logits.device).expand(len(logits), -1, -1).long()
    loss = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="none")
    counted = (target != ignore_index)[:, None]
    if mask is not None:
        counted = counted & (mask.to(logits.device) > 0.5)
    return masked_mean(loss[:, None], counted)
