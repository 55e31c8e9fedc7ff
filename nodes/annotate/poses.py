"""Menu group "annotate", people: found in pictures as keypoints, and drawn as skeletons."""

from __future__ import annotations

from typing import Any, cast

from comfy_api.latest import io

from ...annotators.kinds import PoseWays
from ...annotators.openpose import draw_poses, from_json, to_json
from ..host.annotate.annotator import Size, annotator_of
from ..schema import schema, show_remark
from .inputs import (
    GROUP,
    KeypointsType,
    annotator_output,
    as_text,
    download_input,
    image_input,
    resolution_input,
    target_inputs,
    to_image,
)

STICKS = {"standard": False, "by size": True}  # to `scale_sticks`


class OpenPose(io.ComfyNode):
    """OpenPose: finds people, draws them, and gives the points as POSE_KEYPOINT and as JSON."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_OpenPose",
            "OpenPose",
            GROUP,
            "The people in the picture as coloured skeletons, and their keypoints; weights for "
            "NON-COMMERCIAL USE ONLY. They are body_pose_model.pth, for hands also "
            "hand_pose_model.pth, under the CMU OpenPose licence.",
            [
                image_input(),
                io.Boolean.Input("body", default=True, tooltip="Draw the skeleton of the body."),
                io.Boolean.Input(
                    "hands",
                    default=False,
                    tooltip="Also look for hands and draw them. Each hand takes longer than all "
                    "bodies together.",
                ),
                io.Combo.Input(
                    "sticks",
                    options=list(STICKS),
                    default="standard",
                    tooltip="standard: as the ControlNets for SD1.5 were trained. by size: thicker "
                    "in large pictures, for the SDXL models of xinsir.",
                ),
                resolution_input(),
                download_input(),
                *target_inputs(),
            ],
            [
                io.Image.Output("pose", tooltip="Skeletons on black; black where nobody is."),
                annotator_output(),
                KeypointsType.Output(
                    "keypoints",
                    tooltip="The points of every picture in pixels, for nodes of other packs too.",
                ),
                io.String.Output(
                    "json", tooltip="The same as text: change it and give it to OpenPose Draw."
                ),
            ],
            aliases=("pose", "skeleton", "body pose", "hand pose", "keypoints"),
        )

    @classmethod
    def execute(
        cls,
        image,
        body: bool,
        hands: bool,
        sticks: str,
        resolution: int,
        download: bool = False,
        target_width: int = 0,
        target_height: int = 0,
    ) -> io.NodeOutput:
        size = Size(resolution, target_width, target_height)
        # Hands are looked for at the wrists, so the body's network always runs.
        method = "hands" if hands else "body"
        settings: dict[str, Any] = {"body": body, "scale_sticks": STICKS[sticks]}
        annotator = annotator_of("pose", method, size, download=download, **settings)
        ways = cast(PoseWays, annotator.ways)
        found = annotator.run(ways.detect, image.movedim(-1, 1))
        poses = [pose for part in found for pose in part]
        keypoints = to_json(poses)
        drawn = to_image(ways.draw(poses))
        return io.NodeOutput(drawn, annotator, keypoints, as_text(keypoints))


class OpenPoseDraw(io.ComfyNode):
    """OpenPose Draw: POSE_KEYPOINT or JSON, of this pack or another one, as a condition image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_OpenPoseDraw",
            "OpenPose Draw",
            GROUP,
            "Draws keypoints of any pack, or a pose written as text, as the coloured skeletons "
            "that pose ControlNets read. Needs no weights.",
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
                    options=list(STICKS),
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
            hidden=[io.Hidden.unique_id],
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
        remarks: list[str] = []
        poses = from_json(json if json.strip() else keypoints, remarks=remarks)
        own = poses[0]
        drawn = draw_poses(
            poses,
            body=body,
            hands=hands,
            face=face,
            scale_sticks=STICKS[sticks],
            size=(height or own.height, width or own.width) if width or height else None,
        )
        written = to_json(poses)
        shown = show_remark(cls, "\n".join(remarks))
        return io.NodeOutput(to_image(drawn), written, as_text(written), ui=shown)


NODES = [OpenPose, OpenPoseDraw]
