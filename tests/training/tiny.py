"""Networks small enough to train in a test, and batches for them."""

from __future__ import annotations

from dataclasses import replace

import torch
from controlnet_pp.cnpp_core.diffusion.schedule import NoiseSchedule
from controlnet_pp.cnpp_core.network.config import NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.cnpp_core.training.batch import TrainingBatch
from controlnet_pp.cnpp_core.training.denoiser import Denoiser
from controlnet_pp.tests.network.small import TINY

CONFIG = TINY
WITH_Y = replace(CONFIG, adm_in_channels=12)
SCHEDULE = NoiseSchedule.scaled_linear()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(net, seed: int = 0):
    """The network with random weights everywhere, zero convolutions included."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
            # Without normalisation a hint would fade from one SiLU to the next.
            gain = 2.0 if name.startswith("input_hint_block.") else 1.0
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(offset + gain * noise * fan_in**-0.5)
    return net


def denoiser(config: NetworkConfig = CONFIG, **settings) -> Denoiser:
    """A frozen UNet and a ControlNet that has learnt something already."""
    unet = filled(UNet(config)).requires_grad_(False)
    return Denoiser(unet, SCHEDULE, filled(ControlNet(config), seed=1), **settings)


def batch(rows: int = 4, config: NetworkConfig = CONFIG, seed: int = 0, side: int = 8):
    generator = seeded(seed)

    def random(*shape):
        return torch.randn(rows, *shape, generator=generator)

    adm = config.adm_in_channels
    return TrainingBatch(
        x0=random(config.in_channels, side, side),
        context=random(3, config.context_dim),
        hint=random(config.hint_channels, 8 * side, 8 * side).sigmoid(),
        y=None if adm is None else random(adm),
        empty=random(3, config.context_dim)[:1],
        empty_y=None if adm is None else random(adm)[:1],
        losing_hint=random(config.hint_channels, 8 * side, 8 * side).sigmoid(),
    )


def always(one: TrainingBatch):
    """Draws that batch, whatever the generator."""
    return lambda _: one
