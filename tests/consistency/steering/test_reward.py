"""What guidance follows, against formulas written out, and that its gradient leads there."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from controlnet_pp.annotators.canny import canny_cnpp, canny_magnitude, canny_strength
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.losses import cross_entropy, line_loss, mse, normal_loss
from controlnet_pp.cnpp_core.consistency.metrics import edge_f1
from controlnet_pp.cnpp_core.consistency.steering.reward import Reward

PALETTE = ((255, 0, 0), (0, 0, 255))


def rectangle(left=10, side=32, contrast=1.0):
    """A bright rectangle on black, (1, 3, side, side)."""
    picture = torch.zeros(1, 3, side, side)
    picture[..., 8 : side - 8, left : left + 12] = contrast
    return picture


def canny(image, mask=None):
    loss = Condition.CANNY.value.guidance
    return Reward.of(canny_strength, loss, Condition.CANNY.measure(), image, mask)


def test_lines_and_all_the_rest_weigh_the_same():
    generator = torch.Generator().manual_seed(0)
    found = torch.rand(2, 1, 9, 9, generator=generator)
    wanted = torch.zeros(1, 1, 9, 9, dtype=torch.bool)
    wanted[..., 4, 1:3] = True
    loss = line_loss(found, wanted)
    for row, one in zip(loss, found[:, 0], strict=True):
        lost = [(1 - one[4, x]) ** 2 for x in (1, 2)]
        far = [
            one[y, x] ** 2
            for y in range(9)
            for x in range(9)
            if min(max(abs(y - 4), abs(x - c)) for c in (1, 2)) > 2
        ]
        assert float(row) == pytest.approx(float(sum(lost) / 2 + sum(far) / len(far)), abs=1e-6)


def test_a_line_within_reach_counts_as_kept():
    wanted = torch.zeros(1, 1, 16, 16)
    wanted[..., 8] = 1.0
    beside = wanted.roll(2, -1)
    assert line_loss(beside, wanted, reach=2, gap=2).item() == 0.0
    assert line_loss(beside, wanted, reach=1, gap=2).item() == 1.0


def test_outside_the_mask_no_line_is_lost_or_invented():
    generator = torch.Generator().manual_seed(1)
    found = torch.rand(1, 1, 12, 12, generator=generator)
    wanted = torch.zeros(1, 1, 12, 12)
    wanted[..., 3] = 1.0
    mask = torch.zeros(1, 1, 12, 12)
    mask[..., :6, :] = 1.0
    # The border of the neighbourhood of a line is that of the whole map.
    assert line_loss(found, wanted, mask).item() == pytest.approx(
        line_loss(found[..., :6, :], wanted[..., :6, :]).item(), abs=1e-6
    )


@pytest.mark.parametrize("wanted", [torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)])
def test_a_map_of_nothing_and_one_of_only_lines_have_finite_losses(wanted):
    found = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    loss = line_loss(found, wanted)
    assert loss.item() == pytest.approx(0.25)
    (gradient,) = torch.autograd.grad(loss.sum(), found)
    assert gradient.isfinite().all()


def test_a_faint_edge_is_pulled_up_where_the_published_map_has_no_gradient():
    """The wanted edge lies on a slope that gets steeper to the right, off every ridge."""
    ramp = 0.2 + 0.3 * torch.linspace(0, 1, 32).square().view(1, 1, 1, 32)
    ramp = ramp.expand(1, 3, 32, 32).clone()
    hint = torch.zeros(1, 3, 32, 32)
    hint[..., 16] = 1.0
    reward = canny(hint)
    point = ramp.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward.losses(point).sum(), point)
    moved = ramp - 0.05 * gradient / gradient.abs().max()

    def steepness(picture):
        return canny_strength(picture)[..., 8:24, 16].mean()

    assert steepness(moved) > steepness(ramp) * 1.2
    thin = canny_magnitude(point)
    assert thin.max() > 0
    assert thin[..., 8:24, 16].max() == 0
    published = mse(thin, hint[:, :1])
    (none,) = torch.autograd.grad(published.sum(), point)
    assert none[..., 8:24, 15:18].abs().max() == 0


def test_descending_the_loss_moves_an_edge_to_where_it_is_wanted():
    hint = canny_cnpp(rectangle(left=11))
    reward = canny(hint.expand(-1, 3, -1, -1))
    picture = rectangle(left=9, contrast=0.6)
    before = reward.losses(picture).item(), kept(picture, hint)
    for _ in range(40):
        point = picture.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(reward.losses(point).sum(), point)
        picture = (picture - 0.02 * gradient / gradient.abs().max()).clamp(0, 1)
    assert reward.losses(picture).item() < 0.8 * before[0]
    assert kept(picture, hint) > before[1] + 0.2
    ideal = reward.losses(rectangle(left=11)).item()
    assert ideal < before[0] / 2  # the picture that the hint is of is better than both


def kept(picture, hint):
    return edge_f1(canny_cnpp(picture), hint, 1).f1.item()


def test_canny_strength_is_1_exactly_where_canny_is_sure():
    generator = torch.Generator().manual_seed(2)
    picture = torch.rand(1, 3, 24, 24, generator=generator)
    thin = canny_magnitude(picture)
    there = thin > 0
    strength = canny_strength(picture)
    assert torch.allclose(strength[there], (thin[there] / 0.2).clamp(max=1))
    assert strength.min() >= 0
    assert strength.max() == 1
    with pytest.raises(ValueError, match="high"):
        canny_strength(picture, high=0.0)


def test_normals_are_compared_as_vectors_where_there_are_any():
    generator = torch.Generator().manual_seed(3)
    vectors = F.normalize(torch.randn(1, 3, 8, 8, generator=generator), dim=1)
    vectors[..., :4] = 0
    found = torch.rand(2, 3, 8, 8, generator=generator)
    loss = normal_loss(found, vectors)
    wanted = ((found * 2 - 1 - vectors)[..., 4:] ** 2).flatten(1).mean(1)
    assert torch.allclose(loss, wanted, atol=1e-6)


def test_the_rest_is_the_published_reward():
    generator = torch.Generator().manual_seed(4)
    found, wanted = (torch.rand(2, 1, 8, 8, generator=generator) for _ in range(2))
    for condition in (Condition.SOFTEDGE, Condition.LINEART, Condition.TILE):
        row = condition.value
        assert torch.equal(row.guidance(found, wanted), row.reward(found, wanted))
    logits = torch.randn(2, 5, 8, 8, generator=generator)
    classes = torch.randint(0, 5, (2, 1, 8, 8), generator=generator)
    assert torch.allclose(
        Condition.SEG.value.guidance(logits, classes),
        F.cross_entropy(logits, classes[:, 0], reduction="none").flatten(1).mean(1),
    )


def test_joints_become_gaussians_at_their_place():
    joints = torch.zeros(1, 2, 18, 3)
    joints[0, 0, 4] = torch.tensor([0.25, 0.5, 1.0])
    joints[0, 1, 4] = torch.tensor([0.75, 0.25, 1.0])
    maps = Condition.POSE.measure().target(joints, 40, 80)
    assert maps.shape == (1, 18, 40, 80)
    assert maps[0, [i for i in range(18) if i != 4]].max() == 0
    sigma = 40 * 7 / 184
    y, x = 12, 30
    heights = [
        math.exp(-((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2) / (2 * sigma**2))
        for cx, cy in ((20, 20), (60, 10))
    ]
    assert maps[0, 4, y, x].item() == pytest.approx(max(heights), abs=1e-6)


def test_a_pose_reward_is_zero_for_the_wanted_heat_maps():
    joints = torch.zeros(1, 1, 18, 3)
    joints[0, 0, :, :2] = torch.rand(18, 2, generator=torch.Generator().manual_seed(5))
    joints[0, 0, :, 2] = 1
    wanted = Condition.POSE.measure().target(joints, 32, 32)
    measure, loss = Condition.POSE.measure(), Condition.POSE.value.guidance
    exact = Reward(lambda _: wanted, loss, measure, joints)
    assert exact.losses(torch.zeros(1, 3, 32, 32)).item() == 0
    highest = Reward(lambda _: wanted.amax(1, keepdim=True), loss, measure, joints)
    assert highest.losses(torch.zeros(1, 3, 32, 32)).item() == 0
    off = Reward(lambda _: wanted.roll(5, -1), loss, measure, joints)
    assert off.losses(torch.zeros(1, 3, 32, 32)).item() > 1e-3


def test_rows_of_a_reward_are_its_losses():
    hints = torch.cat([canny_cnpp(rectangle(left=x)).expand(-1, 3, -1, -1) for x in (6, 9, 12)])
    mask = torch.ones(3, 1, 32, 32)
    mask[1, ..., :16] = 0
    reward = canny(hints, mask)
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    whole = reward.losses(pictures)
    for row in range(3):
        part = reward.rows(row, row + 1).losses(pictures[row : row + 1])
        assert torch.allclose(part, whole[row : row + 1], atol=1e-6)


def test_masks_and_conditions_that_leave_nothing_to_follow_are_refused():
    hint = canny_cnpp(rectangle()).expand(-1, 3, -1, -1)
    with pytest.raises(ValueError, match="mask is empty"):
        canny(hint, torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match=r"40x32 pixels and the condition 32x32"):
        canny(hint, torch.ones(1, 1, 32, 40))
    with pytest.raises(ValueError, match="2 masks and 3 conditions"):
        canny(hint.repeat(3, 1, 1, 1), torch.ones(2, 1, 32, 32))
    with pytest.raises(ValueError, match="edge map"):
        canny(torch.rand(1, 3, 32, 32))
    labels = torch.zeros(1, 3, 8, 8)
    labels[:, 0, :, :4] = 1.0  # red on the left, nothing on the right
    right = torch.zeros(1, 1, 8, 8)
    right[..., 4:] = 1.0
    measure = Condition.SEG.measure(classes=(PALETTE, ("a", "b"), "two"))
    with pytest.raises(ValueError, match="Nothing is left to follow in condition 1"):
        Reward.of(lambda x: x, cross_entropy, measure, labels, right)


def test_the_reward_of_depth_is_the_published_one_whatever_range_the_condition_has():
    """Both divided by their maximum, and nothing stretched (the published training code)."""
    generator = torch.Generator().manual_seed(7)
    condition = 0.3 + 0.5 * torch.rand(1, 1, 16, 16, generator=generator)
    found = 2.0 + 9.0 * torch.rand(2, 1, 16, 16, generator=generator)
    row, measure = Condition.DEPTH.value, Condition.DEPTH.measure()
    reward = Reward.of(lambda _: found, row.reward, measure, condition.expand(-1, 3, -1, -1))
    expected = [F.mse_loss(one / one.max(), condition[0] / condition.max()) for one in found]
    assert torch.allclose(reward.losses(torch.zeros(2, 3, 16, 16)), torch.stack(expected))
    # Guidance compares as the check does, so a map of another range can be perfect.
    perfect = Reward.of(lambda _: 4 * condition + 1, row.guidance, measure, condition)
    assert perfect.losses(torch.zeros(1, 3, 16, 16)).item() == pytest.approx(0, abs=1e-10)
