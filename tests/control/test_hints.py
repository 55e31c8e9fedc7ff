"""Hints of any size and aspect at the size of the picture."""

import cv2
import pytest
import torch
import torch.nn.functional as F
from controlnet_pp.cnpp_core.control.hints import FITS, RESAMPLINGS, HintFit
from hypothesis import given, settings
from hypothesis import strategies as st


def ramp(height, width):
    """Channel 0 runs over x, channel 1 over y, channel 2 is one, all in 0..1."""
    x = torch.linspace(0, 1, width).expand(height, width)
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    return torch.stack([x, y, torch.ones(height, width)])[None]


@settings(deadline=None)
@given(
    st.integers(1, 80), st.integers(1, 80), st.integers(1, 80), st.integers(1, 80),
    st.sampled_from(FITS), st.sampled_from(RESAMPLINGS), st.integers(1, 3),
)  # fmt: skip
def test_any_hint_comes_out_at_the_size_asked_for(h, w, height, width, fit, resampling, batch):
    hint = torch.rand(batch, 3, h, w)
    placed = HintFit(fit, resampling).place(hint, (height, width))
    assert placed.shape == (batch, 3, height, width)
    assert placed.min() >= 0
    assert placed.max() <= 1


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize("fit", FITS)
def test_a_hint_of_the_right_size_is_left_alone(fit, resampling):
    hint = torch.rand(2, 3, 24, 40)
    assert torch.equal(HintFit(fit, resampling).place(hint, (24, 40)), hint)


def test_crop_keeps_the_centre_at_one_scale():
    placed = HintFit("crop").place(ramp(40, 80), (20, 20))
    x, y, _ = placed[0]
    assert x.min() == pytest.approx(0.25, abs=0.03)
    assert x.max() == pytest.approx(0.75, abs=0.03)
    assert y.min() == pytest.approx(0.0, abs=0.03)
    assert y.max() == pytest.approx(1.0, abs=0.03)


def test_pad_shows_the_whole_hint_on_black():
    placed = HintFit("pad").place(ramp(40, 80), (40, 40))
    inside = placed[0, 2] == 1
    assert inside.sum() == 20 * 40
    assert inside[10:30].all()
    assert placed[0, 0, 10:30].max() > 0.98
    assert placed[0, 0, 10:30].min() < 0.02


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@pytest.mark.parametrize(("rest", "before"), [(1, 0), (2, 1), (3, 1), (5, 2), (6, 3)])
def test_an_odd_rest_of_padding_is_longer_below_and_on_the_right(resampling, rest, before):
    hint = torch.ones(1, 3, 8, 24)
    fit = HintFit("pad", resampling)
    rows = fit.place(hint, (8 + rest, 24))[0, 0]
    assert rows.amin(1).nonzero().flatten().tolist() == list(range(before, before + 8))
    columns = fit.place(hint.mT, (24, 8 + rest))[0, 0]
    assert columns.amin(0).nonzero().flatten().tolist() == list(range(before, before + 8))
    assert rows.sum() == columns.sum() == hint[0, 0].sum()


@pytest.mark.parametrize(("width", "kept"), [(9, (2, 7)), (10, (3, 7)), (11, (4, 7)), (13, (4, 9))])
def test_crop_cuts_as_much_on_both_sides_rounding_as_the_host_does(width, kept):
    """Halves of a pixel go to the even number: Python's `round`, which the host uses."""
    numbers = torch.arange(width).float().expand(1, 3, 4, width)
    placed = HintFit("crop").place(numbers, (4, 4))
    expected = F.interpolate(numbers[..., slice(*kept)], (4, 4), mode="nearest-exact")
    assert torch.equal(placed, expected)
    assert torch.equal(HintFit("crop").place(numbers.mT, (4, 4)), expected.mT)


def test_stretch_uses_all_of_the_hint_and_all_of_the_picture():
    placed = HintFit("stretch").place(ramp(40, 80), (40, 40))
    assert (placed[0, 2] == 1).all()
    assert placed[0, 0].max() > 0.98


def columns(width, every):
    hint = torch.zeros(1, 3, 64, width)
    hint[..., ::every] = 1.0
    return hint


@pytest.mark.parametrize("size", [(128, 128), (96, 150), (65, 257)])
@pytest.mark.parametrize("resampling", ["nearest", "keep lines"])
def test_growing_keeps_every_line_of_one_pixel(size, resampling):
    placed = HintFit("stretch", resampling).place(columns(64, 8), size)
    lines = (placed[0, 0, 0].diff() > 0).sum() + (placed[0, 0, 0, 0] > 0)
    assert lines == 8
    assert placed.max() == 1.0


@pytest.mark.parametrize("width", [40, 32, 24])
def test_shrinking_with_keep_lines_loses_none_where_nearest_does(width):
    hint = columns(64, 7)
    kept = HintFit("stretch", "keep lines").place(hint, (64, width))[0, 0, 0]
    assert (kept.diff() > 0).sum() + (kept[0] > 0) == 10
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    nearest = HintFit("stretch").place(hint, (64, width))[0, 0, 0]
    assert (nearest > 0).sum() < 10


def test_smooth_shrinking_is_the_mean_of_the_pixels():
    hint = torch.rand(1, 3, 32, 32)
    placed = HintFit(resampling="smooth").place(hint, (16, 16))
    assert torch.allclose(placed, F.avg_pool2d(hint, 2), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(36, 45), (9, 40), (30, 9)])
def test_smooth_enlarging_is_the_cubic_of_opencv(height, width):
    """Clamped to the range of the hint, which cubics overshoot."""
    hint = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    theirs = cv2.resize(hint[0, 0].numpy(), (width, height), interpolation=cv2.INTER_CUBIC)
    placed = HintFit("stretch", "smooth").place(hint, (height, width))
    expected = torch.from_numpy(theirs).clamp(hint.min(), hint.max())
    torch.testing.assert_close(placed[0, 0], expected, atol=1e-5, rtol=0)


def test_an_area_sees_its_part_of_the_hint():
    hint = torch.rand(1, 3, 64, 64)
    placed = HintFit(by_area=True).place(hint, (32, 16), full=(8, 8), area=(4, 2, 3, 5))
    assert torch.equal(placed, hint[..., 24:56, 40:56])


def test_without_by_area_the_whole_hint_goes_into_the_area():
    hint = torch.rand(1, 3, 64, 64)
    placed = HintFit().place(hint, (32, 32), full=(8, 8), area=(4, 4, 4, 4))
    assert torch.equal(placed, F.interpolate(hint, (32, 32), mode="nearest-exact"))


@pytest.mark.parametrize(("fit", "resampling"), [("cover", "nearest"), ("crop", "lanczos")])
def test_an_unknown_way_is_refused_with_the_known_ones(fit, resampling):
    with pytest.raises(ValueError, match=r"crop, pad, stretch|nearest, smooth, keep lines"):
        HintFit(fit, resampling)


def test_smooth_enlarging_keeps_the_range_of_each_channel():
    """Hints for inpainting say -1 where something new is made."""
    hint = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    hint[:, 0] -= 1.0
    hint[..., 2:5, 2:5] = -1.0
    placed = HintFit(resampling="smooth").place(hint, (36, 36))
    assert placed.amin((2, 3)).tolist() == [[-1.0] * 3]
    assert (placed.amax((2, 3)) <= hint.amax((2, 3))).all()
    inside = placed[..., 12:16, 12:16]
    torch.testing.assert_close(inside, torch.full_like(inside, -1.0))
