"""The ways to train a ControlNet, by name: the plain one, and those with a reward beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..condition import Condition
from ..consistency.agreement.measure import Measure
from ..diffusion.schedule import LATENT_SCALE
from .batch import Draw, noised
from .denoiser import Denoiser
from .losses import DiffusionLoss, Recipe, Recipes, layout_weights, min_snr_weights
from .reward import EfficientReward, RewardModel, TrajectoryReward
from .trajectories import Trajectories, TrajectorySettings

# How much the error counts at each timestep.
TIMESTEP_WEIGHTS: Mapping[str, Callable[[Denoiser], Tensor | None]] = {
    "none": lambda _: None,
    "min snr": lambda of: min_snr_weights(of.schedule, prediction_type=of.prediction_type),
    "layout": lambda of: layout_weights(of.schedule),
}


@dataclass(frozen=True)
class DiffusionSettings:
    """How the error of the denoiser counts: by one of TIMESTEP_WEIGHTS, and on which noise.

    noise_offset as in `batch.noised`. weight: of this term, where others stand beside it.
    """

    timestep_weights: str = "none"
    noise_offset: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        _choose("timestep_weights", self.timestep_weights, TIMESTEP_WEIGHTS)
        _not_negative("noise_offset", self.noise_offset)
        _not_negative("weight", self.weight)


@dataclass(frozen=True)
class RewardSettings:
    """Which recipe a reward is trained by, and its numbers.

    recipe: a name of RECIPES. weight: of the reward, the lambda of arXiv 2404.07987. most_t: of the
    published recipe. trajectories and least_sigma: of the one on the sampler's own states.
    """

    recipe: str = "published"
    weight: float = 1.0
    most_t: int = 200
    trajectories: TrajectorySettings = field(default_factory=TrajectorySettings)
    least_sigma: float = 0.3
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)

    def __post_init__(self) -> None:
        _choose("recipe", self.recipe, RECIPES)
        _not_negative("weight", self.weight)
        if not 0 <= self.most_t <= 999:
            raise ValueError(f"The setting most_t is {self.most_t}, expected 0 to 999.")
        if self.least_sigma <= 0:
            raise ValueError(f"The setting least_sigma is {self.least_sigma}, expected above 0.")

    @property
    def dearest(self) -> RewardSettings:
        """For a plan: every picture is decoded, as may happen, and few are sampled beforehand."""
        return replace(self, most_t=999, trajectories=replace(self.trajectories, pool=1))


@dataclass(frozen=True)
class RewardRecipe:
    """A way to train with a reward.

    make: (denoiser, draw, reward, settings, sampler) -> objective; sampler as `Trajectories`'.
    guiding: it follows the loss, and the map, that guidance follows, not the published ones.
    """

    make: Callable[..., Recipe | Recipes]
    guiding: bool = False

    def model(
        self,
        kind: Condition,
        decode: Callable[[Tensor], Tensor],
        soft: Callable[[Tensor], Tensor],
        guiding: Callable[[Tensor], Tensor] | None = None,
        measure: Measure | None = None,
        latent_scale: float = LATENT_SCALE,
    ) -> RewardModel:
        """The reward of a kind for this recipe; annotators as `annotators.kinds.Ways` has them."""
        annotate, loss = soft, kind.value.reward
        if self.guiding:
            annotate, loss = guiding or soft, kind.value.guidance
        return RewardModel(decode, annotate, loss, measure or kind.measure(), latent_scale)


def plain(denoiser: Denoiser, draw: Draw, settings: DiffusionSettings | None = None) -> Recipe:
    """A ControlNet as arXiv 2302.05543 trains it."""
    settings = settings or DiffusionSettings()
    return Recipe(
        denoiser,
        noised(draw, denoiser.schedule, settings.noise_offset),
        {"diffusion": (settings.weight, _diffusion(denoiser, settings))},
    )


def published(
    denoiser: Denoiser,
    draw: Draw,
    reward: RewardModel,
    settings: RewardSettings,
    sampler: Callable[[], Denoiser] | None = None,
) -> Recipe:
    """ControlNet++ as published: the reward of one step beside the error, on the same states."""
    recipe = plain(denoiser, draw, settings.diffusion)
    recipe.terms["reward"] = (settings.weight, EfficientReward(reward, settings.most_t))
    return recipe


def on_trajectories(
    denoiser: Denoiser,
    draw: Draw,
    reward: RewardModel,
    settings: RewardSettings,
    sampler: Callable[[], Denoiser],
) -> Recipes:
    """The reward on the states that sampling comes through, with its cfg; the error on noised ones.

    ``sampler``: the denoiser that samples, with a trainer's averaged weights.
    """
    states = Trajectories(sampler, draw, settings.trajectories)
    term = TrajectoryReward(reward, settings.least_sigma)
    return Recipes(
        plain(denoiser, draw, settings.diffusion),
        Recipe(denoiser, states, {"reward": (settings.weight, term)}, settings.trajectories.cfg),
    )


RECIPES: Mapping[str, RewardRecipe] = {
    "published": RewardRecipe(published),
    "on trajectories": RewardRecipe(on_trajectories, guiding=True),
}


def published_weight(kind: Condition) -> float:
    """The lambda that ControlNet++ was published with for a kind, or for the likes of it."""
    return 0.5 if kind in (Condition.SEG, Condition.LINEART) else 1.0


def _diffusion(denoiser: Denoiser, settings: DiffusionSettings) -> DiffusionLoss:
    return DiffusionLoss(TIMESTEP_WEIGHTS[settings.timestep_weights](denoiser))


def _choose(name: str, found: str, known: Mapping[str, object]) -> None:
    if found not in known:
        raise ValueError(f"The setting {name} is '{found}', expected one of {', '.join(known)}.")


def _not_negative(name: str, found: float) -> None:
    if not found >= 0:
        raise ValueError(f"The setting {name} is {found}, expected at least 0.")
