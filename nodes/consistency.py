"""Menu group "consistency": does the picture follow the condition that went in?"""

from __future__ import annotations

from collections.abc import Callable

from comfy_api.latest import io, ui
from torch import Tensor

from ..annotators.ade20k import CLASSES, PALETTE
from ..annotators.canny import canny_cnpp, canny_cv2
from ..annotators.scribble import scribble_xdog
from ..cnpp_core.condition import Condition
from ..cnpp_core.consistency.check import check_consistency
from ..cnpp_core.consistency.kinds import measure_for
from ..cnpp_core.consistency.legend import with_legend
from .annotate_inputs import AnnotatorType, to_image
from .host.annotators import NodeAnnotator
from .schema import schema, show_text

GROUP = "consistency"
KINDS = {
    "canny (ControlNet++)": Condition.CANNY,
    "canny (cv2)": Condition.CANNY,
    **{kind.name.lower(): kind for kind in Condition if kind is not Condition.CANNY},
}
# Those that can be found again without weights.
DEFAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "canny (ControlNet++)": canny_cnpp,
    "canny (cv2)": canny_cv2,
    "scribble": scribble_xdog,
}


class CycleConsistencyCheck(io.ComfyNode):
    """CNPP_CycleConsistencyCheck."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_CycleConsistencyCheck",
            "Cycle-Consistency Check",
            GROUP,
            "Finds the condition again in the finished pictures and compares it with the one that "
            "went in: a score, and a picture of where control was lost. For every kind of "
            "condition.",
            [
                io.Image.Input("images", tooltip="The finished pictures, from VAE Decode."),
                io.Image.Input(
                    "condition",
                    tooltip="The control image that went into Apply ControlNet++: one for all "
                    "pictures, or one for each.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default=next(iter(KINDS)),
                    tooltip="What the control image is. Canny and scribble (XDoG) are found again "
                    "with default settings if no annotator is connected; the others need one.",
                ),
                io.Int.Input(
                    "tolerance",
                    default=0,
                    min=0,
                    max=16,
                    tooltip="How many pixels an edge, line or joint may be off and still count as "
                    "kept. 0 is the protocol of the ControlNet++ paper; for pose it allows a tenth "
                    "of the person's size.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Compare only where this is white; all over if not connected.",
                ),
                AnnotatorType.Input(
                    "annotator",
                    optional=True,
                    tooltip="The output annotator of the node that made the condition, so that "
                    "it is found again in the same way.",
                ),
            ],
            [
                io.Float.Output(
                    "score",
                    tooltip="Mean over the pictures. Higher is better, 0..1: F1 (canny, mlsd, "
                    "scribble), MS-SSIM (softedge, lineart), joints in place (pose), mIoU (seg). "
                    "Lower is better: RMSE of 255 (depth), degrees (normal).",
                ),
                io.Image.Output("recovered", tooltip="The condition as found in the pictures."),
                io.Image.Output(
                    "difference",
                    tooltip="Where control was lost: kept white, lost red, invented blue; for "
                    "depth and normal a heat map of the error.",
                ),
                io.String.Output(
                    "report", tooltip="The score in total and for each picture, with what it means."
                ),
            ],
            aliases=("adherence", "controlnet score", "edge f1", "consistency", "miou", "ssim"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, images, condition, kind: str, tolerance: int, mask=None, annotator=None
    ) -> io.NodeOutput:
        result = check_consistency(
            images.movedim(-1, 1),
            condition.movedim(-1, 1),
            annotator_for(kind, annotator),
            measure_for(KINDS[kind], tolerance, PALETTE[1:], CLASSES),
            None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:]),
        )
        preview = to_image(with_legend(result.difference, result.legend))
        shown = ui.PreviewImage(preview, cls=cls).as_dict() | show_text(cls, result.report)
        return io.NodeOutput(
            result.score,
            to_image(result.recovered),
            to_image(result.difference),
            result.report,
            ui=shown,
        )


def annotator_for(kind: str, given: NodeAnnotator | None) -> Callable[[Tensor], Tensor]:
    """The connected annotator, or the default one of the kind; ValueError if neither fits."""
    condition = KINDS[kind]
    if given is None:
        if kind not in DEFAULTS:
            raise ValueError(
                f"Cycle-Consistency Check: kind is {kind}, which only a network finds again. "
                f"Connect the output annotator of {condition.value.label} (or of Annotate (any)) "
                "to the input annotator of the check."
            )
        return DEFAULTS[kind]
    if given.condition != condition.name.lower():
        raise ValueError(
            f"Cycle-Consistency Check: kind is {kind}, but the connected annotator finds "
            f"{given.condition}. Set kind to {given.condition}, or connect the annotator of "
            f"{condition.value.label}."
        )
    return given


NODES = [CycleConsistencyCheck]
