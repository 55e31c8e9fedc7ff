"""Menu group "consistency": does the picture follow the condition that went in?"""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..annotators.canny import canny_cnpp, canny_cv2
from ..cnpp_core.consistency.check import check_consistency
from ..cnpp_core.consistency.edges import EdgeMeasure
from ..cnpp_core.consistency.legend import with_legend
from .schema import schema, show_text

GROUP = "consistency"
# Kind of condition -> the annotator that finds it again in a picture.
ANNOTATORS = {"canny (ControlNet++)": canny_cnpp, "canny (cv2)": canny_cv2}


class CycleConsistencyCheck(io.ComfyNode):
    """CNPP_CycleConsistencyCheck."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_CycleConsistencyCheck",
            "Cycle-Consistency Check",
            GROUP,
            "Finds the condition again in the finished pictures and compares it with the one that "
            "went in: a score, and a picture of what was kept (white), lost (red) and invented "
            "(blue).",
            [
                io.Image.Input("images", tooltip="The finished pictures, from VAE Decode."),
                io.Image.Input(
                    "condition",
                    tooltip="The control image that went into Apply ControlNet++: one for all "
                    "pictures, or one for each.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(ANNOTATORS),
                    default=next(iter(ANNOTATORS)),
                    tooltip="What the control image is and how it was made. Canny is looked for "
                    "with the default thresholds (100 and 200 in the Canny node).",
                ),
                io.Int.Input(
                    "tolerance",
                    default=0,
                    min=0,
                    max=16,
                    tooltip="How many pixels an edge may be off and still count as kept. 0 is the "
                    "protocol of the ControlNet++ paper.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Compare only where this is white; all over if not connected.",
                ),
            ],
            [
                io.Float.Output(
                    "score", tooltip="0..1, mean over the pictures; for canny the F1 of the edges."
                ),
                io.Image.Output("recovered", tooltip="The condition as found in the pictures."),
                io.Image.Output(
                    "difference", tooltip="Kept edges white, lost ones red, invented ones blue."
                ),
                io.String.Output("report", tooltip="Score, recall and precision per picture."),
            ],
            aliases=("adherence", "controlnet score", "edge f1", "consistency"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, images, condition, kind: str, tolerance: int, mask=None) -> io.NodeOutput:
        result = check_consistency(
            images.movedim(-1, 1),
            condition.movedim(-1, 1),
            ANNOTATORS[kind],
            EdgeMeasure(tolerance),
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


def to_image(maps: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) -> IMAGE (B, H, W, 3) in memory of its own."""
    return maps.expand(-1, 3, -1, -1).movedim(1, -1).contiguous()


NODES = [CycleConsistencyCheck]
