"""What agreement means for depth: how far off, after both maps are stretched to one range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..metrics import align, depth_score, rmse, stretched
from .measure import (
    INVENTED,
    LOST,
    MOST_COLOUR,
    Comparison,
    Legend,
    Measure,
    colour_of,
    grey_outside,
    refuse_if,
    wrong_scale,
)

LEVELS = 255  # the unit of the published error
FLAT = 0.5 / 255
MOST_EXTREME = 0.98  # share of black and white pixels: above it, it is a drawing
GROUND = 0.35  # brightness of the wanted depth under the errors
GAIN = 3.0  # how much an error is amplified to be seen


@dataclass(frozen=True)
class DepthMeasure(Measure):
    """RMSE on 0..255, both maps stretched from their own minimum to their own maximum."""

    metric: ClassVar[str] = "RMSE of 255"
    higher_is_better: ClassVar[bool] = False
    # Over the wanted depth, stronger for larger errors.
    legend: ClassVar[Legend] = (("too far", LOST), ("too near", INVENTED))

    @property
    def name(self) -> str:
        """RMSE of what, on which scale."""
        return "Depth RMSE (of 255)"

    def text(self, score: float) -> str:
        """Levels of 255, two digits as published."""
        return f"{score:.2f}"

    def misfit(self, condition: Tensor) -> str:
        """Colour: silhouettes in black and white are given to such ControlNets on purpose."""
        if problem := wrong_scale(condition):
            return problem
        if colour_of(condition) > MOST_COLOUR:
            return (
                "it is in colour, like a photograph or a depth map painted for the eye. Connect "
                "the output of the Depth (MiDaS) node."
            )
        return ""

    def read(self, condition: Tensor) -> tuple[Tensor, list[str]]:
        """Depth of a map (N, 1 or 3, H, W) -> (N, 1, H, W) in 0..1; refuses what is none."""
        refuse_if([self._problem(one) for one in condition], "a depth map (grey, near is white)")
        grey = condition.float().mean(1, keepdim=True)
        spread = (grey.amax((1, 2, 3)) - grey.amin((1, 2, 3))).min().item()
        flat = ["the condition has one value everywhere: no depth is wanted."]
        return grey, flat if spread < FLAT else []

    def resize(self, wanted: Tensor, height: int, width: int) -> Tensor:
        """(N, 1, h, w) -> (N, 1, height, width), interpolated: depth is mostly smooth."""
        return F.interpolate(wanted, (height, width), mode="bilinear", antialias=True)

    def compare(self, recovered: Tensor, wanted: Tensor, mask: Tensor | None) -> Comparison:
        """RMSE of depth (B, 1 or 3, H, W), and the wanted depth with the errors over it."""
        found = stretched(recovered.float().mean(1, keepdim=True))
        wanted = stretched(wanted)
        scores = rmse(found, wanted, mask) * LEVELS
        aligned = align(found, wanted, mask)
        best = rmse(aligned, wanted, mask) * LEVELS
        relative = depth_score(aligned, wanted, mask, smallest=1 / LEVELS)
        lines = [
            f"RMSE {error:.2f} of 255; {least:.2f} after the best scale and offset, with abs rel "
            f"{abs_rel:.3f} and delta1 {delta1:.1%}"
            for error, least, abs_rel, delta1 in zip(
                *(x.tolist() for x in (scores, best, relative.abs_rel, relative.delta1)),
                strict=True,
            )
        ]
        return Comparison(scores, lines, grey_outside(_errors(found, wanted), mask))

    def _problem(self, condition: Tensor) -> str:
        if problem := self.misfit(condition):
            return problem
        grey = condition.float().mean(0)
        extreme = ((grey < FLAT) | (grey > 1 - FLAT)).float().mean().item()
        if extreme > MOST_EXTREME and (grey.max() - grey.min()).item() >= FLAT:
            return (
                f"{extreme:.0%} of it is black or white, like a drawing or a mask. Connect the "
                "output of the Depth (MiDaS) node."
            )
        return ""


def _errors(found: Tensor, wanted: Tensor) -> Tensor:
    picture = (wanted * GROUND).expand(-1, 3, -1, -1)
    for amount, colour in ((wanted - found, LOST), (found - wanted, INVENTED)):
        strength = (amount * GAIN).clamp(0, 1)
        picture = torch.lerp(picture, picture.new_tensor(colour).view(1, 3, 1, 1), strength)
    return picture
