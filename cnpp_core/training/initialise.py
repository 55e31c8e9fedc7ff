"""Weights to begin training with."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..network.blocks import Build, ResBlock, SpatialTransformer
from ..network.controlnet import ControlNet
from ..network.unet import UNet


def begin_controlnet(
    source: UNet | ControlNet, hint_channels: int = 3, seed: int = 0
) -> tuple[ControlNet, str]:
    """A ControlNet to train, float32 on the device of its source, and a sentence on what is new.

    From a UNet the encoder is copied (arXiv 2302.05543, section 3.1): until it is trained its
    residuals are zero. From another ControlNet everything is, as those of scribbles and straight
    lines began from canny's; only for hints of other channels the first convolution over the hint
    is new. ``seed`` decides what is new. Raises ValueError for a union network.
    """
    with _seeded(seed, source.device):
        if isinstance(source, UNet):
            net = ControlNet.from_unet(source, hint_channels).float()
            return net, "The encoder is the model's; the hint block is new, all residuals are zero."
        if source.config.union_types is not None:
            raise ValueError(
                f"The ControlNet to begin from is a union network of {source.config.union_types} "
                "types; begin from the model, or from a ControlNet of one kind."
            )
        net = copy.deepcopy(source).float()
        if hint_channels == source.config.hint_channels:
            return net, "All weights are those of the ControlNet that it begins from."
        net.config = replace(net.config, hint_channels=hint_channels)
        first: Any = net.input_hint_block[0]
        build = Build(device=source.device)
        net.input_hint_block[0] = build.conv(hint_channels, first.out_channels, 3)
        return net, (
            f"Only input_hint_block.0 is new, for {hint_channels} hint channels instead of "
            f"{source.config.hint_channels}; all else is of the ControlNet that it begins from."
        )


def zero_last_layers(unet: UNet) -> None:
    """Make every block of a fresh UNet the identity and its output zero, as the original does.

    (A ControlNet begins as a copy of a trained network instead: `begin_controlnet`.)
    """
    for module in unet.modules():
        if isinstance(module, ResBlock):
            _zero(module.out_layers[-1])
        elif isinstance(module, SpatialTransformer):
            _zero(module.proj_out)
    _zero(unet.out[-1])


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw weights from a seed, and leave torch's own generators as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
