"""Menu group "control": put a control into conditioning, and say how strongly each block acts."""

from __future__ import annotations

from comfy_api.latest import io

from ..cnpp_core.control.scales import PRESETS, BlockScales, ScalePreset
from ..cnpp_core.network.config import SD15, SDXL, NetworkConfig
from .host.apply import apply_control
from .schema import BlockScalesType, percent_input, schema

GROUP = "control"


class ApplyControlNet(io.ComfyNode):
    """CNPP_Apply."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_Apply",
            "Apply ControlNet++",
            GROUP,
            "Adds a control image to positive and negative conditioning, with a scale per block if "
            "you like. Without scales the result equals the built-in Apply ControlNet.",
            [
                io.Conditioning.Input("positive", tooltip="Prompt that says what you want."),
                io.Conditioning.Input("negative", tooltip="Prompt that says what you don't want."),
                io.ControlNet.Input(
                    "control_net",
                    tooltip="From Load ControlNet++, Demo Model or any other ControlNet loader. It "
                    "must be made for the family of your checkpoint (SD1.5, SD2.x, SDXL).",
                ),
                io.Image.Input(
                    "image",
                    tooltip="The control image (edges, depth, pose ...), not the photo itself. It "
                    "is scaled to the picture's size and cropped in the centre.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Strength of the whole control. 0 switches it off and costs nothing.",
                ),
                percent_input(
                    "start_percent",
                    0.0,
                    "Part of the sampling after which the control begins (0 = at once).",
                ),
                percent_input(
                    "end_percent",
                    1.0,
                    "Part of the sampling after which the control ends (1 = never). Layout "
                    "is settled in the first half, so 0.5 already keeps it.",
                ),
                BlockScalesType.Input(
                    "scales",
                    optional=True,
                    tooltip="How strongly each block of the ControlNet acts, from Block Scales, "
                    "Block Scale Preset or Scale Schedule. Not connected: all 1.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Only for ControlNets that read a latent (SD3, Flux, Qwen): the "
                    "model's VAE.",
                ),
            ],
            [
                io.Conditioning.Output(
                    "controlled_positive",
                    display_name="positive",
                    tooltip="Positive conditioning with the control, for KSampler.",
                ),
                io.Conditioning.Output(
                    "controlled_negative",
                    display_name="negative",
                    tooltip="Negative conditioning with the control, for KSampler.",
                ),
            ],
            aliases=("apply controlnet", "control net", "cn", "block weights"),
        )

    @classmethod
    def execute(
        cls,
        positive,
        negative,
        control_net,
        image,
        strength,
        start_percent,
        end_percent,
        scales=None,
        vae=None,
    ) -> io.NodeOutput:
        window = (start_percent, end_percent)
        return io.NodeOutput(
            *apply_control(
                positive, negative, control_net, image, strength, window, scales=scales, vae=vae
            )
        )


def _sliders(config: NetworkConfig, pixels: int) -> list[io.Input]:
    """One slider per residual of a family; ``pixels``: the size of picture that it is used for."""
    last = config.blocks - 1
    sliders = []
    for i, (channels, downscale) in enumerate(config.block_layout):
        size = pixels // (8 * downscale)
        part = "detail" if i < config.blocks // 2 else "structure"
        where = "The middle block" if i == last else f"Input block {i}"
        sliders.append(
            io.Float.Input(
                "middle" if i == last else f"in_{i}",
                default=1.0,
                min=0.0,
                max=2.0,
                step=0.01,
                display_mode=io.NumberDisplay.slider,
                tooltip=f"{where}: {channels} channels at {size}x{size} for a picture of {pixels} "
                f"px ({part}). 1 = as trained, 0 = mute.",
            )
        )
    return sliders


def _scales_output() -> io.Output:
    return BlockScalesType.Output(
        "block_scales", display_name="scales", tooltip="Connect to scales of Apply ControlNet++."
    )


class BlockScalesSD15(io.ComfyNode):
    """CNPP_BlockScalesSD15."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_BlockScalesSD15",
            "Block Scales (SD1.5)",
            GROUP,
            "How strongly each of the 13 blocks of an SD1.5 or SD2.x ControlNet acts, from fine "
            "detail (in_0) to layout (in_11, middle).",
            _sliders(SD15, 512),
            [_scales_output()],
            aliases=("block weights", "layer weights", "soft weights"),
        )

    @classmethod
    def execute(cls, **sliders: float) -> io.NodeOutput:
        return io.NodeOutput(_scales(SD15, sliders))


class BlockScalesSDXL(io.ComfyNode):
    """CNPP_BlockScalesSDXL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_BlockScalesSDXL",
            "Block Scales (SDXL)",
            GROUP,
            "How strongly each of the 10 blocks of an SDXL ControlNet acts, from fine detail "
            "(in_0) to layout (in_8, middle).",
            _sliders(SDXL, 1024),
            [_scales_output()],
            aliases=("block weights", "layer weights", "soft weights"),
        )

    @classmethod
    def execute(cls, **sliders: float) -> io.NodeOutput:
        return io.NodeOutput(_scales(SDXL, sliders))


def _scales(config: NetworkConfig, sliders: dict[str, float]) -> BlockScales:
    names = [*(f"in_{i}" for i in range(config.blocks - 1)), "middle"]
    return BlockScales(tuple(sliders[name] for name in names))


class BlockScalePreset(io.ComfyNode):
    """CNPP_BlockScalePreset."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_BlockScalePreset",
            "Block Scale Preset",
            GROUP,
            "A named set of block scales that fits a ControlNet of any family.",
            [
                io.Combo.Input(
                    "preset",
                    options=list(PRESETS),
                    default=PRESETS[0],
                    tooltip="uniform: all blocks alike. guess mode: rising from 0.1 to 1 with "
                    "depth, leaves the prompt more freedom. mid only: the middle block alone. "
                    "structure: the deeper half (layout). detail: the shallow half (fine lines).",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Multiplies every scale of the preset.",
                ),
            ],
            [_scales_output()],
            aliases=("guess mode", "soft weights", "control is more important"),
        )

    @classmethod
    def execute(cls, preset: str, strength: float) -> io.NodeOutput:
        return io.NodeOutput(ScalePreset(preset, strength))


NODES = [ApplyControlNet, BlockScalesSD15, BlockScalesSDXL, BlockScalePreset]
