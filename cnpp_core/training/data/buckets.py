"""Sizes that pictures of different aspects are trained at, all of about one area."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ...control.hints import CROP, SMOOTH, HintFit

STEP = 64  # of SDXL the deepest features are a 32nd of the picture, of SD1.5 a 64th
MOST_ASPECT = 2.0

Size = tuple[int, int]  # (width, height) in pixels


def bucket_sizes(resolution: int) -> list[Size]:
    """Sizes with sides of multiples of 64, an area of about resolution^2, and at most 2 : 1.

    Upright ones first; each lies also across. Raises ValueError for a resolution that is itself no
    multiple.
    """
    if resolution < STEP or resolution % STEP:
        raise ValueError(
            f"The resolution is {resolution}, expected a multiple of {STEP} pixels, e.g. 512."
        )
    sizes = set()
    for width in range(STEP, resolution + STEP, STEP):
        height = STEP * round(resolution**2 / width / STEP)
        if max(width, height) <= MOST_ASPECT * min(width, height):
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def bucket_of(size: Size, buckets: Sequence[Size]) -> Size:
    """The bucket whose aspect is nearest, by ratio; of equal ones the one with the larger area."""

    def miss(bucket: Size) -> tuple[float, int]:
        ratio = (size[0] * bucket[1]) / (size[1] * bucket[0])
        return abs(math.log(ratio)), -bucket[0] * bucket[1]

    return min(buckets, key=miss)


def placed(pixels: Tensor, bucket: Size, resampling: str = SMOOTH) -> Tensor:
    """(B, C, H, W) resized to cover the bucket, and what overlaps cut off evenly on both sides.

    A picture and its condition, which are of one size, stay in register. resampling: one of
    `control.hints.RESAMPLINGS`.
    """
    return HintFit(CROP, resampling).place(pixels, (bucket[1], bucket[0]))


def cut_off(size: Size, bucket: Size) -> tuple[int, int]:
    """(top, left) in pixels of the resized picture that `placed` cuts off."""
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    return (
        round((size[1] * scale - bucket[1]) / 2),
        round((size[0] * scale - bucket[0]) / 2),
    )
