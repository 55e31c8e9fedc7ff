"""Samplings that Residual Energy watches."""

from __future__ import annotations

from typing import Any

import torch
from controlnet_pp.tests.host.harness import TINY, Host, apply, prompt
from torch import Tensor


def measured(
    host: Host, layout: dict[str, Any], conditioning: tuple, **options: Any
) -> tuple[Tensor, Any]:
    """The latent, the table of energies."""
    watched, energy = host.call("CNPP_ResidualEnergy", model=host.model(layout))
    latent = host.sample(watched, *conditioning, **options)
    return latent, energy.table


SETTINGS = {
    "euler": {},
    "heun": {"sampler": "heun"},
    "dpm_2": {"sampler": "dpm_2"},
    "euler_ancestral": {"sampler": "euler_ancestral"},
    "batch 3": {"latent": torch.zeros(3, 4, 16, 16)},
    "cfg 1": {"cfg": 1.0},
    "odd size": {"latent": torch.zeros(1, 4, 13, 17)},
}


def areas(host: Host) -> tuple[list, list]:
    """A control over the whole picture, and one in an area of another size, with its own prompt."""
    ours, _ = host.pair(TINY)
    positive, negative = apply(host, ours)
    extra = prompt(TINY, 5)
    extra[0][1]["area"] = (8, 12, 0, 2)
    second, _ = apply(host, ours, positive=extra)
    return positive + second, negative
