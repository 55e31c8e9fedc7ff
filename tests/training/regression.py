"""A training whose minimum is known, small enough to run hundreds of steps in a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from controlnet_pp.cnpp_core.training.checkpoints import Checkpoints
from controlnet_pp.cnpp_core.training.settings import TrainSettings
from controlnet_pp.cnpp_core.training.trainer import Trainer
from torch import nn

SETTINGS = TrainSettings(steps=300, learning_rate=0.1, weight_decay=0.0, warmup=10, ema_decay=0.9)


class Regression(nn.Module):
    """A line with dropout before it, fitted to y = 3 x - 1; an objective of the trainer."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(1, 1)
        self.dropout = nn.Dropout(dropout)

    def loss(self, generator: torch.Generator) -> torch.Tensor:
        x = torch.randn(32, 1, generator=generator)
        return (self.line(self.dropout(x)) - (3 * x - 1)).square().mean()


class Remembering:
    """An objective of the trainer whose losses depend on all batches before, in `size` numbers."""

    def __init__(self, module: Regression, size: int = 1) -> None:
        self.module = module
        self.memory = torch.zeros(size)

    def __call__(self, generator: torch.Generator) -> torch.Tensor:
        self.memory = (self.memory + torch.rand(len(self.memory), generator=generator)) / 2
        return self.module.loss(generator) * (1 + self.memory.mean())

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"memory": self.memory}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.memory = state["memory"]


def trainer_of(
    module: Regression, settings: TrainSettings, folder: Path | None = None, **places
) -> Trainer:
    """With checkpoints every ten steps, the newest two kept, if there is a folder."""
    checkpoints = Checkpoints(folder, every=10, keep=2) if folder else None
    return Trainer(module, settings, checkpoints=checkpoints, **places)


def curve(trainer: Trainer, objective, on_step=None) -> list[float]:
    """The losses of a run, exactly."""
    losses = []

    def note(step, loss):
        losses.append(loss)
        return on_step(step, loss) if on_step else None

    trainer.run(objective, note)
    return losses


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)
