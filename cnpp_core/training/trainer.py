"""The training loop: accumulated batches, clipped gradients, averaged weights, checkpoints.

What depends on device and processes is asked of `processes.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .averaging import average_in, averaged_copy
from .checkpoints import Checkpoints, differences
from .interrupt import Interrupt
from .processes import OneProcess
from .settings import TrainSettings, require_trainable
from .state import below, load_tensors, named, own_state, restore_own, tensors_of
from .tracking import FILE, CsvTracker, Tracker
from .watch import Watch

log = logging.getLogger(__name__)

# The loss of one batch, a scalar; the batch is drawn with the generator, a CPU one. If it has an
# attribute `values`, the parts of its last loss by name, these are written down as well; what it
# remembers from batch to batch is part of a checkpoint if it is `Stateful`.
Objective = Callable[[torch.Generator], Tensor]
# Called with step and loss after each step; True asks to stop.
OnStep = Callable[[int, float], bool | None]
# Called with step and averaged network; scores by name.
Validate = Callable[[int, nn.Module], Mapping[str, float]]


class Trainer:
    """Trains the parameters of ``module`` that require a gradient; deterministic from the seed.

    ``averaged`` is a copy of the module with exponentially averaged weights: what one ships.
    With ``checkpoints`` the training is saved as it goes, and `resume` goes on from there;
    ``about`` is what else must be the same then (data, weights of losses), as JSON can hold it.
    """

    def __init__(
        self,
        module: nn.Module,
        settings: TrainSettings,
        *,
        processes: OneProcess | None = None,
        checkpoints: Checkpoints | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.trained = require_trainable(module)
        self.processes = processes or OneProcess(self.trained[0].device)
        self.module = module.to(self.processes.device)
        self.settings = settings
        self.checkpoints = checkpoints
        self.about = {
            **settings.as_json(),
            "processes": self.processes.count,
            "about": dict(about or {}),
        }
        self.processes.share(module.state_dict().values())
        self.averaged = averaged_copy(module) if settings.ema_decay else module
        self.optimizer = settings.optimizer_of(self.trained)
        self.scaler = self.processes.scaler(settings.autocast)
        self.generator = self.processes.generator(settings.seed)
        self.objective: Objective | None = None
        self.begins: dict[str, Tensor] = {}  # the `own_state` of a checkpoint, for the next run
        self.watch = Watch()
        self.step = 0
        self.saved = 0

    def run(
        self,
        objective: Objective,
        on_step: OnStep | None = None,
        validate: Validate | None = None,
        validate_every: int = 500,
    ) -> bool:
        """Train from wherever ``step`` is; True if the last step was reached.

        ``on_step`` may ask to stop, or raise; Ctrl-C stops with KeyboardInterrupt after the step.
        Either way all weights are those of ``step``, which is saved, and the next call goes on from
        there. ``validate`` gets the averaged network, in evaluation mode, before the first step,
        every so many and after the last.
        Raises RuntimeError if the loss is no longer finite or has exploded, and is back at the last
        checkpoint then; OSError if one can't be written.
        """
        trackers = self._trackers()
        self.objective = objective
        self._restore(self.begins)
        self.begins = {}
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            Interrupt() as interrupt,
            self._training(),
        ):
            if validate is not None and self.step == 0:
                began = self._validated(validate)
                for tracker in trackers:
                    tracker.log(0, began)
            asked = pressed = False
            while self.step < self.settings.steps and not asked and not pressed:
                values = self._one_step(objective)
                try:
                    last = self.step == self.settings.steps
                    try:
                        if validate is not None and (last or self.step % validate_every == 0):
                            values |= self._validated(validate)
                    finally:  # a step whose validation breaks off is not taken again
                        for tracker in trackers:
                            tracker.log(self.step, values)
                    asked = bool(on_step is not None and on_step(self.step, values["loss"]))
                except BaseException:
                    self._save_alone()
                    raise
                flags = self.processes.gather(torch.tensor([asked, interrupt.pressed]))
                asked, pressed = flags.any(0).tolist()
            self._save_if_due()
        if pressed:
            raise KeyboardInterrupt
        return self.step == self.settings.steps

    def save(self, own: Mapping[str, Tensor] | None = None) -> None:
        """Write a checkpoint of this step, whatever the loss; all processes call this together.

        ``own``: the `own_state` of this step, if numbers were drawn since.
        """
        if self.checkpoints is None:
            raise ValueError("This trainer has no checkpoints: give it a folder for them.")
        tensors, numbers = tensors_of(self.module, self.averaged, self.optimizer)
        for index, each in enumerate(self.processes.gather_states(own or self._own())):
            tensors |= named(f"process.{index}.", each)
        rest = {
            "step": self.step,
            "settings": self.about,
            "optimizer": numbers,
            "scaler": self.scaler.state_dict(),
            "losses": self.watch.losses,
            "start": self.watch.start,
        }
        self.saved = self.step  # or tried to be: once is enough
        if self.processes.index == 0:
            self.checkpoints.write(self.step, tensors, rest)

    def resume(self, accept_changes: bool = False) -> bool:
        """Go on exactly from the newest checkpoint; False if there is none.

        Raises ValueError naming what its settings differ in, unless that is accepted, and for a
        file that is damaged or belongs to another network. Where they differ, the objective begins
        with nothing remembered.
        """
        steps = self.checkpoints.steps() if self.checkpoints else []
        step = steps[-1] if steps else -1
        everywhere = set(self.processes.gather(torch.tensor(step)).tolist())
        if len(everywhere) > 1:
            raise ValueError(
                f"The processes see different checkpoints, of the steps {sorted(everywhere)}: put "
                "them into a folder that all machines have."
            )
        if self.checkpoints is None or step < 0:
            return False
        tensors, rest = self.checkpoints.read(step)
        changes = list(differences(rest["settings"], self.about))
        if changes and not accept_changes:
            raise ValueError(
                f"{self.checkpoints.path(step)} is of another training: {'; '.join(changes)}. "
                "Train as it was, accept the changes, or choose another folder."
            )
        for change in changes:
            log.warning("going on from step %d although %s", step, change)
        load_tensors(self.module, self.averaged, self.optimizer, tensors, rest["optimizer"])
        own = below(f"process.{self.processes.index}.", tensors)
        # What was remembered of other data, say, would not fit.
        self.begins = {n: s for n, s in own.items() if not (changes and n.startswith("objective."))}
        if rest["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(rest["scaler"])
        self.watch = Watch(rest["losses"], rest["start"])
        self.step = self.saved = rest["step"]
        return True

    def _one_step(self, objective: Objective) -> dict[str, float]:
        """One step of the optimiser; what it was like, by name.

        Whatever is raised, weights and random numbers are those of the step before.
        """
        rate = self.settings.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        before = self._own()
        try:
            values = self._gradients(objective)
            problem = self.watch.problem(
                values["loss"], values["gradient_norm"], overflows=self.scaler.is_enabled()
            )
            if self.checkpoints is not None and not problem:
                # These weights, those of the step before, have just shown that they are good.
                self._save_if_due(self.checkpoints.every, before)
        except BaseException:
            self._restore(before)
            self._save_alone()
            raise
        if problem:
            self._restore(before)
            self._go_back(problem)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not self.module:
            average_in(self.averaged, self.module, self.step, self.settings.ema_decay)
        self.step += 1
        return {**values, "learning_rate": rate}

    def _gradients(self, objective: Objective) -> dict[str, float]:
        """Clipped gradients of all batches of a step; the loss, its parts, the gradients' norm."""
        self.optimizer.zero_grad(set_to_none=True)
        count = self.settings.accumulate
        totals: dict[str, float] = {}
        for _ in range(count):
            with self.processes.autocast(self.settings.autocast):
                value = objective(self.generator) / count
            self.scaler.scale(value).backward()
            parts = getattr(objective, "values", {}).items()
            shares = {**{name: float(part) / count for name, part in parts}, "loss": value.item()}
            for name, share in shares.items():
                totals[name] = totals.get(name, 0.0) + share
        if self.processes.count > 1:
            for parameter in self.trained:
                if parameter.requires_grad and parameter.grad is None:  # others may have one
                    parameter.grad = torch.zeros_like(parameter)
        self.processes.average(p.grad for p in self.trained if p.grad is not None)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
        means = torch.tensor(list(totals.values()), dtype=torch.float64)
        self.processes.average([means])
        return {**dict(zip(totals, means.tolist(), strict=True)), "gradient_norm": norm.item()}

    def _go_back(self, problem: str) -> NoReturn:
        """Stop at the last checkpoint, if there is one."""
        number, back = self.step + 1, ""
        if self.checkpoints is not None and self.resume(accept_changes=True):
            back = f" The trainer is back at step {self.step}, its last checkpoint."
        raise RuntimeError(
            f"{problem} at step {number}; lower the learning rate or train in full precision.{back}"
        )

    def _own(self) -> dict[str, Tensor]:
        return self.begins or own_state(self.generator, self.processes.device, self.objective)

    def _restore(self, own: Mapping[str, Tensor]) -> None:
        restore_own(self.generator, self.processes.device, self.objective, own)

    @contextmanager
    def _training(self) -> Iterator[None]:
        self.module.train()
        try:
            yield
        finally:
            self.module.eval()

    def _validated(self, validate: Validate) -> dict[str, float]:
        """The scores of the averaged network; random numbers go on as if nothing had been drawn."""
        devices = [self.processes.device] if self.processes.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            scores = dict(validate(self.step, self.averaged.eval()))
        self.module.train()
        return scores

    def _trackers(self) -> list[Tracker]:
        """Those of the folder, which has to be empty or this training's own."""
        if self.checkpoints is None:
            return []
        found = self.checkpoints.steps()[-1:]
        if found and found[0] > self.step:
            raise ValueError(
                f"{self.checkpoints.folder} holds a training at step {found[0]}, this one is at "
                f"{self.step}: resume that one, or choose an empty folder."
            )
        if self.processes.index:
            return []
        folder = self.checkpoints.folder
        folder.mkdir(parents=True, exist_ok=True)
        return [CsvTracker(folder / FILE, self.step), *self.processes.trackers(folder)]

    def _save_if_due(self, every: int = 1, own: Mapping[str, Tensor] | None = None) -> None:
        """Write a checkpoint if so many steps were taken since, and their losses are good."""
        due = self.step - self.saved >= every
        if self.checkpoints is not None and due and not self.watch.streak:
            self.save(own)

    def _save_alone(self) -> None:
        """After an error, of which the other processes know nothing."""
        if self.processes.count == 1:
            self._save_if_due()
