"""The published evaluation of ControlNet++, step by step, with its 8-bit steps and its quirks.

After the code that goes with arXiv 2404.07987 (eval/eval.py, eval_edge.py, eval_depth.py, and
mmsegmentation's mIoU). A *sample* is one condition with the pictures made from it, four as
published. What a protocol takes as `raw` is the annotator's map before any rounding:

- canny: the binary edges of the sample's pictures; F1 of exact pixels, counted over all of them
  at once; two empty maps score 0.
- softedge: HED's probability, cut to 8 bits twice; MS-SSIM, mean over the samples, each of them the
  mean over its pictures.
- lineart: the network's drawing, black on white; MS-SSIM as for softedge. The published code
  inverts it as `1 - x` on 8-bit numbers, which wraps around: x becomes 257 - x, and 0 and 1 become
  1 and 0.
- depth: the network's inverse depth, divided by its maximum (not stretched), cut to 8 bits, then
  resized; the condition is stretched to 0..255 and cut. RMSE, mean over the pictures.
- seg: class indices; intersections and unions are added up over the whole data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..cnpp_core.condition import Condition
from ..cnpp_core.consistency.agreement.labels import LabelMeasure, Palette
from ..cnpp_core.consistency.metrics import class_iou, confusion, mean_iou, ms_ssim
from ..cnpp_core.consistency.metrics.regions import IGNORE
from ..cnpp_core.consistency.resize import resize_nearest

# Camera-ready tables, in the unit of each protocol: ControlNet 1.1, ControlNet++, real pictures.
PUBLISHED: dict[Condition, tuple[float, float, float]] = {
    Condition.SEG: (32.55, 43.64, 55.07),
    Condition.CANNY: (34.65, 37.04, 100.0),
    Condition.SOFTEDGE: (0.7621, 0.8097, 1.0),
    Condition.LINEART: (0.7054, 0.8399, 1.0),
    Condition.DEPTH: (35.90, 28.32, 0.0),
}


class SampleScore(NamedTuple):
    """The score of one condition, and of each picture made from it, in the protocol's unit."""

    score: float
    per_picture: tuple[float, ...]
    counts: Tensor | None = None  # (K, K + 1) of seg, added up over the pictures


class PaperProtocol(Protocol):
    """How one kind of condition was evaluated, from the annotator's maps to the table's number.

    Maps are of one sample: B pictures, made from one condition.
    """

    @property
    def name(self) -> str:
        """The metric with its unit, "canny F1 x 100"."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """False for errors, such as RMSE."""
        ...

    @property
    def digits(self) -> int:
        """How many digits are published behind the point."""
        ...

    def prediction(self, raw: Tensor, height: int, width: int) -> Tensor:
        """The annotator's maps as the published code saved them.

        raw: (B, C, h, w) before any rounding, 0..1; of depth at least 0, of seg class indices.
        Returns (B, 1, height, width) uint8, of seg (B, height, width) int64.
        """
        ...

    def label(self, condition: Tensor) -> Tensor:
        """The condition image (1, 1 or 3, H, W) in 0..1 as the published code saved it.

        Returns (1, 1, H, W) uint8, of seg (1, H, W) int64 with IGNORE for no class. ValueError for
        an image that the protocol can't read.
        """
        ...

    def sample(self, predictions: Tensor, label: Tensor) -> SampleScore:
        """Score of predictions (B, ...) against one label (1, ...), both as saved."""
        ...

    def total(self, samples: Sequence[SampleScore]) -> float:
        """The number in the table: all samples in one."""
        ...


def paper_protocol(condition: Condition, palette: Palette = ()) -> PaperProtocol:
    """The protocol for a kind of condition; ValueError for kinds that the paper has not evaluated.

    palette: a colour for each class, for seg.
    """
    if condition not in PROTOCOLS:
        known = ", ".join(kind.key for kind in PROTOCOLS)
        raise ValueError(
            f"ControlNet++ was not evaluated on {condition.key}, only on {known}. Use the "
            "protocol of the check instead."
        )
    return PROTOCOLS[condition](palette)


def truncated(maps: Tensor) -> Tensor:
    """(...) in 0..1 -> uint8, cut off and not rounded, as by torchvision's `to_pil_image`."""
    return (maps.detach().float() * 255).clamp(0, 255).byte()


@dataclass(frozen=True)
class PaperEdges:
    """F1 of exact edge pixels, counted over the pictures of a sample at once, times 100.

    raw: binary edges (B, 1, H, W), 0 and 1, of the picture's size.
    """

    name = "canny F1 x 100"
    digits = 2
    higher_is_better = True

    def prediction(self, raw: Tensor, height: int, width: int) -> Tensor:
        return truncated(raw)

    def label(self, condition: Tensor) -> Tensor:
        pixels = _grey_8_bit(condition)
        between = ((pixels > 0) & (pixels < 255)).float().mean().item()
        if between > 0:
            raise ValueError(
                f"{between:.1%} of the condition is neither black nor white; the published "
                "evaluation takes binary edges only. Use PNG files straight from the annotator, "
                "or the protocol of the check."
            )
        return pixels

    def sample(self, predictions: Tensor, label: Tensor) -> SampleScore:
        found, wanted = predictions == 255, (label == 255).expand_as(predictions)
        each = [_binary_f1(*pair) for pair in zip(found, wanted, strict=True)]
        return SampleScore(100 * _binary_f1(found, wanted), tuple(100 * f1 for f1 in each))

    def total(self, samples: Sequence[SampleScore]) -> float:
        return _mean([sample.score for sample in samples])


@dataclass(frozen=True)
class PaperSoftMaps:
    """MS-SSIM of 8-bit maps, 0..1.

    raw: (B, 1, H, W), of HED white on black, of line art black on white. wraps: invert it as the
    published code does for line art, 1 - x in 8 bits.
    """

    wraps: bool = False
    name = "MS-SSIM"
    digits = 4
    higher_is_better = True

    def prediction(self, raw: Tensor, height: int, width: int) -> Tensor:
        pixels = truncated(raw)
        if self.wraps:
            return 1 - pixels  # in whole numbers of 8 bits
        return truncated(pixels / 255.0)

    def label(self, condition: Tensor) -> Tensor:
        return _grey_8_bit(condition)

    def sample(self, predictions: Tensor, label: Tensor) -> SampleScore:
        each = tuple(ms_ssim(predictions / 255.0, label / 255.0).tolist())
        return SampleScore(_mean(each), each)

    def total(self, samples: Sequence[SampleScore]) -> float:
        return _mean([sample.score for sample in samples])


@dataclass(frozen=True)
class PaperDepth:
    """RMSE of depth in 8 bits, 0..255.

    raw: inverse depth (B, 1, h, w) at the network's size, divided by its maximum, cut to 8 bits,
    then resized as Pillow does it. The condition is stretched to 0..255 and cut.
    """

    name = "depth RMSE (of 255)"
    digits = 2
    higher_is_better = False

    def prediction(self, raw: Tensor, height: int, width: int) -> Tensor:
        pixels = truncated(raw / raw.amax((1, 2, 3), keepdim=True))
        resized = [
            np.asarray(
                Image.fromarray(one[0].cpu().numpy()).resize(
                    (width, height), Image.Resampling.BILINEAR
                )
            )
            for one in pixels
        ]
        return torch.from_numpy(np.stack(resized))[:, None]

    def label(self, condition: Tensor) -> Tensor:
        pixels = _8_bit(condition).double()
        low, high = pixels.min(), pixels.max()
        if low == high:
            raise ValueError("The condition has one value everywhere, so it holds no depth.")
        return _grey(((pixels - low) / (high - low) * 255).byte())

    def sample(self, predictions: Tensor, label: Tensor) -> SampleScore:
        square = (predictions.float() - label.to(predictions.device).float()) ** 2
        each = tuple(square.mean((1, 2, 3)).sqrt().tolist())
        return SampleScore(_mean(each), each)

    def total(self, samples: Sequence[SampleScore]) -> float:
        return _mean([score for sample in samples for score in sample.per_picture])


@dataclass(frozen=True)
class PaperLabels:
    """mIoU times 100, over the data set.

    raw: class indices (B, 1, h, w), brought to the picture's size by nearest. Conditions are class
    numbers (one channel, k + 1 for class k, 0 for none, as ADE20K's files) or colours of `palette`;
    in colours, classes of one colour count as the first of them.
    """

    palette: Palette
    name = "mIoU x 100"
    digits = 2
    higher_is_better = True

    def prediction(self, raw: Tensor, height: int, width: int) -> Tensor:
        return resize_nearest(raw, height, width)[:, 0].long()

    def label(self, condition: Tensor) -> Tensor:
        if condition.shape[1] == 1:
            numbers = _8_bit(condition)[:, 0].long()
            highest, last = int(numbers.max()), len(self.palette)
            if highest > last:
                raise ValueError(
                    f"The condition holds class number {highest}; {last} is the last, and 0 stands "
                    "for none."
                )
            return torch.where(numbers == 0, IGNORE, numbers - 1)
        return LabelMeasure(self.palette).read(condition)[0][:, 0]

    def sample(self, predictions: Tensor, label: Tensor) -> SampleScore:
        counts = confusion(predictions, label, len(self.palette))
        each = tuple((100 * mean_iou(predictions, label, len(self.palette))).tolist())
        total = counts.sum(0)
        return SampleScore(100 * class_iou(total).nanmean().item(), each, total)

    def total(self, samples: Sequence[SampleScore]) -> float:
        counts = [sample.counts for sample in samples if sample.counts is not None]
        return 100 * class_iou(torch.stack(counts).sum(0)).nanmean().item()

    def merged(self, classes: Tensor) -> Tensor:
        """Class indices (B, H, W) with those of one colour as the first of them.

        That is how a condition in colours gives them.
        """
        first = {colour: index for index, colour in reversed(list(enumerate(self.palette)))}
        table = torch.tensor([first[colour] for colour in self.palette], device=classes.device)
        return table[classes]


PROTOCOLS: dict[Condition, Callable[[Palette], PaperProtocol]] = {
    Condition.SEG: PaperLabels,
    Condition.CANNY: lambda _: PaperEdges(),
    Condition.SOFTEDGE: lambda _: PaperSoftMaps(),
    Condition.LINEART: lambda _: PaperSoftMaps(wraps=True),
    Condition.DEPTH: lambda _: PaperDepth(),
}


def _binary_f1(found: Tensor, wanted: Tensor) -> float:
    both, total = (found & wanted).sum().item(), (found.sum() + wanted.sum()).item()
    return 2 * both / total if total else 0.0


def _8_bit(condition: Tensor) -> Tensor:
    """A picture that was read from 8 bits, in 8 bits again: these values round to themselves."""
    return (condition.float() * 255).round().clamp(0, 255).byte()


def _grey_8_bit(condition: Tensor) -> Tensor:
    return _grey(_8_bit(condition))


def _grey(pixels: Tensor) -> Tensor:
    """(1, 1 or 3, H, W) uint8 to one channel, by Pillow's formula for the mode L."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.int().unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).byte()[:, None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
