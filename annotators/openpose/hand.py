"""OpenPose's hands: where they must be, given the arms, and the 21 points of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..annotator import LearnedAnnotator, check_image, check_values, forwards, to_8_bit
from ..opencv import load_cv2
from .keypoints import HAND_POINTS, JOINTS, Keypoint, Points
from .networks import HandStages
from .peaks import enlarged, padded, resized, smoothed

BOX = 368  # side of the network's input at scale 1
SCALES = (0.5, 1.0, 1.5, 2.0)
BEYOND_WRIST = 0.33  # of the forearm: where the middle of the hand is
MIN_BOX = 20  # pixels
MAP_SIDE = 128
BLUR = 0.8
HAND_THRESHOLD = 0.05


class HandBox(NamedTuple):
    """A square around a hand, in whole pixels."""

    x: int
    y: int
    side: int


class OpenPoseHand(LearnedAnnotator, HandStages):
    """Points of hands, to be used with OpenPoseBody, which finds the arms that they hang on.

    `forward` takes pictures of single hands. scales: sizes at which a hand is looked at, as parts
    of 368 pixels; the published four take 7.5 times as long as the one of 1.0.
    """

    title = "OpenPose (hand)"

    def __init__(
        self,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        scales: Sequence[float] = SCALES,
    ) -> None:
        super().__init__(operations=operations, dtype=dtype, device=device)
        self.scales = tuple(scales)

    def forward(self, image: Tensor) -> Tensor:
        """Pictures of hands (B, 3, H, W) in 0..1 -> the highest of the 21 maps (B, 1, H, W)."""
        check_image(image, self.title)
        maps = []
        for scale in self.scales:
            side = round(scale * BOX / 8) * 8
            small = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
            heat = self.stages((small.to(self.dtype) * (255 / 256) - 0.5).flip(1))
            heat = heat[:, :HAND_POINTS].to(image.dtype)
            maps.append(F.interpolate(heat, image.shape[-2:], mode="bilinear"))
        return torch.stack(maps).mean(0).amax(1, keepdim=True).clamp(0, 1)

    def annotate(self, image: Tensor, **options: Any) -> Tensor:
        """Raises TypeError: points of hands alone are no condition, (B, 3, H, W) needs the body."""
        raise TypeError("OpenPoseHand draws nothing itself: hand it to OpenPoseBody.annotate.")

    @torch.no_grad()
    def detect(self, image: Tensor, boxes: Sequence[tuple[int, HandBox]]) -> list[Points | None]:
        """The 21 points of the hand in each box, in pixels of the picture; None if there are none.

        image: (B, 3, H, W) in 0..1. boxes: (picture in the batch, box), taken like a batch.
        """
        check_image(image, self.title)
        check_values(image, self.title)
        if not boxes:
            return []
        pixels = to_8_bit(image).flip(1).permute(0, 2, 3, 1).cpu().numpy()
        crops = [
            np.ascontiguousarray(pixels[n, b.y : b.y + b.side, b.x : b.x + b.side])
            for n, b in boxes
        ]
        maps = self._maps(crops, image.device)
        height, width = image.shape[-2:]
        return [
            _in_picture(_points(heat, crop.shape[0], crop.shape[1]), box, width, height)
            for heat, crop, (_, box) in zip(maps, crops, boxes, strict=True)
        ]

    def _maps(self, crops: Sequence[np.ndarray], device: torch.device) -> list[np.ndarray]:
        """uint8 BGR pictures of hands -> maps (21, 128, 128), the mean over the scales."""
        cv2 = load_cv2()
        blurred = [cv2.GaussianBlur(crop, (0, 0), BLUR) for crop in crops]
        maps = [np.zeros((HAND_POINTS, MAP_SIDE, MAP_SIDE)) for _ in crops]
        for scale in self.scales:
            side = int(scale * BOX)
            inputs = np.stack([padded(resized(cv2, crop, side, side)) for crop in blurred])
            x = torch.from_numpy(inputs).movedim(-1, 1).float() / 256 - 0.5
            coarse = [
                heat
                for part in forwards(x.to(device, self.dtype))
                for heat in self.stages(part)[:, :HAND_POINTS].float().cpu().numpy()
            ]
            for total, heat in zip(maps, coarse, strict=True):
                size = (MAP_SIDE, MAP_SIDE)
                total += enlarged(cv2, heat, (side, side), size) / len(self.scales)
        return maps


def hand_boxes(body: Points, height: int, width: int) -> dict[str, HandBox]:
    """Where the hands of a body are: "left_hand", "right_hand" or both, as far as known.

    From wrist, elbow and shoulder, as in CMU's handDetector.cpp; none under 20 pixels.
    """
    boxes = {}
    for side in ("left", "right"):
        arm = [body[JOINTS.index(f"{side}_{part}")] for part in ("shoulder", "elbow", "wrist")]
        shoulder, elbow, wrist = arm
        if shoulder is None or elbow is None or wrist is None:
            continue
        forearm = math.hypot(wrist.x - elbow.x, wrist.y - elbow.y)
        upper_arm = math.hypot(elbow.x - shoulder.x, elbow.y - shoulder.y)
        length = 1.5 * max(forearm, 0.9 * upper_arm)
        x = max(wrist.x + BEYOND_WRIST * (wrist.x - elbow.x) - length / 2, 0)
        y = max(wrist.y + BEYOND_WRIST * (wrist.y - elbow.y) - length / 2, 0)
        length = min(
            width - x if x + length > width else length,
            height - y if y + length > height else length,
        )
        if length >= MIN_BOX:
            boxes[f"{side}_hand"] = HandBox(int(x), int(y), int(length))
    return boxes


def _points(maps: np.ndarray, height: int, width: int) -> list[tuple[int, int] | None]:
    """For each map the highest pixel of its heaviest blob, in pixels of the crop."""
    cv2 = load_cv2()
    points: list[tuple[int, int] | None] = []
    for heat in maps:
        above = (smoothed(cv2, heat) > HAND_THRESHOLD).astype(np.uint8)
        count, labels = cv2.connectedComponents(above, connectivity=8)
        if count < 2:  # label 0 is the background
            points.append(None)
            continue
        weights = [heat[labels == label].sum() for label in range(1, count)]
        blob = np.where(labels == 1 + int(np.argmax(weights)), heat, 0)
        y, x = np.unravel_index(int(blob.argmax()), blob.shape)
        points.append((int(x * width / MAP_SIDE), int(y * height / MAP_SIDE)))
    return points


def _in_picture(
    points: list[tuple[int, int] | None], box: HandBox, width: int, height: int
) -> Points | None:
    """Pixels of the crop -> pixels of the picture, by way of the published single precision.

    Points in the first row or column of the crop count as not found there.
    """
    found = []
    for point in points:
        if point is None or 0 in point:
            found.append(None)
            continue
        x, y = (
            float(np.float32(value + offset) / np.float32(length) * np.float32(length))
            for value, offset, length in zip(point, (box.x, box.y), (width, height), strict=True)
        )
        found.append(Keypoint(x, y))
    return tuple(found) if any(found) else None
