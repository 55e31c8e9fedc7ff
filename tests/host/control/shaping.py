"""The nodes that shape a control, called with the inputs that a test is about; what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from controlnet_pp.tests.host.harness import TINY, Host, apply
from controlnet_pp.tests.host.residuals import evaluations
from torch import Tensor

CLOSE = 2e-4  # a factor applied in another order, or rows computed in a smaller batch


def sampled(host: Host, conditionings: tuple, layout: dict[str, Any] = TINY, **sampling) -> Tensor:
    """The latent of a random model in this layout."""
    return host.sample(host.model(layout), *conditionings, **sampling)


def block_scales(host: Host, *values: float) -> Any:
    """BLOCK_SCALES of these numbers, shallow to deep."""
    return host.pack("cnpp_core.control.scales").BlockScales(values)


def schedule(host: Host, text: str, interpolation: str = "linear", **inputs: Any) -> Any:
    """BLOCK_SCALES over the steps, from Scale Schedule."""
    return host.call("CNPP_ScaleSchedule", schedule=text, interpolation=interpolation, **inputs)[0]


def percent(host: Host, t: Tensor) -> float:
    """How far a sampling is, by the model's own timesteps: 0 at the start (999), 1 at the end."""
    sampling = host.model(TINY).model.model_sampling
    return float(1 - sampling.timestep(t[:1])[0] / 999)


def mode(
    host: Host,
    control: Any,
    name: str = "balanced",
    cond: float = 1.0,
    uncond: float = 1.0,
    **scales: Any,
) -> Any:
    """A control of the two prompts, from Control Mode."""
    return host.call(
        "CNPP_ControlMode",
        control_net=control,
        mode=name,
        cond_strength=cond,
        uncond_strength=uncond,
        **scales,
    )[0]


def masked(host: Host, control: Any, mask: Tensor, blocks: str = "all blocks", **changes) -> Any:
    """A control in a part of the picture, from Block Masks."""
    inputs = {"block": 0, "invert": False, "feather": 0.0} | changes
    return host.call("CNPP_BlockMasks", control_net=control, mask=mask, blocks=blocks, **inputs)[0]


def left(size: int = 128) -> Tensor:
    """A MASK of the left half."""
    mask = torch.zeros(1, size, size)
    mask[..., : size // 2] = 1.0
    return mask


def fitted(host: Host, control: Any, fit: str = "crop", **changes: Any) -> Any:
    """A control whose hint is fitted like this, from Hint Fit."""
    inputs = {"resampling": "nearest", "follow_area": False} | changes
    return host.call("CNPP_HintFit", control_net=control, fit=fit, **inputs)[0]


def control_in(conditioning: tuple) -> Any:
    """The control that (positive, negative) came back with."""
    return conditioning[0][0][1]["control"]


def in_area(
    host: Host, conditioning: list, width: int, height: int, x: int = 0, y: int = 0
) -> list:
    """A conditioning that counts in this area only, in pixels."""
    return host.call(
        "ConditioningSetArea",
        conditioning=conditioning, width=width, height=height, x=x, y=y, strength=1.0,
    )[0]  # fmt: skip


def speed(host: Host, control: Any, **changes: Any) -> Any:
    """A control that is evaluated less often, from Control Speed; at rest unless told otherwise."""
    inputs = {
        "reuse_every": 1,
        "fresh_steps": 1,
        "max_drift": 0.0,
        "lazy": False,
        "overlap": False,
        "channels_last": False,
        "compile": False,
    }
    return host.call("CNPP_ControlSpeed", control_net=control, **inputs | changes)[0]


@contextmanager
def embedded_hints(network: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Every hint (B, 3, H, W) that a network embeds meanwhile."""
    hints: list[Tensor] = []
    handle = network.input_hint_block[0].register_forward_hook(
        lambda _module, inputs, _output: hints.append(inputs[0])
    )
    try:
        yield hints
    finally:
        handle.remove()


def counted(
    host: Host, control: Any, model: Any = None, layout: dict[str, Any] = TINY, **sampling: Any
) -> tuple[Tensor, list[int]]:
    """The latent of a sampling, and the rows of each evaluation of the control's network."""
    with evaluations(control.control_model) as rows:
        conditioning = apply(host, control, layout)
        latent = host.sample(model or host.model(layout), *conditioning, **sampling)
    return latent, list(rows)
