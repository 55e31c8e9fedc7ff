"""Tiles: a picture without its detail, for the ControlNets that draw detail anew.

Two ways to lose it: averaged over cells and enlarged again (the web UI's tile_resample), or blurred
(blur_gaussian). The result has the picture's size.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .annotator import check_image, check_values, from_8_bit, to_8_bit

TITLE = "Tile"
RATE = 8  # a latent covers so many pixels: what is finer is left to the model
SIGMA = 9.0


def tile_resample(image: Tensor, rate: float = RATE) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 -> the same at 1 / rate of their size, enlarged; 8-bit values.

    rate: 1 to 64; 1 leaves all detail.
    """
    return _annotated(soft_tile, image, rate)


def tile_blur(image: Tensor, sigma: float = SIGMA) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 -> blurred by a Gaussian of so many pixels; 8-bit values."""
    return _annotated(soft_blur, image, sigma)


def soft_tile(image: Tensor, rate: float = RATE) -> Tensor:
    """`tile_resample` before its rounding, (B, 3, H, W), differentiable."""
    check_image(image, TITLE)
    if not 1 <= rate <= 64:
        raise ValueError(f"{TITLE} got rate {rate:g}; it needs 1 to 64, usually {RATE}.")
    size = image.shape[-2:]
    small = [max(1, round(side / rate)) for side in size]
    coarse = F.interpolate(image, small, mode="area")
    return F.interpolate(coarse, size, mode="bilinear", align_corners=False)


def soft_blur(image: Tensor, sigma: float = SIGMA) -> Tensor:
    """`tile_blur` before its rounding, (B, 3, H, W), differentiable; the border is repeated."""
    check_image(image, TITLE)
    if not 0 < sigma <= 256:
        raise ValueError(f"{TITLE} got sigma {sigma:g}; it needs 0 to 256, usually {SIGMA:g}.")
    radius = math.ceil(4 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=torch.float32)
    taps = torch.exp(-((offsets / sigma) ** 2) / 2)
    taps = (taps / taps.sum()).to(image.dtype)
    planes = F.pad(image, (radius,) * 4, "replicate").flatten(0, 1)[:, None]
    rows = F.conv2d(planes, taps.view(1, 1, 1, -1))
    return F.conv2d(rows, taps.view(1, 1, -1, 1)).view(image.shape)


def _annotated(soft, image: Tensor, amount: float) -> Tensor:
    check_image(image, TITLE)
    check_values(image, TITLE)
    with torch.no_grad():
        return from_8_bit(to_8_bit(soft(image.float(), amount)), like=image)
