"""PCK and OKS against loops over joints, matching, and POSE_KEYPOINT."""

from __future__ import annotations

import math

import pytest
import torch
from controlnet_pp.cnpp_core.consistency.metrics import (
    match_people,
    oks,
    pck,
    pose_score,
)
from controlnet_pp.cnpp_core.consistency.metrics.pose import SIGMAS

# Of COCO's 17 joints (nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles), as its
# evaluation has them; OpenPose's index of each.
COCO = (26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89)
COCO_TO_OPENPOSE = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)


def people(seed: int, count: int = 3, hidden: float = 0.2) -> torch.Tensor:
    """Random people of 100 to 200 pixels in a picture of 512."""
    generator = torch.Generator().manual_seed(seed)
    where = torch.rand(count, 1, 2, generator=generator) * 300
    size = 100 + 100 * torch.rand(count, 1, 1, generator=generator)
    points = where + size * torch.rand(count, 18, 2, generator=generator)
    there = (torch.rand(count, 18, 1, generator=generator) >= hidden).float()
    return torch.cat([points * there, there], dim=-1)


def shaken(target: torch.Tensor, pixels: float, seed: int = 9) -> torch.Tensor:
    noise = pixels * torch.randn(
        target[..., :2].shape, generator=torch.Generator().manual_seed(seed)
    )
    return torch.cat([target[..., :2] + noise * target[..., 2:], target[..., 2:]], dim=-1)


def box(person) -> tuple[float, float]:
    there = [(x, y) for x, y, c in person if c > 0]
    xs, ys = zip(*there, strict=True)
    return max(max(xs) - min(xs), 1), max(max(ys) - min(ys), 1)


def test_the_sigmas_are_cocos():
    for sigma, index in zip(COCO, COCO_TO_OPENPOSE, strict=True):
        assert SIGMAS[index] == sigma / 1000
    assert len(SIGMAS) == 18


@pytest.mark.parametrize("pixels", [0.0, 3.0, 20.0])
def test_oks_equals_cocos_formula_joint_by_joint(pixels):
    target = people(1)
    prediction = shaken(target, pixels)
    found = oks(prediction, target)
    for p, one in enumerate(prediction.double().tolist()):
        for q, other in enumerate(target.double().tolist()):
            width, height = box(other)
            area = 0.53 * width * height
            terms = []
            for (x, y, c), (u, v, d), sigma in zip(one, other, SIGMAS, strict=True):
                if d > 0:
                    square = (x - u) ** 2 + (y - v) ** 2
                    close = math.exp(-square / (2 * sigma) ** 2 / area / 2)
                    terms.append(close if c > 0 else 0.0)
            assert found[p, q].item() == pytest.approx(sum(terms) / len(terms), abs=1e-5)


@pytest.mark.parametrize("radius", [None, 5.0])
def test_pck_equals_a_loop_over_joints(radius):
    target = people(2)
    prediction = shaken(target, 10)
    prediction[0, 3, 2] = 0
    found = pck(prediction, target, 0.1, radius)
    for p in range(3):
        limit = 0.1 * max(box(target[p].tolist())) if radius is None else radius
        for j in range(18):
            (x, y, c), (u, v, d) = prediction[p, j].tolist(), target[p, j].tolist()
            assert found[p, j].item() == (c > 0 and d > 0 and math.hypot(x - u, y - v) <= limit)


def test_the_score_is_the_same_in_whatever_order_the_people_come():
    target = people(3)
    prediction = shaken(target, 4)[[2, 0, 1]]
    assert match_people(prediction, target).tolist() == [1, 2, 0]
    turned, straight = (pose_score([p], [target]) for p in (prediction, prediction[[1, 2, 0]]))
    assert turned.pck.item() == straight.pck.item() > 0.8
    assert turned.oks.item() == pytest.approx(straight.oks.item())


def test_everyone_in_place_scores_one():
    score = pose_score([people(4)], [people(4)])
    assert [part.item() for part in score] == [1, pytest.approx(1), 0, 0]


def test_missing_and_extra_people_are_counted_and_missing_ones_lower_the_score():
    target = people(5, hidden=0)
    score = pose_score([target[:2]], [target])
    assert score.pck.item() == pytest.approx(2 / 3)
    assert (score.missing.item(), score.extra.item()) == (1, 0)
    more = pose_score([target], [target[:2]])
    assert (more.pck.item(), more.missing.item(), more.extra.item()) == (1, 0, 1)


def test_a_batch_is_scored_picture_by_picture_with_any_number_of_people():
    nobody = torch.zeros(0, 18, 3)
    three = people(6)
    score = pose_score([nobody, three, nobody, three], [nobody, nobody, three, three])
    assert score.pck.tolist() == [1, 0, 0, 1]
    assert score.extra.tolist() == [0, 3, 0, 0]
    assert score.missing.tolist() == [0, 0, 3, 0]


def test_joints_outside_the_mask_do_not_exist():
    target = people(7, count=1, hidden=0)
    prediction = target.clone()
    middle = target[0, :, 0].median()
    right = target[0, :, 0] > middle
    prediction[0, right, 0] += 150
    mask = torch.zeros(512, 512)
    mask[:, : int(middle)] = 1
    assert pose_score([prediction], [target]).pck.item() < 0.6
    assert pose_score([prediction], [target], masks=[mask]).pck.item() == 1
