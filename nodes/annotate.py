"""Menu group "annotate": from a picture to the control image that a ControlNet reads."""

from __future__ import annotations

from comfy_api.latest import io

from ..annotators.openpose import draw_poses, from_json, to_json
from . import annotate_lines, annotate_scene
from .annotate_inputs import (
    GROUP,
    AnnotatorType,
    KeypointsType,
    annotator_output,
    as_text,
    download_input,
    image_input,
    output,
    resolution_input,
    target_inputs,
    to_image,
)
from .host import conditions, folders
from .host.annotators import NodeAnnotator, Size
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


class OpenPoseDraw(io.ComfyNode):
    """CNPP_OpenPoseDraw."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_OpenPoseDraw",
            "OpenPose Draw",
            GROUP,
            "Draws keypoints of any pack, or a pose that you wrote or changed as text, as the "
            "coloured skeletons that pose ControlNets read. Needs no weights.",
            [
                io.String.Input(
                    "json",
                    default="",
                    multiline=True,
                    tooltip="A pose as JSON text, as OpenPose gives it. If there is any text, it "
                    "is drawn instead of keypoints.",
                ),
                io.Boolean.Input("body", default=True, tooltip="Draw the skeleton of the body."),
                io.Boolean.Input("hands", default=True, tooltip="Draw hands where there are any."),
                io.Boolean.Input("face", default=True, tooltip="Draw faces where there are any."),
                io.Combo.Input(
                    "sticks",
                    options=list(conditions.STICKS),
                    default="standard",
                    tooltip="standard: as the ControlNets for SD1.5 were trained. by size: thicker "
                    "in large pictures, for the SDXL models of xinsir.",
                ),
                *(
                    io.Int.Input(
                        side,
                        default=0,
                        min=0,
                        max=16384,
                        step=8,
                        tooltip=f"{side.title()} to draw at. 0: the {side} in the keypoints.",
                    )
                    for side in ("width", "height")
                ),
                KeypointsType.Input(
                    "keypoints",
                    optional=True,
                    tooltip="From OpenPose, or from a pose node of ComfyUI or another pack.",
                ),
            ],
            [
                io.Image.Output("pose", tooltip="Skeletons on black, one picture per frame."),
                KeypointsType.Output(
                    "pose_keypoints", tooltip="The same in pixels and with all their lists."
                ),
                io.String.Output(
                    "pose_json", tooltip="The same as text, for a file or another run."
                ),
            ],
            aliases=("draw pose", "render pose", "pose editor", "keypoints to image"),
        )

    @classmethod
    def execute(
        cls,
        json: str,
        body: bool,
        hands: bool,
        face: bool,
        sticks: str,
        width: int,
        height: int,
        keypoints=None,
    ) -> io.NodeOutput:
        if keypoints is None and not json.strip():
            raise ValueError(
                "OpenPose Draw has nothing to draw: connect keypoints, or paste a pose into json."
            )
        poses = from_json(json if json.strip() else keypoints)
        own = poses[0]
        drawn = draw_poses(
            poses,
            body=body,
            hands=hands,
            face=face,
            scale_sticks=conditions.STICKS[sticks],
            size=(height or own.height, width or own.width) if width or height else None,
        )
        written = to_json(poses)
        return io.NodeOutput(to_image(drawn), written, as_text(written))


class Annotate(io.ComfyNode):
    """CNPP_Annotate."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_Annotate",
            "Annotate (any)",
            GROUP,
            "Any condition from one node, each with the settings that its ControlNets were "
            "trained with. Weights and licences are those of the node for that condition; pose is "
            "for NON-COMMERCIAL use only.",
            [
                image_input(),
                io.Combo.Input(
                    "condition",
                    options=list(conditions.BY_CONDITION),
                    default="canny",
                    tooltip="What to find: canny (as ControlNet++ has it), softedge (HED), "
                    "lineart (fine), mlsd, scribble (HED), pose (body), depth, normal, seg.",
                ),
                resolution_input(),
                download_input(),
                *target_inputs(),
                AnnotatorType.Input(
                    "other_annotator",
                    optional=True,
                    tooltip="An annotator to use with its own settings instead, from another node. "
                    "The settings here then mean nothing.",
                ),
            ],
            [
                io.Image.Output("condition_image", tooltip="The control image, one per picture."),
                annotator_output(),
            ],
            aliases=("preprocessor", "aio preprocessor", "control image", "hint"),
        )

    @classmethod
    def execute(
        cls,
        image,
        condition: str,
        resolution: int,
        download: bool = False,
        target_width: int = 0,
        target_height: int = 0,
        other_annotator: NodeAnnotator | None = None,
    ) -> io.NodeOutput:
        if other_annotator is not None:
            return output(other_annotator, image)
        size = Size(resolution, target_width, target_height)
        return output(conditions.BY_CONDITION[condition](size, download), image)


NODES = [Canny, *annotate_lines.NODES, *annotate_scene.NODES, OpenPoseDraw, Annotate]
