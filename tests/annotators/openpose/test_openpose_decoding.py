"""OpenPose's decoding on maps of skeletons that are known, and what must hold at any size."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.openpose import JOINTS, OpenPoseBody, OpenPoseHand
from controlnet_pp.annotators.openpose.hand import HandBox
from controlnet_pp.annotators.openpose.keypoints import Points
from controlnet_pp.annotators.openpose.limbs import LIMBS
from controlnet_pp.tests.annotators.aux_oracle import randomise
from torch import Tensor, nn

# A standing figure, facing us, in fractions of its height; its right is on our left.
FIGURE = {
    "nose": (0.000, 0.07),
    "neck": (0.000, 0.19),
    "right_shoulder": (-0.10, 0.19),
    "right_elbow": (-0.17, 0.34),
    "right_wrist": (-0.21, 0.48),
    "left_shoulder": (0.10, 0.19),
    "left_elbow": (0.17, 0.34),
    "left_wrist": (0.21, 0.48),
    "right_hip": (-0.07, 0.51),
    "right_knee": (-0.08, 0.74),
    "right_ankle": (-0.08, 0.96),
    "left_hip": (0.07, 0.51),
    "left_knee": (0.08, 0.74),
    "left_ankle": (0.08, 0.96),
    "right_eye": (-0.03, 0.05),
    "left_eye": (0.03, 0.05),
    "right_ear": (-0.06, 0.06),
    "left_ear": (0.06, 0.06),
}
Skeleton = dict[str, tuple[float, float]]


def skeleton(x: float, y: float, height: float, without: Sequence[str] = ()) -> Skeleton:
    return {
        name: (x + dx * height, y + dy * height)
        for name, (dx, dy) in FIGURE.items()
        if name not in without
    }


class Painted(nn.Module):
    """Stands in for the body's stages: maps of the skeletons, as the network would give them.

    size: (height, width) of the picture that the skeletons are in.
    """

    def __init__(self, people: Sequence[Skeleton], size: tuple[int, int]) -> None:
        super().__init__()
        self.people, self.size = people, size

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = x.shape[-2] // 8, x.shape[-1] // 8
        height, width = self.size  # which becomes 184 pixels high and whole pixels wide
        scale = int(width * 184 / height) / width / 8, 184 / height / 8
        y, right = np.mgrid[:rows, :columns] + 0.5
        joints, limbs = np.zeros((19, rows, columns)), np.zeros((38, rows, columns))
        for person in self.people:
            where = {  # pixel centres are at halves
                name: ((a + 0.5) * scale[0], (b + 0.5) * scale[1])
                for name, (a, b) in person.items()
            }
            for name, (a, b) in where.items():
                peak = np.exp(-((right - a) ** 2 + (y - b) ** 2) / 2)
                joint = JOINTS.index(name)
                joints[joint] = np.maximum(joints[joint], peak)
            for start, end, channel in LIMBS:
                if JOINTS[start] not in where or JOINTS[end] not in where:
                    continue
                a, b = np.array(where[JOINTS[start]]), np.array(where[JOINTS[end]])
                length = math.dist(a, b)
                along = (b - a) / length
                t = (right - a[0]) * along[0] + (y - a[1]) * along[1]
                off = np.abs((right - a[0]) * along[1] - (y - a[1]) * along[0])
                on = (t > -1) & (t < length + 1) & (off < 1)
                limbs[channel][on], limbs[channel + 1][on] = along
        maps = (torch.from_numpy(limbs), torch.from_numpy(joints))
        return tuple(m[None].float().expand(len(x), -1, -1, -1) for m in maps)  # type: ignore


@pytest.fixture(scope="module")
def body() -> OpenPoseBody:
    network = randomise(OpenPoseBody())
    assert isinstance(network, OpenPoseBody)
    return network


@pytest.fixture(scope="module")
def hand() -> OpenPoseHand:
    network = randomise(OpenPoseHand(scales=(0.5,)))
    assert isinstance(network, OpenPoseHand)
    return network


def find(
    body: OpenPoseBody,
    people: Sequence[Skeleton],
    size: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> list[Points]:
    painted = Painted(people, size)
    monkeypatch.setattr(body, "stages", lambda x: painted(x))
    (pose,) = body.detect(torch.zeros(1, 3, *size))
    assert (pose.height, pose.width) == size
    return [person.body for person in pose.people]


def distances(found: Points, wanted: Skeleton) -> dict[str, float]:
    """For each joint of either: how far apart they are, infinite where one of them lacks it."""
    result = {}
    for name, point in zip(JOINTS, found, strict=True):
        if point is None and name not in wanted:
            continue
        known = point is not None and name in wanted
        result[name] = math.dist(point[:2], wanted[name]) if known else math.inf
    return result


@pytest.mark.parametrize("size", [(512, 512), (448, 640), (480, 641), (700, 333), (184, 96)])
def test_skeleton_is_found_within_one_and_a_half_pixels(body, monkeypatch, size):
    height, width = size
    person = skeleton(width / 2, 0.05 * height, min(0.85 * height, 1.3 * width))
    (found,) = find(body, [person], size, monkeypatch)
    assert set(distances(found, person)) == set(JOINTS)
    assert max(distances(found, person).values()) <= 1.5


def test_two_people_who_overlap_are_told_apart(body, monkeypatch):
    people = [skeleton(220, 40, 430), skeleton(330, 70, 400)]
    found = find(body, people, (512, 512), monkeypatch)
    assert len(found) == 2
    for person in people:
        nearest = min(found, key=lambda f: max(distances(f, person).values()))
        assert max(distances(nearest, person).values()) <= 1.5
    assert people[1]["right_elbow"][0] < people[0]["left_elbow"][0], "they do overlap"


@pytest.mark.parametrize(
    "missing",
    [
        ["left_wrist"],
        ["right_knee", "right_ankle", "left_knee", "left_ankle"],
        ["nose", "right_eye", "left_eye", "right_ear", "left_ear"],
    ],
)
def test_missing_limbs_are_missing_and_the_rest_is_found(body, monkeypatch, missing):
    person = skeleton(256, 40, 430, without=missing)
    (found,) = find(body, [person], (512, 512), monkeypatch)
    assert set(distances(found, person)) == set(JOINTS) - set(missing)
    assert max(distances(found, person).values()) <= 1.5


def test_fewer_than_four_joints_are_nobody(body, monkeypatch):
    arm = [n for n in JOINTS if n not in ("right_shoulder", "right_elbow", "right_wrist")]
    person = skeleton(256, 40, 430, without=arm)
    assert find(body, [person], (512, 512), monkeypatch) == []


def test_joints_without_a_field_between_them_are_not_connected(body, monkeypatch):
    painted = Painted([skeleton(256, 40, 430)], (512, 512))
    monkeypatch.setattr(body, "stages", lambda x: (painted(x)[0] * 0, painted(x)[1]))
    assert body.detect(torch.zeros(1, 3, 512, 512))[0].people == ()


def test_a_field_that_points_the_wrong_way_does_not_connect(body, monkeypatch):
    painted = Painted([skeleton(256, 40, 430)], (512, 512))
    monkeypatch.setattr(body, "stages", lambda x: (-painted(x)[0], painted(x)[1]))
    assert body.detect(torch.zeros(1, 3, 512, 512))[0].people == ()


def test_nobody_gives_a_black_picture_and_a_log_line(body, monkeypatch, caplog):
    painted = Painted([], (64, 96))
    monkeypatch.setattr(body, "stages", lambda x: painted(x))
    with caplog.at_level(logging.INFO):
        drawn = body.annotate(torch.rand(2, 3, 64, 96))
    assert drawn.shape == (2, 3, 64, 96)
    assert drawn.sum() == 0
    assert "nobody" in caplog.text


def test_hand_points_are_found_within_one_and_a_half_pixels(hand, monkeypatch):
    random = np.random.default_rng(3)
    box = HandBox(40, 30, 120)
    points = random.uniform(25, 95, (21, 2))

    def stages(x: Tensor) -> Tensor:
        side = x.shape[-1] // 8
        y, right = np.mgrid[:side, :side] + 0.5
        heat = [
            np.exp(-((right - a) ** 2 + (y - b) ** 2) / 2)
            for a, b in (points + 0.5) * side / box.side
        ]
        maps = torch.from_numpy(np.stack([*heat, np.zeros((side, side))])).float()
        return maps[None].expand(len(x), -1, -1, -1)

    monkeypatch.setattr(hand, "stages", stages)
    (found,) = hand.detect(torch.zeros(1, 3, 200, 200), [(0, box)])
    assert found is not None
    for point, (x, y) in zip(found, points, strict=True):
        assert point is not None
        assert abs(point.x - (x + box.x)) <= 1.5
        assert abs(point.y - (y + box.y)) <= 1.5


def test_hands_go_to_their_person_and_side(body, hand, monkeypatch):
    size = (400, 640)
    people = [skeleton(160, 20, 360), skeleton(480, 30, 350, without=["left_wrist"])]
    painted = Painted(people, size)
    monkeypatch.setattr(body, "stages", lambda x: painted(x))

    def centre(image: Tensor, boxes: Sequence[tuple[int, HandBox]]) -> list[HandBox]:
        assert [picture for picture, _ in boxes] == [0, 0, 0, 1, 1, 1]
        return [box for _, box in boxes]

    monkeypatch.setattr(hand, "detect", centre)
    for pose in body.detect(torch.zeros(2, 3, *size), hand):
        for person in pose.people:
            for side in ("left", "right"):
                wrist = person.body[JOINTS.index(f"{side}_wrist")]
                box = getattr(person, f"{side}_hand")
                assert (wrist is None) == (box is None)
                if wrist is not None:
                    assert box.x < wrist.x < box.x + box.side
                    assert box.y < wrist.y < box.y + box.side


# The networks


def noise(batch: int, height: int, width: int) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["body", "hand"])
def test_soft_map_has_the_pictures_size_and_sends_finite_gradients(name, request):
    network = request.getfixturevalue(name)
    image = noise(1, 65, 33).requires_grad_()
    soft = network(image)
    assert soft.shape == (1, 1, 65, 33)
    assert soft.min() >= 0
    assert soft.max() <= 1
    assert soft.std() > 0.01
    soft.square().mean().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert (image.grad != 0).float().mean() > 0.5


def test_soft_map_follows_the_maps_that_are_decoded(body, monkeypatch):
    size = (480, 640)
    person = skeleton(300, 30, 430)
    painted = Painted([person], size)
    monkeypatch.setattr(body, "stages", lambda x: painted(x))
    soft = body(torch.zeros(1, 3, *size))[0, 0]
    for x, y in person.values():
        assert soft[round(y), round(x)] > 0.7
    assert soft.mean() < 0.25


def test_batch_of_four_equals_four_singles(body):
    images = noise(4, 128, 40)
    singles = torch.cat([body.annotate(image[None]) for image in images])
    assert singles.any()
    assert torch.equal(body.annotate(images), singles)


def test_half_precision_networks_take_pictures_in_single_precision(body):
    image = noise(1, 92, 8)
    with torch.no_grad():
        expected = body(image)
        try:
            found = body.half()(image)
        finally:
            body.float()
    assert found.dtype == torch.float32
    assert (found - expected).std() < 0.05 * expected.std()


@pytest.mark.parametrize("kind", [OpenPoseBody, OpenPoseHand])
def test_all_layers_come_from_operations(kind):
    class Operations:
        class Conv2d(nn.Conv2d):
            pass

    with torch.device("meta"):
        network = kind(operations=Operations, dtype=torch.float16)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == (92 if kind is OpenPoseBody else 52)
    assert all(isinstance(m, Operations.Conv2d) for m in convolutions)
    assert network.dtype == torch.float16


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(1, 1, 8, 8), r"OpenPose got a tensor of shape \(1, 1, 8, 8\)"),
        (torch.full((1, 3, 8, 8), math.nan), "OpenPose.*NaN"),
        (torch.full((1, 3, 8, 8), 255.0), "OpenPose.*255"),
    ],
)
def test_wrong_pictures_are_refused_by_name(body, image, words):
    with pytest.raises(ValueError, match=words):
        body.annotate(image)
