"""Schedules: key frames in percent, read from text, interpolated as stated."""

import math

import pytest
from controlnet_pp.cnpp_core.control.scales import BlockScales, ScalePreset, ScaleProduct
from controlnet_pp.cnpp_core.control.schedule import (
    KeyFrame,
    ScaleSchedule,
    UniformScales,
    key_frames,
    parse_schedule,
)
from hypothesis import given
from hypothesis import strategies as st


def schedule(text, interpolation="linear", **named):
    return ScaleSchedule(parse_schedule(text, interpolation, named))


def at(schedule, percent, blocks=5):
    return schedule.resolve(blocks, percent).values


def test_linear_interpolation_is_a_straight_line_between_key_frames():
    curve = schedule("20%: 1; 60%: 0")
    assert at(curve, 0.0) == (1.0,) * 5
    assert at(curve, 0.3) == pytest.approx((0.75,) * 5)
    assert at(curve, 0.5) == pytest.approx((0.25,) * 5)
    assert at(curve, 0.9) == (0.0,) * 5


def test_cosine_interpolation_eases_in_and_out():
    curve = schedule("0%: 0; 100%: 1", "cosine")
    for percent in (0.1, 0.25, 0.5, 0.8):
        expected = (1 - math.cos(math.pi * percent)) / 2
        assert at(curve, percent)[0] == pytest.approx(expected)


def test_step_interpolation_holds_until_the_next_key_frame():
    curve = schedule("0%: 1; 40%: 0.5; 80%: 0", "step")
    assert at(curve, 0.399)[0] == 1.0
    assert at(curve, 0.4)[0] == 0.5
    assert at(curve, 0.799)[0] == 0.5
    assert at(curve, 0.8)[0] == 0.0


def test_block_curves_are_interpolated_block_by_block():
    start, end = ScalePreset("guess mode").resolve(13), ScalePreset("structure").resolve(13)
    middle = at(schedule("0%: soft; 100%: structure"), 0.5, blocks=13)
    assert middle == pytest.approx(
        [(a + b) / 2 for a, b in zip(start.values, end.values, strict=True)]
    )


def test_two_key_frames_at_one_percent_make_a_jump():
    curve = schedule("0%: 1; 50%: 0.8; 50%: 0.2; 100%: 0.2")
    assert at(curve, 0.4999)[0] == pytest.approx(0.8, abs=1e-3)
    assert at(curve, 0.5)[0] == pytest.approx(0.2)


def test_entries_may_stand_on_lines_and_in_any_order():
    assert at(schedule("80%: 0\n0%: 1\n40%: 1"), 0.6)[0] == pytest.approx(0.5)


def test_full_width_punctuation_and_capitals_are_read():
    assert schedule("0％：1；50％：Soft") == schedule("0%: 1; 50%: soft")


def test_values_are_numbers_presets_lists_names_and_products():
    own = BlockScales((0.1, 0.2, 0.3, 0.4, 0.5))
    assert at(schedule("0: 0.3"), 0.0) == (0.3,) * 5
    assert at(schedule("0%: soft"), 0) == ScalePreset("guess mode").resolve(5).values
    assert at(schedule("0%: [1, 2 3, 4, 5]"), 0) == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert at(schedule("0%: scales", scales=own), 0) == own.values
    product = at(schedule("0%: scales * detail * 0.5", scales=own), 0)
    assert product == pytest.approx((0.05, 0.1, 0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("40: 1", r"'40: 1' lies at 4000 %"),
        ("120%: 1", r"lies at 120 %"),
        ("50%: 1e308*1e308*detail", r"1e308\*detail' comes to a scale of inf"),
        ("50%: 1e308*1e308*0", r"comes to a scale of nan"),
        ("50%: detail*-2e6", r"comes to a scale of 2e\+06; scales may be 1,000,000 at most"),
        ("50%: [1 -1e300]*2", r"comes to a scale of 2e\+300"),
        ("40% 1", r"'40% 1' is no key frame"),
        ("40%: sfot", r"'sfot' in '40%: sfot' is neither a number nor 'soft'"),
        ("40%: scales", r"'40%: scales' says 'scales', but nothing is connected"),
        ("40%: nan", r"'nan' in"),
        ("40%: [1, x]", r"nor a list in brackets"),
        ("  ;\n ", r"at least one key frame, such as '0%: 1; 60%: 1; 90%: soft'"),
    ],
)
def test_text_that_cannot_be_read_is_refused_naming_the_entry(text, words):
    with pytest.raises(ValueError, match=words):
        schedule(text)


def test_a_list_of_the_wrong_length_is_refused_when_the_network_is_known():
    with pytest.raises(ValueError, match=r"3 numbers.*13 blocks"):
        schedule("0%: 1; 50%: [1 1 1]").resolve(13, 0.0)  # before that key frame is reached


def test_constant_scales_are_a_schedule_with_one_key_frame():
    (key,) = key_frames(ScalePreset("detail"))
    assert (key.percent, key.scales) == (0.0, ScalePreset("detail"))
    first = schedule("0%: 1; 30%: 0")
    assert key_frames(first) == first.keys


def test_a_key_frame_with_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="linear, cosine, step"):
        KeyFrame(0.5, UniformScales(1.0), "cubic")


@pytest.mark.parametrize(("percent", "said"), [(-0.25, "-25 %"), (1.5, "150 %"), (math.nan, "nan")])
def test_a_key_frame_outside_the_sampling_is_refused(percent, said):
    with pytest.raises(ValueError, match=f"lies at {said}"):
        KeyFrame(percent, UniformScales(1.0))


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 2)), min_size=1, max_size=6),
    st.sampled_from(["linear", "cosine", "step"]),
    st.floats(0, 1),
)
def test_a_curve_never_leaves_the_span_of_its_key_frames(keys, interpolation, percent):
    frames = tuple(KeyFrame(p, UniformScales(v), interpolation) for p, v in keys)
    (value, *_) = at(ScaleSchedule(frames), percent)
    values = [v for _, v in keys]
    assert min(values) - 1e-9 <= value <= max(values) + 1e-9


@given(st.floats(0, 1))
def test_a_product_of_schedules_is_the_product_at_every_moment(percent):
    a, b = schedule("0%: 1; 100%: 0.2"), schedule("0%: soft; 70%: 0.5")
    both = ScaleProduct((a, b)).resolve(7, percent).values
    expected = [x * y for x, y in zip(at(a, percent, 7), at(b, percent, 7), strict=True)]
    assert both == pytest.approx(expected)
