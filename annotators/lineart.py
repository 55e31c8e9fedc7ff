"""Line drawings, fine and coarse, by the generator of "Informative Drawings" (arXiv 2203.12691)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

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

WIDTH = 64
RESIDUAL_BLOCKS = 3
SMALLEST = 8  # the residual blocks reflect a quarter of the picture, which needs 2 pixels


class LineArt(LearnedAnnotator):
    """Two steps down, three residual blocks, two steps up; normalised over each picture.

    Fine and coarse are two weight files of one network. `forward` and `annotate` return
    (B, 1, H, W), white lines on black; the network itself draws black on white.

    width, blocks: channels at full size, and residual blocks; as published unless given.
    """

    title = "Line Art"
    multiple = 4

    def __init__(
        self,
        *,
        width: int = WIDTH,
        blocks: int = RESIDUAL_BLOCKS,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        where = {"dtype": dtype, "device": device}

        def conv(channels: int, out: int, size: int, **how: int) -> list[nn.Module]:
            return [operations.Conv2d(channels, out, size, **how, **where), *_norm_relu(out)]

        def grow(channels: int) -> list[nn.Module]:
            half = channels // 2
            up = operations.ConvTranspose2d(
                channels, half, 3, stride=2, padding=1, output_padding=1, **where
            )
            return [up, *_norm_relu(half)]

        self.model0 = nn.Sequential(nn.ReflectionPad2d(3), *conv(3, width, 7))
        self.model1 = nn.Sequential(
            *conv(width, 2 * width, 3, stride=2, padding=1),
            *conv(2 * width, 4 * width, 3, stride=2, padding=1),
        )
        self.model2 = nn.Sequential(
            *(_Residual(4 * width, operations, where) for _ in range(blocks))
        )
        self.model3 = nn.Sequential(*grow(4 * width), *grow(2 * width))
        self.model4 = nn.Sequential(
            nn.ReflectionPad2d(3), operations.Conv2d(width, 1, 7, **where), nn.Sigmoid()
        )

    def forward(self, image: Tensor) -> Tensor:
        check_image(image, self.title)
        return 1 - self._drawing(image)

    @torch.no_grad()
    def annotate(self, image: Tensor) -> Tensor:
        """The condition image (B, 1, H, W), white lines on black, 8-bit values."""
        check_image(image, self.title)
        check_values(image, self.title)
        drawings = [self._drawing(to_8_bit(part).float() / 255) for part in forwards(image)]
        lines = 255 - to_bytes(torch.cat(drawings) * 255)
        note_black(lines, self.title, "line")
        return from_8_bit(lines, like=image)

    def generator(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, 1, H', W'), black lines on white; sides up to multiples."""
        for part in (self.model0, self.model1, self.model2, self.model3, self.model4):
            image = part(image)
        return image

    def _drawing(self, image: Tensor) -> Tensor:
        """`generator` at any size, in float32."""
        padded = pad_to_multiple(image.to(self.dtype), self.multiple, SMALLEST)
        return self.generator(padded).float()[..., : image.shape[-2], : image.shape[-1]]


class _Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int, operations: Any, where: dict[str, Any]) -> None:
        super().__init__()
        first, second = (operations.Conv2d(channels, channels, 3, **where) for _ in range(2))
        self.conv_block = nn.Sequential(
            *(nn.ReflectionPad2d(1), first, *_norm_relu(channels)),
            *(nn.ReflectionPad2d(1), second, nn.InstanceNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)]
