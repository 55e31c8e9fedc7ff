"""What a training makes small: terms of one signature, and their weighted sum.

Beside the error of the denoiser there are the rewards of `reward` and the preference of
`preference`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.schedule import NoiseSchedule
from .batch import States
from .denoiser import Denoiser, Prediction, PredictionType
from .state import below, load_state, named, state_of

Term = Callable[[Prediction], Tensor]  # a scalar; lower is better


class Recipe:
    """An objective of the trainer: terms over one prediction, with their weights.

    All terms share the state and the forward of the networks, as published (arXiv 2404.07987,
    section 3.3); `Recipes` adds those over different states. ``values`` are the terms of the last
    batch, unweighted and detached, for whoever plots them.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        states: States,
        terms: Mapping[str, tuple[float, Term]],
        cfg: float = 1.0,
    ) -> None:
        self.denoiser = denoiser
        self.states = states
        self.terms = dict(terms)
        self.cfg = cfg
        self.values: dict[str, Tensor] = {}

    def __call__(self, generator: torch.Generator) -> Tensor:
        prediction = self.denoiser.predict(self.states(generator), self.cfg)
        values = {name: term(prediction) for name, (_, term) in self.terms.items()}
        self.values = {name: value.detach() for name, value in values.items()}
        return torch.stack([weight * values[n] for n, (weight, _) in self.terms.items()]).sum()

    def state_dict(self) -> dict[str, Tensor]:
        """What its states remember."""
        return state_of(self.states)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        load_state(self.states, state)


class Recipes:
    """The sum of recipes, each over states of its own; ValueError if a term's name comes twice."""

    def __init__(self, *recipes: Recipe) -> None:
        names = [name for recipe in recipes for name in recipe.terms]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"Two recipes have a term called '{twice[0]}'; name them apart.")
        self.recipes = recipes

    def __call__(self, generator: torch.Generator) -> Tensor:
        return torch.stack([recipe(generator) for recipe in self.recipes]).sum()

    @property
    def values(self) -> dict[str, Tensor]:
        """As `Recipe.values`, of all."""
        return {name: value for one in self.recipes for name, value in one.values.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """What the states of all remember."""
        states = (named(f"{i}.", one.state_dict()) for i, one in enumerate(self.recipes))
        return {name: value for state in states for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for i, one in enumerate(self.recipes):
            one.load_state_dict(below(f"{i}.", state))


@dataclass(frozen=True, eq=False)
class DiffusionLoss:
    """Mean squared error of the prediction (arXiv 2006.11239, equation 14).

    With a ControlNet that of arXiv 2302.05543, equation 5.

    weights (T,): how much it counts at each timestep; without them 1, as published.
    """

    weights: Tensor | None = None

    def __call__(self, prediction: Prediction) -> Tensor:
        errors = prediction.errors
        if self.weights is None:
            return errors.mean()
        return (errors * self.weights.to(errors)[prediction.state.t]).mean()


def layout_weights(schedule: NoiseSchedule, most: float = 25.0) -> Tensor:
    """Weights (T,) of mean 1 that count the error in x0 where noise prevails, up to ``most``.

    The error in x0 is that in the noise divided by the signal-to-noise ratio; the weights are
    clamp(1 / SNR, 1, most), scaled. An unweighted loss hardly notices the noisiest steps, where
    place and colour of things are decided: a network trained by it learns them last.
    """
    weights = schedule.sigmas.square().clamp(1.0, most)
    return weights / weights.mean()


def min_snr_weights(
    schedule: NoiseSchedule,
    gamma: float = 5.0,
    prediction_type: PredictionType = PredictionType.EPS,
) -> Tensor:
    """Weights (T,) that count the error in x0 by min(SNR, gamma), whatever is predicted.

        min(SNR, gamma) / SNR for noise, min(SNR, gamma) / (SNR + 1) for velocity

    The gentle steps, which all but repeat each other, count less (arXiv 2303.09556).
    """
    snr = schedule.sigmas.square().reciprocal()
    return snr.clamp(max=gamma) / (snr if prediction_type is PredictionType.EPS else snr + 1)
