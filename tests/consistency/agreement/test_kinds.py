"""The check for every kind of condition, on maps that are known."""

from __future__ import annotations

import re

import pytest
import torch
from controlnet_pp.annotators.kinds import ADE20K
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.check import CheckResult
from controlnet_pp.tests.consistency.agreement.known import (
    OTHER,
    SIZE,
    SOUND,
    check,
    normal_map,
    photo,
    regions,
    slope,
    soft_lines,
)


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_the_same_map_is_perfect_and_another_one_worse(kind):
    same = check(kind, SOUND[kind], SOUND[kind])
    other = check(kind, SOUND[kind], OTHER[kind])
    perfect = 1.0 if kind.measure(classes=ADE20K).higher_is_better else 0.0
    assert same.score == pytest.approx(perfect, abs=2e-2 if kind is Condition.NORMAL else 1e-5)
    assert abs(other.score - perfect) > 0.05
    assert same.higher_is_better == kind.measure(classes=ADE20K).higher_is_better


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_a_batch_has_a_score_for_each_a_total_a_ranking_and_a_report(kind):
    recovered = torch.cat([OTHER[kind], SOUND[kind]])
    result = check(kind, SOUND[kind], recovered)
    assert result.score == pytest.approx(sum(result.per_image) / 2)
    assert result.ranking == [1, 0]
    assert result.difference.shape == (2, 3, SIZE, SIZE)
    assert 0 <= result.difference.min() <= result.difference.max() <= 1
    heading, *lines = result.report.splitlines()
    assert "over 2 pictures" in heading
    assert [line.split(":")[0] for line in lines[:2]] == ["picture 1", "picture 2"]


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_the_difference_picture_shows_more_where_the_maps_differ(kind):
    """Red, blue or hot pixels appear with another map and not with the same one."""

    def marked(result: CheckResult) -> float:
        picture = result.difference[0]
        return (picture.amax(0) - picture.amin(0) > 0.5).float().mean().item()

    assert marked(check(kind, SOUND[kind], OTHER[kind])) > 0.002
    assert marked(check(kind, SOUND[kind], SOUND[kind])) == 0


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_with_a_mask_only_its_inside_counts(kind):
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    half = torch.cat([SOUND[kind][..., : SIZE // 2], OTHER[kind][..., SIZE // 2 :]], dim=-1)
    whole = check(kind, SOUND[kind], half)
    inside = check(kind, SOUND[kind], half, mask=mask)
    perfect = 1.0 if kind.measure(classes=ADE20K).higher_is_better else 0.0
    assert abs(inside.score - perfect) < 0.5 * abs(whole.score - perfect)
    outside = inside.difference[..., SIZE // 2 :]
    assert (outside == outside.flatten()[0]).all()


@pytest.mark.parametrize(
    "kind", [kind for kind in Condition if kind is not Condition.TILE], ids=lambda kind: kind.name
)
def test_a_photograph_is_refused_and_the_right_node_named(kind):
    node = {
        Condition.POSE: "OpenPose",
        Condition.DEPTH: r"Depth \(MiDaS\)",
        Condition.SEG: "Segmentation",
        Condition.SOFTEDGE: r"Soft Edge \(HED\)",
    }.get(kind, kind.value.label)
    with pytest.raises(ValueError, match=rf"The condition is not a.*{node}"):
        check(kind, photo(), SOUND[kind])


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_values_up_to_255_are_refused(kind):
    with pytest.raises(ValueError, match=r"values reach 255.*0\.\.1"):
        check(kind, (SOUND[kind] / SOUND[kind].max()) * 255, SOUND[kind])


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_a_condition_of_twice_the_size_scores_nearly_the_same(kind):
    double = SOUND[kind].repeat_interleave(2, 2).repeat_interleave(2, 3)
    result = check(kind, double, SOUND[kind])
    perfect = 1.0 if kind.measure(classes=ADE20K).higher_is_better else 0.0
    assert abs(result.score - perfect) < (1.0 if perfect == 0 else 0.05)
    assert "384x384, was brought to the picture's 192x192" in result.report


@pytest.mark.parametrize("kind", Condition, ids=lambda kind: kind.name)
def test_half_precision_and_inference_mode_change_next_to_nothing(kind):
    expected = check(kind, SOUND[kind], OTHER[kind]).score
    with torch.inference_mode():
        found = check(kind, SOUND[kind].half(), OTHER[kind].half())
    assert found.score == pytest.approx(expected, rel=1e-3)
    assert found.difference.dtype == torch.float32


WRONG = [
    (Condition.CANNY, slope(), "shades of grey"),
    (Condition.SOFTEDGE, slope(), "dark|light"),
    (Condition.SOFTEDGE, 1 - soft_lines(), "inverted"),
    (Condition.LINEART, 1 - soft_lines(), "inverted"),
    (Condition.SOFTEDGE, normal_map(), "colour"),
    (Condition.DEPTH, (soft_lines() > 0.8).float(), "like a drawing"),
    (Condition.DEPTH, regions(2, 4), "colour"),
    (Condition.NORMAL, slope(), "one channel"),
    (Condition.NORMAL, slope().expand(-1, 3, -1, -1), "stand for a direction"),
    (Condition.NORMAL, torch.zeros(1, 3, SIZE, SIZE), "black"),
    (Condition.SEG, torch.zeros(1, 3, SIZE, SIZE), "black"),
    (Condition.SEG, normal_map(), "other colours"),
    (Condition.POSE, soft_lines().expand(-1, 3, -1, -1), "has a colour"),
    (Condition.POSE, regions(2, 4), "black, as in a photograph"),
    (Condition.SCRIBBLE, 1 - (soft_lines() > 0.1).float(), "inverted"),
]


@pytest.mark.parametrize(("kind", "condition", "words"), WRONG)
def test_a_condition_of_another_kind_is_refused_with_what_it_looks_like(kind, condition, words):
    with pytest.raises(ValueError, match=words):
        check(kind, condition, SOUND[kind])


UNUSUAL = [
    (Condition.SOFTEDGE, 0.3 + 0.1 * soft_lines(), r"only 0% of the condition is dark"),
    (Condition.DEPTH, torch.full((1, 1, SIZE, SIZE), 0.5), "one value everywhere"),
    (Condition.TILE, torch.full((1, 3, SIZE, SIZE), 0.5), "one value everywhere"),
    (Condition.TILE, (soft_lines() > 0.8).float().expand(-1, 3, -1, -1), "like a drawing"),
]


@pytest.mark.parametrize(("kind", "condition", "words"), UNUSUAL)
def test_what_a_node_may_really_give_is_remarked_on_and_not_refused(kind, condition, words):
    assert re.search(words, check(kind, condition, condition).report)
    assert "Note:" not in check(kind, SOUND[kind], SOUND[kind]).report
