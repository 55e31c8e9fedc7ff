"""Residuals of an earlier step, used again while they are still good."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass

from torch import Tensor

from .residuals import ControlResiduals


@dataclass(frozen=True)
class ReusePolicy:
    """For how long residuals may be used again.

    every: a step computes anew once its residuals are so many steps old; 1 never reuses.
    fresh_steps: the first so many steps of the sampling always compute, for there the picture is
    laid out. max_drift: beyond this relative change of the network's input, |x - x'| / |x'| over
    an image's latent, residuals are no longer used; None does not look.
    """

    every: int = 1
    fresh_steps: int = 1
    max_drift: float | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or self.fresh_steps < 0:
            raise ValueError(
                f"Residuals can't be reused for {self.every} steps after {self.fresh_steps} fresh "
                "ones; every must be at least 1, and fresh_steps not negative."
            )

    def allows(self, step: int, stored: Stored, x: Tensor) -> bool:
        """True if ``stored`` is good enough at ``step`` (counted from 0) with input x (B, ...)."""
        age = step - stored.step
        if self.every == 1 or step < self.fresh_steps or not 0 <= age < self.every:
            return False
        return self.max_drift is None or drift(x, stored.x) <= self.max_drift


@dataclass(frozen=True)
class Stored:
    """Residuals of some rows, with the step and the input x (B, ...) they were computed from."""

    step: int
    x: Tensor
    residuals: ControlResiduals
    asked: frozenset[int] | None  # None: every block


class ResidualStore:
    """The last residuals of every group of rows, by a key that names the group; for one run."""

    def __init__(self, policy: ReusePolicy) -> None:
        self.policy = policy
        self._stored: dict[Hashable, Stored] = {}

    def find(
        self, key: Hashable, step: int, x: Tensor, asked: Collection[int] | None
    ) -> Stored | None:
        """What may be used again for these rows; None if they have to be computed.

        asked: the blocks that are wanted now (None: all).
        """
        stored = self._stored.get(key)
        if stored is None or stored.x.shape != x.shape:
            return None
        if stored.asked is not None and (asked is None or not stored.asked.issuperset(asked)):
            return None
        return stored if self.policy.allows(step, stored, x) else None

    def keep(
        self,
        key: Hashable,
        step: int,
        x: Tensor,
        residuals: ControlResiduals,
        asked: Collection[int] | None,
    ) -> None:
        """Remember what has just been computed from x (B, ...): residuals of the blocks asked."""
        # Windows of frames may never come again; what is too old for everybody goes.
        self._stored = {
            other: stored
            for other, stored in self._stored.items()
            if 0 <= step - stored.step < self.policy.every
        }
        wanted = None if asked is None else frozenset(asked)
        # x is the caller's, who may step on in place: drift would then always be none.
        own = x.detach().clone()
        # For a later step they are constants: no gradient goes back through this one's graph.
        self._stored[key] = Stored(step, own, residuals.each(_constant), wanted)


def _constant(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.requires_grad else tensor


def drift(x: Tensor, reference: Tensor) -> float:
    """Largest relative change |x - x'| / |x'| of an image in the batch (B, ...)."""
    change = (x.float() - reference.float()).flatten(1).norm(dim=1)
    return float((change / reference.float().flatten(1).norm(dim=1).clamp_min(1e-12)).max())
