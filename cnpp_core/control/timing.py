"""From the sigma of a call to percent of the sampling and to the number of the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# Enough halvings to tell a thousandth of a step of a thousand.
BISECTIONS = 24


class Timing:
    """Percent and step are pure functions of sigma, so a sampler may call in any order.

    percent_to_sigma: falls from percent 0 to percent 1; its end points may be far outside.
    """

    def __init__(self, percent_to_sigma: Callable[[float], float]) -> None:
        self._percent_to_sigma = percent_to_sigma
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
            self._percents[sigma] = 0.0 if low == 0.0 else 1.0 if high == 1.0 else high
        return self._percents[sigma]

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
