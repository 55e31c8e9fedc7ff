"""Menu group "train": weights to begin with, and the file of what was trained."""

from __future__ import annotations

from comfy_api.latest import io

from ...cnpp_core.checkpoint.formats import DIFFUSERS, ORIGINAL
from ..host.train.beginning import begin_control
from ..host.train.saving import DTYPES, save_control
from ..schema import schema, show_text
from .inputs import GROUP


class InitialiseControlNet(io.ComfyNode):
    """Initialise ControlNet: a float32 copy to train, of a model's encoder or of a ControlNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_InitialiseControlNet",
            "Initialise ControlNet",
            GROUP,
            "Makes a ControlNet to train. From a model: its encoder is copied, and until it is "
            "trained it changes nothing. From another ControlNet: all of it is copied, which "
            "learns a new condition in a tenth of the time. Connect one of the two.",
            [
                io.Int.Input(
                    "hint_channels",
                    default=3,
                    min=1,
                    max=32,
                    tooltip="Channels of the condition images: 3, unless yours have others.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    tooltip="Decides the weights that are new: those that read the condition.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Begin from this model (SD1.5, SD2.x, SDXL), its LoRAs included.",
                ),
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip="Begin from this ControlNet instead, of any loader.",
                ),
            ],
            [
                io.ControlNet.Output(
                    "untrained",
                    display_name="control_net",
                    tooltip="The ControlNet to train, for Train ControlNet.",
                ),
                io.String.Output("report", tooltip="What it is, and what of it is new."),
            ],
            aliases=("new controlnet", "train controlnet", "from scratch"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, hint_channels: int, seed: int, model=None, control_net=None) -> io.NodeOutput:
        control, report = begin_control(model, control_net, hint_channels, seed)
        return io.NodeOutput(control, report, ui=show_text(cls, report))


class SaveControlNet(io.ComfyNode):
    """Save ControlNet: a file in models/controlnet that says how it was trained."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_SaveControlNet",
            "Save ControlNet",
            GROUP,
            "Writes a ControlNet into models/controlnet as .safetensors, with how it was trained "
            "in its header. Every loader reads it; nothing is ever overwritten.",
            [
                io.ControlNet.Input("control_net", tooltip="The ControlNet, as it was trained."),
                io.String.Input(
                    "filename_prefix",
                    default="trained/controlnet",
                    tooltip="Name in models/controlnet, with folders if you like; a number is "
                    "added.",
                ),
                io.Combo.Input(
                    "layout",
                    options=[ORIGINAL, DIFFUSERS],
                    default=ORIGINAL,
                    tooltip="Names of the tensors. original: for ComfyUI and the web UI. "
                    "diffusers: for that library.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default=next(iter(DTYPES)),
                    tooltip="fp16: half the size, to make pictures with. fp32: to train on later "
                    "without loss.",
                ),
            ],
            [
                io.String.Output("path", tooltip="Where the file is."),
                io.String.Output("report", tooltip="What was written, and how it was trained."),
            ],
            aliases=("export controlnet", "controlnet to file"),
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, control_net, filename_prefix: str, layout: str, dtype: str) -> io.NodeOutput:
        path, report = save_control(control_net, filename_prefix, layout, dtype)
        return io.NodeOutput(str(path), report, ui=show_text(cls, report))


NODES = [InitialiseControlNet, SaveControlNet]
