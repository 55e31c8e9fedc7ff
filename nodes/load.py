"""Menu group "load": a ControlNet from a file, what it is made of, and the demo model."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..annotators.costs import text as annotator_costs
from ..cnpp_core.checkpoint.report import report
from ..cnpp_core.network.union import UNION_TYPES
from .annotate.inputs import AnnotatorType
from .host.control.union import with_union_type
from .host.load.demo import (
    CONDITIONS,
    PLAIN,
    TRAININGS,
    demo_annotator,
    example_picture,
    load_demo_parts,
)
from .host.load.loading import DTYPES, load_control
from .host.load.reading import require_config
from .schema import schema, show_text

GROUP = "load"
FOLDER = "controlnet"


class LoadControlNet(io.ComfyNode):
    """Load ControlNet++: any layout of file; `model` is needed for difference files only."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_LoadControlNet",
            "Load ControlNet++",
            GROUP,
            "Reads a ControlNet file, whatever its format, and says what is in it. For SD1.5, "
            "SD2.x and SDXL: ControlNet++, ControlNet 1.x, union and ProMax.",
            [
                io.Combo.Input(
                    "control_net_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A file in models/controlnet.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    tooltip="Precision of the weights in memory. auto: ComfyUI's choice. fp8 "
                    "halves the memory of fp16 and costs a little accuracy.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Only for files that store the difference to a model: that model.",
                ),
            ],
            [
                io.ControlNet.Output(
                    "control_net", tooltip="The ControlNet, for Apply ControlNet++."
                ),
                io.String.Output(
                    "report", tooltip="Family, number of blocks, parameters and file format."
                ),
            ],
            aliases=("controlnet loader", "load control net", "cn"),
        )

    @classmethod
    def execute(cls, control_net_name: str, dtype: str, model=None) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise(FOLDER, control_net_name)
        return io.NodeOutput(*load_control(path, dtype, model))


class ControlNetReport(io.ComfyNode):
    """ControlNet Report: parameters and MACs counted from the shape of the network, none is run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_ControlNetReport",
            "ControlNet Report",
            GROUP,
            "Parameters, computing cost and size of every block, for a picture size of yours. The "
            "cost is in multiply-accumulates.",
            [
                io.ControlNet.Input(
                    "control_net",
                    tooltip="A ControlNet for SD1.5, SD2.x or SDXL, from any loader.",
                ),
                io.Int.Input(
                    "width",
                    default=512,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Width of the picture to be made, in pixels.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Height of the picture to be made, in pixels.",
                ),
            ],
            [
                io.String.Output(
                    "report",
                    tooltip="The table with a row per block; its heading is shown on the node.",
                ),
                io.String.Output(
                    "annotators",
                    tooltip="The same for the networks of the annotate nodes: parameters, cost, "
                    "sizes in and out, weight files.",
                ),
            ],
            aliases=("controlnet info", "parameters", "flops", "macs"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, control_net, width: int, height: int) -> io.NodeOutput:
        found = report(require_config(control_net), width=width, height=height)
        shown = show_text(cls, found.text(blocks=False))
        return io.NodeOutput(found.text(), annotator_costs(), ui=shown)


class UnionControlType(io.ComfyNode):
    """Union Control Type: adds a type, with a hint and a weight of its own, to a copy."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_UnionControlType",
            "Union Control Type",
            GROUP,
            "Tells a union network (xinsir, ProMax) which kind of condition it reads. Chain "
            "several to give it several at once, each with an image and a weight of its own.",
            [
                io.ControlNet.Input(
                    "control_net", tooltip="A union or ProMax ControlNet from Load ControlNet++."
                ),
                io.Combo.Input(
                    "type",
                    options=list(UNION_TYPES),
                    default=UNION_TYPES[3],
                    tooltip="What the image shows. tile and repaint need a ProMax file.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How strongly this condition counts among the others; 0: not at all.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The image of this condition. Not connected: the one that Apply "
                    "ControlNet++ gets.",
                ),
            ],
            [
                io.ControlNet.Output(
                    "typed",
                    display_name="control_net",
                    tooltip="A changed copy, for another Union Control Type or Apply ControlNet++.",
                )
            ],
            aliases=("set union controlnet type", "promax", "multi control"),
        )

    @classmethod
    def execute(cls, control_net, type, weight, image=None) -> io.NodeOutput:
        kind = UNION_TYPES.index(type)
        return io.NodeOutput(with_union_type(control_net, kind, weight, image))


class DemoModel(io.ComfyNode):
    """Demo Model: MODEL, CLIP, VAE and CONTROL_NET of the shapes world, in the host's classes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_DemoModel",
            "Demo Model",
            GROUP,
            "A complete diffusion model with ControlNets, built in, for trying everything out "
            "within seconds. It has 41 MB, runs on any machine and knows coloured shapes: 'red "
            "circle on a blue ground'. Make pictures of 128 x 128.",
            [
                io.Int.Input(
                    "example",
                    default=0,
                    min=0,
                    max=9999,
                    tooltip="Number of the example picture. None of them was used in training.",
                ),
                io.Combo.Input(
                    "condition",
                    options=list(CONDITIONS),
                    default=CONDITIONS[0],
                    optional=True,  # older graphs lack it
                    tooltip="What the ControlNet reads. canny: edges, from Canny. seg: what is "
                    "shape and what ground, from Annotate (any) with this node's annotator.",
                ),
                io.Combo.Input(
                    "training",
                    options=list(TRAININGS),
                    default=PLAIN,
                    optional=True,  # older graphs lack it
                    tooltip="How the ControlNet was trained. ControlNet++ went on by finding the "
                    "condition again in its own pictures: it follows more closely.",
                ),
            ],
            [
                io.Model.Output("model", tooltip="The demo UNet, for KSampler."),
                io.Clip.Output("clip", tooltip="Its text encoder, for CLIP Text Encode."),
                io.Vae.Output("vae", tooltip="Its autoencoder, for VAE Decode and VAE Encode."),
                io.ControlNet.Output(
                    "control_net",
                    tooltip="Its ControlNet for the condition, for Apply ControlNet++.",
                ),
                io.Image.Output(
                    "picture", tooltip="The example picture, 128 x 128: take its condition."
                ),
                io.String.Output("caption", tooltip="What the example picture shows."),
                AnnotatorType.Output(
                    "annotator",
                    tooltip="Tells shape from ground (kind seg), for Annotate (any) and the nodes "
                    "of the consistency group.",
                ),
            ],
            aliases=("quick start", "shapes", "toy model", "example"),
        )

    @classmethod
    def execute(
        cls, example: int, condition: str = CONDITIONS[0], training: str = PLAIN
    ) -> io.NodeOutput:
        parts = load_demo_parts(condition, training)
        return io.NodeOutput(*parts, *example_picture(example), demo_annotator())


NODES = [LoadControlNet, UnionControlType, ControlNetReport, DemoModel]
