"""OpenPose: people in pictures, as keypoints and as the drawing that pose ControlNets read."""

from __future__ import annotations

from .body import OpenPoseBody
from .draw import draw_poses
from .hand import OpenPoseHand
from .keypoints import JOINTS, Keypoint, Person, Pose, from_json, to_json

__all__ = [
    "JOINTS",
    "Keypoint",
    "OpenPoseBody",
    "OpenPoseHand",
    "Person",
    "Pose",
    "draw_poses",
    "from_json",
    "to_json",
]
