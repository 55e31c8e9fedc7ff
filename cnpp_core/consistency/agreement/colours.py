"""What agreement means for tiles: whether a picture has the colours of a coarse one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..metrics import rmse
from ..metrics.batch import masked_mean
from .measure import (
    Comparison,
    Legend,
    Measure,
    grey_outside,
    heat,
    heat_of,
    refuse_if,
    wrong_scale,
)

LEVELS = 255
NODE = "Annotate (any) with condition tile"
FLAT = 0.5 / 255
MOST_EXTREME = 0.98  # share of black and white pixels: above it, it is a drawing
HOTTEST = 90.0  # levels shown as white


@dataclass(frozen=True)
class ColourMeasure(Measure):
    """RMSE of the colours on 0..255, all channels alike."""

    metric: ClassVar[str] = "RMSE of 255"
    higher_is_better: ClassVar[bool] = False
    legend: ClassVar[Legend] = tuple(
        (word, heat_of(levels / HOTTEST))
        for word, levels in (
            ("as wanted", 0.0),
            ("30 of 255 off", 30.0),
            ("60", 60.0),
            ("90", 90.0),
        )
    )

    @property
    def name(self) -> str:
        """RMSE of what, on which scale."""
        return "Colour RMSE (of 255)"

    def text(self, score: float) -> str:
        """Levels of 255, two digits."""
        return f"{score:.2f}"

    def misfit(self, condition: Tensor) -> str:
        """A photograph may be a tile: only another scale, or no colours at all."""
        if problem := wrong_scale(condition):
            return problem
        if condition.shape[0] != 3:
            return f"it has one channel. Connect the output of {NODE}."
        return ""

    def read(self, condition: Tensor) -> tuple[Tensor, list[str]]:
        """Colours (N, 3, H, W) in 0..1; refuses drawings, masks and flat pictures."""
        refuse_if([self.misfit(one) for one in condition], "a tile (a coarse picture in colour)")
        remarks = [remark for one in condition if (remark := _remark(one))]
        return condition.float().clamp(0, 1), remarks[:1]

    def resize(self, wanted: Tensor, height: int, width: int) -> Tensor:
        """(N, 3, h, w) -> (N, 3, height, width), interpolated: coarse pictures are smooth."""
        return F.interpolate(wanted, (height, width), mode="bilinear", antialias=True)

    def compare(self, recovered: Tensor, wanted: Tensor, mask: Tensor | None) -> Comparison:
        """RMSE of colours (B, 1 or 3, H, W), and how far off each pixel is as a heat map."""
        found = recovered.float().expand(-1, 3, -1, -1)
        scores = rmse(found, wanted, mask) * LEVELS
        off = found - wanted
        shift = torch.stack([masked_mean(off[:, c : c + 1], mask) for c in range(3)], dim=1)
        lines = [
            f"RMSE {error:.2f} of 255; the mean colour is off by "
            f"{', '.join(f'{c * LEVELS:+.1f}' for c in channels)} (red, green, blue)"
            for error, channels in zip(scores.tolist(), shift.tolist(), strict=True)
        ]
        error = off.square().mean(1, keepdim=True).sqrt() * LEVELS / HOTTEST
        return Comparison(scores, lines, grey_outside(heat(error.clamp(0, 1)), mask))


def _remark(condition: Tensor) -> str:
    if (condition.amax() - condition.amin()).item() < FLAT:
        return "the condition has one value everywhere."
    extreme = ((condition < FLAT) | (condition > 1 - FLAT)).all(0).float().mean().item()
    if extreme > MOST_EXTREME:
        return (
            f"{extreme:.0%} of the condition is black, white or a pure colour, like a drawing or a "
            "mask. If it is no picture, another kind fits it better."
        )
    return ""
