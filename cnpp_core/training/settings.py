"""How long, how fast and how exactly a network is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

SCHEDULES = ("cosine", "constant")
OPTIMIZERS = ("adamw", "adamw8bit")
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class TrainSettings:
    """How long and how fast; a training is repeatable from these and its data.

    ``steps`` optimiser steps, each over ``accumulate`` batches. The learning rate rises over
    ``warmup`` steps and falls to zero along a cosine, or stays where it is (``schedule``).
    ``ema_decay`` in 0..1, 0 for no averaged weights. ``autocast`` is the half dtype that is
    computed in, or None; the weights that are trained stay in float32. Raises ValueError naming
    the setting that is out of its range.
    """

    steps: int
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    schedule: str = "cosine"
    optimizer: str = "adamw"
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    accumulate: int = 1
    seed: int = 0
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "steps", self.steps, "at least 1")
        _require(self.accumulate >= 1, "accumulate", self.accumulate, "at least 1")
        _require(self.warmup >= 0, "warmup", self.warmup, "at least 0")
        _require(0 < self.learning_rate < math.inf, "learning_rate", self.learning_rate, "above 0")
        _require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "above 0")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "from 0 to below 1")
        _require(self.schedule in SCHEDULES, "schedule", self.schedule, " or ".join(SCHEDULES))
        _require(self.optimizer in OPTIMIZERS, "optimizer", self.optimizer, " or ".join(OPTIMIZERS))
        halves = (None, *HALVES)
        _require(self.autocast in halves, "autocast", self.autocast, "None or a half dtype")

    def rate(self, step: int) -> float:
        """Learning rate of step 0..steps-1."""
        risen = self.learning_rate * min(1.0, (step + 1) / max(self.warmup, 1))
        if self.schedule == "constant":
            return risen
        return risen * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))

    def optimizer_of(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW (arXiv 1711.05101), or with states of 8 bits (arXiv 2110.02861).

        Raises ValueError if the package that has the latter is missing.
        """
        kind: Any = torch.optim.AdamW
        if self.optimizer == "adamw8bit":
            try:
                import bitsandbytes

                kind = bitsandbytes.optim.AdamW8bit
            except ImportError as error:
                raise ValueError(
                    "The optimizer adamw8bit needs the package bitsandbytes, which this Python "
                    f"lacks ({error}): install it (pip install bitsandbytes) or choose adamw."
                ) from error
        return kind(parameters, betas=self.betas, weight_decay=self.weight_decay)

    def as_json(self) -> dict[str, Any]:
        """The settings by name, as a JSON file can hold them."""
        dtype = None if self.autocast is None else str(self.autocast).removeprefix("torch.")
        return {**asdict(self), "betas": list(self.betas), "autocast": dtype}


def require_trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient.

    Raises ValueError if there are none, or if they can't be trained as they are.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("Nothing to train: no parameter of the network requires a gradient.")
    for name, parameter in trained.items():
        if parameter.dtype in HALVES:
            raise ValueError(
                f"{name} is {str(parameter.dtype).removeprefix('torch.')}, whose steps are too "
                "coarse to learn in: train a float32 copy, and set autocast to compute in half "
                "precision."
            )
        if parameter.is_inference():
            raise ValueError(
                f"{name} was made in inference mode and takes no gradient: load the network inside "
                "torch.inference_mode(False), or clone its weights there."
            )
    return list(trained.values())


def _require(fits: bool, name: str, found: object, expected: str) -> None:
    if not fits:
        raise ValueError(f"The setting {name} is {found}, expected {expected}.")
