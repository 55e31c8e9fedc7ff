"""What agreement means for drawn poses: how many of the wanted joints are in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..metrics import pck, pose_score
from ..metrics.pose import match_people
from .measure import (
    INVENTED,
    KEPT,
    LOST,
    Comparison,
    Legend,
    Measure,
    grey_outside,
    painted,
    refuse_if,
    wrong_scale,
)
from .skeletons import JOINT_COUNT, LIMBS, read_skeletons

ALPHA = 0.1  # of the size of the person
# OpenPose learns its heat maps with Gaussians of 7 pixels and looks at pictures 184 pixels high.
JOINT_SIGMA = 7 / 184
MOST_LIT = 0.5  # a drawing is mostly black
LIT, COLOURLESS = 0.1, 0.15
LEAST_COLOURED = 0.5  # of what is not black; a photograph on black is no drawing
DOT = 0.008  # radius of a joint, as a share of the longer side of the picture


@dataclass(frozen=True)
class PoseMeasure(Measure):
    """PCK: the share of the wanted joints that are found in place.

    tolerance: in pixels; 0 for a tenth of the size of the person.
    """

    metric: ClassVar[str] = "joints in place"
    legend: ClassVar[Legend] = (("in place", KEPT), ("lost", LOST), ("found elsewhere", INVENTED))

    tolerance: int = 0

    @property
    def name(self) -> str:
        """Names the tolerance, without which a PCK says little."""
        if self.tolerance == 0:
            return f"PCK (within {ALPHA:.0%} of the person's size)"
        return f"PCK (within {self.tolerance} pixel{'s' if self.tolerance > 1 else ''})"

    def misfit(self, condition: Tensor) -> str:
        """More light than a drawing has; faces and hands alone are given on purpose."""
        if problem := wrong_scale(condition):
            return problem
        if condition.shape[0] != 3:
            return "it has one channel. Connect the output of the OpenPose node."
        share = _lit(condition).float().mean().item()
        if share > MOST_LIT:
            return (
                f"only {1 - share:.0%} of it is black, as in a photograph. Connect the output of "
                "the OpenPose or the OpenPose Draw node."
            )
        return ""

    def read(self, condition: Tensor) -> tuple[Tensor, list[str]]:
        """Drawings (N, 3, H, W) -> joints (N, P, 18, 3): x, y in shares of the sides, 1 or 0."""
        refuse_if([self._problem(one) for one in condition], "a pose (coloured skeletons on black)")
        people = [_as_shares(read_skeletons(one), one) for one in condition]
        nobody = [
            "no joint in OpenPose's colours is in it. Connect the output of the OpenPose or the "
            "OpenPose Draw node, with the body drawn."
            if not len(found) and _lit(one).any()
            else ""
            for found, one in zip(people, condition, strict=True)
        ]
        refuse_if(nobody, "a pose (coloured skeletons on black)")
        most = max(1, *(len(found) for found in people))
        padded = [
            torch.cat([found, found.new_zeros(most - len(found), JOINT_COUNT, 3)])
            for found in people
        ]
        remarks = [] if any(map(len, people)) else ["the condition is black: no person is wanted."]
        return torch.stack(padded), remarks

    def resize(self, wanted: Tensor, height: int, width: int) -> Tensor:
        """Joints (N, P, 18, 3) as they are: they are stored as shares of the sides."""
        return wanted

    def target(self, wanted: Tensor, height: int, width: int) -> Tensor:
        """Joints (N, P, J, 3) -> heat maps (N, J, height, width), as OpenPose learns them.

        A Gaussian of height 1 at each joint; of several people the highest counts.
        """
        sigma = JOINT_SIGMA * height
        y = torch.arange(height, device=wanted.device) + 0.5
        x = torch.arange(width, device=wanted.device) + 0.5
        down = (y - wanted[..., 1, None] * height).square()  # (N, P, J, height)
        right = (x - wanted[..., 0, None] * width).square()
        maps = torch.exp(-(down[..., None] + right[..., None, :]) / (2 * sigma**2))
        return (maps * (wanted[..., 2, None, None] > 0)).amax(1)

    def compare(self, recovered: Tensor, wanted: Tensor, mask: Tensor | None) -> Comparison:
        """PCK of drawings (B, 3, H, W) with joints (B, P, 18, 3), and both drawn.

        In the picture, in place is white, lost red, found elsewhere blue.
        """
        height, width = recovered.shape[-2:]
        pixels = torch.tensor([width, height, 1.0])
        targets = [
            one.cpu() * pixels - torch.tensor([0.5, 0.5, 0]) * (one.cpu() > 0) for one in wanted
        ]
        targets = [one[(one[..., 2] > 0).any(-1)] for one in targets]
        found = [read_skeletons(one.expand(3, -1, -1)) for one in recovered]
        masks = None if mask is None else list(mask[:, 0].float().cpu())
        radius = float(self.tolerance) if self.tolerance else None
        score = pose_score(found, targets, ALPHA, radius, masks)
        lines = [
            f"PCK {placed:.1%}, OKS {likeness:.3f}; {len(target)} wanted, {int(missing)} of them "
            f"not found, {int(extra)} that nobody wanted"
            for placed, likeness, missing, extra, target in zip(
                *(part.tolist() for part in score), targets, strict=True
            )
        ]
        pictures = [
            _picture(people, target, radius, height, width)
            for people, target in zip(found, targets, strict=True)
        ]
        difference = torch.cat(pictures).to(recovered.device)
        return Comparison(score.pck, lines, grey_outside(difference, mask))

    def _problem(self, condition: Tensor) -> str:
        if problem := self.misfit(condition):
            return problem
        lit = _lit(condition)
        if lit.any():
            spread = condition.amax(0) - condition.amin(0)
            coloured = (spread[lit] > COLOURLESS).float().mean().item()
            if coloured < LEAST_COLOURED:
                return (
                    f"only {coloured:.0%} of what is drawn has a colour. Connect the output of "
                    "the OpenPose or the OpenPose Draw node, with the body drawn."
                )
        return ""


def _as_shares(people: Tensor, picture: Tensor) -> Tensor:
    """Pixel centres to shares of the sides, 0 where there is no joint."""
    height, width = picture.shape[-2:]
    there = people[..., 2:] > 0
    return torch.where(
        there, (people + torch.tensor([0.5, 0.5, 0])) / torch.tensor([width, height, 1.0]), 0
    )


def _picture(
    found: Tensor, target: Tensor, radius: float | None, height: int, width: int
) -> Tensor:
    """(1, 3, height, width): wanted skeletons white where found, else red; found ones blue."""
    matched = match_people(found, target)
    placed = torch.zeros(target.shape[:2], dtype=torch.bool)
    if (matched >= 0).any():
        rows = matched >= 0
        placed[rows] = pck(found[matched[rows]], target[rows], ALPHA, radius)
    strayed = found[..., 2] > 0
    for person, row in enumerate(matched.tolist()):
        if row >= 0:
            strayed[row] &= ~placed[person]
    size = (height, width)
    wanted = target[..., 2] > 0
    layers = [
        (_drawn(found, strayed, size), INVENTED),
        (_drawn(target, wanted & ~placed, size), LOST),
        (_drawn(target, placed, size), KEPT),
    ]
    return painted(torch.zeros(1, 1, height, width), layers)


def _drawn(people: Tensor, shown: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, 1, H, W) bool: discs at the shown joints and thin limbs between two of them."""
    height, width = size
    y = torch.arange(height).view(-1, 1)
    x = torch.arange(width).view(1, -1)
    radius = max(1.5, DOT * max(size))
    canvas = torch.zeros(height, width, dtype=torch.bool)
    for person, visible in zip(people, shown, strict=True):
        for px, py, _ in person[visible].tolist():
            canvas |= (x - px) ** 2 + (y - py) ** 2 <= radius**2
        for start, end in LIMBS:
            if visible[start] and visible[end]:
                steps = torch.linspace(0, 1, 2 * max(size)).view(-1, 1)
                line = torch.lerp(person[start, :2], person[end, :2], steps).round().long()
                inside = ((line >= 0) & (line < torch.tensor([width, height]))).all(1)
                canvas[line[inside, 1], line[inside, 0]] = True
    return canvas[None, None]


def _lit(condition: Tensor) -> Tensor:
    return condition.amax(0) > LIT
