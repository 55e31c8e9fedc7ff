"""Depth by MiDaS (DPT-hybrid): near is white, stretched to the whole range in every picture."""

from __future__ import annotations

import torch
from torch import Tensor

from .annotator import (
    LearnedAnnotator,
    check_image,
    check_values,
    forwards,
    from_8_bit,
    note_black,
    pad_to_multiple,
    to_8_bit,
    to_bytes,
)
from .dpt import DPT

# A picture whose depth varies less is flat; dividing by less would only show rounding.
SMALLEST_RANGE = 1e-6


class DPTHybrid(LearnedAnnotator, DPT):
    """Inverse depth, up to an unknown scale and offset, of pictures of any size.

    `forward` and `annotate` return (B, 1, H, W) in 0..1: 1 at the nearest point of each picture, 0
    at the farthest. `depth` gives the network's own values.
    """

    title = "Depth (MiDaS)"
    multiple = 32  # four halvings by the ResNet, one more by the decoder

    def forward(self, image: Tensor) -> Tensor:
        return stretch(self.depth(image))

    @torch.no_grad()
    def annotate(self, image: Tensor) -> Tensor:
        """The condition image (B, 1, H, W), 8-bit values, truncated as published."""
        check_image(image, self.title)
        check_values(image, self.title)
        pixels = to_bytes(stretch(self.depth_of_8_bit(image)) * 255)
        note_black(pixels, self.title, "depth")
        return from_8_bit(pixels, like=image)

    def depth_of_8_bit(self, image: Tensor) -> Tensor:
        """`depth` (B, 1, H, W) of what 8 bits hold of the picture; without a gradient."""
        return torch.cat(
            [self.depth(from_8_bit(to_8_bit(part), like=part.float())) for part in forwards(image)]
        )

    def depth(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> inverse depth (B, 1, H, W), float32, larger where nearer."""
        check_image(image, self.title)
        height, width = image.shape[-2:]
        # In this order a pixel of an 8-bit picture gives the very number that the reference sees.
        x = (pad_to_multiple(image, self.multiple).float() * 255).div(127.5) - 1
        return self.inverse_depth(x.to(self.dtype))[..., :height, :width].float()


def stretch(depth: Tensor) -> Tensor:
    """Each picture of (B, 1, H, W) from its own range to 0..1; 0 where a picture is flat."""
    low, high = depth.amin((-2, -1), keepdim=True), depth.amax((-2, -1), keepdim=True)
    return (depth - low) / (high - low).clamp(min=SMALLEST_RANGE)
