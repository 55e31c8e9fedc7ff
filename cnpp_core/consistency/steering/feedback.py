"""Consistency feedback: control that is as strong as the picture so far needs it.

A controller without gradients: what is scored is the one-step x0, what is moved is the strength
of a control, picture by picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..agreement.measure import Measure
from .window import SteeringWindow


@dataclass(frozen=True)
class FeedbackSettings:
    """The strength is multiplied by a factor f that begins at 1 and stays within low and high:

    f = 1 + memory * (f before - 1) + gain * (target - score) / unit

    memory: 1 adds corrections up until the target is met, 0 answers the latest score alone. Early
    scores are low, for the picture is still a blur: with memory control grows as long as the score
    lags, without it begins strong and relaxes. target and score are as the measure gives them;
    where lower scores are better the sign of the difference is turned. unit: the difference that
    counts as 1, see `unit_of`.
    """

    target: float = 1.0
    gain: float = 0.4
    low: float = 0.5
    high: float = 3.0
    window: SteeringWindow = field(default_factory=SteeringWindow)
    unit: float = 1.0
    memory: float = 1.0

    def __post_init__(self) -> None:
        for name in ("target", "gain", "low", "high", "unit", "memory"):
            value = getattr(self, name)
            if not math.isfinite(value):
                raise ValueError(f"Feedback with {name} {value}; a finite number is needed.")
        if self.gain < 0 or self.unit <= 0:
            raise ValueError(
                f"Feedback with gain {self.gain:g} per {self.unit:g}; a negative gain would weaken "
                "control where it fails, so it must be 0 or more."
            )
        if not 0 <= self.memory <= 1:
            raise ValueError(f"Feedback with memory {self.memory:g}; it lies between 0 and 1.")
        if not 0 <= self.low <= self.high:
            raise ValueError(
                f"Feedback between {self.low:g} and {self.high:g} times the strength; the lower "
                "bound must be 0 or more and not above the upper one."
            )

    def factor(self, score: float, higher_is_better: bool = True, before: float = 1.0) -> float:
        """What the strength is multiplied with after this score; as before for one that is NaN."""
        if math.isnan(score):
            return before
        error = self.target - score if higher_is_better else score - self.target
        kept = self.memory * (before - 1.0)
        return min(max(1.0 + kept + self.gain * error / self.unit, self.low), self.high)


def unit_of(measure: Measure) -> float:
    """What `gain` counts a measure's scores in: 1 for shares, 100 (of 255, or degrees) for errors.

    So a gain means about as much for every kind of condition.
    """
    return 1.0 if measure.higher_is_better else 100.0


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
        before = self.factors or (1.0,) * len(scores)
        self.factors = tuple(
            self.settings.factor(score, self.higher_is_better, factor)
            for score, factor in zip(scores, before, strict=True)
        )
        self.steps.append(FeedbackStep(step, percent, tuple(scores), self.factors))


def factors_over_steps(feedback: Feedback, steps: int) -> list[list[float]]:
    """For each picture the factor that each step was sampled with; 1 before the first look.

    A factor acts from the step after its look. At least one look is needed.
    """
    now: Sequence[float] = [1.0] * len(feedback.steps[0].factors)
    looks = {look.step: look.factors for look in feedback.steps}
    columns = []
    for step in range(steps):
        columns.append(now)
        now = looks.get(step, now)
    return [list(line) for line in zip(*columns, strict=True)]


def table(feedback: Feedback, measure: Measure) -> str:
    """A line for every look: scores of all pictures, and the factors that follow from them."""
    header = f"{'step':>4} {'percent':>8}  {measure.name} -> factor from the next step on"
    lines = [header]
    for look in feedback.steps:
        pairs = zip(look.scores, look.factors, strict=True)
        cells = [f"{measure.text(score):>8} -> {factor:.3f}" for score, factor in pairs]
        lines.append(f"{look.step + 1:>4} {look.percent:>8.1%}  {'   '.join(cells)}")
    return "\n".join(lines)


def summary(feedback: Feedback, measure: Measure) -> str:
    """A heading, and for each picture its first and last score and the range of its factors."""
    first, last = feedback.steps[0], feedback.steps[-1]
    looks = len(feedback.steps)
    lines = [
        f"{measure.name}: looked {looks} time{'s' * (looks != 1)}, "
        f"steps {first.step + 1} to {last.step + 1}"
    ]
    for picture, (before, after) in enumerate(zip(first.scores, last.scores, strict=True)):
        factors = [look.factors[picture] for look in feedback.steps]
        lines.append(
            f"picture {picture + 1}: score {measure.text(before)} to {measure.text(after)}, "
            f"factor {min(factors):.2f} to {max(factors):.2f}"
        )
    return "\n".join(lines)
