"""What agreement means for normals: the angle between the directions that the colours stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..metrics import normal_score
from ..metrics.normals import angles
from .measure import (
    Comparison,
    Legend,
    Measure,
    grey_outside,
    heat,
    heat_of,
    refuse_if,
    wrong_scale,
)

LENGTHS = (0.8, 1.25)  # of the vectors in a map whose colours were rounded or interpolated
LEAST_UNIT = 0.8  # share of its pixels with such a length
# Whatever is seen faces the viewer, so z is not below 0: in blue, in other tools' maps in red.
FACING, LEAST_FACING = 0.45, 0.9
BLACK = 0.05  # no colour channel above this: no normal
HOTTEST = 90.0  # degrees shown as white
SWAPPED = 0.7  # times the angle if red and blue were swapped: less needs a remark


@dataclass(frozen=True)
class NormalMeasure(Measure):
    """Mean angle in degrees. Black pixels of the condition have no normal and are left out."""

    metric: ClassVar[str] = "degrees"
    higher_is_better: ClassVar[bool] = False
    legend: ClassVar[Legend] = tuple(
        (word, heat_of(angle / HOTTEST))
        for word, angle in (
            ("as wanted", 0.0),
            ("30 degrees off", 30.0),
            ("60", 60.0),
            ("90", 90.0),
        )
    )

    @property
    def name(self) -> str:
        """The score with its unit."""
        return "Mean angle (degrees)"

    def text(self, score: float) -> str:
        """Degrees, two digits."""
        return f"{score:.2f}"

    def misfit(self, condition: Tensor) -> str:
        """Colours that stand for no direction, and for none that faces the viewer."""
        if problem := wrong_scale(condition):
            return problem
        if condition.shape[0] != 3:
            return "it has one channel. Connect the output of the Normal node."
        coloured = condition[:, (condition >= BLACK).any(0)]
        if not coloured.numel() or (coloured >= FACING).float().mean(1).max() >= LEAST_FACING:
            return ""
        return _no_directions(coloured)

    def read(self, condition: Tensor) -> tuple[Tensor, list[str]]:
        """Colours (N, 3, H, W) -> unit vectors (N, 3, H, W), 0 where there is no normal.

        ValueError where most colours stand for no direction.
        """
        refuse_if([_problem(one) for one in condition], "a normal map (directions as colours)")
        return _vectors(condition.float()), []

    def stated(self, wanted: Tensor) -> Tensor:
        """Where there is a normal: vectors (N, 3, H, W) -> (N, 1, H, W) bool."""
        return (wanted != 0).any(1, keepdim=True)

    def compare(self, recovered: Tensor, wanted: Tensor, mask: Tensor | None) -> Comparison:
        """Angles between colours (B, 3, H, W) and vectors (B, 3, H, W), also as a heat map."""
        found = _vectors(recovered.float().expand(-1, 3, -1, -1))
        score = normal_score(found, wanted, mask)
        swapped = normal_score(found, wanted.flip(1), mask).mean
        lines = [
            f"mean angle {mean:.2f} degrees, median {median:.2f}; {near:.1%} within 11.25 and "
            f"{far:.1%} within 30 degrees{_swapped_remark(mean, other)}"
            for mean, median, near, far, other in zip(
                *(x.tolist() for x in (score.mean, score.median, score.within_11)),
                score.within_30.tolist(),
                swapped.tolist(),
                strict=True,
            )
        ]
        error = torch.where(~self.stated(wanted), 0, angles(found, wanted) / HOTTEST).clamp(0, 1)
        return Comparison(score.mean, lines, grey_outside(heat(error), mask))


def _swapped_remark(angle: float, swapped: float) -> str:
    if swapped >= SWAPPED * angle:
        return ""
    return (
        f" ({swapped:.2f} if red and blue were swapped: the condition seems to come from a node "
        "that gives x, y, z as B, G, R)"
    )


def _vectors(colours: Tensor) -> Tensor:
    vectors = colours * 2 - 1
    black = (colours < BLACK).all(1, keepdim=True)
    return torch.where(black, 0, vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-3))


def _problem(condition: Tensor) -> str:
    if problem := NormalMeasure().misfit(condition):
        return problem
    coloured = condition[:, (condition >= BLACK).any(0)]
    if not coloured.numel():
        return "it is black. Connect the output of the Normal node."
    return _no_directions(coloured)


def _no_directions(colours: Tensor) -> str:
    """What to do if colours (3, N) are too seldom those of unit vectors, else empty."""
    lengths = (colours.float() * 2 - 1).norm(dim=0)
    share = ((lengths > LENGTHS[0]) & (lengths < LENGTHS[1])).float().mean().item()
    if share >= LEAST_UNIT:
        return ""
    return (
        f"only {share:.0%} of its colours stand for a direction, as in a photograph. Connect the "
        "output of the Normal node."
    )
