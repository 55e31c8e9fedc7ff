"""Menu group "annotate": from a picture to the control image that a ControlNet reads."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..annotators.canny import canny_cnpp, canny_cv2
from ..annotators.resize import to_short_side
from .schema import schema

GROUP = "annotate"
CNPP_THRESHOLD_UNIT = 1 / 1000  # so that 100 and 200 are the defaults of both definitions


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
                    options=list(MODES),
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
            ],
            [io.Image.Output("edges", tooltip="White edges on black, one per picture.")],
            aliases=("edge detection", "canny preprocessor", "hard edge"),
        )

    @classmethod
    def execute(cls, image, mode: str, low: int, high: int, resolution: int) -> io.NodeOutput:
        edges = MODES[mode](to_short_side(image.movedim(-1, 1), resolution), low, high)
        return io.NodeOutput(edges.movedim(1, -1).expand(-1, -1, -1, 3).contiguous())


def _cv2(image: Tensor, low: int, high: int) -> Tensor:
    return canny_cv2(image, low, high)


def _controlnetpp(image: Tensor, low: int, high: int) -> Tensor:
    return canny_cnpp(image, low * CNPP_THRESHOLD_UNIT, high * CNPP_THRESHOLD_UNIT)


MODES = {"ControlNet++": _controlnetpp, "cv2": _cv2}


NODES = [Canny]
