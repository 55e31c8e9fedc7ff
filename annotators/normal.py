"""Normals from depth: blue faces the camera, red faces left, green faces up.

The "normal map from MiDaS" of ControlNet 1.0: the slope of inverse depth against a constant third
axis. Colours are in the order of ControlNet 1.1's normal model, x, y, z as R, G, B; the package
controlnet_aux gives the reverse.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .annotator import check_image, check_values, from_8_bit, to_bytes
from .depth import DPTHybrid, stretch

Z = 2 * math.pi
BACKGROUND = 0.4


def annotate_normal(network: DPTHybrid, image: Tensor, background: float = BACKGROUND) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 -> the condition image (B, 3, H, W), 8-bit truncated."""
    check_image(image, "Normal")
    check_values(image, "Normal")
    with torch.no_grad():
        return normal_image(network.depth_of_8_bit(image), background).to(image.dtype)


def soft_normal(network: DPTHybrid, image: Tensor, background: float = BACKGROUND) -> Tensor:
    """Pictures (B, 3, H, W) in 0..1 -> normals as colours (B, 3, H, W), differentiable."""
    return normals(network.depth(image), background) * 0.5 + 0.5


def normal_image(depth: Tensor, background: float = BACKGROUND, strength: float = 1.0) -> Tensor:
    """Depth (B, 1, H, W) -> normals as colours (B, 3, H, W) in 0..1, 8-bit values, truncated.

    See `normals` for what the depth may be.
    """
    colours = normals(depth.detach(), background, strength) * 127.5 + 127.5
    return from_8_bit(to_bytes(colours), like=depth)


def normals(depth: Tensor, background: float = BACKGROUND, strength: float = 1.0) -> Tensor:
    """Unit vectors (B, 3, H, W), x to the left, y up, z to the camera, from inverse depth.

    depth: (B, 1, H, W), larger where nearer; MiDaS's own values need no more. strength multiplies
    slopes: for a depth picture in 0..1 some hundreds are right.
    background: where depth, stretched to 0..1, is below this, the normal faces the camera.
    Differentiable in depth, but for the choice of the background.
    """
    if depth.ndim != 4 or depth.shape[1] != 1 or min(depth.shape[-2:]) < 2:
        raise ValueError(
            f"Normal got depth of shape {tuple(depth.shape)}; it needs (B, 1, H, W) with sides of "
            "at least 2 pixels. Take one channel of a depth picture."
        )
    low, high = depth.detach().amin().item(), depth.detach().amax().item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            "Normal got a depth map with NaN or infinite values. The node that made it failed: run "
            "that one in fp32."
        )
    if not 0 <= background <= 1:
        raise ValueError(f"background is {background:g}; it needs a depth from 0 (none) to 1.")
    slope = _sobel(depth) * strength
    slope = torch.where(stretch(depth.detach()) < background, 0.0, slope)
    x, y = slope.split(1, dim=1)
    z = torch.full_like(depth, Z)
    # Added up one by one: a sum over channels may take them in another order than the reference.
    return torch.cat([x, y, z], dim=1) / _square_root(x.square() + y.square() + z.square())


def _square_root(x: Tensor) -> Tensor:
    """Rounded correctly, which PyTorch's own in single precision on a CPU is not."""
    return x.double().sqrt().to(x.dtype) if x.device.type == "cpu" else x.sqrt()


def _sobel(depth: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, 2, H, W): along x and y, 3 x 3, mirrored without the border pixel."""
    padded = F.pad(depth, (1, 1, 1, 1), "reflect")
    # Written out in OpenCV's order, rows before columns: a convolution rounds otherwise.
    across = padded[..., 2:] - padded[..., :-2]
    smooth = (padded[..., :-2] + padded[..., 2:]) + padded[..., 1:-1] * 2
    x = (across[..., :-2, :] + across[..., 2:, :]) + across[..., 1:-1, :] * 2
    y = smooth[..., 2:, :] - smooth[..., :-2, :]
    return torch.cat([x, y], dim=1)
