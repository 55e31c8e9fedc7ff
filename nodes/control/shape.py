"""Menu group "control": when, where and in which rows a control acts."""

from __future__ import annotations

from comfy_api.latest import io

from ...cnpp_core.control.hints import CROP, FITS, NEAREST, RESAMPLINGS, HintFit
from ...cnpp_core.control.masks import GROUPS, prepare_mask
from ...cnpp_core.control.rows import CONTROL_MODES
from ...cnpp_core.control.scales import Scales, product
from ...cnpp_core.control.schedule import (
    UniformScales,
)
from ..host.control.control import as_ours
from ..schema import BlockScalesType, schema

GROUP = "control"
ONE_BLOCK = "one block"


def control_input() -> io.Input:
    """The control that a node changes."""
    return io.ControlNet.Input(
        "control_net", tooltip="From Load ControlNet++ or any other ControlNet loader."
    )


def control_output() -> io.Output:
    """The changed copy, called like the input so that nodes can be chained."""
    return io.ControlNet.Output(
        "shaped", display_name="control_net", tooltip="A changed copy, for Apply ControlNet++."
    )


class BlockMasksNode(io.ComfyNode):
    """Block Masks: adds a mask to a copy of the control; the last one to cover a block counts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_BlockMasks",
            "Block Masks",
            GROUP,
            "Where in the picture the control acts, for all blocks, a group of them or one. Chain "
            "several nodes to give the detail, the structure, the middle or single blocks masks of "
            "their own.",
            [
                control_input(),
                io.Mask.Input(
                    "mask",
                    tooltip="White: the control acts. It covers the whole picture at any size. A "
                    "batch gives every image its own.",
                ),
                io.Combo.Input(
                    "blocks",
                    options=[*GROUPS, ONE_BLOCK],
                    default=GROUPS[0],
                    tooltip="Which blocks the mask is for. Of several masks for a block, the last "
                    "node counts.",
                ),
                io.Int.Input(
                    "block",
                    default=0,
                    min=0,
                    max=63,
                    tooltip="Only for 'one block': its number, from 0 (fine) to the middle block "
                    "(SD1.5: 12, SDXL: 9).",
                ),
                io.Boolean.Input(
                    "invert", default=False, tooltip="The control acts where the mask is black."
                ),
                io.Float.Input(
                    "feather",
                    default=0.0,
                    min=0.0,
                    max=256.0,
                    step=0.5,
                    tooltip="Softens the border: radius of a Gaussian in pixels of the mask.",
                ),
            ],
            [control_output()],
            aliases=("effective region mask", "controlnet mask", "regional control"),
        )

    @classmethod
    def execute(cls, control_net, mask, blocks, block, invert, feather) -> io.NodeOutput:
        ours = as_ours(control_net)
        mask = mask[None] if mask.ndim == 2 else mask
        prepared = prepare_mask(mask.float().cpu(), invert=invert, feather=feather)
        masks = ours.shape.masks.with_layer(prepared, block if blocks == ONE_BLOCK else blocks)
        return io.NodeOutput(ours.shaped(masks=masks))


class ControlModeNode(io.ComfyNode):
    """Control Mode: scales for cond and uncond rows, beside those of Apply ControlNet++."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_ControlMode",
            "Control Mode",
            GROUP,
            "How strongly the control acts with your prompt and without it: balanced, guess mode, "
            "or half the cost. With it are the cond rows of a batch, without it the uncond rows; "
            "each can have scales of its own.",
            [
                control_input(),
                io.Combo.Input(
                    "mode",
                    options=list(CONTROL_MODES),
                    default="balanced",
                    tooltip="balanced: both alike. prompt is more important: both, softer towards "
                    "fine detail. control is more important: the same softness, in the cond rows "
                    "alone (guess mode). cond rows only: full strength there, half the cost; cfg "
                    "then multiplies the control.",
                ),
                io.Float.Input(
                    "cond_strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Multiplies the control in the cond rows.",
                ),
                io.Float.Input(
                    "uncond_strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Multiplies the control in the uncond rows. 0: they are not computed.",
                ),
                BlockScalesType.Input(
                    "cond_scales",
                    optional=True,
                    tooltip="Block scales or a schedule for the cond rows alone.",
                ),
                BlockScalesType.Input(
                    "uncond_scales",
                    optional=True,
                    tooltip="Block scales or a schedule for the uncond rows alone.",
                ),
            ],
            [control_output()],
            aliases=("guess mode", "control is more important", "my prompt is more important"),
        )

    @classmethod
    def execute(
        cls, control_net, mode, cond_strength, uncond_strength, cond_scales=None, uncond_scales=None
    ) -> io.NodeOutput:
        cond = _times(cond_scales, cond_strength)
        uncond = _times(uncond_scales, uncond_strength)
        rows = CONTROL_MODES[mode].times(cond, uncond)
        return io.NodeOutput(as_ours(control_net).shaped(rows=rows))


def _times(scales: Scales | None, strength: float) -> Scales | None:
    return scales if strength == 1.0 else product(scales, UniformScales(strength))


class HintFitNode(io.ComfyNode):
    """Hint Fit: how a copy of the control brings its hint to the size of the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            "CNPP_HintFit",
            "Hint Fit",
            GROUP,
            "How a control image of another size or aspect is brought to the picture, or to the "
            "area of a prompt. Without this node: cropped in the centre, nearest pixels, as in "
            "ComfyUI.",
            [
                control_input(),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default=CROP,
                    tooltip="crop: fill the picture, cut off what is left over. pad: show all of "
                    "it, black around it. stretch: change its aspect.",
                ),
                io.Combo.Input(
                    "resampling",
                    options=list(RESAMPLINGS),
                    default=NEAREST,
                    tooltip="nearest: as ComfyUI; thin lines break when the image shrinks. smooth: "
                    "for depth and normals. keep lines: bright lines on black stay whole.",
                ),
                io.Boolean.Input(
                    "follow_area",
                    default=True,
                    tooltip="A prompt with an area (Conditioning Set Area, set in front of Apply) "
                    "sees its own part of the image. Off: the whole image squeezed into the area, "
                    "as in ComfyUI.",
                ),
            ],
            [control_output()],
            aliases=("resize mode", "crop and resize", "area conditioning"),
        )

    @classmethod
    def execute(cls, control_net, fit, resampling, follow_area) -> io.NodeOutput:
        hint = HintFit(fit, resampling, follow_area)
        return io.NodeOutput(as_ours(control_net).shaped(hint=hint))


NODES = [BlockMasksNode, ControlModeNode, HintFitNode]
