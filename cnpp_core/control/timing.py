"""From the sigma of a call to percent of the sampling and to the number of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch

# Enough halvings to tell a thousandth of a step of a thousand.
BISECTIONS = 24


class Timing:
    """Percent and step are pure functions of sigma, so a sampler may call in any order.

    percent_to_sigma: falls from percent 0 to percent 1; its end points may be far outside.
    marks: percents where something changes. On which side of one a sigma lies is decided between
    sigmas, in single precision, as the host decides it for start_percent: an inverse that is off in
    the last digit would let a change come one step late.
    """

    def __init__(
        self, percent_to_sigma: Callable[[float], float], marks: Iterable[float] = ()
    ) -> None:
        self._percent_to_sigma = percent_to_sigma
        self._marks = [(mark, _single(percent_to_sigma(mark))) for mark in sorted(set(marks))]
        self._percents: dict[float, float] = {}

    def percent(self, sigma: float) -> float:
        """How far the sampling is at ``sigma``, 0..1: the inverse of ``percent_to_sigma``."""
        if sigma not in self._percents:
            low, high = 0.0, 1.0
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                if float(self._percent_to_sigma(middle)) > sigma:
                    low = middle
                else:
                    high = middle
            percent = 0.0 if low == 0.0 else 1.0 if high == 1.0 else high
            self._percents[sigma] = self._beside_marks(percent, _single(sigma))
        return self._percents[sigma]

    def _beside_marks(self, percent: float, sigma: float) -> float:
        for mark, at in self._marks:
            if sigma == at:
                percent = mark
            elif sigma < at:
                percent = max(percent, math.nextafter(mark, math.inf))
            else:
                percent = min(percent, math.nextafter(mark, -math.inf))
        return min(max(percent, 0.0), 1.0)

    @staticmethod
    def step(sigma: float, sample_sigmas: Sequence[float]) -> int:
        """The step that a call at ``sigma`` belongs to, counted from 0.

        sample_sigmas: the sampler's plan, falling or (to add noise) rising. A call between two of
        them (the middle of a second-order step) belongs to the earlier one.
        """
        rising = sample_sigmas[0] < sample_sigmas[-1]
        # Sigmas come back from half precision or a model's table with their last digits changed.
        reached = [
            i
            for i, planned in enumerate(sample_sigmas)
            if (planned <= sigma * 1.0001 if rising else planned * 1.0001 >= sigma)
        ]
        return reached[-1] if reached else 0


def _single(sigma: float) -> float:
    return torch.tensor(sigma, dtype=torch.float32).item()
