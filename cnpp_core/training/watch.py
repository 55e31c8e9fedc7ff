"""When a training has gone wrong, as its losses tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

WINDOW = 100  # losses that are remembered
ENOUGH = 5  # losses before anything is judged
FAR = 10.0  # times the median
PATIENCE = 20  # steps in a row: losses of single batches differ by a lot


class Watch:
    """Knows the usual loss, and for how many steps in a row it has been far off.

    A loss is far off if it is not finite, or FAR times the running median and above where the
    training began. Such losses don't move the median.
    """

    def __init__(self, losses: Sequence[float] = (), start: float = 0.0) -> None:
        self.losses = list(losses)
        self.start = start
        self.streak = 0

    def see(self, loss: float) -> None:
        """Take note of a step's loss."""
        if self.is_far(loss):
            self.streak += 1
            return
        self.streak = 0
        self.losses = [*self.losses[1 - WINDOW :], loss]
        if len(self.losses) == ENOUGH:
            self.start = self.start or median(self.losses)

    def is_far(self, loss: float) -> bool:
        """True for a loss that a healthy training hardly has twice in a row."""
        if not math.isfinite(loss):
            return True
        return len(self.losses) >= ENOUGH and loss > max(FAR * median(self.losses), self.start)

    @property
    def has_exploded(self) -> bool:
        return self.streak >= PATIENCE
