"""Lines: which pixels of one edge map are in the other, exactly or nearly."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class EdgeScore(NamedTuple):
    """Agreement of two edge maps, each (B,) float32 in 0..1."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


def edge_f1(
    prediction: Tensor, target: Tensor, tolerance: int = 0, mask: Tensor | None = None
) -> EdgeScore:
    """Precision, recall and F1 of edge pixels, per picture.

        P = |prediction near target| / |prediction|    R = |target near prediction| / |target|
        F1 = 2 P R / (P + R)

    Near is at most `tolerance` pixels away in both x and y (a square neighbourhood). Tolerance 0
    compares exact pixels, the protocol of ControlNet++ (arXiv 2404.07987, section 4.1). Two empty
    maps score 1, one empty map 0 in all three.

    prediction: (B, 1, H, W); above 0.5 is an edge. target and mask: the same size, batch B or 1.
    mask: edge pixels of either map where it is not above 0.5 do not exist for the score.

    >>> prediction = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    >>> target = torch.tensor([[[[0.0, 1.0, 1.0, 1.0]]]])
    >>> edge_f1(prediction, target)
    EdgeScore(precision=tensor([0.5000]), recall=tensor([0.3333]), f1=tensor([0.4000]))
    >>> edge_f1(prediction, target, tolerance=1).f1
    tensor([0.8000])
    """
    prediction, target = _same_size(prediction, target, "target")
    predicted, wanted = prediction > 0.5, target > 0.5
    if mask is not None:
        allowed = _same_size(prediction, mask, "mask")[1] > 0.5
        predicted, wanted = predicted & allowed, wanted & allowed
    precision = _matched_share(predicted, near=wanted, tolerance=tolerance)
    recall = _matched_share(wanted, near=predicted, tolerance=tolerance)
    both = precision + recall
    f1 = torch.where(both > 0, 2 * precision * recall / both.clamp(min=1e-12), both)
    return EdgeScore(precision, recall, f1)


def dilate(pixels: Tensor, radius: int) -> Tensor:
    """(B, 1, H, W) bool, grown to the square of side 2 * radius + 1 around every set pixel.

    >>> dilate(torch.tensor([[[[False, False, False, True]]]]), radius=1)
    tensor([[[[False, False,  True,  True]]]])
    """
    if radius < 0 or radius != int(radius):
        raise ValueError(
            f"The tolerance is {radius}; it needs a whole number of pixels, 0 or more."
        )
    # A square grows along x, then along y: cheaper than a window of (2 r + 1)^2.
    grown = F.max_pool2d(pixels.float(), (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return F.max_pool2d(grown, (2 * radius + 1, 1), stride=1, padding=(radius, 0)) > 0


def _matched_share(pixels: Tensor, near: Tensor, tolerance: int) -> Tensor:
    """Share of the set pixels that lie near a set pixel of the other map, (B,)."""
    matched = (pixels & dilate(near, tolerance)).sum((1, 2, 3))
    total, other = pixels.sum((1, 2, 3)), near.sum((1, 2, 3))
    return torch.where(total > 0, matched / total.clamp(min=1), (other == 0).float())


def _same_size(prediction: Tensor, other: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """`other` on the prediction's device, one row per prediction."""
    if prediction.ndim != 4 or prediction.shape[1] != 1 or prediction.numel() == 0:
        raise ValueError(
            f"The prediction has shape {tuple(prediction.shape)}; an edge map is (B, 1, H, W)."
        )
    if other.shape[1:] != prediction.shape[1:] or other.shape[0] not in (1, prediction.shape[0]):
        raise ValueError(
            f"The {name} has shape {tuple(other.shape)}, the prediction "
            f"{tuple(prediction.shape)}; they need one size and a {name} for one or for all."
        )
    return prediction, other.to(prediction.device).expand_as(prediction)
