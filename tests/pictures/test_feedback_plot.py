"""The plot of feedback as a picture that holds the right points."""

from __future__ import annotations

import math

import pytest
from controlnet_pp.cnpp_core.consistency.agreement.depth import DepthMeasure
from controlnet_pp.cnpp_core.consistency.agreement.lines import EdgeMeasure
from controlnet_pp.cnpp_core.consistency.steering.feedback import (
    Feedback,
    FeedbackSettings,
    factors_over_steps,
)
from controlnet_pp.pictures.feedback_plot import panels_of, plot
from controlnet_pp.pictures.panel import COLOURS, TARGET

EDGES = EdgeMeasure(1)


def looked(*scores: tuple[float, ...], better: bool = True, **settings) -> Feedback:
    """Feedback that has seen these scores, one tuple for each of the first steps."""
    feedback = Feedback(FeedbackSettings(**{"memory": 0.0} | settings), better)
    for step, seen in enumerate(scores):
        feedback.look(step, step / 10, seen)
    return feedback


def pixels(picture, x: float, y: float) -> tuple[int, ...]:
    return tuple((picture[0, :, round(y), round(x)] * 255).round().int().tolist())


def test_the_plot_has_a_dot_of_the_right_colour_at_every_score_and_factor():
    feedback = looked((0.2, 0.6), (0.4, 0.9), (0.5, 0.7), gain=1.0, high=3.0)
    picture = plot(feedback, EDGES, planned=4)
    scores, factors = panels_of(feedback, 4)
    acted = factors_over_steps(feedback, 4)
    for image in range(2):
        for look in feedback.steps:
            place = scores.place(look.step + 1, look.scores[image])
            assert pixels(picture, *place) == COLOURS[image]
        for step, factor in enumerate(acted[image][1:], start=2):
            assert pixels(picture, *factors.place(step, factor)) == COLOURS[image]


def test_higher_values_are_drawn_higher_and_later_steps_further_right():
    scores, factors = panels_of(looked((0.5,), (0.6,)), 2)
    for panel in (scores, factors):
        early_low, late_high = panel.place(1, 0.1), panel.place(2, 0.2)
        assert early_low[0] < late_high[0]
        assert early_low[1] > late_high[1]
    assert scores.values.bottom < factors.values.top


def test_the_target_is_a_dashed_line():
    feedback = looked((0.2,), (0.3,), target=0.875)
    picture = plot(feedback, EDGES)
    scores, _ = panels_of(feedback)
    y = round(scores.values.y(0.875))
    row = (picture[0, :, y].T * 255).round().int().tolist()
    assert 200 < sum(tuple(pixel) == TARGET for pixel in row) < 500


def test_errors_get_an_axis_that_holds_them():
    feedback = looked((35.0,), (28.0,), better=False, target=10.0, unit=100.0)
    scores, _ = panels_of(feedback)
    assert (scores.values.low, scores.values.high) == (0.0, 40.0)
    assert plot(feedback, DepthMeasure()).isfinite().all()


@pytest.mark.parametrize("pictures", [1, 8, 23])
def test_batches_of_any_size_and_long_runs_have_room(pictures):
    feedback = looked(*[(0.5,) * pictures] * 3)
    short, long = plot(feedback, EDGES), plot(feedback, EDGES, planned=150)
    assert short.shape == long.shape
    assert short.min() >= 0
    assert short.max() <= 1


@pytest.mark.parametrize("unknown", [math.nan, math.inf])
def test_a_line_runs_past_a_score_that_is_not_finite(unknown):
    feedback = looked((0.5,), (unknown,), (0.75,))
    scores, _ = panels_of(feedback)
    picture = plot(feedback, EDGES)
    assert pixels(picture, *scores.place(1, 0.5)) == COLOURS[0]
    assert pixels(picture, *scores.place(2, 0.625)) == COLOURS[0]


def test_every_picture_of_a_batch_is_in_the_legend_in_its_colour():
    shown = plot(looked((0.5,) * 23), EDGES)[0].flatten(1).T.mul(255).round().int()
    found = {tuple(colour) for colour in shown.unique(dim=0).tolist()}
    assert set(COLOURS) <= found


def test_a_line_joins_the_dots():
    feedback = looked((0.2,), (0.8,))
    scores, _ = panels_of(feedback, 20)
    picture = plot(feedback, EDGES, planned=20)
    (x1, y1), (x2, y2) = scores.place(1, 0.2), scores.place(2, 0.8)
    assert pixels(picture, (x1 + x2) / 2, (y1 + y2) / 2) == COLOURS[0]


def test_levels_are_named_over_lines_that_run_through_the_name():
    flat, none = (plot(looked((score,)), EDGES, planned=40) for score in (0.5, math.nan))
    _, factors = panels_of(looked((0.5,)), 40)
    x, y = int(factors.steps.right), round(factors.values.y(1.0))
    for picture in (flat, none):
        name = picture[0, :, y - 22 : y - 4, x - 90 : x - 8]
        assert (name.mean(0) > 0.9).sum() > 30
