"""Menu group "annotate": from a picture to the control image that a ControlNet reads."""

from __future__ import annotations

from comfy_api.latest import io

from . import annotate_learned
from .annotate_inputs import GROUP, annotator_output, output, target_inputs
from .host import conditions, folders
from .host.annotators import Size
from .schema import schema

folders.register()


class Canny(io.ComfyNode):
    """CNPP_Canny."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_Canny",
            "Canny",
            GROUP,
            "White edges on black, in one of the two definitions that ControlNets were trained "
            "with. They disagree on many pixels, so choose the one of your file.",
            [
                io.Image.Input("image", tooltip="The picture whose edges you want."),
                io.Combo.Input(
                    "mode",
                    options=list(conditions.CANNY_MODES),
                    default="ControlNet++",
                    tooltip="ControlNet++: blurred first, for ControlNet++ files and the demo "
                    "model. cv2: OpenCV without blur, for ControlNet 1.0 and 1.1.",
                ),
                io.Int.Input(
                    "low",
                    default=100,
                    min=0,
                    max=1000,
                    tooltip="Weak edges above this count where they touch a strong one. cv2: as in "
                    "OpenCV; ControlNet++: thousandths (100 = 0.1).",
                ),
                io.Int.Input(
                    "high",
                    default=200,
                    min=0,
                    max=1000,
                    tooltip="Edges above this always count. Same unit as low; 200 is what the "
                    "models were trained with.",
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Length of the SHORT side at which edges are looked for and given "
                    "out. 0: the picture's own size.",
                ),
                *target_inputs(),
            ],
            [
                io.Image.Output("edges", tooltip="White edges on black, one per picture."),
                annotator_output(),
            ],
            aliases=("edge detection", "canny preprocessor", "hard edge"),
        )

    @classmethod
    def execute(
        cls,
        image,
        mode: str,
        low: int,
        high: int,
        resolution: int,
        target_width: int = 0,
        target_height: int = 0,
    ) -> io.NodeOutput:
        size = Size(resolution, target_width, target_height)
        return output(conditions.canny(size, mode, low, high), image)


NODES = [Canny, *annotate_learned.NODES]
