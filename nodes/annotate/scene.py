"""Menu group "annotate", the nodes that understand a scene: depth, surfaces, classes."""

from __future__ import annotations

from typing import Any, cast

import torch
from comfy_api.latest import io

from ...annotators.kinds import DEPTH_MAP_STRENGTH, KINDS, SegmentationWays
from ..host.annotate import folders
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
    to_image,
)


class Depth(io.ComfyNode):
    """Depth (MiDaS): DPT-hybrid, stretched to 0..1 in every picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_Depth",
            "Depth (MiDaS)",
            GROUP,
            "How near everything is, near is white: the depth that the ControlNets for SD1.5 and "
            "ControlNet++ were trained with. Weights: dpt_hybrid-midas-501f0c75.pt (MIT).",
            [image_input(), resolution_input(), download_input(), *target_inputs()],
            [
                io.Image.Output(
                    "depth", tooltip="Near is white; every picture uses the whole range."
                ),
                annotator_output(),
            ],
            aliases=("midas", "dpt hybrid", "depth map", "depth preprocessor"),
        )

    @classmethod
    def execute(
        cls,
        image,
        resolution: int,
        download: bool = False,
        target_width: int = 0,
        target_height: int = 0,
    ) -> io.NodeOutput:
        size = Size(resolution, target_width, target_height)
        return output(annotator_of("depth", size=size, download=download), image)


class Normal(io.ComfyNode):
    """Normal: from a picture by the network of Depth, or from a depth map without one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_Normal",
            "Normal",
            GROUP,
            "Which way every surface faces, as colours, from the depth of a picture or from any "
            "depth map. Weights: dpt_hybrid-midas-501f0c75.pt (MIT), none for a depth map.",
            [
                image_input(),
                io.Combo.Input(
                    "source",
                    options=KINDS["normal"].labels,
                    default="picture",
                    tooltip="What the image is. depth map: near is white, from any depth node; "
                    "no weights are needed then.",
                ),
                io.Float.Input(
                    "background",
                    default=0.4,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Everything farther than this (0 = farthest, 1 = nearest) counts as "
                    "background and faces the camera.",
                ),
                io.Float.Input(
                    "strength",
                    default=DEPTH_MAP_STRENGTH,
                    min=1.0,
                    max=10000.0,
                    step=10.0,
                    tooltip="depth map only: how steep the slopes of the map are taken to be.",
                ),
                resolution_input(),
                download_input(),
                *target_inputs(),
            ],
            [
                io.Image.Output(
                    "normal", tooltip="Blue faces the camera, red to the left, green upwards."
                ),
                annotator_output(),
            ],
            aliases=("normal map", "midas normal", "bump map", "normal preprocessor"),
        )

    @classmethod
    def execute(
        cls,
        image,
        source: str,
        background: float,
        strength: float,
        resolution: int,
        download: bool = False,
        target_width: int = 0,
        target_height: int = 0,
    ) -> io.NodeOutput:
        size = Size(resolution, target_width, target_height)
        settings: dict[str, Any] = {"background": background}
        if source == "depth map":
            settings["strength"] = strength
        return output(annotator_of("normal", source, size, download=download, **settings), image)


class SegmentationADE20K(io.ComfyNode):
    """Segmentation (ADE20K): a model of the transformers library; gives classes as MASK, too."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_Segmentation",
            "Segmentation (ADE20K)",
            GROUP,
            "What every pixel shows, in the colours that segmentation ControlNets read: 150 "
            "classes such as wall, sky, tree, person. Weights: oneformer_ade20k_swin_tiny (MIT).",
            [
                image_input(),
                io.Combo.Input(
                    "model_name",
                    options=folders.segmenter_names(),
                    default=folders.segmenter_names()[0],
                    tooltip="OneFormer, or any OneFormer or UperNet for ADE20K in a folder of "
                    "models/annotators (transformers format).",
                ),
                resolution_input(),
                download_input(),
                *target_inputs(),
            ],
            [
                io.Image.Output("colours", tooltip="One colour for each class, one picture each."),
                annotator_output(),
                io.Mask.Output(
                    "classes",
                    tooltip="The class of every pixel as (number + 1) / 255: 1/255 wall, 2/255 "
                    "building ... Two classes share a colour, so only this says which it is.",
                ),
            ],
            aliases=("semantic segmentation", "oneformer", "upernet", "ofade20k", "seg"),
        )

    @classmethod
    def execute(
        cls,
        image,
        model_name: str,
        resolution: int,
        download: bool = False,
        target_width: int = 0,
        target_height: int = 0,
    ) -> io.NodeOutput:
        size = Size(resolution, target_width, target_height)
        folder = "" if model_name == folders.SEGMENTER else model_name
        annotator = annotator_of("seg", size=size, download=download, folder=folder)
        ways = cast(SegmentationWays, annotator.ways)
        both = torch.cat(annotator.run(ways.segment, image.movedim(-1, 1)))
        return io.NodeOutput(to_image(both[:, :3]), annotator, both[:, 3])


NODES = [Depth, Normal, SegmentationADE20K]
