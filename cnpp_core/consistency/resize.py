"""Maps whose values must not be mixed, at another size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def resize_nearest(pixels: Tensor, height: int, width: int) -> Tensor:
    """(N, C, h, w) -> (N, C, height, width): each new pixel takes the one under its centre."""
    rows = _cells(height, pixels.shape[-2], pixels.device)
    columns = _cells(width, pixels.shape[-1], pixels.device)
    return pixels.index_select(-2, rows).index_select(-1, columns)


def resize_lines(pixels: Tensor, height: int, width: int) -> Tensor:
    """(N, 1, h, w) bool at another size, no line lost.

    Smaller: every set pixel marks the one pixel that its centre falls into. A connected line stays
    connected; one pixel wide, it stays so along the axes and becomes stairs elsewhere, with less
    than twice the pixels (max pooling gives up to three times). Larger: as `resize_nearest`.
    """
    return _resize_axis(_resize_axis(pixels, height, -2), width, -1)


def same_aspect(a: Sequence[int], b: Sequence[int]) -> bool:
    """True if (height, width) a, scaled to one side of b, misses the other by at most a pixel."""
    return abs(a[1] * b[0] / a[0] - b[1]) <= 1 or abs(a[0] * b[1] / a[1] - b[0]) <= 1


def _resize_axis(pixels: Tensor, length: int, axis: int) -> Tensor:
    old = pixels.shape[axis]
    if length >= old:
        return pixels.index_select(axis, _cells(length, old, pixels.device))
    shape = list(pixels.shape)
    shape[axis] = length
    hits = torch.zeros(shape, device=pixels.device)
    return hits.index_add_(axis, _cells(old, length, pixels.device), pixels.float()) > 0


def _cells(count: int, into: int, device: torch.device) -> Tensor:
    """For each of `count` equal cells, the one of `into` equal cells that holds its centre."""
    # In whole numbers: floor((i + 1/2) * into / count).
    return (2 * torch.arange(count, device=device) + 1) * into // (2 * count)
