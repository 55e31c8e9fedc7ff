"""Keypoints that nobody draws: absurd numbers, sizes and crowds, in words and in a moment."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
import torch
from controlnet_pp.annotators.normal import normal_image, normals
from controlnet_pp.annotators.openpose import draw_poses, from_json, to_json

HEIGHT, WIDTH = 96, 64
BODY = [value for i in range(18) for value in (10.0 + 2 * i, 90.0 - 3 * i, 1.0)]


def frame(body=BODY, people=1, **lists: Any) -> dict[str, Any]:
    person = {"pose_keypoints_2d": body, **lists}
    return {"people": [person] * people, "canvas_height": HEIGHT, "canvas_width": WIDTH}


def changed(place: int, value: Any) -> list[Any]:
    return [*BODY[:place], value, *BODY[place + 1 :]]


BAD = [math.nan, math.inf, -math.inf, 1e300, -1e300, 10**400, 40_000]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("place", [12, 13])
def test_a_point_with_an_absurd_number_is_left_out_and_named_and_the_rest_drawn(place, value):
    remarks: list[str] = []
    poses = from_json(frame(changed(place, value)), remarks=remarks)
    without = from_json(frame(changed(14, 0)))
    assert poses == without
    assert torch.equal(draw_poses(poses), draw_poses(without))
    assert remarks == [
        "1 points were left out, the first in pose_keypoints_2d of frame 1: they are not finite, "
        "or farther than 32768 pixels away."
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_confidence_that_is_none_leaves_the_point_out(value):
    remarks: list[str] = []
    assert from_json(frame(changed(14, value)), remarks=remarks) == from_json(frame(changed(14, 0)))
    assert len(remarks) == 1


def test_a_point_that_was_not_found_may_hold_anything_without_a_word():
    remarks: list[str] = []
    from_json(frame([*BODY[:12], math.nan, math.nan, 0, *BODY[15:]]), remarks=remarks)
    assert not remarks


def test_fractions_stay_fractions_beside_an_absurd_point():
    scaled = [v / s for v, s in zip(BODY, [WIDTH, HEIGHT, 1] * 18, strict=True)]
    scaled[12] = 1e300
    (pose,) = from_json(frame(scaled))
    (person,) = pose.people
    assert person.body[0] == pytest.approx((10, 90, 1))
    assert person.body[4] is None


def test_the_far_points_that_are_kept_can_be_drawn():
    far = [v for i in range(18) for v in ((-1) ** i * 32768.0, 32768.0, 1)]
    poses = from_json(frame(far))
    for size in ((HEIGHT, WIDTH), (16, 16384), (16384, 16)):
        assert draw_poses(poses, size=size).shape == (1, 3, *size)


@pytest.mark.parametrize("count", [56, 69])
def test_a_face_of_another_number_of_points_is_named_and_the_rest_drawn(count, caplog):
    remarks: list[str] = []
    poses = from_json(frame(face_keypoints_2d=[5.0, 5.0, 1.0] * count), remarks=remarks)
    assert poses == from_json(frame())
    said = f"face_keypoints_2d of frame 1 has {count} points, not 68 or 70: left out."
    assert remarks == [said]
    assert said in caplog.text


def test_of_many_lists_the_first_are_named():
    remarks: list[str] = []
    from_json([frame(hand_left_keypoints_2d=[1.0] * 60)] * 10, remarks=remarks)
    (said,) = remarks
    assert "of frame 3 has 20 points, not 21 and 7 more: left out." in said


@pytest.mark.parametrize(
    "side", [10**9, 1e300, math.inf, math.nan, pytest.param(10**6000, id="long"), -1, True]
)
def test_a_canvas_that_is_no_picture_is_refused(side):
    with pytest.raises(ValueError, match=r"as canvas_width; it needs the size .* 1 to 16384"):
        from_json({"people": [], "canvas_height": 64, "canvas_width": side})


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, b"\xff", "9" * 10_000],
    ids=["brackets", "braces", "bytes", "digits"],
)
def test_text_that_cannot_be_read_is_refused_in_words(text):
    with pytest.raises(ValueError, match=r"pose text .*Paste a POSE_KEYPOINT") as caught:
        from_json(text)
    assert type(caught.value) is ValueError
    assert len(str(caught.value)) < 300


def test_a_crowd_is_refused_in_a_moment_and_a_thousand_are_drawn():
    text = json.dumps(frame(people=100_000))
    start = time.process_time()
    with pytest.raises(ValueError, match="100,000 people; at most 1,000"):
        from_json(text)
    assert time.process_time() - start < 4
    poses = from_json(frame(people=1_000))
    assert len(to_json(poses)[0]["people"]) == 1_000


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        ([frame(people=0)] * 10_001, "has 10,001 frames; at most 10,000 are read"),
        ([frame(people=999)] * 11, "has 10,989 people in its first 11 frames; at most 10,000"),
        ([frame(people=999)] * 5_000, "has 10,989 people in its first 11 frames; at most 10,000"),
    ],
    ids=["frames", "people", "both"],
)
def test_too_much_for_one_batch_is_refused_in_a_moment(frames, found):
    start = time.process_time()
    with pytest.raises(ValueError, match=found):
        from_json(frames)
    assert time.process_time() - start < 10


def test_as_many_as_are_promised_are_read():
    assert len(from_json([frame(people=0)] * 10_000)) == 10_000
    assert len(from_json([frame(people=1_000)] * 10)) == 10


def test_a_text_that_is_too_long_is_refused_before_it_is_read():
    start = time.process_time()
    with pytest.raises(ValueError, match=r"64,000,001 characters long; at most 64,000,000"):
        from_json(" " * 64_000_001)
    assert time.process_time() - start < 1


def test_what_is_found_instead_is_told_briefly():
    deep: Any = 0
    for _ in range(100_000):
        deep = {"a": deep}
    for value in (deep, "x\x1b" * 10**6, ["x", deep], 10**6000):
        with pytest.raises(ValueError, match="POSE_KEYPOINT") as caught:
            from_json([{**frame(), "people": value}])
        assert len(str(caught.value)) < 300
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("convert", [normals, normal_image])
def test_normals_refuse_a_depth_map_that_is_not_finite(convert, value):
    depth = torch.rand(1, 1, 8, 8)
    depth[0, 0, 3, 3] = value
    with pytest.raises(ValueError, match="Normal got a depth map with NaN or infinite values"):
        convert(depth)
