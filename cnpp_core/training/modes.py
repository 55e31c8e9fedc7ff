"""Which parameters a training reaches: the three modes of arXiv 2302.05543 and its code.

A run may begin in one mode and go on in another: the loss follows at once. Its trainer is made for
`trained_parts` of all its modes, before the first `set_mode`; what a mode leaves out then has no
gradient, and optimisers pass over it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from enum import Enum
from typing import Any

from torch import nn

from ..network.controlnet import ControlNet
from .denoiser import Denoiser

# The parts of a UNet that a mode may unlock, by their names in it.
DECODER = ("output_blocks", "out")
SKIPS = "zero_convs"


class Mode(Enum):
    """A mode by the name that people choose it by."""

    # The skip connections stay as they are, only the middle block gets a residual: easier to learn.
    # The gradient still passes the whole decoder, so a step is only one in a hundred cheaper.
    MIDDLE_ONLY = "middle only"
    SD_LOCKED = "SD locked"
    # For when the ControlNet has converged. The decoder of the UNet becomes another one, which has
    # to be kept with the ControlNet (`checkpoint.save.save_unet_file`).
    SD_DECODER_UNLOCKED = "SD decoder unlocked"


def set_mode(denoiser: Denoiser, mode: Mode) -> None:
    """Let gradients reach the parameters of the mode and no others, and add what belongs to it.

    Raises ValueError for a denoiser without a ControlNet.
    """
    controlnet = _controlnet_of(denoiser)
    denoiser.unet.requires_grad_(False)
    controlnet.requires_grad_(True)
    denoiser.blocks = None
    if mode is Mode.MIDDLE_ONLY:
        denoiser.blocks = frozenset({controlnet.config.blocks - 1})
        controlnet.get_submodule(SKIPS).requires_grad_(False)
    if mode is Mode.SD_DECODER_UNLOCKED:
        for name in DECODER:
            denoiser.unet.get_submodule(name).requires_grad_(True)


def trained_parts(denoiser: Denoiser, modes: Iterable[Mode]) -> nn.ModuleDict:
    """All that is trained in a run through these modes: "controlnet", and the decoder's parts.

    The modules are the denoiser's own, and all their parameters require a gradient until
    `set_mode` says otherwise.
    """
    parts: dict[str, nn.Module] = {"controlnet": _controlnet_of(denoiser)}
    if Mode.SD_DECODER_UNLOCKED in modes:
        parts |= {name: denoiser.unet.get_submodule(name) for name in DECODER}
    return nn.ModuleDict(parts).requires_grad_(True)


def with_parts(denoiser: Denoiser, parts: nn.ModuleDict) -> Denoiser:
    """The denoiser with other weights in what is trained, such as a trainer's averaged ones.

    It shares everything else, and nothing is copied.
    """
    unet: Any = denoiser.unet
    decoder = {name: parts[name] for name in DECODER if name in parts}
    if decoder:
        unet = copy.copy(denoiser.unet)
        unet._modules = denoiser.unet._modules | decoder
    controlnet: Any = parts["controlnet"]
    return replace(denoiser, unet=unet, controlnet=controlnet)


def _controlnet_of(denoiser: Denoiser) -> ControlNet:
    if denoiser.controlnet is None:
        raise ValueError("Modes are of the training of a ControlNet, and there is none.")
    return denoiser.controlnet
