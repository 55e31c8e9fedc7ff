"""OpenPose against controlnet_aux with the same random weights: networks, decoding, pipelines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.kinds import weight_keys
from controlnet_pp.annotators.openpose import OpenPoseBody, OpenPoseHand, draw_poses
from controlnet_pp.annotators.openpose.hand import HandBox, hand_boxes
from controlnet_pp.annotators.openpose.keypoints import Keypoint
from controlnet_pp.annotators.weights import manifest
from controlnet_pp.tests.annotators.aux_oracle import photo, randomise, twin
from torch import Tensor, nn


def as_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255


def as_pixels(image: Tensor) -> np.ndarray:
    return (image[0] * 255).round().to(torch.uint8).movedim(0, -1).numpy()


class Patches(nn.Module):
    """Stands in for the hand's stages, at a hundredth of their cost; sees every 8 x 8 patch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = randomise(nn.Conv2d(3, 22, 24, stride=8, padding=8), seed=5)
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x)
        return self.conv(x).relu() * 0.3


@pytest.fixture(scope="module")
def body() -> OpenPoseBody:
    network = randomise(OpenPoseBody())
    assert isinstance(network, OpenPoseBody)
    return network


@pytest.fixture(scope="module")
def hand() -> OpenPoseHand:
    network = randomise(OpenPoseHand(), seed=1)
    assert isinstance(network, OpenPoseHand)
    return network


@pytest.fixture
def cheap_hand(hand: OpenPoseHand, monkeypatch: pytest.MonkeyPatch) -> tuple[OpenPoseHand, Patches]:
    patches = Patches()
    monkeypatch.setattr(hand, "stages", lambda x: patches(x))
    return hand, patches


def reference_body(open_pose, body: OpenPoseBody):
    reference = object.__new__(open_pose.Body)
    reference.model = twin(body, open_pose.body.bodypose_model())
    return reference


def reference_hand(open_pose, network: nn.Module):
    reference = object.__new__(open_pose.Hand)
    reference.model = network
    return reference


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        networks = OpenPoseBody(), OpenPoseHand()
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts == [52_311_446, 36_832_324]


@pytest.mark.parametrize(
    ("kind", "key"), [(OpenPoseBody, "openpose_body"), (OpenPoseHand, "openpose_hand")]
)
def test_names_are_those_of_the_published_file_behind_the_first_dot(kind, key):
    with torch.device("meta"):
        network = kind()
    assert weight_keys(kind) == (key,)
    names = {n.partition(".")[2]: tuple(v.shape) for n, v in network.state_dict().items()}
    assert names == manifest(key)


@pytest.mark.parametrize("size", [(8, 8), (64, 96), (40, 104)])
def test_body_network_equals_the_reference_on_tensors_of_any_size(body, open_pose, size):
    reference = twin(body, open_pose.body.bodypose_model())
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2)) - 0.5
    with torch.no_grad():
        limbs, joints = body.stages(x)
        expected_limbs, expected_joints = reference(x)
    assert torch.equal(limbs, expected_limbs)
    assert torch.equal(joints, expected_joints)
    assert joints.min() == 0, "the joints' last stage ends in a ReLU"
    assert limbs.min() < 0 < limbs.std()


@pytest.mark.parametrize("size", [(8, 8), (64, 96)])
def test_hand_network_equals_the_reference_on_tensors_of_any_size(hand, open_pose, size):
    reference = twin(hand, open_pose.hand.handpose_model())
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2)) - 0.5
    with torch.no_grad():
        maps = hand.stages(x)
        assert torch.equal(maps, reference(x))
    assert maps.std() > 0.01


@pytest.mark.usefixtures("matplotlib_colours")
def test_whole_pipeline_with_hands_equals_the_reference_in_every_pixel(body, cheap_hand, open_pose):
    pixels = photo(512, 512)
    hand, patches = cheap_hand
    reference = open_pose.OpenposeDetector(
        reference_body(open_pose, body), reference_hand(open_pose, patches)
    )
    expected = reference.detect_poses(pixels, include_hand=True)
    (pose,) = body.detect(as_tensor(pixels), hand)
    assert len(pose.people) == len(expected) > 2
    assert sum(p.left_hand is not None for p in expected) >= 2
    for person, wanted in zip(pose.people, expected, strict=True):
        points = [None if k is None else (k.x * 512, k.y * 512) for k in wanted.body.keypoints]
        assert [None if k is None else (k.x, k.y) for k in person.body] == points
    drawn = as_pixels(draw_poses([pose]))
    assert np.array_equal(drawn, open_pose.draw_poses(expected, 512, 512))


@pytest.mark.usefixtures("matplotlib_colours")
def test_whole_pipeline_equals_the_reference_where_rounding_moves_points(body, open_pose):
    pixels = photo(448, 640)  # of height 448, the published fractions move rows 31, 62, ... up
    reference = open_pose.OpenposeDetector(reference_body(open_pose, body))
    expected = reference(pixels, 448, 448, output_type="np")
    drawn = body.annotate(as_tensor(pixels))
    assert expected.any()
    assert np.array_equal(as_pixels(drawn), expected)


def test_hand_points_equal_the_reference_in_crops_of_any_size(cheap_hand, open_pose):
    hand, patches = cheap_hand
    pixels = photo(512, 512)
    boxes = [HandBox(3, 5, 20), HandBox(100, 60, 97), HandBox(0, 0, 300), HandBox(200, 12, 300)]
    found = hand.detect(as_tensor(pixels), [(0, box) for box in boxes])
    ours = list(patches.inputs)
    patches.inputs.clear()
    for number, (box, points) in enumerate(zip(boxes, found, strict=True)):
        crop = pixels[box.y : box.y + box.side, box.x : box.x + box.side, ::-1]
        peaks = reference_hand(open_pose, patches)(crop)
        expected = [None if 0 in peak else (peak[0] + box.x, peak[1] + box.y) for peak in peaks]
        assert points is not None
        assert [None if p is None else (round(p.x, 3), round(p.y, 3)) for p in points] == expected
        for scale, x in enumerate(patches.inputs[-4:]):
            assert torch.equal(ours[scale * len(boxes) + number][0], x[0])


def test_hand_boxes_equal_the_reference(open_pose):
    random = np.random.default_rng(0)
    image = np.zeros((300, 400, 3), np.uint8)
    kept = 0
    for _ in range(200):
        points = random.uniform((0, 0), (400, 300), (18, 2)).round()
        missing = random.random(18) < 0.1
        joints = [
            None if m else Keypoint(*p) for m, p in zip(missing, points.tolist(), strict=True)
        ]
        result = open_pose.BodyResult(joints, 1.0, 18)
        expected = {
            "left_hand" if left else "right_hand": (x, y, side)
            for x, y, side, left in open_pose.util.handDetect(result, image)
        }
        boxes = hand_boxes(tuple(joints), 300, 400)
        assert {name: tuple(box) for name, box in boxes.items()} == expected
        kept += len(boxes)
    assert 20 < kept < 400
