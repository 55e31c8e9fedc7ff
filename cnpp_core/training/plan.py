"""What a training will take and write, said before it starts."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .memory import peak_of_a_batch
from .tracking import FILE
from .trainer import Objective, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Of one training; memory and disk in bytes, memory of each device.

    ``batch`` counts pictures of an optimiser step, over all processes. ``working`` is the most that
    activations, gradients and what is in between take at a time. ``epochs`` is None where the
    number of pictures isn't known, ``folder`` where nothing is saved.
    """

    trainable: int
    frozen: int
    steps: int
    batch: int
    epochs: float | None
    weights: int
    averaged: int
    optimizer: int
    working: int
    folder: Path | None
    files: tuple[str, ...]
    disk: int
    free_disk: int

    @property
    def memory(self) -> int:
        """The peak; what the data and PyTorch itself take comes on top."""
        return self.weights + self.averaged + self.optimizer + self.working

    def text(self) -> str:
        """All of it in a few lines."""
        epochs = "" if self.epochs is None else f", {self.epochs:.3g} times through the pictures"
        lines = [
            f"trains {self.trainable:,} parameters beside {self.frozen:,} that stay as they are",
            f"{self.steps:,} steps of {self.batch:,} pictures{epochs}",
            f"memory: {_size(self.memory)} at the peak: weights {_size(self.weights)}, averaged "
            f"weights {_size(self.averaged)}, optimiser {_size(self.optimizer)}, a batch and its "
            f"gradients {_size(self.working)}",
        ]
        if self.folder is None:
            return "\n".join([*lines, "writes nothing"])
        lines.append(f"writes to {self.folder}: {', '.join(self.files)}")
        short = "" if self.disk <= self.free_disk else ", NOT ENOUGH"
        lines.append(f"disk: {_size(self.disk)} of {_size(self.free_disk)} that are free{short}")
        return "\n".join(lines)


def plan(
    trainer: Trainer,
    objective: Objective,
    rows: int,
    *,
    pictures: int | None = None,
    others: Sequence[nn.Module] = (),
    scale: float = 1.0,
) -> Plan:
    """Compute one batch and say in the log what the training is going to take.

    ``rows`` pictures are in a batch, of ``pictures`` in the data. ``others`` are the networks that
    the objective needs besides the trained one. An objective that is given smaller batches here,
    so that the plan itself is cheap, has a ``scale``: how many times as large a batch of ``rows``
    is. Neither weights nor random numbers of the training change.
    """
    settings, processes = trainer.settings, trainer.processes
    batch = rows * settings.accumulate * processes.count
    weights = _bytes(trainer.module, *others)
    averaged = 0 if trainer.averaged is trainer.module else _bytes(trainer.averaged)
    per_parameter = 2 if settings.optimizer == "adamw8bit" else 8  # two moments of each
    optimizer = per_parameter * sum(p.numel() for p in trainer.trained)
    folder, files, disk, free = None, (), 0, 0
    if trainer.checkpoints is not None:
        folder, keep = trainer.checkpoints.folder, trainer.checkpoints.keep
        files = (f"{keep} checkpoints, one every {trainer.checkpoints.every} steps", FILE)
        # The next one is written before the oldest goes.
        disk = (keep + 1) * (_bytes(trainer.module) + averaged + optimizer)
        free = shutil.disk_usage(_existing(folder)).free
    made = Plan(
        trainable=sum(p.numel() for p in trainer.trained),
        frozen=_frozen(trainer.module, *others),
        steps=settings.steps,
        batch=batch,
        epochs=settings.steps * batch / pictures if pictures else None,
        weights=weights,
        averaged=averaged,
        optimizer=optimizer,
        working=max(_of_a_batch(trainer, objective, scale), _of_an_update(trainer)),
        folder=folder,
        files=files,
        disk=disk,
        free_disk=free,
    )
    log.info("%s", made.text())
    return made


def _of_a_batch(trainer: Trainer, objective: Objective, scale: float) -> int:
    """Counted on the real networks; running statistics of theirs are put back."""
    device, dtype = trainer.processes.device, trainer.settings.autocast
    kept = [(buffer, buffer.clone()) for buffer in trainer.module.buffers()]
    generator = torch.Generator().manual_seed(trainer.settings.seed)

    def loss() -> torch.Tensor:
        with trainer.processes.autocast(dtype):
            return objective(generator)

    with (
        torch.inference_mode(False),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):
        trainer.module.train()
        try:
            return peak_of_a_batch(loss, trainer.trained, scale)
        finally:
            trainer.module.eval()
            for buffer, value in kept:
                buffer.copy_(value)


def _of_an_update(trainer: Trainer) -> int:
    """Gradients, and what AdamW makes in between: on CUDA of all parameters at once."""
    sizes = [p.nbytes for p in trainer.trained]
    return sum(sizes) + (sum(sizes) if trainer.processes.device.type == "cuda" else 2 * max(sizes))


def _bytes(*modules: nn.Module) -> int:
    return sum(t.nbytes for t in {t for m in modules for t in (*m.parameters(), *m.buffers())})


def _frozen(*modules: nn.Module) -> int:
    every = {p for module in modules for p in module.parameters()}
    return sum(p.numel() for p in every if not p.requires_grad)


def _existing(folder: Path) -> Path:
    """The folder, or the one above that is there already."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
