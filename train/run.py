"""One training, from its settings to the file of the ControlNet."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..cnpp_core.checkpoint import Training, save_controlnet_file, save_unet_file
from ..cnpp_core.checkpoint.trained import VERSION
from ..cnpp_core.training.checkpoints import Checkpoints
from ..cnpp_core.training.data.records import Problems
from ..cnpp_core.training.denoiser import Denoiser
from ..cnpp_core.training.losses import Recipe, Recipes
from ..cnpp_core.training.modes import Mode
from ..cnpp_core.training.processes import Accelerated, OneProcess
from ..cnpp_core.training.recipes import (
    RECIPES,
    DiffusionSettings,
    RewardSettings,
    plain,
    published_weight,
)
from ..cnpp_core.training.session import Modes, Session, Trained
from ..cnpp_core.training.settings import TrainSettings
from ..cnpp_core.training.trajectories import TrajectorySettings
from ..cnpp_core.training.validation import Validation, check_by
from ..evaluate.sources import require_device
from .data import Data, Finder, data_of, finder_of, read_records
from .diffusers_folder import folder_model, tiny_decoder
from .models import DEMO, Model, begin, demo_model
from .options import OTHER, Options
from .sheet import Sheets

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
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


@dataclass(frozen=True, eq=False)
class Job:
    """A training that is ready to start. dearest: an objective that takes most, for the plan."""

    session: Session
    objective: Recipe | Recipes
    dearest: Recipe | Recipes
    data: Data
    finder: Finder
    model: Model
    others: list[nn.Module]


def prepare(
    command: str, options: Options, processes: OneProcess, checkpoints: Checkpoints | None
) -> Job:
    """Load everything and put it together, without a step."""
    rewarding = command == "reward"
    _require_sense(command, options)
    settings = _train_settings(options)
    device = processes.device
    problems = Problems(options.skip_bad)
    records = read_records(options, problems)
    needed = rewarding or options.score or any(r.condition is None for r in records)
    finder = finder_of(options, device, needed)
    model = _model(options, device)
    modes = _modes(options)
    controlnet, news = begin(options.begin, model.unet, device, as_it_is=rewarding)
    log.info("%s", news)
    unlocked = Mode.SD_DECODER_UNLOCKED in modes.values()
    model.unet.to((None if unlocked else settings.autocast) or torch.float32)
    data = data_of(records, options, model, finder, problems, device)
    if options.encode_first:
        data.draw.encode_all()
        for network in model.encoding:
            network.to("cpu")
    denoiser = Denoiser(model.unet, model.schedule, controlnet, model.prediction_type)
    session = Session(
        denoiser,
        settings,
        modes=modes,
        recompute=options.recompute,
        processes=processes,
        checkpoints=checkpoints,
        about=options.content(command),
    )
    others = [model.decoding, *finder.networks, *([] if options.encode_first else model.encoding)]
    if not rewarding:
        objective = dearest = plain(denoiser, data.draw, _diffusion(options))
    else:
        decode, extra = _decoder(options, model, device)
        others += extra
        objective, dearest = _rewarded(options, session, data, finder, decode, model.latent_scale)
    return Job(session, objective, dearest, data, finder, model, others)


def _rewarded(
    options: Options,
    session: Session,
    data: Data,
    finder: Finder,
    decode: Callable[[Tensor], Tensor],
    latent_scale: float,
) -> tuple[Recipe | Recipes, Recipe | Recipes]:
    """The objective, and the one for the plan."""
    kind, ways = finder.kind, finder.ways
    if kind is None or ways is None or ways.soft is None:
        title = "" if ways is None else ways.title
        raise ValueError(
            f"{title or options.condition} gives no gradient, so nothing can be learnt from it: "
            "choose a kind and method whose annotator is differentiable."
        )
    weight = options.reward_weight
    settings = RewardSettings(
        recipe=options.recipe,
        weight=published_weight(kind) if weight is None else weight,
        most_t=options.most_t,
        trajectories=TrajectorySettings(
            steps=options.trajectory_steps,
            cfg=options.trajectory_cfg,
            pool=options.pool,
            every=options.refresh,
        ),
        diffusion=_diffusion(options),
    )
    recipe = RECIPES[settings.recipe]
    reward = recipe.model(kind, decode, ways.soft, ways.guiding, finder.measure, latent_scale)

    def made(settings: RewardSettings) -> Recipe | Recipes:
        draw, sampler = data.draw, lambda: session.averaged
        return recipe.make(session.denoiser, draw, reward, settings, sampler)

    return made(settings), made(settings.dearest)


def _train(job: Job, options: Options, out: Path) -> None:
    session = job.session
    progress = _Progress(options.steps, session.trainer.step)
    validation = _validation(job, options, out)
    try:
        with _in_words():
            session.run(job.objective, progress, validation, options.validate_every)
    except KeyboardInterrupt:
        log.info(
            "stopped at step %d, which is kept in %s; the same command with --resume goes on",
            session.trainer.step,
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

    def __init__(self, steps: int, first: int) -> None:
        self.steps, self.first = steps, first
        self.began = self.told = time.monotonic()
        self.recent: list[float] = []

    def __call__(self, step: int, loss: float) -> None:
        self.recent.append(loss)
        now = time.monotonic()
        if now - self.told < EVERY and step != self.steps:
            return
        seconds = (now - self.began) / (step - self.first)
        left = seconds * (self.steps - step) / 60
        mean = sum(self.recent) / len(self.recent)
        log.info(
            "step %d of %d, loss %.4f, %.2f s a step, %.1f min to go",
            *(step, self.steps, mean, seconds, left),
        )
        self.told = now
        self.recent.clear()


def _write(job: Job, command: str, options: Options, out: Path) -> None:
    """The ControlNet, the UNet where its decoder was trained, and what was left out."""
    trained: Trained = job.session.trained()
    about = Training(
        job.model.name, options.condition, trained.steps, VERSION, options.public(command)
    )
    dtype, path = DTYPES[options.stored], out / CONTROLNET
    save_controlnet_file(path, trained.controlnet, about, layout=options.layout, dtype=dtype)
    log.info("written: %s", path)
    if trained.unet is not None:
        save_unet_file(out / UNET, trained.unet, about, dtype=dtype)
        log.info("written: %s, the model that belongs to it", out / UNET)
    if trained.scores and job.finder.measure is not None:
        first, *_, last = [trained.scores[step] for step in sorted(trained.scores)] * 2
        text = job.finder.measure.text
        log.info("%s: %s at first, now %s", job.finder.measure.name, text(first), text(last))
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


def _model(options: Options, device: torch.device) -> Model:
    named = options.cache is not None
    if options.model != DEMO:
        return folder_model(Path(options.model), options.unet, device, named)
    if options.unet is not None:
        raise ValueError("The demo model has a UNet of its own: leave out unet.")
    return demo_model(device, named)


def _decoder(
    options: Options, model: Model, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], list[nn.Module]]:
    if options.decoder is None:
        return model.decode, []
    tiny = tiny_decoder(options.decoder, model.latent_scale, device)
    return tiny, [tiny]


def _modes(options: Options) -> Modes:
    mode = Mode(options.mode)
    if not options.middle_steps:
        return {0: mode}
    return {0: Mode.MIDDLE_ONLY, options.middle_steps: mode}


def _diffusion(options: Options) -> DiffusionSettings:
    return DiffusionSettings(options.timestep_weights, options.noise_offset)


def _train_settings(options: Options) -> TrainSettings:
    same: dict[str, Any] = {
        name: getattr(options, name)
        for name in (
            *("steps", "learning_rate", "weight_decay", "warmup", "schedule", "optimizer"),
            *("max_grad_norm", "ema_decay", "accumulate", "seed"),
        )
    }
    half = None if options.precision == "fp32" else DTYPES[options.precision]
    return TrainSettings(**same, autocast=half)


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


def _require_sense(command: str, options: Options) -> None:
    """ValueError for settings that can't go together."""
    if command == "reward" and options.begin is None:
        raise ValueError("A reward fine-tunes a ControlNet: give its file as begin.")
    if command == "reward" and options.condition == OTHER:
        raise ValueError("A reward needs a kind of condition that is known: set condition.")
    if options.middle_steps >= options.steps:
        raise ValueError(
            f"The first {options.middle_steps} of {options.steps} steps were to train the middle "
            "block only, which leaves none for the rest: lower middle_steps."
        )
