"""What a training is planned to take beside what it takes; run by test_plan.py on its own.

Prints both in bytes as JSON. Arguments: rows of a batch, rows of the plan's batch, whether
activations are recomputed.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from controlnet_pp.cnpp_core.network.config import NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.cnpp_core.training.plan import plan
from controlnet_pp.cnpp_core.training.recompute import recomputed
from controlnet_pp.cnpp_core.training.settings import TrainSettings
from controlnet_pp.cnpp_core.training.trainer import Trainer

MEDIUM = NetworkConfig(
    model_channels=64,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(0, 1),
    context_dim=32,
)
SMALL = replace(MEDIUM, model_channels=32)


def measured(config: NetworkConfig, side: int, rows: int, planned_rows: int, less: bool):
    """(planned, measured) bytes of two steps with latents of that side."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, a parent's before it even
    before = resident("VmRSS")
    unet = UNet(config).requires_grad_(False)
    controlnet = ControlNet.from_unet(unet)

    def loss_of(rows):
        def loss(generator):
            x = torch.randn(rows, 4, side, side, generator=generator)
            context = torch.randn(rows, 8, config.context_dim, generator=generator)
            hint = torch.rand(rows, 3, 8 * side, 8 * side, generator=generator)
            t = torch.randint(1000, (rows,), generator=generator)
            residuals = controlnet(x, hint, t, context)
            return (unet(x, t, context, residuals=residuals) - x).square().mean()

        return loss

    trainer = Trainer(controlnet, TrainSettings(steps=2))
    with recomputed(unet, controlnet) if less else nullcontext():
        scale = rows / planned_rows
        planned = plan(trainer, loss_of(planned_rows), rows, others=[unet], scale=scale)
        trainer.run(loss_of(rows))
    return planned.memory, resident("VmHWM") - before


def resident(name: str) -> int:
    """Bytes of this process that are in memory (VmRSS), or were at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(name)]
    return int(value) * 1024


def main(rows: int, planned_rows: int, less: bool) -> None:
    torch.set_num_threads(1)
    measured(SMALL, 4, 1, 1, less)  # what PyTorch loads at first use is none of the training's
    print(json.dumps(measured(MEDIUM, 32, rows, planned_rows, less)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "less")
