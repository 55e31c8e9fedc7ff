"""Goals of a training: the plain one, and those with an annotator as their reward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from ....annotators.kinds import ADE20K
from ....cnpp_core.condition import Condition
from ....cnpp_core.training.batch import Draw
from ....cnpp_core.training.denoiser import Denoiser
from ....cnpp_core.training.recipes import (
    RECIPES,
    DiffusionSettings,
    RewardSettings,
    plain,
)
from ....cnpp_core.training.trainer import Objective
from ..annotate.annotator import NodeAnnotator
from ..annotate.finder import Finder
from ..steering.x0 import X0Decoder, frozen, sound_in_half
from .data import TrainingData

Objectives = tuple[Objective, Objective]


@dataclass(frozen=True, eq=False)
class Goal:
    """What a training makes small.

    make: (denoiser, draw, sampler) -> the objective, and one for the plan; sampler gives the
    denoiser with averaged weights. about: what must be the same when it is resumed. patchers:
    models of the host that it runs. frozen: in this context gradients pass through them.
    """

    make: Callable[[Denoiser, Draw, Callable[[], Denoiser]], tuple[Objective, Objective]]
    about: Mapping[str, Any]
    patchers: Sequence[Any] = ()
    frozen: Callable[[], AbstractContextManager[Any]] = nullcontext


def plain_goal(settings: DiffusionSettings) -> Goal:
    """A ControlNet as it was published."""

    def make(denoiser: Denoiser, draw: Draw, _sampler: Callable[[], Denoiser]) -> Objectives:
        objective = plain(denoiser, draw, settings)
        return objective, objective

    return Goal(make, {"recipe": "plain"})


def finder_with(node: str, data: TrainingData, annotator: NodeAnnotator | None) -> Finder:
    """How the data's conditions are found again, by this annotator if there is one.

    Raises ValueError if nothing finds them, or the annotator finds others.
    """
    found = data.finder
    if annotator is None:
        if found is None:
            raise ValueError(
                f"{node}: nothing here finds conditions of the kind {data.condition} again. "
                "Connect the annotator that does, here or to ControlNet Training Data."
            )
        return found
    if annotator.condition != data.condition:
        raise ValueError(
            f"{node}: the conditions of the data are {data.condition}, but the connected annotator "
            f"finds {annotator.condition}. Connect one of that kind."
        )
    kind = Condition.named(data.condition)
    measure = found.measure if found else kind.measure(classes=annotator.ways.classes or ADE20K)
    return Finder(kind, annotator, measure)


def reward_goal(node: str, model: Any, vae: Any, finder: Finder, settings: RewardSettings) -> Goal:
    """With the reward of an annotator on what the VAE decodes.

    Raises ValueError for a VAE of another kind of model, and for an annotator without a soft map.
    """
    if vae is None:
        raise ValueError(
            f"{node}: the data has no VAE, and decoder is not connected. Connect the VAE of the "
            "model, or a tiny one."
        )
    decoder = X0Decoder(vae, node, gradients=True)
    decoder.require_latents_of(model)
    annotator, base = finder.annotator, model.model
    if annotator.ways.soft is None:
        raise ValueError(
            f"{node}: the annotator for {annotator.title} has no differentiable map, so that no "
            "gradient comes through it. Connect Canny, Soft Edge (HED), Line Art, M-LSD Lines, "
            "Depth (MiDaS), Normal or Segmentation."
        )
    recipe = RECIPES[settings.recipe]
    reward = recipe.model(
        finder.condition,
        lambda x0: decoder.unclamped(x0, base).to(x0.device) * 2 - 1,
        sound_in_half(annotator.soft),
        sound_in_half(annotator.guidance_map),
        finder.measure,
        latent_scale=1.0,  # the decoder knows the model's
    )

    def make(denoiser: Denoiser, draw: Draw, sampler: Callable[[], Denoiser]) -> Objectives:
        def objective(of: RewardSettings) -> Objective:
            return recipe.make(denoiser, draw, reward, of, sampler)

        return objective(settings), objective(settings.dearest)

    @contextmanager
    def gradients() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(decoder.gradients_through(base))
            stack.enter_context(frozen(*(patcher.model for patcher in annotator.patchers)))
            yield

    return Goal(make, asdict(settings), (decoder.patcher, *annotator.patchers), gradients)
