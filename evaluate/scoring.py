"""From the files of one condition to its score, by the paper's protocol or by the check's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..annotators.annotator import Annotator
from ..annotators.kinds import Classes
from ..cnpp_core.condition import Condition
from ..cnpp_core.consistency.agreement.measure import Measure
from ..cnpp_core.consistency.check import CheckResult, check_consistency
from ..cnpp_core.consistency.resize import resize_nearest, same_aspect
from .paper import PaperLabels, PaperProtocol, SampleScore, paper_protocol


class Scoring(Protocol):
    """How samples become scores, and scores a total."""

    @property
    def name(self) -> str:
        """The metric, with its settings or its unit."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """False for errors, such as RMSE."""
        ...

    @property
    def classes(self) -> Classes | None:
        """What colours stand for; such conditions may also come as class numbers."""
        ...

    def text(self, score: float) -> str:
        """A score as people write it, with the digits that are usual."""
        ...

    def sample(self, pictures: Tensor, condition: Tensor) -> tuple[SampleScore, list[str]]:
        """Scores of one condition and a sentence for each picture.

        pictures: (B, 3, H, W) in 0..1; condition: (1, 1 or 3, H', W') in 0..1. ValueError for one
        that does not fit the pictures or is of another kind.
        """
        ...

    def total(self, samples: Sequence[SampleScore]) -> float:
        """The figure for the whole directory."""
        ...


@dataclass(frozen=True)
class CheckScoring:
    """What the Cycle-Consistency Check gives; the total is the mean over all pictures.

    annotate: pictures (B, 3, H, W) in 0..1 to condition images. tolerance: in pixels, for lines and
    joints.
    """

    kind: Condition
    annotate: Annotator
    tolerance: int = 0
    classes: Classes | None = None

    @property
    def name(self) -> str:
        return self._measure.name

    @property
    def higher_is_better(self) -> bool:
        return self._measure.higher_is_better

    def text(self, score: float) -> str:
        return self._measure.text(score)

    def check(self, pictures: Tensor, condition: Tensor) -> CheckResult:
        """The whole result, with the recovered condition and the difference picture.

        pictures: (B, 3, H, W) in 0..1; condition: (1, 1 or 3, H', W') in 0..1.
        """
        return check_consistency(pictures, condition, self.annotate, self._measure)

    def sample(self, pictures: Tensor, condition: Tensor) -> tuple[SampleScore, list[str]]:
        result = self.check(pictures, condition)
        return SampleScore(result.score, result.per_image), list(result.lines)

    def total(self, samples: Sequence[SampleScore]) -> float:
        scores = [score for sample in samples for score in sample.per_picture]
        return sum(scores) / len(scores)

    @property
    def _measure(self) -> Measure:
        return self.kind.measure(self.tolerance, self.classes or ())


@dataclass(frozen=True)
class PaperScoring:
    """The published evaluation, see `paper`.

    raw: pictures (B, 3, H, W) to the annotator's maps as the protocol wants them.
    """

    kind: Condition
    raw: Annotator
    classes: Classes | None = None

    @property
    def name(self) -> str:
        return self._protocol.name

    @property
    def higher_is_better(self) -> bool:
        return self._protocol.higher_is_better

    def text(self, score: float) -> str:
        return f"{score:.{self._protocol.digits}f}"

    def sample(self, pictures: Tensor, condition: Tensor) -> tuple[SampleScore, list[str]]:
        protocol = self._protocol
        height, width = pictures.shape[-2:]
        if condition.shape[-2:] != pictures.shape[-2:]:
            if not same_aspect(condition.shape[-2:], (height, width)):
                raise ValueError(
                    f"the condition is {condition.shape[-1]}x{condition.shape[-2]} pixels and the "
                    f"pictures are {width}x{height}: not the same shape"
                )
            condition = resize_nearest(condition, height, width)
        with torch.no_grad():
            raw = self.raw(pictures)
        predictions = protocol.prediction(raw, height, width).cpu()
        if isinstance(protocol, PaperLabels) and condition.shape[1] == 3:
            predictions = protocol.merged(predictions)
        score = protocol.sample(predictions, protocol.label(condition.cpu()))
        return score, [f"{self.name} {self.text(one)}" for one in score.per_picture]

    def total(self, samples: Sequence[SampleScore]) -> float:
        return self._protocol.total(samples)

    @property
    def _protocol(self) -> PaperProtocol:
        return paper_protocol(self.kind, self.classes.palette if self.classes else ())
