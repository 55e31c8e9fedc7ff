"""From the drawing of a pose back to its joints: the coloured skeletons of OpenPose, read.

A joint is a disc in a colour of its own, a limb an ellipse in 0.6 of the colour of the same number
(github.com/CMU-Perceptual-Computing-Lab/openpose, as drawn for ControlNet).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

JOINT_COUNT = 18
COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11)),
    *((11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
LIMB_BRIGHTNESS = 0.6
HAND_POINT = 12  # points of hands are drawn in the colour of this joint

NEAR = 24  # of 255, by which a channel may be off
SMALLEST_DISC = 6  # pixels that must be left of a disc under others
LEAST_FILLED = 0.4  # of the box around it; a thin slanted line fills less
SAMPLES = 16
LEAST_LIMB = 0.35  # share of the samples on a limb in its colour; others may cross it


@dataclass(frozen=True)
class _Disc:
    joint: int
    x: float
    y: float
    pixels: int


def read_skeletons(picture: Tensor) -> Tensor:
    """A drawing (3, H, W) in 0..1 -> people (P, 18, 3): x, y in pixels and 1, or zeros.

    Joints that a limb connects are one person. Faces and hands are left out. Discs that others
    cover wholly are lost, as they are for whoever looks at the picture.
    """
    pixels = (picture.detach().float().clamp(0, 1) * 255).round().short().movedim(0, -1)
    drawing = pixels.cpu().numpy()
    discs = [disc for joint in range(JOINT_COUNT) for disc in _discs(drawing, joint)]
    groups = _connected(drawing, discs)
    people = []
    for group in groups:
        if len(group) == 1 and group[0].joint == HAND_POINT:
            continue
        person = torch.zeros(JOINT_COUNT, 3)
        for disc in sorted(group, key=lambda disc: disc.pixels):  # the largest of a kind stays
            person[disc.joint] = torch.tensor([disc.x, disc.y, 1.0])
        people.append(person)
    return torch.stack(people) if people else torch.zeros(0, JOINT_COUNT, 3)


def _discs(drawing: np.ndarray, joint: int) -> list[_Disc]:
    near = (np.abs(drawing - np.array(COLOURS[joint], np.int16)) <= NEAR).all(-1)
    ys, xs = np.nonzero(near)
    found = []
    for cluster in _clusters(ys, xs):
        y, x = ys[cluster], xs[cluster]
        box = (np.ptp(y) + 1) * (np.ptp(x) + 1)
        if len(cluster) >= SMALLEST_DISC and len(cluster) >= LEAST_FILLED * box:
            found.append(_Disc(joint, float(x.mean()), float(y.mean()), len(cluster)))
    return found


def _clusters(ys: np.ndarray, xs: np.ndarray) -> list[np.ndarray]:
    """Indices of pixels that touch each other, diagonally too."""
    left = {(int(y), int(x)): index for index, (y, x) in enumerate(zip(ys, xs, strict=True))}
    clusters = []
    while left:
        place, index = left.popitem()
        members, edge = [index], [place]
        while edge:
            y, x = edge.pop()
            for neighbour in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                if neighbour in left:
                    members.append(left.pop(neighbour))
                    edge.append(neighbour)
        clusters.append(np.array(members))
    return clusters


def _connected(drawing: np.ndarray, discs: list[_Disc]) -> list[list[_Disc]]:
    """Discs grouped into people: the clearest limbs first, each joint once in a person."""
    candidates = []
    for limb, (start, end) in enumerate(LIMBS):
        for a in (i for i, disc in enumerate(discs) if disc.joint == start):
            for b in (i for i, disc in enumerate(discs) if disc.joint == end):
                share = _limb_share(drawing, limb, discs[a], discs[b])
                if share >= LEAST_LIMB:
                    candidates.append((share, limb, a, b))
    person_of = list(range(len(discs)))
    used: set[tuple[int, int]] = set()  # limb and disc: a disc ends a limb only once
    for _, limb, a, b in sorted(candidates, key=lambda c: c[0], reverse=True):
        if (limb, a) in used or (limb, b) in used:
            continue
        first, second = person_of[a], person_of[b]
        joints = [
            [disc.joint for disc, person in zip(discs, person_of, strict=True) if person == group]
            for group in (first, second)
        ]
        if first != second and set(joints[0]) & set(joints[1]):
            continue  # one person has no two left knees
        used |= {(limb, a), (limb, b)}
        person_of = [first if person == second else person for person in person_of]
    return [
        [disc for disc, person in zip(discs, person_of, strict=True) if person == group]
        for group in sorted(set(person_of))
    ]


def _limb_share(drawing: np.ndarray, limb: int, a: _Disc, b: _Disc) -> float:
    """How much of the line between two discs has the colour of the limb."""
    at = np.linspace(0, 1, SAMPLES + 4)[2:-2]  # not the ends, which the discs cover
    x = np.rint(a.x + (b.x - a.x) * at).astype(int)
    y = np.rint(a.y + (b.y - a.y) * at).astype(int)
    colour = np.array(COLOURS[limb]) * LIMB_BRIGHTNESS
    found = drawing[y, x]
    on_limb = (np.abs(found - colour) <= NEAR).all(-1)
    # Of short limbs the discs leave little to see: what is a disc's is as good.
    for disc in (a, b):
        on_limb |= (np.abs(found - np.array(COLOURS[disc.joint])) <= NEAR).all(-1)
    return float(on_limb.mean())
