"""Which measure belongs to which kind of condition."""

from __future__ import annotations

from collections.abc import Sequence

from ...condition import Condition
from .depth import DepthMeasure
from .labels import Colour, LabelMeasure
from .lines import EdgeMeasure
from .measure import Measure
from .normals import NormalMeasure
from .poses import PoseMeasure
from .soft_maps import SoftMapMeasure


def measure_for(
    condition: Condition,
    tolerance: int = 0,
    palette: Sequence[Colour] = (),
    names: Sequence[str] = (),
    palette_name: str = "ADE20K",
) -> Measure:
    """The measure that `Condition.metric` names.

    tolerance: in pixels, for lines and joints; see `EdgeMeasure` and `PoseMeasure`. palette, names:
    colours and words of the classes, for seg only, because the core knows no data set.
    palette_name: whose they are, for messages.
    """
    if condition is Condition.CANNY:
        return EdgeMeasure(tolerance)
    if condition is Condition.MLSD:
        return EdgeMeasure(tolerance, "line", Condition.MLSD.value.label)
    if condition is Condition.SCRIBBLE:
        return EdgeMeasure(tolerance, "stroke", Condition.SCRIBBLE.value.label)
    if condition is Condition.SOFTEDGE:
        return SoftMapMeasure()
    if condition is Condition.LINEART:
        return SoftMapMeasure("line drawing", Condition.LINEART.value.label)
    if condition is Condition.POSE:
        return PoseMeasure(tolerance)
    if condition is Condition.DEPTH:
        return DepthMeasure()
    if condition is Condition.NORMAL:
        return NormalMeasure()
    return LabelMeasure(palette, names, palette_name)
