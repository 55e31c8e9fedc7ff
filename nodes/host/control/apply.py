"""Puts a control into conditioning, after looking at everything that could be wrong with it."""

from __future__ import annotations

from typing import Any

import torch
from comfy import controlnet as host
from torch import Tensor

from ....cnpp_core.control.rows import COND, UNCOND
from ....cnpp_core.control.scales import Scales
from .call import MARK, PromptMark
from .control import ControlNetPlusPlus, as_ours
from .family import (
    config_of,
    context_width,
    describe,
    family_of_width,
    require_conditioning,
)
from .network import is_silent

NODE = "Apply ControlNet++"

Conditioning = list[list[Any]]  # the host's: [tensor (B, L, width), options] per prompt


def apply_control(
    positive: Conditioning,
    negative: Conditioning,
    control_net: host.ControlBase,
    image: Tensor,
    strength: float,
    window: tuple[float, float],
    *,
    scales: Scales | None = None,
    vae: Any = None,
) -> tuple[Conditioning, Conditioning]:
    """Both conditionings with a copy of ``control_net`` added behind the controls they carry.

    image: (B, H, W, C) in 0..1; window: start and end in 0..1 of the sampling. Prompts that carry
    the same earlier control (usually all: none) share one copy, so that the host can send them
    through the network in one batch. Strength 0, or a union network
    all of whose conditions have weight 0, returns the conditionings as they came. Raises
    ValueError for what can't work, naming the input to change.
    """
    _require_window(*window)
    if strength == 0 or is_silent(control_net):
        return positive, negative
    require_image(image, control_net, NODE)
    _require_family(control_net, positive, negative)
    if getattr(control_net, "latent_format", None) is not None and vae is None:
        raise ValueError(
            f"{NODE}: this control_net reads its image as a latent; connect the model's VAE to vae."
        )
    hint = image.movedim(-1, 1)
    with_areas = any(
        "area" in options or options.get("set_area_to_bounds")
        for _, options in (*positive, *negative)
    )
    copies: dict[Any, host.ControlBase] = {}

    def controlled(conditioning: Conditioning, side: str) -> Conditioning:
        return [[prompt, with_control(options, side)] for prompt, options in conditioning]

    def with_control(options: dict[str, Any], side: str) -> dict[str, Any]:
        previous = options.get("control")
        if previous not in copies:
            copy = _copy(control_net, scales, with_areas)
            copy.set_cond_hint(hint, strength, window, vae=vae)
            copies[previous] = copy.set_previous_controlnet(previous)
        control = copies[previous]
        options = {**options, "control": control, "control_apply_to_uncond": False}
        if isinstance(control, ControlNetPlusPlus) and control.shape.reads_marks:
            options["model_conds"] = {**options.get("model_conds", {}), MARK: PromptMark(side)}
        return options

    return controlled(positive, COND), controlled(negative, UNCOND)


def _copy(
    control_net: host.ControlBase, scales: Scales | None, with_areas: bool
) -> host.ControlBase:
    """A control of this Apply's own; the host's very class where there is nothing to shape."""
    if scales is None and not isinstance(control_net, ControlNetPlusPlus):
        return control_net.copy()
    copy = as_ours(control_net).for_prompts(with_areas=with_areas)
    return copy if scales is None else copy.shaped(scales=scales)


def _require_window(start: float, end: float) -> None:
    if not 0.0 <= start <= end <= 1.0:
        raise ValueError(
            f"{NODE}: the control would act from {start:g} to {end:g} of the sampling; "
            "start_percent must not lie behind end_percent."
        )


def require_image(image: Tensor, control_net: host.ControlBase, node: str) -> None:
    """ValueError naming ``node`` if ``image`` can't be a hint of this control."""
    if image.ndim != 4 or 0 in image.shape:
        raise ValueError(
            f"{node}: image has shape {tuple(image.shape)}; a batch of pictures (B, H, W, 3) with "
            "at least one pixel was expected."
        )
    channels = image.shape[-1]
    wanted = _hint_channels(control_net)
    if channels != wanted:
        advice = {
            (1, 3): "Convert a mask with Mask to Image first.",
            (4, 3): "Remove the alpha channel first (Split Image with Alpha).",
        }
        other = (
            f"Connect a picture of {wanted} channel{'s' * (wanted != 1)}, or another ControlNet."
        )
        raise ValueError(
            f"{node}: image has {channels} channel{'s' * (channels != 1)}, the ControlNet reads "
            f"{wanted}. {advice.get((channels, wanted), other)}"
        )
    if not torch.isfinite(image).all():
        raise ValueError(
            f"{node}: image contains NaN or infinite values; look at the node that made it."
        )


def _hint_channels(control_net: host.ControlBase) -> int:
    block = getattr(getattr(control_net, "control_model", None), "input_hint_block", None)
    return block[0].in_channels if block is not None and hasattr(block[0], "in_channels") else 3


def _require_family(
    control_net: host.ControlBase, positive: Conditioning, negative: Conditioning
) -> None:
    config = config_of(control_net)
    if config is not None:
        width, name = config.context_dim, describe(config)
    else:
        width = context_width(control_net)
        if width is None:
            return
        name = family_of_width(width)
    for conditioning, side in ((positive, "positive"), (negative, "negative")):
        require_conditioning(width, name, conditioning, side)
