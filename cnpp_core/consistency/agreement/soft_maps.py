"""What agreement means for soft lines, white on black: HED's edges and line art."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..metrics import BETAS, betas_that_fit, ms_ssim
from ..metrics.batch import masked_mean
from .measure import (
    INVENTED,
    KEPT,
    LOST,
    Comparison,
    Legend,
    Measure,
    grey_outside,
    in_colour,
    refuse_if,
    wrong_scale,
)

# Such maps are not bright on average (black lines on white): of trained HED on 24 photographs and
# drawings, at 256 and 512 pixels, none has a mean above 0.41. A dark ground most of them have, but
# not those of textures, down to 23 %.
MOST_LIGHT = 0.5
DARK, LEAST_DARK = 0.25, 0.4


@dataclass(frozen=True)
class SoftMapMeasure(Measure):
    """MS-SSIM of the maps; of as many scales as a small picture has room for.

    what: the maps in words. node: the one whose output they are.
    """

    metric: ClassVar[str] = "MS-SSIM"
    # As bright as the lines that they stand for.
    legend: ClassVar[Legend] = (("kept", KEPT), ("lost", LOST), ("invented", INVENTED))
    enlarging: ClassVar[str] = "enlarged lines are wide, which lowers the score"

    what: str = "soft edge map"
    node: str = "Soft Edge (HED)"

    def text(self, score: float) -> str:
        """Four digits of 0..1, as published."""
        return f"{score:.4f}"

    def misfit(self, condition: Tensor) -> str:
        """Colour, or more light than lines give."""
        if problem := wrong_scale(condition) or in_colour(condition, self.node):
            return problem
        grey = condition.float().mean(0)
        if (light := grey.mean().item()) > MOST_LIGHT:
            return (
                f"it is light, {light:.0%} on average. Black lines on white must be inverted first "
                f"(Invert Image); otherwise connect the output of the {self.node} node."
            )
        return ""

    def read(self, condition: Tensor) -> tuple[Tensor, list[str]]:
        """Grey of a map (N, 1 or 3, H, W) -> (N, 1, H, W) float; refuses what is no such map."""
        refuse_if([self.misfit(one) for one in condition], f"a {self.what} (white on black)")
        grey = condition.float().mean(1, keepdim=True).clamp(0, 1)
        dark = (grey < DARK).float().mean((1, 2, 3)).min().item()
        remarks = []
        if dark < LEAST_DARK:
            remarks.append(
                f"only {dark:.0%} of the condition is dark. If it is no {self.what} but a "
                f"photograph or a depth map, connect the output of the {self.node} node."
            )
        return grey, remarks

    def resize(self, wanted: Tensor, height: int, width: int) -> Tensor:
        """(N, 1, h, w) -> (N, 1, height, width), interpolated: the maps are smooth."""
        return F.interpolate(wanted, (height, width), mode="bilinear", antialias=True)

    def compare(self, recovered: Tensor, wanted: Tensor, mask: Tensor | None) -> Comparison:
        """MS-SSIM of maps (B, 1 or 3, H, W); kept lines white, lost red, invented blue."""
        found = recovered.float().mean(1, keepdim=True).clamp(0, 1)
        betas = betas_that_fit(*found.shape[-2:])
        scores = ms_ssim(found, wanted, mask, betas=betas)
        lost, invented = (wanted - found).clamp(min=0), (found - wanted).clamp(min=0)
        kept = torch.minimum(found, wanted)
        total = masked_mean(wanted, mask).clamp(min=1e-6)
        few = "" if len(betas) == len(BETAS) else f" at {len(betas)} scale(s), the picture is small"
        lines = [
            f"MS-SSIM {score:.4f}{few}; {gone:.1%} of the wanted lines are missing or fainter, "
            f"{more:.1%} as much was added"
            for score, gone, more in zip(
                scores.tolist(),
                (masked_mean(lost, mask) / total).tolist(),
                (masked_mean(invented, mask) / total).tolist(),
                strict=True,
            )
        ]
        picture = sum(
            amount * amount.new_tensor(colour).view(1, 3, 1, 1)
            for amount, colour in ((kept, KEPT), (lost, LOST), (invented, INVENTED))
        )
        return Comparison(scores, lines, grey_outside(torch.as_tensor(picture).clamp(0, 1), mask))
