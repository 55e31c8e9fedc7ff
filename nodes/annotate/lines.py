"""Menu group "annotate", the nodes that draw lines: soft edges, line art, segments, strokes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...annotators.kinds import KINDS
from ..host.annotate.annotator import Size, annotator_of
from ..schema import schema
from .inputs import (
    GROUP,
    annotator_output,
    download_input,
    image_input,
    output,
    resolution_input,
    target_inputs,
)


class Canny(io.ComfyNode):
    """Canny: two definitions whose thresholds share a unit; needs no weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_Canny",
            "Canny",
            GROUP,
            "White edges on black, as OpenCV draws them or as ControlNet++ was trained on them. "
            "The two disagree on many pixels, so choose the one of your file.",
            [
                io.Image.Input("image", tooltip="The picture whose edges you want."),
                io.Combo.Input(
                    "mode",
                    options=KINDS["canny"].labels,
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
        return output(annotator_of("canny", mode, size, low=low, high=high), image)


class SoftEdge(io.ComfyNode):
    """Soft Edge (HED): the network's edge probability, or the three levels of `safe`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_SoftEdge",
            "Soft Edge (HED)",
            GROUP,
            "Soft outlines of what is in the picture, white on black, strong ones brighter. "
            "Weights: ControlNetHED.pth (Apache-2.0).",
            [
                image_input(),
                io.Boolean.Input(
                    "safe",
                    default=False,
                    tooltip="Three grey levels only, so that no trace of the picture's content "
                    "stays in the faint edges (softedge_hedsafe).",
                ),
                resolution_input(),
                download_input(),
                *target_inputs(),
            ],
            [
                io.Image.Output("edges", tooltip="Soft edges, white on black, one per picture."),
                annotator_output(),
            ],
            aliases=("hed", "softedge", "holistically nested edges", "soft edge preprocessor"),
        )

    @classmethod
    def execute(
        cls,
        image,
        safe: bool,
        resolution: int,
        download: bool = False,
        target_width: int = 0,
        target_height: int = 0,
    ) -> io.NodeOutput:
        size = Size(resolution, target_width, target_height)
        return output(annotator_of("softedge", size=size, download=download, safe=safe), image)


class LineArt(io.ComfyNode):
    """Line Art: one network, its style chosen by the weight file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_LineArt",
            "Line Art",
            GROUP,
            "The picture as a line drawing, white on black, fine or coarse. Weights: sk_model.pth "
            "(fine) and sk_model2.pth (coarse), MIT.",
            [
                image_input(),
                io.Combo.Input(
                    "style",
                    options=KINDS["lineart"].labels,
                    default="fine",
                    tooltip="fine: every line, what the ControlNets were trained with. coarse: "
                    "fewer and rougher lines, which leave the model more freedom.",
                ),
                resolution_input(),
                download_input(),
                *target_inputs(),
            ],
            [
                io.Image.Output("lines", tooltip="The drawing, white on black, one per picture."),
                annotator_output(),
            ],
            aliases=("lineart", "sketch", "drawing", "line art preprocessor"),
        )

    @classmethod
    def execute(
        cls,
        image,
        style: str,
        resolution: int,
        download: bool = False,
        target_width: int = 0,
        target_height: int = 0,
    ) -> io.NodeOutput:
        size = Size(resolution, target_width, target_height)
        return output(annotator_of("lineart", style, size, download=download), image)


class MLSDLines(io.ComfyNode):
    """M-LSD Lines: straight lines, drawn one pixel wide by OpenCV."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_MLSD",
            "M-LSD Lines",
            GROUP,
            "Straight lines only, white on black: for rooms, houses and streets. Weights: "
            "mlsd_large_512_fp32.pth (Apache-2.0).",
            [
                image_input(),
                io.Float.Input(
                    "score",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How sure the network must be of a line. Higher: fewer lines.",
                ),
                io.Float.Input(
                    "distance",
                    default=0.1,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    tooltip="Shortest line that is kept, in pixels of half the resolution.",
                ),
                resolution_input(),
                download_input(),
                *target_inputs(),
            ],
            [
                io.Image.Output(
                    "lines", tooltip="White lines on black; all black where none was found."
                ),
                annotator_output(),
            ],
            aliases=("mlsd", "straight lines", "architecture", "line segments"),
        )

    @classmethod
    def execute(
        cls,
        image,
        score: float,
        distance: float,
        resolution: int,
        download: bool = False,
        target_width: int = 0,
        target_height: int = 0,
    ) -> io.NodeOutput:
        size = Size(resolution, target_width, target_height)
        annotator = annotator_of(
            "mlsd", size=size, download=download, score=score, distance=distance
        )
        return output(annotator, image)


class Scribble(io.ComfyNode):
    """Scribble: one widget for three methods; only HED has weights, only XDoG a threshold."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_Scribble",
            "Scribble",
            GROUP,
            "Rough strokes as if drawn by hand, white on black: found in a picture, or taken from "
            "a drawing of your own. Only HED needs weights: ControlNetHED.pth (Apache-2.0).",
            [
                image_input(),
                io.Combo.Input(
                    "method",
                    options=KINDS["scribble"].labels,
                    default="HED",
                    tooltip="HED: strokes along the outlines of a picture. XDoG: many fine "
                    "strokes, without a network. drawing: the image is a dark drawing on white.",
                ),
                io.Int.Input(
                    "threshold",
                    default=32,
                    min=1,
                    max=64,
                    tooltip="XDoG only: lower gives more strokes.",
                ),
                resolution_input(),
                download_input(),
                *target_inputs(),
            ],
            [
                io.Image.Output("scribble", tooltip="White strokes on black, one per picture."),
                annotator_output(),
            ],
            aliases=("fake scribble", "xdog", "sketch", "scribble preprocessor"),
        )

    @classmethod
    def execute(
        cls,
        image,
        method: str,
        threshold: int,
        resolution: int,
        download: bool = False,
        target_width: int = 0,
        target_height: int = 0,
    ) -> io.NodeOutput:
        size = Size(resolution, target_width, target_height)
        settings: dict[str, Any] = {"threshold": threshold} if method == "XDoG" else {}
        return output(annotator_of("scribble", method, size, download=download, **settings), image)


NODES = [Canny, SoftEdge, LineArt, MLSDLines, Scribble]
