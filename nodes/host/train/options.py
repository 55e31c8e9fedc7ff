"""The widgets that both training nodes have, and what follows from them."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy import model_management

from ....cnpp_core.training.checkpoints import Checkpoints
from ....cnpp_core.training.modes import Mode
from ....cnpp_core.training.recipes import DiffusionSettings
from ....cnpp_core.training.session import Modes
from ....cnpp_core.training.settings import TrainSettings
from ....cnpp_core.training.tracking import FILE as COURSE
from .data import OUTPUT

GO_ON, WHATEVER, START_OVER = "go on", "go on, whatever changed", "start over"
UNFINISHED = (GO_ON, WHATEVER, START_OVER)
PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
AUTO = "auto"
KEPT = 2
LEAST_STEPS = 2  # a curve of one loss has no range, by which the host's own node divides
MOST_WARMUP = 100


@dataclass(frozen=True)
class Options:
    """See the inputs of the nodes. ValueError for what can't be."""

    steps: int
    batch_size: int
    learning_rate: float
    accumulate: int
    mode: str
    middle_first: int
    precision: str
    optimizer: str
    schedule: str
    timestep_weights: str
    noise_offset: float
    gradient_checkpointing: bool
    seed: int
    validate_every: int
    sampling_steps: int
    cfg: float
    name: str
    checkpoint_every: int
    unfinished: str
    keep_checkpoints: bool

    def __post_init__(self) -> None:
        if self.steps < LEAST_STEPS:
            raise ValueError(
                f"steps is {self.steps}; a training takes at least {LEAST_STEPS}, so that its "
                "losses make a curve."
            )
        if self.middle_first >= self.steps:
            raise ValueError(
                f"middle_first is {self.middle_first} of {self.steps} steps, so that nothing is "
                "left for the mode. Choose mode middle only, or fewer."
            )

    @property
    def modes(self) -> Modes:
        mode = Mode(self.mode)
        return {0: Mode.MIDDLE_ONLY, self.middle_first: mode} if self.middle_first else {0: mode}

    @property
    def diffusion(self) -> DiffusionSettings:
        return DiffusionSettings(self.timestep_weights, self.noise_offset)

    def autocast(self, device: torch.device) -> torch.dtype | None:
        """The half dtype to compute in, None for full precision; auto by what the device can do."""
        if self.precision != AUTO:
            return PRECISIONS[self.precision]
        if device.type == "cpu":
            return None
        if model_management.should_use_bf16(device):
            return torch.bfloat16
        return torch.float16 if model_management.should_use_fp16(device) else None

    def unet_dtype(self, device: torch.device) -> torch.dtype:
        """Of the UNet: half where that is computed in, unless a part of it learns."""
        learns = Mode(self.mode) is Mode.SD_DECODER_UNLOCKED
        return torch.float32 if learns else self.autocast(device) or torch.float32

    def settings(self, device: torch.device) -> TrainSettings:
        return TrainSettings(
            steps=self.steps,
            learning_rate=self.learning_rate,
            warmup=min(MOST_WARMUP, self.steps // 10),
            schedule=self.schedule,
            optimizer=self.optimizer,
            accumulate=self.accumulate,
            seed=self.seed,
            autocast=self.autocast(device),
        )

    def checkpoints(self) -> Checkpoints:
        """In the host's output folder, by the name; ValueError for one that leads out of it."""
        root = os.path.abspath(os.path.join(folder_paths.get_output_directory(), OUTPUT))
        folder = os.path.abspath(os.path.join(root, self.name.strip()))
        if not self.name.strip() or os.path.commonpath((root, folder)) != root or folder == root:
            raise ValueError(
                f"name is {self.name!r}; write the name of a folder for checkpoints, such as "
                "my_canny, which is made in the output folder."
            )
        return Checkpoints(Path(folder), every=self.checkpoint_every, keep=KEPT)

    def as_json(self) -> dict[str, Any]:
        """What decides the weights beside `settings` and `modes`."""
        deciding = ("batch_size", "timestep_weights", "noise_offset")
        return {name: value for name, value in asdict(self).items() if name in deciding}


def remove(checkpoints: Checkpoints) -> None:
    """Delete the checkpoints; with them the folder, if the course is all else that is in it."""
    for step in checkpoints.steps():
        checkpoints.path(step).unlink(missing_ok=True)
    folder = checkpoints.folder
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {COURSE}:
        shutil.rmtree(folder, ignore_errors=True)
