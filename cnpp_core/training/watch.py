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

    def problem(self, loss: float, norm: float, overflows: bool) -> str:
        """What has gone wrong with a step of this loss and norm of gradients, or nothing.

        overflows: gradients may be infinite now and then, as in float16, whose scaler leaves out
        such a step.
        """
        if not math.isfinite(loss):
            return f"The loss is {loss}"
        if not math.isfinite(norm) and not overflows:
            return f"The gradients are {norm}"
        self.see(loss if math.isfinite(norm) else norm)
        if self.has_exploded:
            return f"The loss is {loss:.4g}, {PATIENCE} steps long over {FAR:g} times the usual,"
        return ""

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
