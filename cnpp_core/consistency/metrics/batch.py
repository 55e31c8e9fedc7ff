"""What the metrics share: two maps of one size, and means inside a mask."""

from __future__ import annotations

import torch
from torch import Tensor


def as_pair(
    prediction: Tensor, target: Tensor, what: str, channels: int | None = None
) -> tuple[Tensor, Tensor]:
    """Both as floats of at least 32 bits on the prediction's device, one target row for each.

    prediction: (B, C, H, W); target: the same size, batch B or 1. Raises ValueError naming `what`.
    """
    fits = prediction.ndim == 4 and prediction.shape[1] == (channels or prediction.shape[1])
    if not fits or prediction.numel() == 0:
        wanted = f"(B, {channels or 'C'}, H, W)"
        raise ValueError(
            f"The prediction has shape {tuple(prediction.shape)}; {what} is {wanted}, none of them "
            "0."
        )
    return at_least_float32(prediction), expanded_to(prediction, at_least_float32(target), "target")


def expanded_to(prediction: Tensor, other: Tensor, name: str) -> Tensor:
    """`other`, batch B or 1, as the prediction's (B, C, H, W) on its device.

    Raises ValueError naming `name` where the sizes differ.
    """
    if other.shape[1:] != prediction.shape[1:] or other.shape[0] not in (1, prediction.shape[0]):
        raise ValueError(
            f"The {name} has shape {tuple(other.shape)}, the prediction "
            f"{tuple(prediction.shape)}; they need one size and a {name} for one or for all."
        )
    return other.to(prediction.device).expand_as(prediction)


def inside(mask: Tensor | None, prediction: Tensor) -> Tensor | None:
    """The mask (B or 1, 1, H, W) as (B, 1, H, W) bool, true above 0.5; None if there is none."""
    return None if mask is None else expanded_to(prediction[:, :1], mask, "mask") > 0.5


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (B, C, H, W) per picture, (B,), where the weights (B, 1, H, W) are not 0.

    NaN for a picture without any; the gradient of that is 0.
    """
    if mask is None:
        return values.flatten(1).mean(1)
    weights = mask.to(values.dtype)
    total = weights.flatten(1).sum(1)
    # Values outside may be NaN, and NaN times 0 is NaN.
    kept = torch.where(mask > 0, values, 0).mul(weights).mean(1).flatten(1).sum(1)
    return torch.where(total > 0, kept / total.clamp(min=torch.finfo(total.dtype).tiny), torch.nan)


def at_least_float32(values: Tensor) -> Tensor:
    """A tensor of any shape (...): half precision and whole numbers as float32; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()
