"""What agreement means for segmentations: how much the regions of each class overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..metrics import class_iou, confusion
from ..metrics.regions import IGNORE
from .measure import (
    LOST,
    Comparison,
    Legend,
    Measure,
    grey_outside,
    painted,
    refuse_if,
    wrong_scale,
)

NEAR = 6 / 255  # how far a channel may be off its class's colour, as after compression
MOST_UNKNOWN = 0.2
UNKNOWN_WORTH_A_REMARK = 0.01
AS_WANTED = (0.35, 0.35, 0.35)
NOT_COMPARED = (0.0, 0.0, 0.0)
WORST_NAMED = 3
# Palettes have at most this many colours; borders that were interpolated or compressed have others.
MANY, LEAST_FLAT = 256, 1 / 4

Palette = Sequence[tuple[int, int, int]]  # RGB of each class, 0..255


@dataclass(frozen=True)
class LabelMeasure(Measure):
    """Mean IoU over the classes of the condition and of the picture.

    palette: the colour of each class. names: the words for them. Classes of one colour
    count as one. Black is no class unless it is in the palette: it isn't compared.
    """

    palette: Palette = ()
    names: Sequence[str] = ()
    palette_name: str = "ADE20K"
    _colours: Tensor = field(init=False, repr=False, compare=False)

    metric: ClassVar[str] = "mIoU"
    legend: ClassVar[Legend] = (
        ("as wanted", AS_WANTED),
        ("another class", LOST),
        ("no class", NOT_COMPARED),
    )

    def __post_init__(self) -> None:
        if not 0 < len(self.palette) < IGNORE or len(self.names) not in (0, len(self.palette)):
            raise ValueError(
                f"The palette has {len(self.palette)} colours and {len(self.names)} names; 1 to "
                f"{IGNORE - 1} colours are needed, and a name for each or none."
            )
        object.__setattr__(self, "_colours", torch.tensor(self.palette, dtype=torch.int32))

    def misfit(self, condition: Tensor) -> str:
        """More colours than regions of any palette have."""
        if problem := wrong_scale(condition):
            return problem
        if condition.shape[0] != 3:
            return "it has one channel. Connect the output of the Segmentation node."
        counts = _packed(condition[None]).unique(return_counts=True)[1]
        share = counts.sort(descending=True).values[:MANY].sum() / counts.sum()
        if share < LEAST_FLAT:
            return (
                f"its {MANY} most frequent colours cover only {share:.0%} of it, as in a "
                "photograph. Connect the output of the Segmentation node."
            )
        return ""

    def read(self, condition: Tensor) -> tuple[Tensor, list[str]]:
        """Colours (N, 3, H, W) -> classes (N, 1, H, W), IGNORE for none; refuses other pictures."""
        refuse_if([wrong_scale(one) for one in condition], f"a segmentation ({self.palette_name})")
        classes, unknown = self.classes(condition)
        shares = unknown.float().mean((1, 2)).tolist()
        refuse_if(
            [self._problem(one, share) for one, share in zip(condition, shares, strict=True)],
            f"a segmentation in the colours of {self.palette_name}",
        )
        remarks = []
        if max(shares) > UNKNOWN_WORTH_A_REMARK:
            remarks.append(
                f"{max(shares):.0%} of the condition has colours between the classes', as after a "
                "resize with interpolation; these pixels are not compared."
            )
        return classes[:, None], remarks

    def stated(self, wanted: Tensor) -> Tensor:
        """Where a class is wanted: classes (N, 1, H, W) -> bool of that shape."""
        return wanted != IGNORE

    def compare(self, recovered: Tensor, wanted: Tensor, mask: Tensor | None) -> Comparison:
        """mIoU of colours (B, 3, H, W) with classes (B, 1, H, W), and where another class is."""
        found, _ = self.classes(recovered)
        target = wanted[:, 0]
        inside = target if mask is None else torch.where(mask[:, 0], target, IGNORE)
        iou = class_iou(confusion(found, target, len(self.palette), IGNORE, mask))
        scores = iou.nanmean(1).float()
        share = (found == target).float()
        wanted_pixels = inside != IGNORE
        right = (share * wanted_pixels).sum((1, 2)) / wanted_pixels.sum((1, 2)).clamp(min=1)
        lines = [
            f"mIoU {score:.1%} over {int(row.isfinite().sum())} classes; {same:.1%} of the pixels "
            f"are of the wanted class{self._worst(row, labels)}"
            for score, row, same, labels in zip(
                scores.tolist(), iou, right.tolist(), inside, strict=True
            )
        ]
        ignored = (target == IGNORE)[:, None]
        same_class = (found == target)[:, None]
        layers = [(~ignored & same_class, AS_WANTED), (~ignored & ~same_class, LOST)]
        return Comparison(scores, lines, grey_outside(painted(found[:, None], layers), mask))

    def classes(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Colours (B, 3, H, W) in 0..1 -> class of the nearest colour (B, H, W), and what is none.

        IGNORE where the picture is black or too far from every colour; the second result is true
        for the latter only.
        """
        distinct, where = _packed(picture.expand(-1, 3, -1, -1)).unique(return_inverse=True)
        colours = torch.stack([distinct >> 16, distinct >> 8 & 255, distinct & 255], dim=1)
        own = self._colours.to(colours.device)
        nearest = torch.zeros_like(distinct, dtype=torch.long)
        distance = torch.full_like(distinct, 256)
        for index, colour in enumerate(own):
            away = (colours - colour).abs().amax(1).to(distance.dtype)
            nearest = torch.where(away < distance, index, nearest)
            distance = torch.minimum(away, distance)
        black = (colours.amax(1) <= NEAR * 255) & (distance > 0)
        unknown = (distance > NEAR * 255) & ~black
        classes = torch.where(unknown | black, IGNORE, nearest)
        return classes[where], unknown[where]

    def _worst(self, iou: Tensor, labels: Tensor) -> str:
        """The wanted classes with the least overlap, if any name is known."""
        present = [c for c in labels.unique().tolist() if c != IGNORE]
        overlaps = sorted((float(iou[c].nan_to_num(2)), c) for c in present)
        overlaps = [(overlap, c) for overlap, c in overlaps if overlap <= 1]
        if not self.names or not overlaps:
            return ""
        worst = (f"{self.names[c]} {overlap:.0%}" for overlap, c in overlaps[:WORST_NAMED])
        return f"; least overlap: {', '.join(worst)}"

    def _problem(self, condition: Tensor, unknown: float) -> str:
        if condition.shape[0] != 3:
            return "it has one channel. Connect the output of the Segmentation node."
        if unknown > MOST_UNKNOWN:
            return (
                f"{unknown:.0%} of it has other colours, as in a photograph or with another "
                "palette. Connect the output of the Segmentation node."
            )
        if (condition <= NEAR).all():
            return "it is black, so no class is wanted anywhere."
        return ""


def _packed(picture: Tensor) -> Tensor:
    """Colours (B, 3, H, W) in 0..1 -> one number for each colour of 8 bits, (B, H, W)."""
    pixels = (picture.float() * 255).round().clamp(0, 255).int()
    return (pixels[:, 0] << 16) | (pixels[:, 1] << 8) | pixels[:, 2]
