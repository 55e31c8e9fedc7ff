"""Weights to begin training with."""

from __future__ import annotations

from torch import nn

from ..network.blocks import ResBlock, SpatialTransformer
from ..network.unet import UNet


def zero_last_layers(unet: UNet) -> None:
    """Make every block of a fresh UNet the identity and its output zero, as the original does.

    (A ControlNet begins as a copy of a trained UNet instead: ``ControlNet.from_unet``.)
    """
    for module in unet.modules():
        if isinstance(module, ResBlock):
            _zero(module.out_layers[-1])
        elif isinstance(module, SpatialTransformer):
            _zero(module.proj_out)
    _zero(unet.out[-1])


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
