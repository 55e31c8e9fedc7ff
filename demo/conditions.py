"""The condition images of the shapes world: what its ControlNets read, and how each is followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..annotators.canny import canny_cnpp, canny_strength
from ..cnpp_core.condition import Condition
from ..cnpp_core.consistency.agreement.labels import LabelMeasure
from ..cnpp_core.consistency.agreement.lines import EdgeMeasure
from ..cnpp_core.consistency.agreement.measure import Measure
from ..cnpp_core.consistency.check import check_consistency
from ..cnpp_core.consistency.steering.reward import Reward
from .segmenter import CLASSES, PALETTE, Segmenter, colours_of

TOLERANCE = 1  # pixels by which an edge may be off
EDGES = EdgeMeasure(TOLERANCE)
SEGMENTS = LabelMeasure(PALETTE, CLASSES, "the shapes world")
CONDITIONS = ("canny", "seg")  # kinds of `Condition`; the demo model has a ControlNet for each


def condition_of(kind: str, images: Tensor, masks: Tensor) -> Tensor:
    """Condition images (B, 3, S, S) in 0..1 of one of CONDITIONS.

    images (B, 3, S, S) in 0..1, masks (B, 1, S, S) bool, True on a shape, as a `Batch` has them.
    """
    if kind == "canny":
        return canny_cnpp(images).expand(-1, 3, -1, -1)
    return colours_of(masks[:, 0])


@dataclass(frozen=True, eq=False)
class Follower:
    """What steers towards condition images, and knows nothing but them.

    wanted: condition images (B, 3, S, S) in 0..1. find: pictures (B, 3, S, S) in 0..1 -> their
    condition images. measure: what a score means. losses: pictures -> (B,), differentiable.
    """

    wanted: Tensor
    find: Callable[[Tensor], Tensor]
    measure: Measure
    losses: Callable[[Tensor], Tensor]

    @classmethod
    def by_edges(cls, wanted: Tensor) -> Follower:
        """By the filter that finds Canny edges."""
        reward = Reward.of(canny_strength, Condition.CANNY.value.guidance, EDGES, wanted)
        return cls(wanted, canny_cnpp, EDGES, reward.losses)

    @classmethod
    def by_segments(cls, wanted: Tensor, segmenter: Segmenter) -> Follower:
        """By a network that tells shape from ground."""
        reward = Reward.of(segmenter.logits, Condition.SEG.value.guidance, SEGMENTS, wanted)
        return cls(wanted, segmenter.annotate, SEGMENTS, reward.losses)

    def scores(self, images: Tensor) -> Sequence[float]:
        """How well each picture (B, 3, S, S) in 0..1 follows, in the units of ``measure``."""
        return check_consistency(images, self.wanted, self.find, self.measure).per_image
