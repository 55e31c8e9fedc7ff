"""A training put together: data, model, ControlNet and objective, ready for its first step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..annotators.annotator import Annotator
from ..cnpp_core.training.checkpoints import Checkpoints
from ..cnpp_core.training.data.records import Problems
from ..cnpp_core.training.denoiser import Denoiser
from ..cnpp_core.training.losses import Recipe, Recipes
from ..cnpp_core.training.modes import Mode
from ..cnpp_core.training.processes import OneProcess
from ..cnpp_core.training.recipes import (
    RECIPES,
    DiffusionSettings,
    RewardSettings,
    plain,
    published_weight,
)
from ..cnpp_core.training.session import Modes, Session
from ..cnpp_core.training.settings import TrainSettings
from ..cnpp_core.training.trajectories import TrajectorySettings
from .data import Data, Finder, data_of, finder_of, read_records
from .diffusers_folder import folder_model, tiny_decoder
from .models import DEMO, Model, begin, demo_model
from .options import OTHER, Options

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


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
    soft, guiding = (_exactly(way) for way in (ways.soft, ways.guiding or ways.soft))
    reward = recipe.model(kind, decode, soft, guiding, finder.measure, latent_scale)

    def made(settings: RewardSettings) -> Recipe | Recipes:
        draw, sampler = data.draw, lambda: session.averaged
        return recipe.make(session.denoiser, draw, reward, settings, sampler)

    return made(settings), made(settings.dearest)


def _exactly(annotate: Annotator) -> Annotator:
    """The annotator in its own precision, whatever the training computes in."""

    def call(pictures: Tensor) -> Tensor:
        with torch.autocast(pictures.device.type, enabled=False):
            return annotate(pictures.float())

    return call


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
