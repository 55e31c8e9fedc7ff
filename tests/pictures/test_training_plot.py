"""The plot of a training as a picture that holds the right points."""

from __future__ import annotations

import math

import pytest
from controlnet_pp.cnpp_core.consistency.agreement.depth import DepthMeasure
from controlnet_pp.cnpp_core.consistency.agreement.lines import EdgeMeasure
from controlnet_pp.pictures.training_plot import BEFORE, FAINT, LOSS, SCORE, panels_of, plot

EDGES = EdgeMeasure(1)
LOSSES = {step: 1 / step for step in range(1, 11)}
SCORES = {0: 0.2, 5: 0.4, 10: 0.7}


def pixels(picture, x: float, y: float) -> tuple[int, ...]:
    return tuple((picture[0, :, round(y), round(x)] * 255).round().int().tolist())


def colours(picture) -> set[tuple[int, ...]]:
    found = picture[0].flatten(1).T.mul(255).round().int().unique(dim=0)
    return {tuple(colour) for colour in found.tolist()}


def test_there_is_a_dot_at_every_score_and_the_loss_passes_its_values():
    picture = plot(LOSSES, SCORES, 10, EDGES)
    loss, score = panels_of(LOSSES, SCORES, 10, 1.0)
    for step, value in SCORES.items():
        assert pixels(picture, *score.place(max(step, BEFORE), value)) == SCORE
    for step in (3, 6, 9):
        assert pixels(picture, *loss.place(step, LOSSES[step])) == LOSS


def test_later_steps_lie_further_right_and_a_training_that_goes_on_leaves_room():
    short, long = (panels_of(LOSSES, SCORES, steps, 1.0)[0] for steps in (10, 40))
    assert short.place(2, 0.5)[0] < short.place(3, 0.5)[0]
    assert long.place(10, 0.5)[0] < short.place(10, 0.5)[0]


def test_single_losses_far_off_do_not_flatten_the_others():
    losses = dict.fromkeys(range(1, 201), 0.1) | {100: 50.0}
    assert panels_of(losses, {}, 200, 1.0)[0].values.high <= 0.2


def test_without_scores_there_is_one_panel():
    alone, both = plot(LOSSES, {}, 10, EDGES), plot(LOSSES, SCORES, 10, EDGES)
    assert alone.shape[-2] < both.shape[-2]
    assert SCORE not in colours(alone)
    assert SCORE in colours(both)


def test_errors_get_an_axis_that_holds_them():
    _, score = panels_of(LOSSES, {0: 35.0, 10: 28.0}, 10, 0.0)
    assert (score.values.low, score.values.high) == (0.0, 40.0)
    assert plot(LOSSES, {0: 35.0, 10: 28.0}, 10, DepthMeasure()).isfinite().all()


@pytest.mark.parametrize("steps", [1, 2, 50_000])
def test_trainings_of_any_length_have_room(steps):
    losses = {step: 0.1 + 0.05 * (step % 2) for step in range(1, steps + 1)}
    picture = plot(losses, {0: 0.5}, steps, EDGES)
    assert picture.shape == plot(LOSSES, SCORES, 10, EDGES).shape
    assert (FAINT in colours(picture)) == (steps > 20)


def test_a_loss_that_is_not_finite_is_left_out():
    picture = plot(LOSSES | {5: math.nan}, {0: math.nan, 10: 0.5}, 10, EDGES)
    assert picture.isfinite().all()
