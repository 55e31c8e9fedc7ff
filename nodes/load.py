"""Menu group "load": a ControlNet from a file, what it is made of, and the demo model."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..cnpp_core.checkpoint.report import report
from .host.loading import DTYPES, load_control
from .host.reading import config_of
from .schema import schema, show_text

GROUP = "load"
FOLDER = "controlnet"


class LoadControlNet(io.ComfyNode):
    """CNPP_LoadControlNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_LoadControlNet",
            "Load ControlNet++",
            GROUP,
            "Loads a ControlNet for SD1.5, SD2.x or SDXL (ControlNet++, ControlNet 1.x, union / "
            "ProMax) in any of its file formats, and says what it is.",
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
    """CNPP_ControlNetReport."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_ControlNetReport",
            "ControlNet Report",
            GROUP,
            "Parameters, computing cost (multiply-accumulates) and size of every block, for a "
            "picture size of yours.",
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
                    "report", tooltip="The table as text; it is also shown on the node."
                )
            ],
            aliases=("controlnet info", "parameters", "flops", "macs"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, control_net, width: int, height: int) -> io.NodeOutput:
        text = report(config_of(control_net), width=width, height=height).text()
        return io.NodeOutput(text, ui=show_text(cls, text))


NODES = [LoadControlNet, ControlNetReport]
