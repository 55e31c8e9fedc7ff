"""POSE_KEYPOINT in the layouts of ComfyUI, comfyui_controlnet_aux and CMU, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.openpose import (
    Keypoint,
    Person,
    Pose,
    draw_poses,
    from_json,
    to_json,
)

HEIGHT, WIDTH = 400, 600


def points(count: int, seed: int = 0) -> list[tuple[float, float]]:
    return np.random.default_rng(seed).uniform(5, 395, (count, 2)).round(2).tolist()


def flat(values: list[tuple[float, float]], confidence: float = 1.0) -> list[float]:
    return [number for x, y in values for number in (x, y, confidence)]


def frame(**lists: Any) -> dict[str, Any]:
    return {"people": [lists], "canvas_height": HEIGHT, "canvas_width": WIDTH}


def read(**lists: Any) -> Person:
    (pose,) = from_json([frame(**lists)])
    assert (pose.height, pose.width) == (HEIGHT, WIDTH)
    (person,) = pose.people
    return person


def whole_person() -> Person:
    def some(count: int, seed: int) -> tuple[Keypoint | None, ...]:
        return (None, *(Keypoint(x, y) for x, y in points(count - 1, seed)))

    return Person(some(18, 1), some(21, 2), some(21, 3), some(70, 4), some(6, 5))


def test_what_is_written_is_read_back_the_same():
    poses = [Pose((whole_person(), Person(whole_person().body)), HEIGHT, WIDTH), Pose((), 8, 9)]
    assert from_json(to_json(poses)) == poses
    assert from_json(json.dumps(to_json(poses), indent=2)) == poses


def test_what_is_edited_in_the_text_moves_in_the_drawing():
    poses = [Pose((whole_person(),), HEIGHT, WIDTH)]
    text = json.dumps(to_json(poses))
    document = json.loads(text)
    assert torch.equal(draw_poses(from_json(document)), draw_poses(poses))
    document[0]["people"][0]["pose_keypoints_2d"][3:6] = [300, 200, 1]
    (moved,) = from_json(json.dumps(document))
    assert moved.people[0].body[1] == Keypoint(300, 200)
    assert moved.people[0].body[2:] == poses[0].people[0].body[2:]


def test_lists_are_written_in_full_with_zeros_and_without_nulls():
    body = (Keypoint(3, 4, 0.2), *[None] * 17)
    ((written,),) = [f["people"] for f in to_json([Pose((Person(body),), HEIGHT, WIDTH)])]
    assert {name: len(values) for name, values in written.items()} == {
        "pose_keypoints_2d": 54,
        "face_keypoints_2d": 210,
        "hand_left_keypoints_2d": 63,
        "hand_right_keypoints_2d": 63,
    }
    assert written["pose_keypoints_2d"][:6] == [3, 4, 1, 0, 0, 0]
    assert not any(written["face_keypoints_2d"])
    assert all(isinstance(v, float) for values in written.values() for v in values)


@pytest.mark.parametrize("nothing", [None, [], [0] * 63])
def test_null_empty_and_zero_lists_are_nothing(nothing):
    person = read(
        pose_keypoints_2d=flat(points(18)),
        hand_left_keypoints_2d=nothing,
        hand_right_keypoints_2d=nothing,
    )
    assert person.left_hand is person.right_hand is person.face is None
    assert all(person.body)


def test_numbers_that_are_null_are_missing_points():
    person = read(pose_keypoints_2d=[None, None, None, *flat(points(17))])
    assert person.body[0] is None
    assert all(person.body[1:])


@pytest.mark.parametrize("count", [68, 70])
def test_faces_have_68_or_70_points_and_keep_them(count):
    person = read(pose_keypoints_2d=flat(points(18)), face_keypoints_2d=flat(points(count)))
    assert person.face is not None
    assert len(person.face) == count
    written = to_json([Pose((person,), HEIGHT, WIDTH)])[0]["people"][0]["face_keypoints_2d"]
    assert len(written) == 210


def test_fractions_and_pixels_are_told_apart_and_give_the_same():
    pixels = points(18)
    fractions = [(x / WIDTH, y / HEIGHT) for x, y in pixels]
    found = read(pose_keypoints_2d=flat(fractions)).body
    for point, (x, y) in zip(found, pixels, strict=True):
        assert point is not None
        assert (point.x, point.y) == pytest.approx((x, y))
    assert [p and p[:2] for p in read(pose_keypoints_2d=flat(pixels)).body] == [
        tuple(p) for p in pixels
    ]


def test_fractions_a_little_outside_of_the_picture_are_still_fractions():
    values = [(0.5, 0.5)] * 17 + [(1.2, -0.1)]
    last = read(pose_keypoints_2d=flat(values)).body[-1]
    assert last is not None
    assert (last.x, last.y) == pytest.approx((1.2 * WIDTH, -0.1 * HEIGHT))


def test_a_person_near_the_corner_in_pixels_is_told_by_the_others():
    near, far = [(1.0, 1.0)] * 18, points(18)
    people = [{"pose_keypoints_2d": flat(near)}, {"pose_keypoints_2d": flat(far)}]
    (pose,) = from_json({"people": people, "canvas_height": HEIGHT, "canvas_width": WIDTH})
    assert pose.people[0].body[0] == Keypoint(1, 1)


def test_points_of_low_confidence_are_left_out_as_comfyui_leaves_them_out():
    values = [*flat(points(17), 0.31), 10, 20, 0.29]
    assert read(pose_keypoints_2d=values).body[-1] is None
    (pose,) = from_json(frame(pose_keypoints_2d=values), min_confidence=0.0)
    assert pose.people[0].body[-1] == Keypoint(10, 20, 0.29)


def test_feet_of_comfyuis_own_node_are_kept():
    person = read(pose_keypoints_2d=flat(points(18)), foot_keypoints_2d=flat(points(6)))
    written = to_json([Pose((person,), HEIGHT, WIDTH)])[0]["people"][0]
    assert written["foot_keypoints_2d"] == flat(points(6))


def test_cmus_25_body_points_become_the_18_that_are_drawn():
    values = points(25)
    body = read(pose_keypoints_2d=flat(values)).body
    assert len(body) == 18
    assert [p and (p.x, p.y) for p in body] == [
        tuple(values[i]) for i in (*range(8), *range(9, 19))
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "no JSON.*line 1"),
        ([], "empty list"),
        (7, "POSE_KEYPOINT is 7"),
        ([[1]], "list of 1"),
        ([{"people": []}], "canvas_height.*CMU"),
        ([{"people": [], "canvas_height": 0, "canvas_width": 5}], "0 as canvas_height"),
        ([{"canvas_height": 5, "canvas_width": 5}], 'None as "people"'),
        ([{"animals": [[]], "canvas_height": 5, "canvas_width": 5}], "animals"),
        ([frame(pose_keypoints_2d=[1, 2, 3])], "list of 3 as pose_keypoints_2d.*54 or 75"),
        ([frame(pose_keypoints_2d="abc")], "'abc' as pose_keypoints_2d"),
        ([frame(face_keypoints_2d=[0] * 204 + ["x"] * 6)], "list of 210 as face_keypoints_2d"),
    ],
)
def test_what_does_not_fit_is_refused_by_frame_and_field(value, words):
    with pytest.raises(ValueError, match=words):
        from_json(value)


def test_the_frame_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match="Frame 2 "):
        from_json([frame(), frame(hand_left_keypoints_2d=[1])])
