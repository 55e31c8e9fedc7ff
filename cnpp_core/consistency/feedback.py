"""Consistency feedback: control that is as strong as the picture so far needs it.

A proportional controller without gradients: what is scored is the one-step x0, what is moved is the
strength of a control, picture by picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .window import SteeringWindow


@dataclass(frozen=True)
class FeedbackSettings:
    """The strength is multiplied by 1 + gain * (target - score), kept within low and high.

    target and score are in the unit of the measure; where lower scores are better the sign of the
    difference is turned.
    """

    target: float = 1.0
    gain: float = 1.0
    low: float = 0.0
    high: float = 2.0
    window: SteeringWindow = field(default_factory=SteeringWindow)

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("target", "gain", "low", "high")}
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ValueError(f"Feedback with {name} {value}; a finite number is needed.")
        if not 0 <= self.low <= self.high:
            raise ValueError(
                f"Feedback between {self.low:g} and {self.high:g} times the strength; the lower "
                "bound must be 0 or more and not above the upper one."
            )

    def factor(self, score: float, higher_is_better: bool = True) -> float:
        """What the strength is multiplied with after this score; 1 for a score that is NaN."""
        if math.isnan(score):
            return 1.0
        error = self.target - score if higher_is_better else score - self.target
        return min(max(1.0 + self.gain * error, self.low), self.high)


@dataclass(frozen=True)
class FeedbackStep:
    """One look at the picture: scores and the factors that follow from them, one per picture."""

    step: int
    percent: float
    scores: tuple[float, ...]
    factors: tuple[float, ...]


class Feedback:
    """One sampling under feedback: the factors of now, and how they came about."""

    def __init__(self, settings: FeedbackSettings, higher_is_better: bool = True) -> None:
        self.settings = settings
        self.higher_is_better = higher_is_better
        self.factors: tuple[float, ...] = ()  # none before the first look: 1 for every picture
        self.steps: list[FeedbackStep] = []

    def look(self, step: int, percent: float, scores: Sequence[float]) -> None:
        """Set the factors by the scores of the pictures as they would be now."""
        self.factors = tuple(self.settings.factor(s, self.higher_is_better) for s in scores)
        self.steps.append(FeedbackStep(step, percent, tuple(scores), self.factors))
