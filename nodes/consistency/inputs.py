"""What the nodes of the menu group "consistency" have in common: how a condition is found again."""

from __future__ import annotations

from dataclasses import dataclass

from comfy_api.latest import io
from torch import Tensor

from ...cnpp_core.condition import Condition
from ...cnpp_core.consistency.agreement.kinds import measure_for
from ...cnpp_core.consistency.agreement.measure import Measure
from ...cnpp_core.consistency.check import CheckResult, check_consistency
from ..annotate.inputs import AnnotatorType
from ..host.annotate.annotator import NodeAnnotator, Size
from ..host.annotate.conditions import canny, scribble

GROUP = "consistency"
KINDS = {
    "canny (ControlNet++)": Condition.CANNY,
    "canny (cv2)": Condition.CANNY,
    **{kind.name.lower(): kind for kind in Condition if kind is not Condition.CANNY},
}
# Those that can be found again without weights.
DEFAULTS: dict[str, NodeAnnotator] = {
    "canny (ControlNet++)": canny(Size()),
    "canny (cv2)": canny(Size(), "cv2"),
    "scribble": scribble(Size(), download=False, method="XDoG"),
}


def finder_inputs() -> list[io.Input]:
    """What the condition is, and how exactly it must be kept."""
    return [
        io.Combo.Input(
            "kind",
            options=list(KINDS),
            default=next(iter(KINDS)),
            tooltip="What the control image is. Canny and scribble (XDoG) are found again with "
            "default settings if no annotator is connected; the others need one.",
        ),
        io.Int.Input(
            "tolerance",
            default=0,
            min=0,
            max=16,
            tooltip="How many pixels an edge, line or joint may be off and still count as kept. 0 "
            "is the protocol of the ControlNet++ paper; for pose it allows a tenth of the person's "
            "size.",
        ),
    ]


def mask_input(tooltip: str) -> io.Input:
    """Where to look."""
    return io.Mask.Input("mask", optional=True, tooltip=tooltip)


def annotator_input() -> io.Input:
    """What finds the condition."""
    return AnnotatorType.Input(
        "annotator",
        optional=True,
        tooltip="The output annotator of the node that made the condition, so that it is found "
        "again in the same way.",
    )


@dataclass(frozen=True)
class Finder:
    """How a kind of condition is found again, and compared."""

    condition: Condition
    annotator: NodeAnnotator
    measure: Measure

    def check(self, images: Tensor, condition: Tensor, mask: Tensor | None = None) -> CheckResult:
        """IMAGE (B, H, W, 3) against IMAGE (B or 1, H, W, 3), inside MASK (B or 1, H, W)."""
        return check_consistency(
            images.movedim(-1, 1),
            condition.movedim(-1, 1),
            self.annotator,
            self.measure,
            None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:]),
        )


def finder_for(node: str, kind: str, tolerance: int, given: NodeAnnotator | None) -> Finder:
    """With the connected annotator, or the default one of the kind; ValueError if neither fits.

    node: its name, for messages. tolerance: in pixels.
    """
    condition = KINDS[kind]
    annotator = given or DEFAULTS.get(kind)
    if annotator is None:
        raise ValueError(
            f"{node}: kind is {kind}, which only a network finds again. Connect the output "
            f"annotator of {condition.value.label} (or of Annotate (any)) to the input annotator."
        )
    if annotator.condition != condition.name.lower():
        raise ValueError(
            f"{node}: kind is {kind}, but the connected annotator finds {annotator.condition}. Set "
            f"kind to {annotator.condition}, or connect the annotator of {condition.value.label}."
        )
    classes = (annotator.palette, annotator.names, annotator.palette_name)
    measure = measure_for(condition, tolerance, *classes)
    return Finder(condition, annotator, measure)
