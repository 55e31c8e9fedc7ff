"""What the stages of a training share: the scenes, what they are encoded to, and the run itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ..cnpp_core.diffusion.schedule import LATENT_SCALE
from ..cnpp_core.training.trainer import Objective, Trainer, TrainSettings
from .autoencoder import Autoencoder
from .model import load_part
from .text import TextEncoder, tokenize
from .world import TRAIN_SEED, load_batch

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)

SCENES = 8000
CHUNK = 100


@dataclass(frozen=True)
class Scenes:
    """Training pictures (N, 3, S, S) uint8, masks (N, 1, S, S) of their shapes, captions."""

    images: Tensor
    masks: Tensor
    captions: list[str]


def draw_scenes(count: int = SCENES) -> Scenes:
    """The first scenes of the world that is trained with."""
    log.info("drawing %d scenes", count)
    images, masks, captions = [], [], []
    for start in range(0, count, CHUNK):
        part = load_batch(TRAIN_SEED, range(start, min(start + CHUNK, count)))
        images.append((part.images * 255).round().byte())
        masks.append(part.masks)
        captions += part.captions
    return Scenes(torch.cat(images), torch.cat(masks), captions)


@torch.no_grad()
def encode(images: Tensor, out: Path) -> Tensor:
    """Latents (N, 4, S/8, S/8) as the diffusion model takes them, by the autoencoder in ``out``.

    images (N, 3, S, S) uint8.
    """
    autoencoder = load_part("autoencoder", Autoencoder(), out)
    parts = [autoencoder.encode(to_model(part)) for part in images.split(CHUNK)]
    return torch.cat(parts) * LATENT_SCALE


@torch.no_grad()
def embed(captions: Sequence[str], out: Path) -> tuple[Tensor, Tensor]:
    """Contexts (N, LENGTH, WIDTH) of captions, and of the empty one (1, LENGTH, WIDTH)."""
    text_encoder = load_part("text_encoder", TextEncoder(), out)
    tokens = torch.tensor([tokenize(caption) for caption in captions])
    return text_encoder(tokens), text_encoder(torch.tensor([tokenize("")]))


def to_model(images: Tensor) -> Tensor:
    """Pictures (...) uint8 as the autoencoder takes them, in -1..1."""
    return images.float() / 127.5 - 1


def train(
    module: Module, settings: TrainSettings, objective: Objective, speed_up: int = 1
) -> Module:
    """The averaged network after all steps, or after that part of them; the loss is logged."""
    settings = replace(settings, steps=max(settings.steps // speed_up, 1))
    trainer, began = Trainer(module, settings), time.perf_counter()
    recent: list[float] = []

    def on_step(step: int, value: float) -> None:
        recent.append(value)
        if step % CHUNK == 0:
            mean, minutes = sum(recent) / len(recent), (time.perf_counter() - began) / 60
            log.info("step %d of %d, loss %.4f, %.1f min", step, settings.steps, mean, minutes)
            recent.clear()

    trainer.run(objective, on_step)
    return cast(Module, trainer.averaged)
