"""What the nodes of the menu group "annotate" have in common: inputs, outputs, the last step."""

from __future__ import annotations

import json
import re
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..host.annotate.annotator import NodeAnnotator

GROUP = "annotate"
AnnotatorType = io.Custom("ANNOTATOR")
KeypointsType = io.Custom("POSE_KEYPOINT")
TRAINED_AT = 512  # short side of the pictures that the networks were trained on


def image_input() -> io.Input:
    """The picture or batch that a node finds the condition in."""
    return io.Image.Input("image", tooltip="The picture, or a batch of pictures of one size.")


def resolution_input(default: int = TRAINED_AT) -> io.Input:
    """The short side, with the same meaning in every node."""
    return io.Int.Input(
        "resolution",
        default=default,
        min=0,
        max=8192,
        step=8,
        tooltip="Length of the SHORT side at which the picture is read and the result given out. "
        "0: the picture's own size.",
    )


def target_inputs() -> list[io.Input]:
    """The size of the picture to be made, for a pixel-perfect resolution."""
    return [
        io.Int.Input(
            f"target_{side}",
            default=0,
            min=0,
            max=16384,
            step=8,
            optional=True,
            tooltip=f"Pixel perfect: the {side} of the picture to be made. With target_width and "
            "target_height the best resolution is found for you. 0: off.",
        )
        for side in ("width", "height")
    ]


def download_input() -> io.Input:
    """The switch without which nothing is fetched."""
    return io.Boolean.Input(
        "download",
        default=False,
        optional=True,
        tooltip="Fetch the weights into models/annotators if they are found nowhere. Off: the "
        "error says which file is missing and where to get it.",
    )


def annotator_output() -> io.Output:
    """The annotator itself, for nodes that look for the condition again in other pictures."""
    return AnnotatorType.Output(
        "annotator",
        tooltip="This node with its settings, for nodes that find the condition again.",
    )


def output(annotator: NodeAnnotator, image: Tensor, *more: Any) -> io.NodeOutput:
    """The node's result for IMAGE (B, H, W, 3)."""
    return io.NodeOutput(to_image(annotator(image.movedim(-1, 1))), annotator, *more)


def as_text(keypoints: list[dict[str, Any]]) -> str:
    """POSE_KEYPOINT as JSON that a person can change: one list of numbers in a line."""
    text = json.dumps(keypoints, indent=2)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)


def to_image(maps: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) -> IMAGE (B, H, W, 3) in memory of its own."""
    # Planes lie one behind another, as in what VAE Decode gives: interleaving them would cost more.
    return maps.expand(-1, 3, -1, -1).contiguous().movedim(1, -1)
