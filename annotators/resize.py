"""The one meaning of `resolution`: the length of the picture's short side."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .opencv import load_cv2


def to_short_side(image: Tensor, resolution: int) -> Tensor:
    """The picture with a short side of `resolution` pixels and its own aspect; 0 leaves it alone.

    Smaller by pixel area, larger by Lanczos (8x8), like the reference preprocessors, but without
    their rounding to multiples of 64.

    image: (B, C, H, W) float in 0..1. Returns (B, C, H', W') in 0..1, same dtype and device.
    """
    if resolution < 0:
        raise ValueError(f"resolution is {resolution}; it needs a number of pixels, or 0 to keep.")
    if image.ndim != 4 or 0 in image.shape:
        raise ValueError(
            f"A tensor of shape {tuple(image.shape)} can't be resized; pictures are (B, C, H, W) "
            "with no empty side. Check the node that feeds the image input."
        )
    height, width = image.shape[-2:]
    if resolution in (0, min(height, width)):
        return image
    cv2 = load_cv2()
    new_height, new_width = short_side_size(height, width, resolution)
    method = cv2.INTER_AREA if resolution < min(height, width) else cv2.INTER_LANCZOS4
    # Plane by plane: OpenCV drops a channel axis of 1 and limits how many channels it takes.
    planes = image.detach().float().flatten(0, 1).cpu().numpy()
    resized = np.stack(
        [cv2.resize(p, (new_width, new_height), interpolation=method) for p in planes]
    )
    # Lanczos overshoots at edges.
    result = torch.from_numpy(resized).clamp(0, 1).unflatten(0, image.shape[:2])
    return result.to(device=image.device, dtype=image.dtype)


def short_side_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """(height, width) of that picture at that short side, the long side rounded."""
    if height <= width:
        return resolution, max(1, round(width * resolution / height))
    return max(1, round(height * resolution / width)), resolution


def pixel_perfect(height: int, width: int, target_height: int, target_width: int) -> int:
    """The resolution at which the picture just covers the target: one map pixel for each of its.

    This is `pixel perfect` of the webui's ControlNet with its default resize mode, where the
    picture fills the target and the rest is cropped.
    """
    if min(height, width, target_height, target_width) < 1:
        raise ValueError(
            f"Pixel perfect got a picture of {width}x{height} and a target of {target_width}x"
            f"{target_height} pixels (width x height); every side must be at least 1."
        )
    return round(max(target_height / height, target_width / width) * min(height, width))
