"""Soft edges by HED, the version that was retrained for ControlNet 1.1 (Apache-2.0, RGB input)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
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
from .opencv import load_cv2

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions, as in VGG16


class HED(LearnedAnnotator):
    """Holistically-nested edge detection (arXiv 1504.06375): one edge map from each of five scales.

    `forward` and `annotate` return (B, 1, H, W), white edges on black.

    stages: channels and convolutions of each scale; those of the published weights unless given.
    """

    title = "Soft Edge (HED)"
    multiple = 16  # else the side outputs, halved four times, would not lie on one another

    def __init__(
        self,
        *,
        stages: Sequence[tuple[int, int]] = STAGES,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1, dtype=dtype, device=device))
        channels = 3
        for number, (width, depth) in enumerate(stages, start=1):
            stage = _Stage(channels, width, depth, operations, dtype, device)
            self.add_module(f"block{number}", stage)
            channels = width

    def forward(self, image: Tensor) -> Tensor:
        check_image(image, self.title)
        padded = pad_to_multiple(image, self.multiple)
        size = padded.shape[-2:]
        sides = [
            F.interpolate(side, size, mode="bilinear", align_corners=False)
            for side in self.sides(padded.to(self.dtype) * 255)
        ]
        soft = torch.stack(sides).float().mean(0).sigmoid()
        return soft[..., : image.shape[-2], : image.shape[-1]]

    @torch.no_grad()
    def annotate(self, image: Tensor, safe: bool = False) -> Tensor:
        """The condition image (B, 1, H, W), 8-bit values; `safe` leaves only 0, 127 and 255."""
        return from_8_bit(self.soft_edges(image, safe), like=image)

    def sides(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in 0..255 -> the five side outputs (B, 1, H / 2^k, W / 2^k), logits."""
        h = pixels - self.norm.to(pixels)
        outputs = []
        for number, stage in enumerate(self.children()):
            if number:
                h = F.max_pool2d(h, 2)
            h, side = stage(h)
            outputs.append(side)
        return outputs

    def soft_edges(self, image: Tensor, safe: bool = False) -> Tensor:
        """What the reference computes from 8-bit pictures: uint8 (B, 1, H, W) in main memory."""
        check_image(image, self.title)
        check_values(image, self.title)
        edges = torch.cat([self._edges(part, safe) for part in forwards(image)])
        note_black(edges, self.title, "edge")
        return edges

    def _edges(self, image: Tensor, safe: bool) -> Tensor:
        height, width = image.shape[-2:]
        padded = pad_to_multiple(to_8_bit(image).to(self.dtype), self.multiple)
        probability = _fuse(self.sides(padded))[..., :height, :width]
        if safe:
            probability = (probability.float() * 3).int().float() / 2
        return to_bytes(probability * 255)


class _Stage(nn.Module):
    """Convolutions of one scale and the projection to its edge map."""

    def __init__(
        self, channels: int, width: int, depth: int, operations: Any, dtype: Any, device: Any
    ) -> None:
        super().__init__()
        where = {"dtype": dtype, "device": device}
        self.convs = nn.ModuleList(
            operations.Conv2d(channels if index == 0 else width, width, 3, padding=1, **where)
            for index in range(depth)
        )
        self.projection = operations.Conv2d(width, 1, 1, **where)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.convs:
            h = F.relu(conv(h), inplace=True)  # new memory costs more than the ReLU itself
        return h, self.projection(h)


def _fuse(sides: Sequence[Tensor]) -> Tensor:
    """Mean of the side outputs at the size of the first, as a probability; float64, CPU.

    Enlarged by OpenCV: PyTorch's interpolation rounds differently in the last bit, and the cut to 8
    bits would show it in a few pixels.
    """
    cv2 = load_cv2()
    height, width = sides[0].shape[-2:]
    rows = [side[:, 0].float().cpu().numpy() for side in sides]
    logits = [
        np.stack(
            [cv2.resize(e, (width, height), interpolation=cv2.INTER_LINEAR) for e in one], axis=-1
        ).mean(-1)
        for one in zip(*rows, strict=True)
    ]
    return torch.from_numpy(np.stack(logits))[:, None].double().sigmoid()
