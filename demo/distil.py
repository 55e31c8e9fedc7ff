"""Distil the demo UNet: a LoRA with which it draws in four steps of LCM what takes DDIM 20."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from ..cnpp_core.diffusion.schedule import NoiseSchedule
from ..cnpp_core.network.controlnet import ControlNet
from ..cnpp_core.network.unet import UNet
from ..cnpp_core.training.denoiser import Denoiser
from ..cnpp_core.training.distil import ConsistencyDistillation
from ..cnpp_core.training.lora import add_lora, apply_lora, lora_state_dict
from ..cnpp_core.training.trainer import TrainSettings
from .model import CONFIG, WEIGHTS, DemoModel, load_part, save_part
from .pairs import Pairs
from .stage import SCENES, train

PART = "lora_lcm"
LCM = TrainSettings(steps=600, learning_rate=1e-3, weight_decay=0.0, ema_decay=0.99)
RANK = 16
CFG = 3.0  # of the teacher, and so of the pictures
BATCH = 8


def train_lcm(out: Path, scenes: int = SCENES, speed_up: int = 1) -> None:
    """The stage after the ControlNets: half of what is distilled is controlled by Canny edges.

    The target is the student itself, as in LCM-LoRA; what is saved is averaged. A step takes 1.3 s
    of one core, so all of them about 13 minutes.
    """
    draw = Pairs.of("canny", out, scenes).draw(BATCH)
    teacher, student = (load_part("unet", UNet(CONFIG), out) for _ in range(2))
    torch.manual_seed(LCM.seed)
    add_lora(student, RANK)

    def distillation(controlnet: ControlNet | None) -> ConsistencyDistillation:
        learning, taught = (
            Denoiser(unet, NoiseSchedule.scaled_linear(), controlnet) for unet in (student, teacher)
        )
        return ConsistencyDistillation(learning, learning, taught, draw, cfg=(CFG, CFG))

    controlnet = load_part("controlnet_canny", ControlNet(CONFIG), out)
    controlled, free = distillation(controlnet), distillation(None)
    averaged = train(student, LCM, lambda g: controlled(g) + free(g), speed_up)
    save_part(PART, lora_state_dict(averaged), out)


def lcm_of(demo: DemoModel, folder: Path = WEIGHTS) -> DemoModel:
    """The demo model with a UNet of few steps: for the sampler `lcm`, at cfg 1.

    ValueError where its file is missing.
    """
    path = folder / f"{PART}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} is missing: distil the demo UNet first.")
    unet = load_part("unet", UNet(CONFIG), folder)
    apply_lora(unet, load_file(path))
    return replace(demo, unet=unet)
