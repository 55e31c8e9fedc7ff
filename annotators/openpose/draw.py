"""Skeletons on black, pixel for pixel as the pose ControlNets saw them in training.

The drawing of ControlNet 1.1: limbs as ellipses 8 pixels wide at 60 % brightness, joints as discs
of radius 4, each in one of 18 colours. The pose models of xinsir were trained with limbs and joints
that grow with the picture (model card of xinsir/controlnet-openpose-sdxl-1.0).
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..opencv import load_cv2
from .keypoints import Points, Pose
from .limbs import DRAWN_LIMBS, LIMBS

COLOURS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
LIMB_BRIGHTNESS = 0.6
RADIUS = 4  # of joints and hand points, and half the width of a limb
FACE_RADIUS = 3
HAND_LINE = 2
HAND_POINT = (0, 0, 255)
FACE_POINT = (255, 255, 255)
# Wrist to the root of each finger, and on to its tip.
HAND_BONES = tuple(
    (0 if joint == 0 else 4 * finger + joint, 4 * finger + joint + 1)
    for finger in range(5)
    for joint in range(4)
)


def draw_poses(
    poses: Sequence[Pose],
    *,
    body: bool = True,
    hands: bool = True,
    face: bool = True,
    scale_sticks: bool = False,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The poses of a batch as pictures (B, 3, H, W) in 0..1, RGB, black where nobody is.

    scale_sticks: for xinsir's models, limbs and joints as wide as `stick_scale` says.
    size: (height, width) to draw at; None for the poses' own. Raises ValueError if they differ.
    """
    sizes = {(pose.height, pose.width) for pose in poses} if size is None else {size}
    if len(sizes) != 1 or not poses:
        found = ", ".join(sorted(f"{w}x{h}" for h, w in sizes)) if poses else "no frames"
        raise ValueError(
            f"The poses are of pictures of different sizes ({found}), so they can't be drawn as "
            "one batch. Set the width and height to draw at, or give frames of one size."
        )
    height, width = next(iter(sizes))
    pictures = [
        draw_pose(pose, height, width, body=body, hands=hands, face=face, scale_sticks=scale_sticks)
        for pose in poses
    ]
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 255


def draw_pose(
    pose: Pose,
    height: int,
    width: int,
    *,
    body: bool = True,
    hands: bool = True,
    face: bool = True,
    scale_sticks: bool = False,
) -> np.ndarray:
    """One picture, uint8 (height, width, 3), RGB. Points are scaled from the pose's own size."""
    cv2 = load_cv2()
    canvas = np.zeros((height, width, 3), np.uint8)
    factor = (width / pose.width, height / pose.height)
    stick = stick_scale(height, width) if scale_sticks else 1
    for person in pose.people:
        if body:
            _draw_body(cv2, canvas, _scaled(person.body, factor), stick)
        if hands:
            _draw_hand(cv2, canvas, _scaled(person.left_hand, factor))
            _draw_hand(cv2, canvas, _scaled(person.right_hand, factor))
        if face:
            _draw_face(cv2, canvas, _scaled(person.face, factor))
    return canvas


def stick_scale(height: int, width: int) -> int:
    """How much wider than usual xinsir's models want limbs and joints in a picture of that size."""
    longest = max(height, width)
    return 1 if longest < 500 else min(2 + longest // 1000, 7)


_Dots = list[tuple[float, float] | None]


def _scaled(points: Points | None, factor: tuple[float, float]) -> _Dots:
    return [p if p is None else (p.x * factor[0], p.y * factor[1]) for p in points or ()]


def _draw_body(cv2: ModuleType, canvas: np.ndarray, joints: _Dots, stick: int) -> None:
    # Truncation, here and below, is part of the published drawing.
    for (start, end, _), colour in zip(LIMBS[:DRAWN_LIMBS], COLOURS, strict=False):
        a, b = joints[start], joints[end]
        if a is None or b is None:
            continue
        dx, dy = a[0] - b[0], a[1] - b[1]
        outline = cv2.ellipse2Poly(
            (int((a[0] + b[0]) / 2), int((a[1] + b[1]) / 2)),
            (int((dx**2 + dy**2) ** 0.5 / 2), RADIUS * stick),
            int(math.degrees(math.atan2(dy, dx))),
            0,
            360,
            1,
        )
        cv2.fillConvexPoly(canvas, outline, [int(c * LIMB_BRIGHTNESS) for c in colour])
    for joint, colour in zip(joints, COLOURS, strict=True):
        if joint is not None:
            centre = int(joint[0]), int(joint[1])
            cv2.circle(canvas, centre, RADIUS * stick, colour, thickness=-1)


def _draw_hand(cv2: ModuleType, canvas: np.ndarray, points: _Dots) -> None:
    dots = [_inside(point) for point in points]
    if not dots:
        return
    for number, (start, end) in enumerate(HAND_BONES):
        a, b = dots[start], dots[end]
        if a is not None and b is not None:
            hue = colorsys.hsv_to_rgb(number / len(HAND_BONES), 1, 1)
            cv2.line(canvas, a, b, [value * 255 for value in hue], thickness=HAND_LINE)
    for dot in dots:
        if dot is not None:
            cv2.circle(canvas, dot, RADIUS, HAND_POINT, thickness=-1)


def _draw_face(cv2: ModuleType, canvas: np.ndarray, points: _Dots) -> None:
    for point in points:
        if (dot := _inside(point)) is not None:
            cv2.circle(canvas, dot, FACE_RADIUS, FACE_POINT, thickness=-1)


def _inside(point: tuple[float, float] | None) -> tuple[int, int] | None:
    """In whole pixels; the published drawing skips points in the first row and column."""
    if point is None or int(point[0]) < 1 or int(point[1]) < 1:
        return None
    return int(point[0]), int(point[1])
