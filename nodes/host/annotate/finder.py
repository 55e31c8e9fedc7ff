"""An annotator and what agreement means: how pictures of the host are held against a condition."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ....cnpp_core.condition import Condition
from ....cnpp_core.consistency.agreement.measure import Measure
from ....cnpp_core.consistency.check import CheckResult, check_consistency
from .annotator import NodeAnnotator


@dataclass(frozen=True)
class Finder:
    """How a kind of condition is found again, and compared."""

    condition: Condition
    annotator: NodeAnnotator
    measure: Measure

    def check(self, images: Tensor, condition: Tensor, mask: Tensor | None = None) -> CheckResult:
        """IMAGE (B, H, W, 3) against IMAGE (B or 1, H, W, 3), inside MASK (B or 1, H, W)."""
        return check_consistency(
            images.movedim(-1, 1),
            condition.movedim(-1, 1),
            self.annotator,
            self.measure,
            None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:]),
        )
