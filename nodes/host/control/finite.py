"""Looks whether residuals are finite, without making a GPU wait for the answer."""

from __future__ import annotations

from torch import Tensor

from ....cnpp_core.control.residuals import ControlResiduals


class FiniteWatch:
    """Names blocks with NaN or infinite residuals: at once on the CPU, elsewhere when next asked.

    Between two steps the host reads from the device anyway, so the sums of the step before are
    there by then.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, Tensor]] = []

    def see(self, residuals: ControlResiduals) -> None:
        """Remember these residuals; ValueError naming the bad blocks where it is known at once."""
        self._pending.append((len(residuals), residuals.sums()))
        if not self._pending[-1][1].is_cuda:
            self.look()

    def look(self) -> None:
        """ValueError naming the bad blocks of what was seen before."""
        pending, self._pending = self._pending, []
        for blocks, sums in pending:
            ControlResiduals([None] * blocks).require_finite(sums)
