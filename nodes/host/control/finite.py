"""Looks whether residuals are finite, without making a GPU wait for the answer."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from ....cnpp_core.control.residuals import ControlResiduals

NAN_HINT = "The control image contains NaN or infinite values; look at the node that made it."


class FiniteWatch:
    """Names blocks with NaN or infinite residuals: at once on the CPU, elsewhere when next asked.

    At every call the host reads from the device before it asks a control, so the sums of the call
    before are there by then.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, Tensor]] = []

    def see(self, residuals: ControlResiduals, x: Tensor, hint: Tensor | None = None) -> None:
        """Remember these residuals; ValueError naming the bad blocks where it is known at once.

        x, hint: what they were computed from. Where the latents are not finite already, the model
        has overflowed, and no control is to be blamed.
        """
        given = (x, x if hint is None else hint)
        inputs = [tensor.sum(dtype=torch.float32) for tensor in given]
        # Detached: what waits here must not keep the graph of a step alive.
        sums = torch.stack([*residuals.sums().to(x.device), *inputs]).detach()
        self._pending.append((len(residuals), sums))
        if not sums.is_cuda:
            self.look()

    def look(self) -> None:
        """ValueError naming the bad blocks of what was seen before."""
        pending, self._pending = self._pending, []
        for blocks, sums in pending:
            *found, latents, hint = sums.tolist()
            if not isfinite(latents):
                continue
            if not isfinite(hint):
                raise ValueError(NAN_HINT)
            ControlResiduals([None] * blocks).require_finite(torch.tensor(found))
