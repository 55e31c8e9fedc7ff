"""The cycle-consistency check on pictures whose edges are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp, canny_cv2
from controlnet_pp.cnpp_core.consistency.agreement.lines import INVENTED, KEPT, LOST, EdgeMeasure
from controlnet_pp.cnpp_core.consistency.check import CheckResult, check_consistency
from skimage import data
from torch.nn.functional import interpolate

PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon")


def photo(name: str) -> torch.Tensor:
    pixels = getattr(data, name)()
    pixels = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels[..., :3]
    return torch.from_numpy(pixels.copy()).movedim(-1, 0)[None].float() / 255


def lines(*rows: int, size: int = 16, batch: int = 1) -> torch.Tensor:
    """Horizontal white lines."""
    edges = torch.zeros(batch, 1, size, size)
    edges[:, :, list(rows)] = 1
    return edges


def finds(edges: torch.Tensor):
    """An annotator that finds these edges, whatever the picture."""
    return lambda image: edges.expand(image.shape[0], -1, -1, -1)


def check(recovered: torch.Tensor, wanted: torch.Tensor, batch: int = 1, **options) -> CheckResult:
    image = torch.zeros(batch, 3, *recovered.shape[-2:])
    return check_consistency(image, wanted, finds(recovered), **options)


# Scores


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
@pytest.mark.parametrize("annotate", [canny_cnpp, canny_cv2])
def test_a_picture_follows_its_own_edges_completely(name, annotate):
    image = photo(name)
    result = check_consistency(image, annotate(image).expand(-1, 3, -1, -1), annotate)
    assert result.score == 1
    assert torch.equal(result.recovered, annotate(image))


def test_a_picture_does_not_follow_the_edges_of_another():
    result = check_consistency(photo("brick"), canny_cnpp(photo("camera")), canny_cnpp)
    assert result.score < 0.25


def test_the_score_falls_as_the_picture_gets_noisier():
    image = photo("coffee")[..., :200, :200]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    noisy = [(image + sigma * noise).clamp(0, 1) for sigma in (0, 0.02, 0.05, 0.1, 0.3)]
    scores = check_consistency(torch.cat(noisy), canny_cnpp(image), canny_cnpp).per_image
    assert list(scores) == sorted(scores, reverse=True)
    assert len(set(scores)) == 5


def test_scores_are_per_picture_and_the_total_is_their_mean():
    recovered = torch.cat([lines(2, 8), lines(2), lines(5)])
    result = check(recovered, lines(2, 8), batch=3)
    assert result.per_image == pytest.approx((1.0, 2 / 3, 0.0))
    assert result.score == pytest.approx(5 / 9)


def test_each_picture_is_compared_with_its_own_condition():
    wanted = torch.cat([lines(2), lines(5)])
    result = check(torch.cat([lines(2), lines(6)]), wanted, batch=2)
    assert result.per_image == (1.0, 0.0)


def test_tolerance_belongs_to_the_measure():
    assert check(lines(5), lines(6)).score == 0
    assert check(lines(5), lines(6), measure=EdgeMeasure(tolerance=1)).score == 1


def test_only_the_inside_of_the_mask_is_compared():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :10, :] = 1
    assert check(lines(2, 12), lines(2, 14), mask=mask).score == 1
    assert check(lines(2, 12), lines(2, 14)).score == 0.5


def test_no_edges_wanted_and_none_found_is_full_agreement():
    assert check(lines(), lines()).score == 1


def test_nothing_of_the_check_carries_a_graph():
    image = photo("coffee")[..., :64, :64].requires_grad_()
    result = check_consistency(image, canny_cnpp(image), lambda picture: picture[:, :1].sigmoid())
    assert not result.recovered.requires_grad
    assert not result.difference.requires_grad


# What is shown


def test_the_difference_is_white_where_kept_red_where_lost_blue_where_invented():
    picture = check(lines(2, 8), lines(2, 12)).difference[0]
    black = (0.0, 0.0, 0.0)
    for row, colour in {2: KEPT, 8: INVENTED, 12: LOST, 0: black}.items():
        assert torch.equal(picture[:, row], torch.tensor(colour)[:, None].expand(3, 16))


def test_within_the_tolerance_both_lines_of_a_pair_are_kept():
    picture = check(lines(5), lines(6), measure=EdgeMeasure(1)).difference[0]
    assert (picture[:, 5:7] == 1).all()
    assert picture.sum() == 2 * 16 * 3


def test_outside_the_mask_the_difference_is_grey():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    picture = check(lines(5), lines(5), mask=mask).difference[0]
    assert (picture[:, 5, :8] == 1).all()
    assert (picture[:, :, 8:] == picture[0, 0, 15]).all()
    assert 0 < picture[0, 0, 15] < 0.5


def test_the_report_names_the_score_and_what_was_lost_and_invented():
    report = check(lines(2, 8, 12), lines(2)).report
    assert report.splitlines() == [
        "Edge F1 (exact pixels): 50.0%",
        "picture 1: F1 50.0%; 100.0% of the wanted edges are there, 33.3% of the edges there were "
        "wanted",
    ]


# Sizes


@pytest.mark.parametrize("factor", [2, 3])
def test_a_larger_condition_of_the_same_aspect_is_reduced_without_losing_its_lines(factor):
    wanted = torch.zeros(1, 1, 16 * factor, 16 * factor)
    wanted[:, :, 5 * factor + 1] = 1
    result = check(lines(5), wanted)
    assert result.score == 1
    assert f"{16 * factor}x{16 * factor}, was brought to the picture's 16x16" in result.report


def test_a_smaller_condition_is_enlarged_and_the_report_says_what_that_costs():
    result = check(lines(4, 5), lines(2, size=8))
    assert result.score == 1
    assert "enlarged lines are thick" in result.report


def test_a_condition_of_another_shape_is_refused_with_both_sizes():
    image = torch.zeros(1, 3, 512, 712)
    with pytest.raises(ValueError, match=r"condition is 715x512.*picture 712x512.*center"):
        check_consistency(image, torch.zeros(1, 1, 512, 715), canny_cnpp)


def test_a_mask_of_another_shape_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"mask is 20x10.*picture 16x16"):
        check(lines(2), lines(2), mask=torch.ones(1, 1, 10, 20))


def test_a_mask_of_the_same_aspect_is_brought_to_the_size_of_the_picture():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :20, :] = 1
    assert check(lines(2, 12), lines(2, 14), mask=mask).score == 1


# Refusals


@pytest.mark.parametrize("name", [*PHOTOS, "hubble_deep_field"])
def test_a_photograph_is_refused_as_condition(name):
    with pytest.raises(ValueError, match=r"not an edge map.*(colour|grey).*Canny node"):
        check_consistency(photo(name), photo(name), canny_cnpp)


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("low", [10, 100])
def test_the_edges_of_any_photograph_are_accepted_as_condition(name, low):
    image = photo(name)
    edges = canny_cv2(image, low, 2 * low)
    assert 0 < check_consistency(image, edges, canny_cnpp).score < 1


def test_a_map_resized_with_interpolation_is_accepted_with_a_remark():
    image = photo("astronaut")
    soft = interpolate(canny_cnpp(image), scale_factor=1.5, mode="bilinear")
    report = check_consistency(image, soft, canny_cnpp).report
    assert "grey, as after a resize" in report


def test_black_lines_on_white_are_refused_with_the_way_out():
    image = photo("coffee")
    with pytest.raises(ValueError, match=r"white.*Invert"):
        check_consistency(image, 1 - canny_cnpp(image), canny_cnpp)


def test_the_bad_one_of_several_conditions_is_named():
    image = photo("coffee")
    conditions = torch.cat([canny_cnpp(image).expand(-1, 3, -1, -1), image])
    with pytest.raises(ValueError, match="Condition 2 is not an edge map"):
        check_consistency(image.expand(2, -1, -1, -1), conditions, canny_cnpp)


def test_values_up_to_255_are_refused_by_scale():
    with pytest.raises(ValueError, match=r"reach 255.*0\.\.1"):
        check(lines(2), lines(2) * 255)


@pytest.mark.parametrize(("conditions", "pictures"), [(2, 3), (2, 1)])
def test_batches_that_do_not_match_are_refused_with_both_numbers(conditions, pictures):
    with pytest.raises(ValueError, match=rf"{conditions} conditions for {pictures} picture"):
        check(lines(2), lines(2, batch=conditions), batch=pictures)


def test_an_empty_mask_is_refused():
    mask = torch.ones(2, 1, 16, 16)
    mask[1] = 0
    with pytest.raises(ValueError, match=r"mask is empty.*number 2"):
        check(lines(2), lines(2), batch=2, mask=mask)


def test_nan_in_the_picture_is_refused_before_the_annotator_runs():
    image = torch.full((1, 3, 16, 16), float("nan"))
    with pytest.raises(ValueError, match="picture has NaN"):
        check_consistency(image, lines(2), lambda _: pytest.fail("the annotator ran"))


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (1, 3, 0, 16), (3, 16, 16)])
def test_a_picture_of_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"picture has shape.*batch, 3"):
        check_consistency(torch.zeros(shape), lines(2), canny_cnpp)


def test_an_annotator_that_changes_the_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 1, 8, 12\).*picture's shape"):
        check_consistency(torch.zeros(1, 3, 16, 16), lines(2), finds(torch.zeros(1, 1, 8, 12)))


def test_an_annotator_with_its_own_resolution_is_compared_at_that():
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, :8] = 1
    image = torch.zeros(1, 3, 16, 16)
    result = check_consistency(image, lines(4, 12), finds(lines(2, size=8)), mask=mask)
    assert result.score == 1
    assert result.difference.shape == (1, 3, 8, 8)
    assert "16x16, was brought to the annotator's 8x8" in result.report


def test_the_ranking_puts_the_most_consistent_picture_first():
    recovered = torch.cat([lines(5), lines(2, 8), lines(2)])
    result = check(recovered, lines(2, 8), batch=3)
    assert result.ranking == [1, 2, 0]
