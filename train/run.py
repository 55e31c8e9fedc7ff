"""One training, from its settings to the file of the ControlNet."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..cnpp_core.checkpoint import Training, save_controlnet_file, save_unet_file
from ..cnpp_core.checkpoint.trained import VERSION
from ..cnpp_core.training.checkpoints import Checkpoints
from ..cnpp_core.training.processes import Accelerated, OneProcess
from ..cnpp_core.training.validation import Validation, check_by
from ..evaluate.sources import require_device
from .job import DTYPES, Job, prepare
from .options import Options
from .sheet import Sheets

log = logging.getLogger(__name__)

CONTROLNET, UNET, SHEETS = "controlnet.safetensors", "unet.safetensors", "validation"
EVERY = 10.0  # seconds between two lines of progress
# What torchrun and `accelerate launch` tell the processes that they start.
LAUNCHED = ("LOCAL_RANK", "ACCELERATE_MIXED_PRECISION")


def run(command: str, options: Options) -> int:
    """Train and write the ControlNet; 0 when it is done, or planned where only that was asked for.

    Whatever can be refused is so before the first step, as a ValueError or OSError in words.
    Ctrl-C keeps the step that was reached, says how to go on, and is raised again.
    """
    require_device(options.device)
    processes = _processes(options.device)
    out = options.out or Path("out") / command
    checkpoints = Checkpoints(out, options.checkpoint_every, options.keep)
    _require_own_folder(checkpoints, options)
    job = prepare(command, options, processes, checkpoints)
    if options.resume and job.session.resume(options.accept_changes):
        log.info("going on from step %d", job.session.trainer.step)
    with _in_words():
        planned = job.session.plan(
            job.dearest, options.batch, pictures=len(job.data.draw), others=job.others
        )
    needed = planned.disk + sum(p.nbytes for p in job.session.trainer.trained)
    if needed > planned.free_disk:
        raise ValueError(
            f"{out} has room for {planned.free_disk / 1e9:.2f} GB, the training writes "
            f"{needed / 1e9:.2f} GB: make room, choose another folder, or keep fewer checkpoints."
        )
    if options.plan:
        return 0
    _train(job, options, out)
    if processes.index == 0:
        _write(job, command, options, out)
    return 0


def _train(job: Job, options: Options, out: Path) -> None:
    session = job.session
    progress = _Progress(options.steps)
    validation = _validation(job, options, out)
    try:
        with _in_words():
            session.run(job.objective, progress, validation, options.validate_every)
    except KeyboardInterrupt:
        if session.trainer.saved:
            log.info(
                "stopped; step %d is kept in %s, and the same command with --resume goes on",
                session.trainer.saved,
                out,
            )
        raise


def _validation(job: Job, options: Options, out: Path) -> Validation | None:
    if not job.data.held_out:
        return None
    model, finder = job.model, job.finder
    check = None
    if options.score and finder.ways is not None and finder.measure is not None:
        check = check_by(finder.ways.find, finder.measure)

    def decode(latents: Tensor) -> Tensor:
        return (model.decode(latents / model.latent_scale) / 2 + 0.5).clamp(0, 1)

    sheets = Sheets(out / SHEETS, job.data.held_out, decode)

    def show(step: int, pictures: list[Tensor], score: float | None) -> None:
        words = f"step {step}"
        if score is not None and finder.measure is not None:
            words += f": {finder.measure.name} {finder.measure.text(score)}"
        log.info("%s", words)
        if job.session.trainer.processes.index == 0:
            sheets.write(step, pictures, words)

    return Validation(
        job.session.denoiser,
        job.data.held_out,
        model.decode,
        check,
        steps=options.validation_steps,
        cfg=options.validation_cfg,
        seed=options.seed,
        latent_scale=model.latent_scale,
        on_pictures=show,
    )


class _Progress:
    """Says every now and then how far it is; takes step and loss of each step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.first = -1
        self.began = self.told = 0.0
        self.recent: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if self.first < 0:
            self.first, self.began, self.told = step, now, now
        self.recent.append(loss)
        if step == self.first or (now - self.told < EVERY and step != self.steps):
            return
        seconds = (now - self.began) / (step - self.first)
        log.info(
            "step %d of %d, loss %.4f, %.2f s a step, %.1f min to go",
            step,
            self.steps,
            sum(self.recent) / len(self.recent),
            seconds,
            seconds * (self.steps - step) / 60,
        )
        self.told = now
        self.recent.clear()


def _write(job: Job, command: str, options: Options, out: Path) -> None:
    """The ControlNet, the UNet where its decoder was trained, and what was left out."""
    trained, finder = job.session.trained(), job.finder
    about = Training(
        job.model.name, options.condition, trained.steps, VERSION, options.public(command)
    )
    dtype, path = DTYPES[options.stored], out / CONTROLNET
    save_controlnet_file(path, trained.controlnet, about, layout=options.layout, dtype=dtype)
    log.info("written: %s", path)
    if trained.unet is not None:
        save_unet_file(out / UNET, trained.unet, about, dtype=dtype)
        log.info("written: %s, the model that belongs to it", out / UNET)
    if trained.scores and finder.measure is not None:
        scores, measure = [trained.scores[step] for step in sorted(trained.scores)], finder.measure
        first, last = measure.text(scores[0]), measure.text(scores[-1])
        log.info("%s: %s at first, now %s", measure.name, first, last)
    if left_out := job.data.problems.found:
        log.info("%d records were left out, the first one %s", len(left_out), left_out[0])


@contextmanager
def _in_words() -> Iterator[None]:
    """What goes wrong in mid-training ends the command with a sentence."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"The memory does not do ({str(error).splitlines()[0]}): lower batch or resolution, or "
            "set recompute, encode_first or precision."
        ) from error
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _processes(device: str) -> OneProcess:
    """All that were launched, or this one alone; only the first one of them talks."""
    if any(name in os.environ for name in LAUNCHED):
        processes = Accelerated(device or None)
        if processes.index:
            logging.getLogger().setLevel(logging.WARNING)
        return processes
    return OneProcess(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _require_own_folder(checkpoints: Checkpoints, options: Options) -> None:
    """ValueError for a folder that has another training in it, before anything is loaded."""
    if not options.resume and (steps := checkpoints.steps()):
        raise ValueError(
            f"{checkpoints.folder} holds a training at step {steps[-1]}: give --resume to go on "
            "with it, or another folder as out."
        )
