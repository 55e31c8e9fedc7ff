"""What agreement means for white lines on black: which edge pixels were kept, lost, invented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..metrics import dilate, edge_f1
from ..resize import resize_lines
from .measure import (
    INVENTED,
    KEPT,
    LOST,
    OUTSIDE_MASK,
    Comparison,
    Legend,
    Measure,
    in_colour,
    painted,
    refuse_if,
    wrong_scale,
)

# What edge maps are not. On 21 photographs and drawings, Canny at four thresholds sets at most 36 %
# of the pixels; grey values appear only where a map was interpolated or compressed.
MOST_WHITE = 0.5
MOST_GREY = 0.5
GREY_WORTH_A_REMARK = 0.01


@dataclass(frozen=True)
class EdgeMeasure(Measure):
    """F1 of the set pixels; `tolerance` in pixels as in `metrics.edge_f1`, 0 for exact pixels.

    what: the word for a set pixel. node: the one whose output such a condition is.
    most_white: share of set pixels above which it is none.
    """

    metric: ClassVar[str] = "F1"
    legend: ClassVar[Legend] = (("kept", KEPT), ("lost", LOST), ("invented", INVENTED))
    # Lines grow with the scale, while the annotator finds them one pixel thin.
    enlarging: ClassVar[str] = (
        "enlarged lines are thick, which lowers the score: a condition made at the picture's "
        "size is exact"
    )

    tolerance: int = 0
    what: str = "edge"
    node: str = "Canny"
    most_white: float = MOST_WHITE

    @property
    def name(self) -> str:
        """Names the tolerance, without which an F1 says little."""
        title = f"{self.what.capitalize()} F1"
        if self.tolerance == 0:
            return f"{title} (exact pixels)"
        return f"{title} (within {self.tolerance} pixel{'s' if self.tolerance > 1 else ''})"

    def misfit(self, condition: Tensor) -> str:
        """Colour, or more white than lines have; grey are also lines that were made smaller."""
        if problem := wrong_scale(condition) or in_colour(condition, self.node):
            return problem
        white = (condition.float().mean(0) > 0.5).float().mean().item()
        if white > self.most_white:
            return (
                f"{white:.0%} of it is white. Black lines on white must be inverted first (Invert "
                f"Image); a photograph or a filled mask is no {self.what} map."
            )
        return ""

    def read(self, condition: Tensor) -> tuple[Tensor, list[str]]:
        """Edges of a map (N, 1 or 3, H, W) -> (N, 1, H, W) bool; refuses what is no edge map."""
        kind = f"{_article(self.what)} {self.what} map (white lines on black)"
        refuse_if([self._problem(one) for one in condition], kind)
        grey = condition.float().mean(1, keepdim=True)
        between = _between(grey).amax().item()
        remarks = []
        if between > GREY_WORTH_A_REMARK:
            remarks.append(
                f"{between:.0%} of the condition is grey, as after a resize with "
                f"interpolation; values above 0.5 count as {self.what}s. A map straight from the "
                "annotator is exact."
            )
        return grey > 0.5, remarks

    def resize(self, wanted: Tensor, height: int, width: int) -> Tensor:
        """(N, 1, h, w) -> (N, 1, height, width) bool; no line is lost, see `resize_lines`."""
        return resize_lines(wanted, height, width)

    def compare(self, recovered: Tensor, wanted: Tensor, mask: Tensor | None) -> Comparison:
        """F1 of edges (B, 1 or 3, H, W); in the picture kept white, lost red, invented blue."""
        found = recovered.mean(1, keepdim=True) > 0.5
        score = edge_f1(found, wanted, self.tolerance, mask)
        lines = [
            f"F1 {f1:.1%}; {recall:.1%} of the wanted {self.what}s are there, {precision:.1%} of "
            f"the {self.what}s there were wanted"
            for precision, recall, f1 in zip(*(part.tolist() for part in score), strict=True)
        ]
        return Comparison(score.f1, lines, edge_difference(found, wanted, self.tolerance, mask))

    def _problem(self, condition: Tensor) -> str:
        if problem := wrong_scale(condition) or in_colour(condition, self.node):
            return problem
        if (between := _between(condition.float().mean(0)[None, None]).item()) > MOST_GREY:
            return (
                f"{between:.0%} of it is shades of grey, like a photograph or a depth map. Connect "
                f"the output of the {self.node} node."
            )
        return self.misfit(condition)


def edge_difference(
    found: Tensor, wanted: Tensor, tolerance: int = 0, mask: Tensor | None = None
) -> Tensor:
    """(B, 1, H, W) bool maps -> (B, 3, H, W) on black: kept white, lost red, invented blue.

    Within a tolerance both lines of a matched pair are kept. Outside the mask it is grey.
    """
    if mask is not None:
        found, wanted = found & mask, wanted & mask
    lost = wanted & ~dilate(found, tolerance)
    invented = found & ~dilate(wanted, tolerance)
    kept = (found | wanted) & ~lost & ~invented
    layers = [(kept, KEPT), (lost, LOST), (invented, INVENTED)]
    if mask is not None:
        layers.append((~mask, OUTSIDE_MASK))
    return painted(found, layers)


def _between(grey: Tensor) -> Tensor:
    """Share of the pixels (N, 1, H, W) that are neither black nor white, (N,)."""
    return ((grey > 0.1) & (grey < 0.9)).float().mean((1, 2, 3))


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
