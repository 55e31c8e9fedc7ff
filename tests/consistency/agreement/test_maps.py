"""What agreement means for soft maps, depth, normals and labels: numbers, colours and words."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.agreement.labels import LabelMeasure
from controlnet_pp.cnpp_core.consistency.agreement.measure import INVENTED, KEPT, LOST
from controlnet_pp.cnpp_core.consistency.check import check_consistency
from controlnet_pp.cnpp_core.consistency.metrics import mean_iou, ms_ssim
from controlnet_pp.tests.consistency.agreement.known import (
    OTHER,
    SIZE,
    SOUND,
    check,
    normal_map,
    regions,
    slope,
    soft_lines,
)
from torch.nn.functional import interpolate


def test_soft_maps_are_scored_by_ms_ssim():
    result = check(Condition.SOFTEDGE, soft_lines(), soft_lines(4))
    assert result.score == pytest.approx(ms_ssim(soft_lines(4), soft_lines()).item())


def test_fainter_lines_are_red_and_added_ones_blue():
    faint = check(Condition.SOFTEDGE, soft_lines(), soft_lines() * 0.25).difference[0]
    peak = soft_lines()[0, 0] == soft_lines().max()
    expected = 0.25 * torch.tensor(KEPT) + 0.75 * torch.tensor(LOST)
    torch.testing.assert_close(faint[:, peak].mean(1), expected, atol=0.01, rtol=0)
    added = check(Condition.SOFTEDGE, soft_lines() * 0.5, soft_lines()).difference[0]
    assert added[2, peak].mean() > added[0, peak].mean()


def test_a_small_picture_is_scored_at_fewer_scales_and_says_so():
    small = interpolate(soft_lines(), (64, 64), mode="area")
    result = check(Condition.SOFTEDGE, small, small)
    assert result.score == pytest.approx(1)
    assert "at 3 scale(s)" in result.report


def test_depth_is_scored_in_levels_of_8_bits_after_stretching():
    offset = slope() * 0.5 + 0.25
    assert check(Condition.DEPTH, offset, slope()).score == pytest.approx(0, abs=1e-3)
    result = check(Condition.DEPTH, slope(), slope(1.0))
    a, b = ((s - s.min()) / (s.max() - s.min()) for s in (slope(), slope(1.0)))
    assert result.score == pytest.approx(255 * (a - b).square().mean().sqrt().item(), rel=1e-5)


def test_too_far_is_red_and_too_near_blue():
    picture = check(Condition.DEPTH, slope(), slope(1.0)).difference[0]
    lower_left, upper_right = picture[:, -10, 10], picture[:, 10, -10]
    torch.testing.assert_close(lower_left, torch.tensor(LOST))
    torch.testing.assert_close(upper_right, torch.tensor(INVENTED))


def test_normals_in_the_reverse_order_of_channels_are_recognised():
    result = check(Condition.NORMAL, normal_map().flip(1), normal_map())
    assert result.score > 30
    assert "if red and blue were swapped" in result.report


def test_black_has_no_normal_and_is_not_compared():
    condition = normal_map()
    condition[..., :90] = 0
    recovered = normal_map()
    recovered[..., :90] = normal_map(1.0)[..., :90]
    assert check(Condition.NORMAL, condition, recovered).score < 0.02


def test_regions_are_scored_by_the_mean_iou_and_the_worst_class_is_named():
    wanted, found = regions(2, 4, 12, 12), regions(2, 4, 4, 12)
    result = check(Condition.SEG, wanted, found)
    classes = [
        torch.tensor(n).repeat_interleave(48).expand(1, 192, -1)
        for n in ((2, 4, 12, 12), (2, 4, 4, 12))
    ]
    assert result.score == pytest.approx(mean_iou(classes[1], classes[0], 150).item())
    assert "least overlap: tree 50%, person 50%" in result.report
    third = result.difference[0, :, :, 100:140]
    assert torch.equal(third, torch.tensor(LOST).view(3, 1, 1).expand_as(third))


def test_black_is_no_class_and_classes_of_one_colour_are_one():
    wanted = regions(6, 6, 2)
    wanted[..., 128:] = 0
    assert check(Condition.SEG, wanted, regions(48, 48, 12)).score == 1


def test_the_sentence_about_regions_is_of_what_the_mask_shows():
    wanted, found = regions(2, 4, 12, 12), regions(2, 12, 12, 4)
    mask = torch.zeros(1, 1, SIZE, SIZE)
    for stripes, right, least in (
        ((0,), "100.0%", "sky 100%"),
        ((0, 1), "50.0%", "tree 0%"),
        ((1, 3), "0.0%", "tree 0%"),
        ((0, 1, 2, 3), "50.0%", "tree 0%, person 33%, sky 100%"),
    ):
        for stripe in range(4):
            mask[..., 48 * stripe : 48 * (stripe + 1)] = float(stripe in stripes)
        result = check(Condition.SEG, wanted, found, mask=mask)
        assert f"; {right} of the pixels are of the wanted class" in result.report
        assert f"least overlap: {least}" in result.report


def test_pixels_that_want_no_class_are_no_part_of_the_sentence():
    wanted, found = regions(2, 4, 12, 12), regions(2, 12, 12, 4)
    wanted[..., 144:] = 0
    report = check(Condition.SEG, wanted, found).report
    assert "; 66.7% of the pixels are of the wanted class" in report


POINTWISE = (Condition.CANNY, Condition.MLSD, Condition.SCRIBBLE, Condition.NORMAL, Condition.SEG)
AS_LARGE = (Condition.DEPTH, Condition.TILE)


def test_a_class_wanted_outside_the_mask_only_is_not_among_the_worst():
    """Even where it is found inside: there it is invented, and nothing of it was to be kept."""
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    result = check(Condition.SEG, regions(2, 12), regions(12, 12), mask=mask)
    assert "least overlap: sky 0%" in result.report
    assert "person" not in result.report


@pytest.mark.parametrize("kind", [*POINTWISE, *AS_LARGE], ids=lambda kind: kind.key)
def test_no_sentence_speaks_of_what_lies_outside_the_mask(kind):
    wanted, other = SOUND[kind], OTHER[kind]
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 96:] = 1
    outside = wanted.clone()
    outside[..., :96] = other[..., :96]
    reports = [check(kind, wanted, one, mask=mask).report for one in (wanted, outside)]
    if kind in AS_LARGE:  # the range of the whole map may have changed
        reports = [report.partition(";")[0] for report in reports]
    assert reports[0] == reports[1]
    assert check(kind, wanted, other, mask=mask).report != reports[0]


def test_a_segmentation_resized_with_interpolation_is_accepted_with_a_remark():
    soft = interpolate(regions(2, 4, 12), scale_factor=1.5, mode="bilinear")
    result = check(Condition.SEG, soft, regions(2, 4, 12))
    assert result.score > 0.97
    assert "between the classes'" in result.report


def test_any_palette_can_be_given():
    measure = LabelMeasure([(0, 0, 0), (255, 255, 255)], ["ground", "figure"], "black and white")
    mask = (soft_lines() > 0.5).float()
    result = check_consistency(
        torch.zeros(1, 3, SIZE, SIZE), mask.expand(-1, 3, -1, -1), lambda _: mask, measure
    )
    assert result.score == 1
    assert "over 2 classes" in result.report
