"""Normals: the angle between two directions, in degrees."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .batch import as_pair, inside, masked_mean

NEAR_ANGLES = (11.25, 22.5, 30.0)
SHORTEST = 1e-6  # vectors below this length have no direction


class NormalScore(NamedTuple):
    """Angles in degrees, and the shares of pixels within 11.25, 22.5 and 30 of them; each (B,)."""

    mean: Tensor
    median: Tensor
    within_11: Tensor
    within_22: Tensor
    within_30: Tensor


def angles(prediction: Tensor, target: Tensor) -> Tensor:
    """Angle between the vectors of two (B, 3, H, W) fields, (B, 1, H, W) in degrees, 0..180.

        angle = atan2(|p x t|, p . t)

    target: batch B or 1. Lengths don't matter. Differentiable in both with finite gradients, at
    equal vectors too, which the usual arc cosine is not.

    >>> right, up = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    >>> angles(right.view(1, 3, 1, 1), up.view(1, 3, 1, 1))
    tensor([[[[90.]]]])
    """
    prediction, target = as_pair(prediction, target, "a field of normals", 3)
    sine = torch.linalg.vector_norm(torch.linalg.cross(prediction, target, dim=1), dim=1)
    cosine = (prediction * target).sum(1)
    # atan2 has no gradient at (0, 0), where one of the vectors is 0.
    cosine = torch.where((sine == 0) & (cosine == 0), 1, cosine)
    return torch.atan2(sine, cosine)[:, None] * (180 / math.pi)


def normal_score(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> NormalScore:
    """Angular errors per picture of (B, 3, H, W) fields; NaN where nothing is to compare.

        mean and median of a = `angles`; within_n = share of the pixels with a < n

    target: batch B or 1; mask: (B or 1, 1, H, W). Pixels whose target or prediction has no
    direction (length 0) are left out, as are those outside the mask. The mean is differentiable.

    >>> prediction = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]).view(1, 3, 1, 2)
    >>> target = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]).view(1, 3, 1, 2)
    >>> normal_score(prediction, target).mean
    tensor([22.5000])
    >>> normal_score(prediction, target).within_30
    tensor([0.5000])
    """
    error = angles(prediction, target)
    prediction, target = as_pair(prediction, target, "a field of normals", 3)
    valid = (prediction.norm(dim=1) > SHORTEST) & (target.norm(dim=1) > SHORTEST)
    weights = valid[:, None]
    allowed = inside(mask, prediction)
    if allowed is not None:
        weights = weights & allowed
    shares = [masked_mean((error < near).to(error.dtype), weights) for near in NEAR_ANGLES]
    median = torch.where(weights, error, torch.nan).detach().flatten(1).nanmedian(1).values
    return NormalScore(masked_mean(error, weights), median, *shares)
