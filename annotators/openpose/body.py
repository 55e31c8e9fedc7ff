"""OpenPose: the people in a picture, and the drawing of them that pose ControlNets read.

The pipeline of ControlNet 1.1 (annotator/openpose): the picture at 184 pixels height through the
network, maps enlarged to the picture's size, peaks, limbs, persons, drawing.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..annotator import LearnedAnnotator, check_image, check_values, forwards, to_8_bit
from ..opencv import load_cv2
from .draw import draw_poses
from .hand import OpenPoseHand, hand_boxes
from .keypoints import Keypoint, Person, Points, Pose
from .limbs import find_people
from .networks import BodyStages
from .peaks import STRIDE, enlarged, find_peaks, padded, resized

log = logging.getLogger(__name__)

BOX = 368
SCALE = 0.5  # of BOX: the height at which the network sees the picture
JOINT_COUNT = 18


class OpenPoseBody(LearnedAnnotator, BodyStages):
    """People in pictures of any size, up to 18 joints each; with OpenPoseHand their hands too."""

    title = "OpenPose"

    def forward(self, image: Tensor) -> Tensor:
        """Where any joint is: the highest of the 18 heat maps, (B, 1, H, W) in 0..1."""
        _, joints = self.maps(image)
        return joints.amax(1, keepdim=True).clamp(0, 1)

    def maps(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Limb fields (B, 38, H, W) and heat maps of the joints (B, 18, H, W), differentiable.

        They are what `detect` reads, with bilinear instead of area and Lanczos scaling.
        image: (B, 3, H, W) in 0..1.
        """
        check_image(image, self.title)
        height, width = image.shape[-2:]
        inner = [max(1, int(side * SCALE * BOX / height)) for side in (height, width)]
        small = F.interpolate(image, inner, mode="bilinear", antialias=True)
        down, right = (-side % STRIDE for side in inner)
        x = (small.to(self.dtype) * (255 / 256) - 0.5).flip(1)
        limbs, joints = (
            F.interpolate(coarse.to(image.dtype), scale_factor=STRIDE, mode="bilinear")
            for coarse in self.stages(F.pad(x, (0, right, 0, down)))
        )
        limbs, joints = (
            F.interpolate(m[..., : inner[0], : inner[1]], (height, width), mode="bilinear")
            for m in (limbs, joints[:, :JOINT_COUNT])
        )
        return limbs, joints

    @torch.no_grad()
    def detect(self, image: Tensor, hands: OpenPoseHand | None = None) -> list[Pose]:
        """The people in each picture of (B, 3, H, W) in 0..1; with `hands`, their hands as well."""
        check_image(image, self.title)
        check_values(image, self.title)
        height, width = image.shape[-2:]
        bodies = self._bodies(image)
        empty = [str(number) for number, found in enumerate(bodies, 1) if not found]
        if empty and len(bodies) == 1:
            log.info("OpenPose found nobody in the picture")
        elif empty:
            log.info("OpenPose found nobody in picture %s of %d", ", ".join(empty), len(bodies))
        places = [
            (picture, person, name, box)
            for picture, found in enumerate(bodies)
            for person, body in enumerate(found)
            for name, box in (hand_boxes(body, height, width) if hands else {}).items()
        ]
        points = hands.detect(image, [(p, box) for p, _, _, box in places]) if hands else []
        found_hands: dict[tuple[int, int], dict[str, Points | None]] = {}
        for (picture, person, name, _), hand in zip(places, points, strict=True):
            found_hands.setdefault((picture, person), {})[name] = hand
        return [
            Pose(
                tuple(
                    Person(_published(body, width, height), **found_hands.get((p, n), {}))
                    for n, body in enumerate(found)
                ),
                height,
                width,
            )
            for p, found in enumerate(bodies)
        ]

    def annotate(
        self, image: Tensor, hands: OpenPoseHand | None = None, *, scale_sticks: bool = False
    ) -> Tensor:
        """Skeletons on black (B, 3, H, W) in 0..1; `scale_sticks` is for the models of xinsir."""
        poses = self.detect(image, hands)
        return draw_poses(poses, scale_sticks=scale_sticks).to(image.device, image.dtype)

    def _bodies(self, image: Tensor) -> list[list[Points]]:
        cv2 = load_cv2()
        height, width = image.shape[-2:]
        scale = SCALE * BOX / height
        rows = to_8_bit(image).flip(1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        small = [resized(cv2, row, height * scale, width * scale) for row in rows]
        inner = small[0].shape[0], small[0].shape[1]
        x = torch.from_numpy(np.stack([padded(row) for row in small])).movedim(-1, 1)
        x = (x.float() / 256 - 0.5).to(image.device, self.dtype)

        def bodies(limbs: np.ndarray, joints: np.ndarray) -> list[Points]:
            heat = enlarged(cv2, joints[:JOINT_COUNT], inner, (height, width))

            def field(channel: int) -> np.ndarray:
                return enlarged(cv2, limbs[channel : channel + 2], inner, (height, width))

            return find_people(find_peaks(cv2, heat), field, height)

        found = []
        for part in forwards(x):
            limbs, joints = (maps.float().cpu().numpy() for maps in self.stages(part))
            found += [bodies(*pair) for pair in zip(limbs, joints, strict=True)]
        return found


def _published(body: Points, width: int, height: int) -> Points:
    """Points by way of fractions of the picture: their rounding moves some by a pixel."""
    return tuple(
        p if p is None else Keypoint(p.x / width * width, p.y / height * height, p.score)
        for p in body
    )
