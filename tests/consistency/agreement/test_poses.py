"""What agreement means for poses, from the joints that are read off a drawing."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.annotators.openpose import Keypoint, Person, Pose, draw_poses
from controlnet_pp.annotators.openpose import draw as drawing
from controlnet_pp.annotators.openpose.limbs import DRAWN_LIMBS
from controlnet_pp.annotators.openpose.limbs import LIMBS as ANNOTATOR_LIMBS
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.agreement import skeletons
from controlnet_pp.tests.consistency.agreement.known import (
    SIZE,
    check,
    person,
    pose,
)


def test_colours_and_limbs_are_those_of_the_annotator():
    assert skeletons.COLOURS == drawing.COLOURS
    assert [limb[:2] for limb in ANNOTATOR_LIMBS[:DRAWN_LIMBS]] == list(skeletons.LIMBS)
    assert skeletons.LIMB_BRIGHTNESS == drawing.LIMB_BRIGHTNESS
    assert skeletons.COLOURS[skeletons.HAND_POINT] == drawing.HAND_POINT


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_joints_are_read_off_a_drawing_to_a_pixel(scale):
    own = [person(60 * scale, 90 * scale, 50 * scale), person(140 * scale, 100 * scale, 45 * scale)]
    size = SIZE * scale
    picture = draw_poses([Pose(tuple(own), size, size)])[0]
    found = skeletons.read_skeletons(picture)
    assert len(found) == 2
    for one in found:
        whose = min(own, key=lambda p: abs(p.body[1].x - one[1, 0].item()))
        assert (one[:, 2] > 0).sum() >= 16  # discs may cover each other
        for joint, point in zip(one, whose.body, strict=True):
            if joint[2] > 0:
                assert abs(joint[0] - point.x) < 3
                assert abs(joint[1] - point.y) < 3


def test_hands_and_faces_are_no_joints():
    hand = tuple(Keypoint(100 + 4 * (k % 5), 30 + 5 * (k // 5)) for k in range(21))
    face = tuple(Keypoint(20 + k % 10, 150 + k // 10) for k in range(70))
    nobody = Person((None,) * 18, left_hand=hand, face=face)
    assert len(skeletons.read_skeletons(pose(nobody)[0])) == 0
    someone = Person(person(90, 100).body, left_hand=hand)
    found = skeletons.read_skeletons(pose(someone)[0])
    assert len(found) == 1


def test_a_moved_arm_loses_its_joints_only():
    moved = list(person(90, 100).body)
    moved[4] = Keypoint(20, 20)
    result = check(Condition.POSE, pose(person(90, 100)), pose(Person(tuple(moved))))
    assert result.score == pytest.approx(17 / 18)
    assert check(Condition.POSE, pose(person(90, 100)), pose(person(94, 100))).score == 1
    shifted = check(Condition.POSE, pose(person(90, 100)), pose(person(94, 100)), tolerance=2)
    assert shifted.score == 0


def test_a_person_too_many_is_reported():
    result = check(
        Condition.POSE, pose(person(60, 100, 50)), pose(person(60, 100, 50), person(140, 100, 50))
    )
    assert result.score == 1
    assert "1 that nobody wanted" in result.report


def test_a_pose_without_anyone_wants_no_one():
    empty = torch.zeros(1, 3, SIZE, SIZE)
    assert check(Condition.POSE, empty, empty).score == 1
    assert check(Condition.POSE, empty, pose(person(90, 100))).score == 0
