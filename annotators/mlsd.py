"""Straight lines by M-LSD large (arXiv 2106.00186): a network that marks the middles of lines.

At half the picture's size, each pixel says how likely a line has its middle there and where its two
ends lie from there.
"""

from __future__ import annotations

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
)
from .opencv import load_cv2

# MobileNetV2: expansion, channels, repeats, stride of the first; features that the decoder reads.
BACKBONE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
READ_AFTER = (1, 3, 6, 10, 13)
# Of the network's 16 outputs: how likely a middle is, four displacements, and, at the end, how
# likely the pixel lies on any line. (The first seven belong to a helper task of the training.)
MIDDLE, ENDS, ON_LINE = 7, slice(8, 12), 15
MOST_LINES = 200
FAR = 2**20  # pixels; keeps ends that a broken weight file puts at infinity drawable


class MLSD(LearnedAnnotator):
    """Middles and ends of lines, on MobileNetV2.

    `forward` returns (B, 1, H, W), the probability that a pixel lies on a line; `annotate`
    (B, 1, H, W), the lines themselves, white on black, one pixel wide.
    """

    title = "M-LSD Lines"
    multiple = 16

    def __init__(
        self,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        build = _Build(operations, dtype, device)
        self.backbone = _Backbone(build)
        self.block15 = _Merge(64, 96, build, enlarge=False)
        self.block16 = _Refine(build)
        self.block17 = _Merge(32, 64, build)
        self.block18 = _Refine(build)
        self.block19 = _Merge(24, 64, build)
        self.block20 = _Refine(build)
        self.block21 = _Merge(16, 64, build)
        self.block22 = _Refine(build)
        self.block23 = _Head(build)
        self.eval()  # batch statistics are never those of the pictures

    def forward(self, image: Tensor) -> Tensor:
        check_image(image, self.title)
        on_line = self.maps(self._padded(image * 255))[:, ON_LINE, None].float()
        soft = F.interpolate(on_line, scale_factor=2.0, mode="bilinear", align_corners=False)
        return soft.sigmoid()[..., : image.shape[-2], : image.shape[-1]]

    @torch.no_grad()
    def annotate(self, image: Tensor, score: float = 0.1, distance: float = 0.1) -> Tensor:
        """The condition image (B, 1, H, W): lines likelier than `score`, longer than `distance`.

        score: a probability. distance: between the ends, in pixels of half the picture's size.
        """
        cv2 = load_cv2()
        canvases = []
        for lines in self.lines(image, score, distance):
            canvas = np.zeros(image.shape[-2:], dtype=np.uint8)
            for x1, y1, x2, y2 in lines.trunc().int().tolist():
                cv2.line(canvas, (x1, y1), (x2, y2), 255, 1)
            canvases.append(torch.from_numpy(canvas))
        drawn = torch.stack(canvases)[:, None]
        note_black(drawn, self.title, "line")
        return from_8_bit(drawn, like=image)

    @torch.no_grad()
    def lines(self, image: Tensor, score: float = 0.1, distance: float = 0.1) -> list[Tensor]:
        """Lines of each picture, best first: (N, 4) of x1, y1, x2, y2 in pixels, float64, CPU."""
        check_image(image, self.title)
        check_values(image, self.title)
        if not (0 <= score <= 1 and distance >= 0):
            raise ValueError(
                f"{self.title} got score {score:g} and distance {distance:g}; it needs a score in "
                "0..1 and a distance of at least 0, usually 0.1 for both."
            )
        return [
            lines
            for part in forwards(image)
            for lines in decode_lines(self.maps(self._padded(to_8_bit(part))), score, distance)
        ]

    def maps(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 with sides of multiples of 16 -> (B, 16, H / 2, W / 2)."""
        with_ones = torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1)
        c1, c2, c3, c4, c5 = self.backbone(with_ones / 127.5 - 1)
        x = self.block16(self.block15(c4, c5))
        x = self.block18(self.block17(c3, x))
        x = self.block20(self.block19(c2, x))
        x = self.block22(self.block21(c1, x))
        return self.block23(x)

    def _padded(self, pixels: Tensor) -> Tensor:
        padded = pad_to_multiple(pixels.to(self.dtype), self.multiple)
        # The order in memory of the reference here, a tenth faster with so few channels.
        return padded.contiguous(memory_format=torch.channels_last)


def decode_lines(maps: Tensor, score: float = 0.1, distance: float = 0.1) -> list[Tensor]:
    """The network's maps (B, 16, H / 2, W / 2) -> lines of each picture as in `MLSD.lines`."""
    likely = maps[:, MIDDLE, None].float().sigmoid()
    is_peak = F.max_pool2d(likely, 3, stride=1, padding=1) == likely
    likely = (likely * is_peak).flatten(1)
    ends = maps[:, ENDS].float().flatten(2)
    width = maps.shape[-1]
    found = []
    for scores, displacements in zip(likely, ends, strict=True):
        best, index = scores.topk(min(MOST_LINES, len(scores)))
        end = displacements[:, index].T
        length = (end[:, :2] - end[:, 2:]).square().sum(1).sqrt()
        keep = (best > score) & (length > distance)
        index, end = index[keep].cpu(), end[keep].cpu().double()
        middle = torch.stack([index % width, index // width] * 2, dim=1)
        found.append((2 * (middle + end)).clamp(-FAR, FAR))
    return found


class _Build:
    """Convolutions with batch norm, in the namespace and the place that the caller chose."""

    def __init__(self, operations: Any, dtype: Any, device: Any) -> None:
        self.operations = operations
        self.where = {"dtype": dtype, "device": device}

    def conv(self, channels: int, width: int, size: int, **how: Any) -> nn.Module:
        return self.operations.Conv2d(channels, width, size, **how, **self.where)

    def norm(self, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, **self.where)

    def conv_norm_relu(self, channels: int, width: int, size: int, **how: Any) -> nn.Sequential:
        return nn.Sequential(
            self.conv(channels, width, size, **how), self.norm(width), nn.ReLU(inplace=True)
        )


class _Backbone(nn.Module):
    def __init__(self, build: _Build) -> None:
        super().__init__()
        channels = 32
        features: list[nn.Module] = [_ConvNormReLU6(4, channels, build, size=3, stride=2)]
        for expansion, width, repeats, stride in BACKBONE:
            for index in range(repeats):
                step = stride if index == 0 else 1
                features.append(_InvertedResidual(channels, width, expansion, step, build))
                channels = width
        self.features = nn.Sequential(*features)

    def forward(self, x: Tensor) -> list[Tensor]:
        read = []
        for index, feature in enumerate(self.features):
            x = feature(x)
            if index in READ_AFTER:
                read.append(x)
        return read


class _ConvNormReLU6(nn.Sequential):
    """A step of 2 pads on the right and below only, as TensorFlow does."""

    def __init__(
        self, channels: int, width: int, build: _Build, size: int, stride: int = 1, groups: int = 1
    ) -> None:
        padding = 0 if stride == 2 else (size - 1) // 2
        conv = build.conv(
            channels, width, size, stride=stride, padding=padding, groups=groups, bias=False
        )
        super().__init__(conv, build.norm(width), nn.ReLU6(inplace=True))
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (0, 1, 0, 1)) if self.stride == 2 else input)


class _InvertedResidual(nn.Module):
    def __init__(
        self, channels: int, width: int, expansion: int, stride: int, build: _Build
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_ConvNormReLU6(channels, hidden, build, size=1))
        layers.append(_ConvNormReLU6(hidden, hidden, build, size=3, stride=stride, groups=hidden))
        layers += [build.conv(hidden, width, 1, bias=False), build.norm(width)]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class _Merge(nn.Module):
    """Finer features beside the coarser ones enlarged, 64 channels of each."""

    def __init__(self, fine: int, coarse: int, build: _Build, enlarge: bool = True) -> None:
        super().__init__()
        self.conv1 = build.conv_norm_relu(coarse, 64, 1)
        self.conv2 = build.conv_norm_relu(fine, 64, 1)
        self.enlarge = enlarge

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        coarse = self.conv1(coarse)
        if self.enlarge:
            coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=True)
        return torch.cat([self.conv2(fine), coarse], dim=1)


class _Refine(nn.Module):
    def __init__(self, build: _Build) -> None:
        super().__init__()
        self.conv1 = build.conv_norm_relu(128, 128, 3, padding=1)
        self.conv2 = build.conv_norm_relu(128, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x) + x)


class _Head(nn.Module):
    """The widest view, by dilation, and the 16 outputs."""

    def __init__(self, build: _Build) -> None:
        super().__init__()
        self.conv1 = build.conv_norm_relu(64, 64, 3, padding=5, dilation=5)
        self.conv2 = build.conv_norm_relu(64, 64, 3, padding=1)
        self.conv3 = build.conv(64, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x)))
