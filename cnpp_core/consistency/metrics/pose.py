"""Poses: which of the wanted joints are where they should be, and how close the rest comes.

People are arrays (P, K, 3) of x, y, confidence in pixels, as in the flat lists of POSE_KEYPOINT; a
confidence of 0 means that there is no such joint. K is 18, in the order of OpenPose, unless other
sigmas are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# How far annotators of COCO stray, relative to the size of the person (cocodataset.org,
# keypoints-eval), in OpenPose's order. COCO has no neck: it gets the value of the shoulders.
SIGMAS = (
    *(0.026, 0.079),
    *(0.079, 0.072, 0.062) * 2,
    *(0.107, 0.087, 0.089) * 2,
    *(0.025, 0.025, 0.035, 0.035),
)
# A person fills about this share of the box around the joints, where no outline is known.
BOX_TO_AREA = 0.53


class PoseScore(NamedTuple):
    """Agreement of the people in each picture, each (B,) float32."""

    pck: Tensor  # share of the wanted joints that are in place
    oks: Tensor  # mean object keypoint similarity of the wanted people, 0 for one not found
    missing: Tensor  # wanted people without a counterpart
    extra: Tensor  # people that nobody wanted


def pose_score(
    predictions: Sequence[Tensor],
    targets: Sequence[Tensor],
    alpha: float = 0.1,
    radius: float | None = None,
    masks: Sequence[Tensor | None] | None = None,
) -> PoseScore:
    """PCK and OKS of pictures with any number of people, each (B,).

        PCK = joints in place / joints wanted        OKS = mean of `oks` over the wanted people

    predictions, targets: for each picture (P, K, 3) and (Q, K, 3); P and Q may be 0. Each wanted
    person is matched with the most similar one that is still free. A joint is in place within
    `alpha` times the longer side of the box around the wanted person's joints, or within `radius`
    pixels if given. masks: for each picture None or (H, W); joints outside don't exist. Where no
    joint is wanted, both scores are 1 if none is there, else 0.

    >>> wanted = torch.zeros(1, 18, 3)
    >>> wanted[0, :3] = torch.tensor([[50.0, 20, 1], [50, 40, 1], [40, 60, 1]])
    >>> found = wanted.clone()
    >>> found[0, 2, 0] += 5  # of a person 40 pixels high
    >>> score = pose_score([found], [wanted])
    >>> score.pck, score.oks
    (tensor([0.6667]), tensor([0.6981]))
    """
    rows = []
    for number, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        mask = masks[number] if masks is not None else None
        prediction, target = _visible(prediction, mask), _visible(target, mask)
        if not len(target):
            score = float(len(prediction) == 0)
            rows.append((score, score, 0.0, float(len(prediction))))
            continue
        matched = match_people(prediction, target)
        paired = _counterparts(prediction, target, matched)
        wanted = target[..., 2] > 0
        placed = pck(paired, target, alpha, radius)
        similarity = oks(paired, target).diagonal()
        found = int((matched >= 0).sum())
        rows.append(
            (
                (placed & wanted).sum().item() / wanted.sum().item(),
                similarity.mean().item(),
                float(len(target) - found),
                float(len(prediction) - found),
            )
        )
    columns = torch.tensor(rows, dtype=torch.float32).view(-1, 4).unbind(1)
    return PoseScore(*columns)


def pck(
    prediction: Tensor, target: Tensor, alpha: float = 0.1, radius: float | None = None
) -> Tensor:
    """Whether each joint of the same person in both arrays (P, K, 3) is in place, (P, K) bool.

        |prediction - target| <= alpha * longer side of the box around the target's joints

    or <= `radius` pixels if given; the share of these is the PCK (Yang and Ramanan 2013). False
    where the joint is missing in either.

    >>> target = torch.tensor([[[0.0, 0, 1], [0, 40, 1], [9, 9, 0]]])
    >>> prediction = torch.tensor([[[3.0, 0, 1], [0, 45, 1], [9, 9, 1]]])
    >>> pck(prediction, target)
    tensor([[ True, False, False]])
    """
    both = (prediction[..., 2] > 0) & (target[..., 2] > 0)
    allowed = alpha * keypoint_size(target).amax(-1) if radius is None else radius
    distance = (prediction[..., :2] - target[..., :2]).norm(dim=-1)
    limit = allowed[:, None] if isinstance(allowed, Tensor) else allowed
    return both & (distance <= limit)


def oks(
    prediction: Tensor,
    target: Tensor,
    area: Tensor | None = None,
    sigmas: Sequence[float] = SIGMAS,
) -> Tensor:
    """Object keypoint similarity of everyone (P, K, 3) with everyone (Q, K, 3), (P, Q) in 0..1.

        OKS = mean over the target's joints of exp(-d^2 / (2 area (2 sigma)^2))

    as COCO's evaluation has it, d in pixels; a joint that is missing in the prediction counts 0.
    area: (Q,) in square pixels; if not given, a share of the box around the joints. sigmas: K.

    >>> target = torch.tensor([[[10.0, 10, 1], [30, 50, 1]]])
    >>> prediction = torch.tensor([[[10.0, 10, 1], [34, 50, 1]]])
    >>> oks(prediction, target, area=torch.tensor([800.0]), sigmas=(0.05, 0.05))
    tensor([[0.6839]])
    """
    if area is None:
        area = keypoint_size(target).prod(-1) * BOX_TO_AREA
    k2 = (2 * target.new_tensor(sigmas)) ** 2
    square = ((prediction[:, None, :, :2] - target[None, :, :, :2]) ** 2).sum(-1)
    spread = 2 * area.clamp(min=torch.finfo(area.dtype).eps)[None, :, None] * k2
    wanted = (target[..., 2] > 0)[None]
    there = (prediction[..., 2] > 0)[:, None]
    close = torch.where(wanted & there, torch.exp(-square / spread), 0)
    return close.sum(-1) / wanted.sum(-1).clamp(min=1)


def match_people(prediction: Tensor, target: Tensor) -> Tensor:
    """For each person of the target (Q, K, 3) the index in the prediction (P, K, 3), or -1; (Q,).

    The most similar pair first, then the most similar of those left, like COCO's evaluation; pairs
    that share no joint are not matched.

    >>> left, right = torch.full((1, 18, 3), 10.0), torch.full((1, 18, 3), 90.0)
    >>> match_people(torch.cat([right, left]), torch.cat([left, right]))
    tensor([1, 0])
    >>> match_people(left, torch.cat([left, right]))
    tensor([ 0, -1])
    """
    matched = torch.full((len(target),), -1, dtype=torch.long)
    if not len(prediction) or not len(target):
        return matched
    # OKS is 0 to rounding for people far apart: distance then decides.
    shared = (prediction[:, None, :, 2] > 0) & (target[None, :, :, 2] > 0)
    away = (prediction[:, None, :, :2] - target[None, :, :, :2]).norm(dim=-1)
    mean_away = torch.where(shared, away, 0).sum(-1) / shared.sum(-1).clamp(min=1)
    likeness = oks(prediction, target) + 1e-6 / (1 + mean_away)
    likeness = torch.where(shared.any(-1), likeness, -1).cpu()
    for _ in range(min(likeness.shape)):
        best = int(likeness.argmax())
        row, column = divmod(best, likeness.shape[1])
        if likeness[row, column] < 0:
            break
        matched[column] = row
        likeness[row], likeness[:, column] = -1, -1
    return matched


def keypoint_size(people: Tensor) -> Tensor:
    """Width and height (P, 2) of the box around each person's joints (P, K, 3), at least 1 pixel.

    >>> keypoint_size(torch.tensor([[[2.0, 5, 1], [8, 25, 1], [0, 0, 0]]]))
    tensor([[ 6., 20.]])
    """
    there = people[..., 2:] > 0
    low = torch.where(there, people[..., :2], torch.inf).amin(-2)
    high = torch.where(there, people[..., :2], -torch.inf).amax(-2)
    return (high - low).nan_to_num(1).clamp(min=1)


def _visible(people: Tensor, mask: Tensor | None) -> Tensor:
    """Those with any joint, joints outside of the mask (H, W) removed."""
    people = people.float().clone()
    if mask is not None and len(people):
        height, width = mask.shape
        x = people[..., 0].round().long().clamp(0, width - 1)
        y = people[..., 1].round().long().clamp(0, height - 1)
        people[..., 2] *= mask.to(people.device)[y, x] > 0.5
    return people[(people[..., 2] > 0).any(-1)]


def _counterparts(prediction: Tensor, target: Tensor, matched: Tensor) -> Tensor:
    """For each wanted person the one that was found, without any joint if none was."""
    paired = torch.zeros_like(target)
    found = matched >= 0
    paired[found] = prediction[matched[found]]
    return paired
