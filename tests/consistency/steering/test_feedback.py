"""Feedback as arithmetic, and its numbers as text."""

from __future__ import annotations

import math

import pytest
from controlnet_pp.cnpp_core.consistency.agreement.depth import DepthMeasure
from controlnet_pp.cnpp_core.consistency.agreement.lines import EdgeMeasure
from controlnet_pp.cnpp_core.consistency.steering.feedback import (
    Feedback,
    FeedbackSettings,
    factors_over_steps,
    summary,
    table,
    unit_of,
)
from controlnet_pp.cnpp_core.consistency.steering.window import SteeringWindow

EDGES = EdgeMeasure(1)


def looked(*scores: tuple[float, ...], better: bool = True, **settings) -> Feedback:
    """Feedback that has seen these scores, one tuple for each of the first steps."""
    feedback = Feedback(FeedbackSettings(**{"memory": 0.0} | settings), better)
    for step, seen in enumerate(scores):
        feedback.look(step, step / 10, seen)
    return feedback


@pytest.mark.parametrize(
    ("score", "factor"), [(0.9, 1.0), (0.4, 2.0), (0.65, 1.5), (1.0, 0.8), (0.0, 2.5), (9.0, 0.25)]
)
def test_the_factor_is_proportional_to_what_is_missing_and_bounded(score, factor):
    settings = FeedbackSettings(target=0.9, gain=2.0, low=0.25, high=2.5, memory=0.0)
    assert settings.factor(score) == pytest.approx(factor)


def test_where_lower_is_better_too_high_a_score_strengthens():
    settings = FeedbackSettings(target=10.0, gain=2.0, low=0.0, high=3.0, unit=100.0)
    assert settings.factor(35.0, higher_is_better=False) == pytest.approx(1.5)
    assert settings.factor(5.0, higher_is_better=False) == pytest.approx(0.9)


def test_errors_of_255_and_degrees_count_by_the_hundred():
    assert unit_of(EDGES) == 1.0
    assert unit_of(DepthMeasure()) == 100.0


def test_at_the_target_and_with_gain_0_the_factor_is_exactly_1():
    for score in (0.0, 0.1, 1 / 3, 0.7):
        assert FeedbackSettings(gain=0.0).factor(score) == 1.0
        assert FeedbackSettings(target=score, gain=7.0).factor(score) == 1.0


def test_a_score_that_nobody_knows_leaves_the_strength():
    assert FeedbackSettings().factor(math.nan) == 1.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"low": 2.0, "high": 1.0}, "Feedback between 2 and 1 times the strength"),
        ({"low": -0.1}, "Feedback between -0.1"),
        ({"target": math.nan}, "Feedback with target nan"),
        ({"high": math.inf}, "Feedback with high inf"),
        ({"gain": -1.0}, "negative gain"),
        ({"memory": 1.5}, "Feedback with memory 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        FeedbackSettings(**settings)


def test_every_look_is_kept_with_factors_picture_by_picture():
    feedback = looked((0.5, 1.0), (0.75, 1.0), target=1.0, gain=1.0, low=0.0, high=3.0)
    assert feedback.factors == (1.25, 1.0)
    assert [look.factors for look in feedback.steps] == [(1.5, 1.0), (1.25, 1.0)]
    assert [look.step for look in feedback.steps] == [0, 1]


def test_with_memory_corrections_add_up_picture_by_picture():
    scores = ((0.5, 1.0), (0.75, 0.75), (1.0, 0.5))
    feedback = looked(*scores, memory=1.0, gain=0.5, high=3.0)
    assert [look.factors for look in feedback.steps] == [
        (1.25, 1.0),
        (1.375, 1.125),
        (1.375, 1.375),
    ]
    fading = looked((0.5,), (1.0,), (1.0,), memory=0.5, gain=1.0)
    assert [look.factors for look in fading.steps] == [(1.5,), (1.25,), (1.125,)]


def test_what_adds_up_turns_round_at_once_when_it_lies_at_a_bound():
    feedback = looked(*[(0.0,)] * 50, (0.9,), memory=1.0, gain=1.0, target=0.5, high=2.0)
    assert [look.factors[0] for look in feedback.steps[-2:]] == pytest.approx([2.0, 1.6])


def test_a_score_that_nobody_knows_keeps_what_was_said_before():
    assert looked((0.5,), (math.nan,), memory=1.0, gain=1.0).factors == (1.5,)


def test_the_window_acts_by_percent_and_step():
    window = SteeringWindow(0.25, 0.75, every=2)
    acts = [step for step in range(11) if window.acts(step / 10, step)]
    assert acts == [4, 6]


def test_a_factor_acts_from_the_step_after_its_score_until_the_next():
    feedback = Feedback(FeedbackSettings(gain=1.0, high=3.0, memory=0.0))
    for step, score in ((1, 0.5), (4, 0.25)):
        feedback.look(step, step / 6, (score,))
    assert factors_over_steps(feedback, 6) == [[1.0, 1.0, 1.5, 1.5, 1.5, 1.75]]


def test_the_table_holds_every_number_and_the_summary_the_ends():
    feedback = looked((0.2, 0.6), (0.4, 0.9), gain=1.0, high=3.0)
    lines = table(feedback, EDGES).splitlines()
    assert len(lines) == 3
    assert "Edge F1 (within 1 pixel)" in lines[0]
    assert lines[1].split() == ["1", "0.0%", "20.0%", "->", "1.800", "60.0%", "->", "1.400"]
    assert lines[2].split() == ["2", "10.0%", "40.0%", "->", "1.600", "90.0%", "->", "1.100"]
    words = summary(feedback, EDGES)
    assert words.startswith("Edge F1 (within 1 pixel): looked 2 times, steps 1 to 2")
    assert "picture 2: score 60.0% to 90.0%, factor 1.10 to 1.40" in words
