"""What a consistency check must know about a kind of condition, and what these kinds share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..resize import resize_nearest

# Words and RGB colours (0..1) of a difference picture.
Legend = tuple[tuple[str, tuple[float, float, float]], ...]

KEPT = (1.0, 1.0, 1.0)
LOST = (1.0, 0.15, 0.1)
INVENTED = (0.2, 0.5, 1.0)
OUTSIDE_MASK = (0.2, 0.2, 0.2)
MOST_COLOUR = 0.02  # mean spread of the channels in what still counts as grey


class Comparison(NamedTuple):
    """How pictures agree with their condition, as a measure finds it."""

    scores: Tensor  # (B,), in the unit of the measure
    lines: list[str]  # one sentence per picture
    difference: Tensor  # (B, 3, H, W) in 0..1


class Measure(ABC):
    """What agreement means for one kind of condition.

    metric: the score in a word or two, for tables. legend: words and RGB colours of the difference
    picture. enlarging: what it costs to enlarge a condition, for the report.
    """

    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True  # False for errors
    legend: ClassVar[Legend]
    enlarging: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The score's name, with those of its settings that change it."""
        return self.metric

    def text(self, score: float) -> str:
        """A score as people write it: a share in percent, unless a kind has another unit."""
        return f"{score:.1%}"

    @abstractmethod
    def misfit(self, condition: Tensor) -> str:
        """Why a condition (C, H, W) is plainly none of this kind, and what to do; "" if it may be.

        It goes by the values of the pixels and not by where they are. What another tool's
        annotator of the kind gives passes, even where `read` refuses it.
        """

    @abstractmethod
    def read(self, condition: Tensor) -> tuple[Tensor, list[str]]:
        """The map in a condition image (N, 1 or 3, H, W) in 0..1, and remarks for the report.

        Its shape is the kind's own, mostly (N, C, H, W). ValueError for an image of another kind.
        """

    def resize(self, wanted: Tensor, height: int, width: int) -> Tensor:
        """A map that was read, (N, C, h, w), as (N, C, height, width).

        Values are copied, unless a kind may mix them.
        """
        return resize_nearest(wanted, height, width)

    def target(self, wanted: Tensor, height: int, width: int) -> Tensor:
        """A map that was read, as a loss compares it with an annotator's (B, C, height, width)."""
        if wanted.shape[-2:] == (height, width):
            return wanted
        return self.resize(wanted, height, width)

    def stated(self, wanted: Tensor) -> Tensor | None:
        """Where a map that was read says something, (N, 1, H, W) bool; None: everywhere."""
        return None

    @abstractmethod
    def compare(self, recovered: Tensor, wanted: Tensor, mask: Tensor | None) -> Comparison:
        """Scores, sentences and the difference picture of each row.

        recovered: (B, 1 or 3, H, W) in 0..1 as the annotator gave it; wanted: as read, at this
        size, a row for each; mask: (B, 1, H, W) bool, None for everywhere.
        """


def refuse_if(problems: list[str], kind: str) -> None:
    """ValueError naming the first condition that has a problem; one text for each, "" if sound."""
    for number, problem in enumerate(problems, start=1):
        if problem:
            which = "The condition" if len(problems) == 1 else f"Condition {number}"
            raise ValueError(f"{which} is not {kind}: {problem}")


def wrong_scale(condition: Tensor) -> str:
    """What to do if one condition (C, H, W) is on another scale than 0..1, else empty."""
    highest, lowest = condition.max().item(), condition.min().item()
    if highest > 1.5 or lowest < -0.5:
        found = highest if highest > 1.5 else lowest
        return f"its values reach {found:.3g}. Scale it to 0..1."
    return ""


def in_colour(condition: Tensor, node: str) -> str:
    """What to do if (C, H, W), which ought to be grey, is in colour, else empty."""
    if colour_of(condition) <= MOST_COLOUR:
        return ""
    return (
        "it is in colour, like a photograph. Connect the condition, for example the output of the "
        f"{node} node, not the photograph it was made from."
    )


def colour_of(condition: Tensor) -> float:
    """Mean spread of the channels of (C, H, W): 0 is grey."""
    return (condition.amax(0) - condition.amin(0)).mean().item()


def heat(values: Tensor) -> Tensor:
    """(B, 1, H, W) in 0..1 -> colours (B, 3, H, W): black, red, yellow, white."""
    return torch.cat([values * 3, values * 3 - 1, values * 3 - 2], dim=1).clamp(0, 1)


def heat_of(value: float) -> tuple[float, float, float]:
    """The colour of `heat` for one value in 0..1."""
    red, green, blue = heat(torch.full((1, 1, 1, 1), value)).flatten().tolist()
    return red, green, blue


def grey_outside(picture: Tensor, mask: Tensor | None) -> Tensor:
    """The picture (B, 3, H, W) with what the mask (B, 1, H, W) leaves out in dark grey."""
    if mask is None:
        return picture
    return torch.where(mask, picture, picture.new_tensor(OUTSIDE_MASK).view(1, 3, 1, 1))


def painted(like: Tensor, layers: list[tuple[Tensor, tuple[float, float, float]]]) -> Tensor:
    """Black (B, 3, H, W) with each layer's pixels (B, 1, H, W) in its colour, later ones on top."""
    picture = torch.zeros(like.shape[0], 3, *like.shape[-2:], device=like.device)
    for pixels, colour in layers:
        picture = torch.where(pixels, picture.new_tensor(colour).view(1, 3, 1, 1), picture)
    return picture
