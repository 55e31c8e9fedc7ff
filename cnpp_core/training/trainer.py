"""A training loop: AdamW, warm-up and cosine decay, clipped gradients, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# The loss of one batch, a scalar; the batch is drawn with the generator.
Objective = Callable[[torch.Generator], Tensor]


@dataclass(frozen=True)
class TrainSettings:
    """How long and how fast.

    ``steps`` optimiser steps, each over ``accumulate`` batches; learning rate rising
    over ``warmup`` steps and falling to zero along a cosine; ``autocast`` a half dtype or None.
    """

    steps: int
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    accumulate: int = 1
    seed: int = 0
    autocast: torch.dtype | None = None

    def rate(self, step: int) -> float:
        """Learning rate of step 0..steps-1."""
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        return self.learning_rate * rise * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))


class Trainer:
    """Trains the parameters of ``module`` that require a gradient; deterministic from the seed.

    ``averaged`` is a copy of the module with exponentially averaged weights: what one ships.
    """

    def __init__(self, module: nn.Module, settings: TrainSettings) -> None:
        self.module = module
        self.settings = settings
        self.averaged = copy.deepcopy(module).eval().requires_grad_(False)
        self.trained = [p for p in module.parameters() if p.requires_grad]
        if not self.trained:
            raise ValueError("Nothing to train: no parameter of the network requires a gradient.")
        self.optimizer = torch.optim.AdamW(
            self.trained, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.step = 0

    def run(
        self, objective: Objective, on_step: Callable[[int, float], None] | None = None
    ) -> None:
        """Train to the last step, from wherever ``step`` is.

        ``on_step(step, loss)`` is called after each step; it may raise to stop, and training goes
        on from there at the next call. Raises RuntimeError if the loss is no longer finite.
        """
        self.module.train()
        while self.step < self.settings.steps:
            value = self._one_step(objective)
            self.step += 1
            if on_step is not None:
                on_step(self.step, value)
        self.module.eval()

    def save(self, path: Path) -> None:
        """Write everything that ``load`` needs to go on exactly where training stopped."""
        torch.save(self.state_dict(), path)

    def load(self, path: Path) -> None:
        """Go on from a file of ``save``."""
        self.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def state_dict(self) -> dict[str, Any]:
        return {
            "module": self.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]

    def _one_step(self, objective: Objective) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(self.settings.accumulate):
            with self._precision():
                value = objective(self.generator) / self.settings.accumulate
            value.backward()
            total += value.item()
        if not math.isfinite(total):
            raise RuntimeError(
                f"The loss is {total} at step {self.step + 1}; lower the learning rate or train in "
                "full precision."
            )
        nn.utils.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
        self.optimizer.step()
        self._average()
        return total

    def _precision(self) -> Any:
        if self.settings.autocast is None:
            return nullcontext()
        return torch.autocast(self.trained[0].device.type, self.settings.autocast)

    @torch.no_grad()
    def _average(self) -> None:
        # Early weights are far from any good, so the average forgets them fast.
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        ours: Iterable[Tensor] = self.averaged.state_dict().values()
        for average, current in zip(ours, self.module.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(current.to(average.dtype), 1 - decay)
            else:
                average.copy_(current)
