"""What agreement means for white lines on black: which edge pixels were kept, lost, invented."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .measure import Comparison, Legend
from .metrics import dilate, edge_f1
from .resize import resize_lines

KEPT = (1.0, 1.0, 1.0)
LOST = (1.0, 0.15, 0.1)
INVENTED = (0.2, 0.5, 1.0)
OUTSIDE_MASK = (0.2, 0.2, 0.2)

# What edge maps are not. On 21 photographs and drawings, Canny at four thresholds sets at most 36 %
# of the pixels; grey values appear only where a map was interpolated or compressed.
MOST_WHITE = 0.5
MOST_GREY = 0.5
MOST_COLOUR = 0.02
GREY_WORTH_A_REMARK = 0.01


@dataclass(frozen=True)
class EdgeMeasure:
    """Edge F1; `tolerance` in pixels as in `metrics.edge_f1`, 0 for exact pixels."""

    tolerance: int = 0

    @property
    def name(self) -> str:
        """Names the tolerance, without which an F1 says little."""
        if self.tolerance == 0:
            return "Edge F1 (exact pixels)"
        return f"Edge F1 (within {self.tolerance} pixel{'s' if self.tolerance > 1 else ''})"

    @property
    def legend(self) -> Legend:
        """Colours of the difference picture."""
        return (("kept", KEPT), ("lost", LOST), ("invented", INVENTED))

    def read(self, condition: Tensor) -> tuple[Tensor, list[str]]:
        """Edges of a map (N, 1 or 3, H, W) -> (N, 1, H, W) bool; refuses what is no edge map."""
        grey = condition.float().mean(1, keepdim=True)
        spread = condition.amax(1) - condition.amin(1)
        between = ((grey > 0.1) & (grey < 0.9)).float().mean((1, 2, 3))
        edges = grey > 0.5
        for index in range(condition.shape[0]):
            problem = _not_an_edge_map(
                highest=condition[index].max().item(),
                colour=spread[index].mean().item(),
                grey=between[index].item(),
                white=edges[index].float().mean().item(),
            )
            if problem:
                which = "The condition" if condition.shape[0] == 1 else f"Condition {index + 1}"
                raise ValueError(f"{which} is not an edge map (white lines on black): {problem}")
        remarks = []
        if between.max() > GREY_WORTH_A_REMARK:
            remarks.append(
                f"{between.max():.0%} of the condition is grey, as after a resize with "
                "interpolation; values above 0.5 count as edges. A map straight from the "
                "annotator is exact."
            )
        return edges, remarks

    def resize(self, wanted: Tensor, height: int, width: int) -> Tensor:
        """Keeps one-pixel lines, see `resize_lines`."""
        return resize_lines(wanted, height, width)

    def compare(self, recovered: Tensor, wanted: Tensor, mask: Tensor | None) -> Comparison:
        """Scores, sentences and the difference picture; white, red and blue."""
        found = recovered.mean(1, keepdim=True) > 0.5
        score = edge_f1(found, wanted, self.tolerance, mask)
        lines = [
            f"F1 {f1:.1%}; {recall:.1%} of the wanted edges are there, {precision:.1%} of the "
            "edges there were wanted"
            for precision, recall, f1 in zip(*(part.tolist() for part in score), strict=True)
        ]
        return Comparison(score.f1, lines, edge_difference(found, wanted, self.tolerance, mask))


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
    picture = torch.zeros(found.shape[0], 3, *found.shape[2:], device=found.device)
    layers = [(kept, KEPT), (lost, LOST), (invented, INVENTED)]
    if mask is not None:
        layers.append((~mask, OUTSIDE_MASK))
    for pixels, colour in layers:
        picture = torch.where(pixels, picture.new_tensor(colour).view(1, 3, 1, 1), picture)
    return picture


def _not_an_edge_map(highest: float, colour: float, grey: float, white: float) -> str:
    """Why not, and what to do; empty if it may be one."""
    if highest > 1.5:
        return f"its values reach {highest:.3g}. Scale it to 0..1."
    if colour > MOST_COLOUR:
        return (
            "it is in colour. Connect the condition that went into the ControlNet, for example the "
            "output of the Canny node, not the photograph it was made from."
        )
    if grey > MOST_GREY:
        return (
            f"{grey:.0%} of it are shades of grey, like a photograph or a depth map. Connect the "
            "output of the Canny node."
        )
    if white > MOST_WHITE:
        return (
            f"{white:.0%} of it is white. Black lines on white must be inverted first (Invert "
            "Image); a filled mask is no edge map."
        )
    return ""
