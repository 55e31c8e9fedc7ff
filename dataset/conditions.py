"""Conditions that are found in the pictures at every draw."""

from __future__ import annotations

import torch
from torch import Tensor

from ..annotators.annotator import Annotator
from ..annotators.canny import canny_cv2
from ..cnpp_core.training.data.draw import Annotate

Range = tuple[float, float]


def fixed(find: Annotator) -> Annotate:
    """The annotator as it is, the same for a picture at every draw."""
    return lambda pictures, _: find(pictures)


def random_canny(low: Range = (50, 150), high: Range = (150, 250)) -> Annotate:
    """OpenCV's Canny with thresholds of its own for every picture, uniform in these ranges.

    The ControlNet for Canny was trained with random thresholds (arXiv 2302.05543v1), so that it
    reads sparse and dense edges alike. The ranges are not published; these lie around the usual 100
    and 200. Raises ValueError for ranges that overlap.
    """
    if not 0 <= low[0] <= low[1] <= high[0] <= high[1]:
        raise ValueError(
            f"The thresholds of Canny were to be drawn from {low} and {high}; the first range must "
            "end before the second begins, e.g. (50, 150) and (150, 250)."
        )

    def annotate(pictures: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.rand(len(pictures), 2, generator=generator, dtype=torch.float64).tolist()
        found = [
            canny_cv2(picture, _between(low, a), _between(high, b))
            for picture, (a, b) in zip(pictures.split(1), drawn, strict=True)
        ]
        return torch.cat(found)

    return annotate


def _between(ends: Range, share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])
