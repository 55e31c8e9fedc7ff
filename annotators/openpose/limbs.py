"""From peaks to persons: which joints does a limb connect, and which limbs are one body?

Part affinity fields (Cao et al., arXiv 1611.08050, section 3) point along the limb wherever one is.
Two joints are connected if the field between them points from one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .keypoints import JOINTS, Keypoint, Points

# Joint at the start and at the end, and the channel of the field's x (its y is the next one).
LIMBS = (
    *((1, 2, 12), (1, 5, 20), (2, 3, 14), (3, 4, 16), (5, 6, 22), (6, 7, 24)),
    *((1, 8, 0), (8, 9, 2), (9, 10, 4), (1, 11, 6), (11, 12, 8), (12, 13, 10)),
    *((1, 0, 28), (0, 14, 30), (14, 16, 34), (0, 15, 32), (15, 17, 36)),
    *((2, 16, 18), (5, 17, 26)),
)
DRAWN_LIMBS = 17  # the last two, ear to shoulder, only help to tell persons apart

SAMPLES = 10
FIELD_THRESHOLD = 0.05
MIN_GOOD_SAMPLES = 0.8  # of all samples, exclusive
MIN_JOINTS = 4
MIN_MEAN_SCORE = 0.4

Field = Callable[[int], np.ndarray]  # channel of x -> (2, H, W)


@dataclass
class _Body:
    joints: list[int | None]  # indices into all peaks, in the order of JOINTS
    score: float
    count: int


@dataclass(frozen=True)
class _Link:
    """Two peaks that a limb connects."""

    start: int
    end: int
    score: float


def find_people(peaks: Sequence[np.ndarray], field: Field, height: int) -> list[Points]:
    """Persons, each as 18 points in pixels, None for joints that were not found.

    peaks: for each joint (n, 3) x, y, height of the peak. field: the two maps of a limb by the
    channel of its x, asked for only where both ends have peaks. height: of the picture, in pixels.
    """
    all_peaks = np.concatenate(peaks)
    first = np.cumsum([0, *(len(found) for found in peaks)])
    bodies: list[_Body] = []
    for number, (start, end, channel) in enumerate(LIMBS):
        if not len(peaks[start]) or not len(peaks[end]):
            continue
        links = _links(peaks[start], peaks[end], field(channel), height)
        for link in links:
            link = _Link(int(first[start]) + link.start, int(first[end]) + link.end, link.score)
            _attach(bodies, link, start, end, all_peaks[:, 2], may_start=number < DRAWN_LIMBS)
    kept = [b for b in bodies if b.count >= MIN_JOINTS and b.score / b.count >= MIN_MEAN_SCORE]
    return [
        tuple(None if j is None else Keypoint(*all_peaks[j].tolist()) for j in body.joints)
        for body in kept
    ]


def _links(starts: np.ndarray, ends: np.ndarray, field: np.ndarray, height: int) -> list[_Link]:
    """The best pairs of a start and an end, each peak used once, best first."""
    a, b = starts[:, None, :2], ends[None, :, :2]
    along = b - a
    length = np.maximum(np.sqrt(along[..., 0] ** 2 + along[..., 1] ** 2), 0.001)
    direction = along / length[..., None]
    samples = np.linspace(np.broadcast_to(a, along.shape), np.broadcast_to(b, along.shape), SAMPLES)
    column, row = np.rint(np.moveaxis(samples, -1, 0)).astype(int)
    agreement = (
        field[0, row, column] * direction[..., 0] + field[1, row, column] * direction[..., 1]
    )
    # A limb longer than half the picture is less likely the longer it is.
    score = agreement.sum(axis=0) / SAMPLES + np.minimum(0.5 * height / length - 1, 0)
    good = (agreement > FIELD_THRESHOLD).sum(axis=0) > MIN_GOOD_SAMPLES * SAMPLES
    candidates = np.argwhere(good & (score > 0))
    order = np.argsort([-score[i, j] for i, j in candidates], kind="stable")

    links: list[_Link] = []
    free_starts, free_ends = set(range(len(starts))), set(range(len(ends)))
    for i, j in candidates[order].tolist():
        if i in free_starts and j in free_ends:
            free_starts.remove(i)
            free_ends.remove(j)
            links.append(_Link(i, j, float(score[i, j])))
    return links


def _attach(
    bodies: list[_Body],
    link: _Link,
    start: int,
    end: int,
    heights: np.ndarray,
    *,
    may_start: bool,
) -> None:
    """Put a limb into the bodies that have one of its joints already, or start one with it."""
    touching = [b for b in bodies if b.joints[start] == link.start or b.joints[end] == link.end][:2]
    if not touching:
        if may_start:
            joints: list[int | None] = [None] * len(JOINTS)
            joints[start], joints[end] = link.start, link.end
            both = float(heights[link.start] + heights[link.end])
            bodies.append(_Body(joints, both + link.score, 2))
        return
    body, *others = touching
    if others:
        other = others[0]
        shared = any(
            a is not None and b is not None for a, b in zip(body.joints, other.joints, strict=True)
        )
        if not shared:
            body.joints = [
                b if a is None else a for a, b in zip(body.joints, other.joints, strict=True)
            ]
            body.score += other.score + link.score
            body.count += other.count
            bodies[:] = [b for b in bodies if b is not other]
            return
    # The published code takes the limb's end only, even where the start is what is new.
    if others or body.joints[end] != link.end:
        body.joints[end] = link.end
        body.score += float(heights[link.end]) + link.score
        body.count += 1
