"""Depth: how far off, in the unit of the maps and relative to the distance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .batch import as_pair, inside, masked_mean

DELTA = 1.25


class DepthScore(NamedTuple):
    """The usual errors of monocular depth (Eigen 2014), each (B,).

    Lower is better, but for delta1, delta2 and delta3: the shares of pixels whose ratio to the
    target is below 1.25, 1.25^2 and 1.25^3.
    """

    rmse: Tensor
    mae: Tensor
    abs_rel: Tensor
    sq_rel: Tensor
    rmse_log: Tensor
    log10: Tensor
    silog: Tensor  # scale-invariant: the deviation of log(prediction / target), times 100
    delta1: Tensor
    delta2: Tensor
    delta3: Tensor


def rmse(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Root of the mean squared difference per picture, (B,); NaN where the mask is empty.

        RMSE = sqrt(mean((prediction - target)^2))

    prediction: (B, C, H, W) of any unit; target: batch B or 1; mask: (B or 1, 1, H, W).
    Differentiable in both; where they are equal, the gradient is 0.

    >>> rmse(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[4.0, 6.0]]]]))
    tensor([3.5355])
    """
    prediction, target = as_pair(prediction, target, "a map")
    return _root(masked_mean((prediction - target) ** 2, inside(mask, prediction)))


def depth_score(
    prediction: Tensor, target: Tensor, mask: Tensor | None = None, smallest: float = 1e-3
) -> DepthScore:
    """All errors of (B, 1, H, W) depth maps at once, with p predicted and t the target:

        rmse = sqrt(mean((p - t)^2))        mae = mean(|p - t|)
        abs_rel = mean(|p - t| / t)         sq_rel = mean((p - t)^2 / t)
        rmse_log = sqrt(mean(d^2))          log10 = mean(|log10 p - log10 t|)
        silog = 100 sqrt(mean(d^2) - mean(d)^2), where d = ln p - ln t
        delta_n = share of the pixels with max(p / t, t / p) < 1.25^n

    target: batch B or 1; mask: (B or 1, 1, H, W). Pixels with a target of at most `smallest` count
    as not measured, as do those outside the mask; predictions are raised to `smallest`, so that
    ratios and logarithms exist. Differentiable, but for the deltas.

    >>> score = depth_score(torch.tensor([[[[2.0, 6.0]]]]), torch.tensor([[[[2.0, 4.0]]]]))
    >>> score.abs_rel, score.delta1
    (tensor([0.2500]), tensor([0.5000]))
    """
    prediction, target = as_pair(prediction, target, "a depth map", 1)
    measured = target > smallest
    allowed = inside(mask, prediction)
    weights = measured if allowed is None else measured & allowed
    raised, safe = prediction.clamp(min=smallest), target.clamp(min=smallest)

    def mean(values: Tensor) -> Tensor:
        return masked_mean(values, weights)

    difference = raised - safe
    log_ratio = raised.log() - safe.log()
    ratio = torch.maximum(raised / safe, safe / raised)
    squared_log = mean(log_ratio**2)
    return DepthScore(
        rmse=_root(mean(difference**2)),
        mae=mean(difference.abs()),
        abs_rel=mean(difference.abs() / safe),
        sq_rel=mean(difference**2 / safe),
        rmse_log=_root(squared_log),
        log10=mean(log_ratio.abs()) / 2.302585092994046,
        silog=100 * _root((squared_log - mean(log_ratio) ** 2).clamp(min=0)),
        delta1=mean((ratio < DELTA).to(ratio.dtype)),
        delta2=mean((ratio < DELTA**2).to(ratio.dtype)),
        delta3=mean((ratio < DELTA**3).to(ratio.dtype)),
    )


def stretched(maps: Tensor, flat: float = 0.5 / 255) -> Tensor:
    """Each map of (B, C, H, W) from its own range to 0..1.

        (x - min) / max(max - min, flat)

    flat: a range below it, in the unit of the maps, shows rounding only. Differentiable.

    >>> stretched(torch.tensor([[[[2.0, 3.0, 6.0]]]]))
    tensor([[[[0.0000, 0.2500, 1.0000]]]])
    """
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp(min=flat)


def align(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """The prediction times the scale plus the offset that bring it nearest to the target.

        s, o = argmin sum((s * prediction + o - target)^2)

    Least squares per picture (MiDaS, arXiv 1907.01341, eq. 4), because depth from one picture has
    no unit. (B, 1, H, W), target and mask with batch B or 1; float64 inside. A flat prediction
    becomes the target's mean.

    >>> align(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[3.0, 5.0]]]]))
    tensor([[[[3., 5.]]]])
    """
    prediction, target = as_pair(prediction, target, "a depth map", 1)
    allowed = inside(mask, prediction)
    # Apple's GPUs have no float64.
    x, y = prediction.cpu().double(), target.cpu().double()
    allowed = None if allowed is None else allowed.cpu()
    mean_x, mean_y = (masked_mean(v, allowed).view(-1, 1, 1, 1) for v in (x, y))
    covariance = masked_mean((x - mean_x) * (y - mean_y), allowed).view(-1, 1, 1, 1)
    variance = masked_mean((x - mean_x) ** 2, allowed).view(-1, 1, 1, 1)
    scale = torch.where(variance > 1e-12, covariance / variance.clamp(min=1e-12), 0)
    return ((x - mean_x) * scale + mean_y).to(prediction)


def _root(values: Tensor) -> Tensor:
    """Square root with gradient 0, not infinity, at 0."""
    positive = values > 0
    root = torch.where(positive, values, 1).sqrt()
    return torch.where(values.isnan(), values, torch.where(positive, root, 0))
