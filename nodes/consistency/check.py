"""Menu group "consistency": does the picture follow the condition that went in?"""

from __future__ import annotations

from comfy_api.latest import io, ui

from ...pictures.legend import with_legend
from ..annotate.inputs import to_image
from ..schema import schema, show_text
from .inputs import GROUP, annotator_input, finder_for, finder_inputs, mask_input, score_text


class CycleConsistencyCheck(io.ComfyNode):
    """Cycle-Consistency Check: the core's `check_consistency`, with a preview and its legend."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_CycleConsistencyCheck",
            "Cycle-Consistency Check",
            GROUP,
            "Finds the condition again in the finished pictures: a score, and where it differs "
            "from the one that went in. For every kind of condition.",
            [
                io.Image.Input("images", tooltip="The finished pictures, from VAE Decode."),
                io.Image.Input(
                    "condition",
                    tooltip="The control image that went into Apply ControlNet++: one for all "
                    "pictures, or one for each.",
                ),
                *finder_inputs(),
                mask_input("Compare only where this is white; all over if not connected."),
                annotator_input(),
            ],
            [
                io.Float.Output(
                    "score",
                    tooltip=f"Mean over the pictures. {score_text()}",
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
        finder = finder_for("Cycle-Consistency Check", kind, tolerance, annotator)
        result = finder.check(images, condition, mask)
        preview = to_image(with_legend(result.difference, result.legend))
        shown = ui.PreviewImage(preview, cls=cls).as_dict() | show_text(cls, result.report)
        return io.NodeOutput(
            result.score,
            to_image(result.recovered),
            to_image(result.difference),
            result.report,
            ui=shown,
        )


NODES = [CycleConsistencyCheck]
