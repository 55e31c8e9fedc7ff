"""The training of one ControlNet, from a denoiser and settings to the network that one keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from ..network.controlnet import ControlNet
from ..network.unet import UNet
from .checkpoints import Checkpoints
from .denoiser import Denoiser
from .modes import Mode, set_mode, trained_parts, with_parts
from .plan import Plan, plan
from .processes import OneProcess
from .recompute import recomputed
from .settings import TrainSettings
from .tracking import read_course
from .trainer import Objective, OnStep, Trainer, Validate
from .validation import SCORE

# The mode from each of these steps on, 0 among them.
Modes = Mapping[int, Mode]
LOCKED: Modes = {0: Mode.SD_LOCKED}


@dataclass(frozen=True, eq=False)
class Trained:
    """What came out of a training so far.

    controlnet: with the averaged weights, float32. unet: the one that belongs to it where its
    decoder was unlocked, else None. losses and scores: by step. settings: all that was chosen, as
    JSON can hold it.
    """

    controlnet: ControlNet
    unet: UNet | None
    steps: int
    losses: Mapping[int, float]
    scores: Mapping[int, float]
    settings: Mapping[str, Any]


class Session:
    """Trains the ControlNet of ``denoiser``, in one mode or in several, one after the other.

    recompute: gradient checkpointing, less memory for more time; the numbers are the same. The
    other arguments are the `Trainer`'s. Raises ValueError for modes without one for step 0.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        settings: TrainSettings,
        *,
        modes: Modes = LOCKED,
        recompute: bool = False,
        processes: OneProcess | None = None,
        checkpoints: Checkpoints | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if 0 not in modes or min(modes) < 0:
            raise ValueError(f"Modes were given for the steps {sorted(modes)}, expected one for 0.")
        self.denoiser = denoiser
        self.modes = dict(sorted(modes.items()))
        self.recompute = recompute
        self.losses: dict[int, float] = {}
        self.scores: dict[int, float] = {}
        self.trainer = Trainer(
            trained_parts(denoiser, modes.values()),
            settings,
            processes=processes,
            checkpoints=checkpoints,
            about={**(about or {}), "modes": {str(n): m.value for n, m in self.modes.items()}},
        )
        set_mode(denoiser, self.mode)

    @property
    def mode(self) -> Mode:
        """That of the step which comes next."""
        return [mode for step, mode in self.modes.items() if step <= self.trainer.step][-1]

    @property
    def averaged(self) -> Denoiser:
        """The denoiser with the averaged weights as they are now: what samples in between."""
        return with_parts(self.denoiser, cast(nn.ModuleDict, self.trainer.averaged))

    def plan(
        self,
        objective: Objective,
        rows: int,
        *,
        pictures: int | None = None,
        others: Sequence[nn.Module] = (),
    ) -> Plan:
        """As `plan.plan`, in the mode that takes most; others than the denoiser's networks."""
        try:
            set_mode(self.denoiser, max(self.modes.values(), key=list(Mode).index))
            with self._recomputed():
                networks = [self.denoiser.unet, *others]
                return plan(self.trainer, objective, rows, pictures=pictures, others=networks)
        finally:
            set_mode(self.denoiser, self.mode)

    def resume(self, accept_changes: bool = False) -> bool:
        """As `Trainer.resume`; the course of losses and scores is taken up as well."""
        found = self.trainer.resume(accept_changes)
        if found and self.trainer.checkpoints is not None:
            course = read_course(self.trainer.checkpoints.folder, self.trainer.step)
            self.losses = {step: row["loss"] for step, row in course.items() if "loss" in row}
            self.scores = {step: row[SCORE] for step, row in course.items() if SCORE in row}
        return found

    def run(
        self,
        objective: Objective,
        on_step: OnStep | None = None,
        validate: Validate | None = None,
        validate_every: int = 500,
    ) -> bool:
        """As `Trainer.run`, through all modes."""

        def stepped(step: int, loss: float) -> bool | None:
            self.losses[step] = loss
            if step in self.modes:
                set_mode(self.denoiser, self.mode)
            return on_step(step, loss) if on_step is not None else None

        def validated(step: int, averaged: nn.Module) -> Mapping[str, float]:
            scores = validate(step, averaged) if validate is not None else {}
            if SCORE in scores:
                self.scores[step] = scores[SCORE]
            return scores

        set_mode(self.denoiser, self.mode)
        with self._recomputed():
            return self.trainer.run(
                objective, stepped, validated if validate is not None else None, validate_every
            )

    def trained(self) -> Trained:
        """The network as it is after the steps so far."""
        denoiser = self.averaged
        own = Mode.SD_DECODER_UNLOCKED in self.modes.values()
        return Trained(
            controlnet=cast(ControlNet, denoiser.controlnet).eval().requires_grad_(False),
            unet=denoiser.unet.eval().requires_grad_(False) if own else None,
            steps=self.trainer.step,
            losses=dict(self.losses),
            scores=dict(self.scores),
            settings=self.trainer.about,
        )

    def _recomputed(self) -> Any:
        if not self.recompute:
            return nullcontext()
        return recomputed(self.denoiser.unet, cast(ControlNet, self.denoiser.controlnet))
