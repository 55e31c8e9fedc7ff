"""The drawing of poses against controlnet_aux, pixel for pixel."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from controlnet_pp.annotators.openpose import Keypoint, Person, Pose, draw_poses
from controlnet_pp.annotators.openpose.draw import draw_pose, stick_scale
from controlnet_pp.annotators.openpose.keypoints import Points

SIZES = [(512, 512), (448, 640), (480, 641), (333, 200)]


def random_points(count: int, size: tuple[int, int], seed: int, missing: float = 0.15) -> Points:
    """Points in and a little outside of the picture, some of them missing."""
    random = np.random.default_rng(seed)
    height, width = size
    points = random.uniform((-0.1, -0.1), (1.1, 1.1), (count, 2)) * (width, height)
    gone = random.random(count) < missing
    return tuple(None if g else Keypoint(*p) for g, p in zip(gone, points.tolist(), strict=True))


def in_fractions(open_pose, points: Points | None, size: tuple[int, int]):
    """The reference's keypoints; hands and faces can't have missing ones there, so -1."""
    if points is None:
        return None
    kind = open_pose.body.Keypoint
    height, width = size
    return [None if p is None else kind(p.x / width, p.y / height) for p in points]


def outside_for_missing(open_pose, points):
    missing = open_pose.body.Keypoint(-1.0, -1.0)
    return points and [missing if p is None else p for p in points]


@pytest.mark.usefixtures("matplotlib_colours")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 10])
def test_bodies_hands_and_faces_are_drawn_as_the_reference_draws_them(open_pose, size, seed):
    people, expected = [], []
    for number in range(2):
        person = Person(
            random_points(18, size, seed + number),
            left_hand=random_points(21, size, seed + 2 + number),
            right_hand=None if number else random_points(21, size, seed + 4),
            face=random_points(70, size, seed + 6 + number),
        )
        # Through fractions and back, since the reference starts there.
        height, width = size

        def back(points: Points | None, height=height, width=width) -> Points | None:
            return points and tuple(
                p and Keypoint(p.x / width * width, p.y / height * height) for p in points
            )

        fields = ("left_hand", "right_hand", "face")
        people.append(
            Person(back(person.body) or (), **{f: back(getattr(person, f)) for f in fields})
        )
        body = open_pose.BodyResult(in_fractions(open_pose, person.body, size), 1.0, 18)
        rest = [
            outside_for_missing(open_pose, in_fractions(open_pose, getattr(person, f), size))
            for f in fields
        ]
        expected.append(open_pose.PoseResult(body, *rest))
    pose = Pose(tuple(people), *size)
    reference = open_pose.draw_poses(expected, *size)
    assert reference.any()
    assert np.array_equal(draw_pose(pose, *size), reference)
    for part, name in (("body", "draw_body"), ("hands", "draw_hand"), ("face", "draw_face")):
        assert np.array_equal(
            draw_pose(pose, *size, **{part: False}),
            open_pose.draw_poses(expected, *size, **{name: False}),
        )


@pytest.mark.parametrize(
    ("longest", "scale"),
    [
        (499, 1),
        (500, 2),
        (999, 2),
        (1000, 3),
        (1024, 3),
        (2000, 4),
        (4999, 6),
        (5000, 7),
        (9999, 7),
    ],
)
def test_sticks_for_xinsir_grow_with_the_longest_side(longest, scale):
    assert stick_scale(10, longest) == stick_scale(longest, 10) == scale


def test_scaled_sticks_are_the_references_with_limbs_and_joints_as_much_wider(
    open_pose, monkeypatch
):
    size = (768, 1152)  # three times
    points = random_points(18, size, 1)
    points = tuple(p and Keypoint(p.x / 1152 * 1152, p.y / 768 * 768) for p in points)
    wide = SimpleNamespace(
        ellipse2Poly=lambda centre, axes, *rest: cv2.ellipse2Poly(
            centre, (axes[0], axes[1] * 3), *rest
        ),
        circle=lambda canvas, centre, radius, *rest, **how: cv2.circle(
            canvas, centre, radius * 3, *rest, **how
        ),
        fillConvexPoly=cv2.fillConvexPoly,
    )
    monkeypatch.setattr(open_pose.util, "cv2", wide)
    canvas = np.zeros((*size, 3), np.uint8)
    expected = open_pose.util.draw_bodypose(canvas, in_fractions(open_pose, points, size))
    pose = Pose((Person(points),), *size)
    assert np.array_equal(draw_pose(pose, *size, scale_sticks=True), expected)
    assert not np.array_equal(draw_pose(pose, *size), expected)


def test_a_lone_limb_is_nine_pixels_wide_and_its_joints_too():
    body: list[Keypoint | None] = [None] * 18
    body[1], body[2] = Keypoint(20, 50), Keypoint(80, 50)  # neck, right shoulder
    picture = draw_poses([Pose((Person(tuple(body)),), 100, 100)])[0]
    column = (picture[:, :, 50] * 255).round()
    assert column[0].count_nonzero() == 9
    assert column[:, 50].tolist() == [153, 0, 0]  # red at 60 %
    assert (picture[:, 50, 80] * 255).round().tolist() == [255, 170, 0]  # the shoulder's orange
    assert picture[:, :, 80].amax(0).count_nonzero() == 9


def test_batch_is_drawn_at_another_size_by_scaling_points():
    body: list[Keypoint | None] = [None] * 18
    body[0] = Keypoint(30, 40)
    pictures = draw_poses([Pose((Person(tuple(body)),), 80, 60), Pose((), 80, 60)], size=(160, 90))
    assert pictures.shape == (2, 3, 160, 90)
    assert pictures[1].sum() == 0
    y, x = torch.nonzero(pictures[0].amax(0), as_tuple=True)
    assert (x.double().mean(), y.double().mean()) == (45, 80)


def test_frames_of_different_sizes_are_refused_unless_a_size_is_given():
    poses = [Pose((), 80, 60), Pose((), 90, 60)]
    with pytest.raises(ValueError, match="60x80, 60x90"):
        draw_poses(poses)
    assert draw_poses(poses, size=(8, 9)).shape == (2, 3, 8, 9)
    with pytest.raises(ValueError, match="no frames"):
        draw_poses([])
