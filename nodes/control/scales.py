"""Menu group "control", how strongly each block acts: by hand, by name, and over the sampling."""

from __future__ import annotations

from comfy_api.latest import io

from ...cnpp_core.control.scales import PRESETS, BlockScales, ScalePreset
from ...cnpp_core.control.schedule import (
    EXAMPLE,
    INTERPOLATIONS,
    ScaleSchedule,
    key_frames,
    parse_schedule,
)
from ...cnpp_core.network.config import SD15, SDXL, NetworkConfig
from ..schema import BlockScalesType, schema

GROUP = "control"


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
    """Block Scales (SD1.5): a slider for each of the 13 residuals."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_BlockScalesSD15",
            "Block Scales (SD1.5)",
            GROUP,
            "Thirteen sliders: how strongly each block of an SD1.5 or SD2.x ControlNet acts. They "
            "go from fine detail (in_0) to layout (in_11, middle).",
            _sliders(SD15, 512),
            [_scales_output()],
            aliases=("block weights", "layer weights", "soft weights"),
        )

    @classmethod
    def execute(cls, **sliders: float) -> io.NodeOutput:
        return io.NodeOutput(_scales(SD15, sliders))


class BlockScalesSDXL(io.ComfyNode):
    """Block Scales (SDXL): a slider for each of the 10 residuals."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_BlockScalesSDXL",
            "Block Scales (SDXL)",
            GROUP,
            "Ten sliders: how strongly each block of an SDXL ControlNet acts. They go from fine "
            "detail (in_0) to layout (in_8, middle).",
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
    """Block Scale Preset: resolved to numbers only when the network is known."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_BlockScalePreset",
            "Block Scale Preset",
            GROUP,
            f"Block scales by name, for a ControlNet of any family: {', '.join(PRESETS)}.",
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


class ScaleScheduleNode(io.ComfyNode):
    """Scale Schedule: key frames as text; `previous` chains further ones in front."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_ScaleSchedule",
            "Scale Schedule",
            GROUP,
            "Block scales that change over the sampling, key frame by key frame: '0%: 1; 60%: 1; "
            "90%: soft'. From one key frame to the next they go smoothly, or in one step.",
            [
                io.String.Input(
                    "schedule",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip="Key frames 'percent: scales', separated by semicolons or lines. "
                    "Scales: a number for all blocks, soft, a preset (structure, detail, mid "
                    "only), the word scales (the input below), a list [..] of one number per "
                    "block, or one of these * a number.",
                ),
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default="linear",
                    tooltip="The way to a key frame from the one before. step: no way at all, it "
                    "changes when the key frame is reached.",
                ),
                BlockScalesType.Input(
                    "scales",
                    optional=True,
                    tooltip="What the word 'scales' in the schedule means: Block Scales or a "
                    "preset.",
                ),
                BlockScalesType.Input(
                    "previous",
                    optional=True,
                    tooltip="Another Scale Schedule, whose key frames are kept beside these.",
                ),
            ],
            [_scales_output()],
            aliases=("timestep keyframes", "weight curve", "control schedule"),
        )

    @classmethod
    def execute(cls, schedule: str, interpolation: str, scales=None, previous=None):
        named = {} if scales is None else {"scales": scales}
        keys = parse_schedule(schedule, interpolation, named)
        if previous is not None:
            keys = (*key_frames(previous), *keys)
        return io.NodeOutput(ScaleSchedule(keys))


NODES = [BlockScalesSD15, BlockScalesSDXL, BlockScalePreset, ScaleScheduleNode]
