"""The course of a training as a plot: its loss, and how well held-out conditions are followed."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ..cnpp_core.consistency.agreement.measure import Measure
from .canvas import TITLE, Canvas
from .panel import BELOW, BETWEEN, COLOURS, HEIGHT, LEFT, MARGIN, TOP, WIDTH, Panel, round_up

LOSS, SCORE = COLOURS[0], COLOURS[1]
FAINT = (48, 78, 96)
SMOOTHED = 20  # stretches of the course that the thick line has the means of
MOST_POINTS = WIDTH  # of the thin line
ABOVE_USUAL = (
    1.5  # times the highest of the usual losses, so that single ones don't flatten the rest
)

HEAD = 26  # pixels of the title
BEFORE = 0.5  # where step 0 is drawn, before the first: at the left end

Course = Mapping[int, float]  # by step


def panels_of(losses: Course, scores: Course, steps: int, best: float) -> tuple[Panel, Panel]:
    """The axes of the loss and, below them, those of the score; a column for each step.

    best: the highest score that there can be, 0 for errors.
    """
    usual = sorted(value for value in losses.values() if math.isfinite(value))
    high = usual[int(0.98 * (len(usual) - 1))] * ABOVE_USUAL if usual else 1.0
    above = Panel.at(TOP + HEAD, steps, round_up(high))
    most = max([best, *scores.values()])
    return above, Panel.at(TOP + HEAD + HEIGHT + BETWEEN, steps, round_up(most))


def plot(losses: Course, scores: Course, steps: int, measure: Measure | None) -> Tensor:
    """The picture (1, 3, H, W) in 0..1: losses above, scores below where there are any.

    steps: of the whole training. measure: of the scores, with their unit.
    """
    scores = {step: value for step, value in scores.items() if math.isfinite(value)}
    best = 1.0 if measure is None or measure.higher_is_better else 0.0
    loss, score = panels_of(losses, scores, steps, best)
    shown = bool(scores) and measure is not None
    last = score if shown else loss
    canvas = Canvas(LEFT + WIDTH + 2 * MARGIN, int(last.values.bottom) + BELOW)
    canvas.text((MARGIN, MARGIN - 4), "Training", size=TITLE, anchor="lt")
    loss.draw(canvas, "loss, and its means")
    if steps > SMOOTHED:
        loss.draw_line(canvas, _means(losses, steps, MOST_POINTS), FAINT, 1, dots=False)
    loss.draw_line(canvas, _means(losses, steps, SMOOTHED), LOSS, dots=steps <= SMOOTHED)
    if shown and measure is not None:
        better = "higher" if measure.higher_is_better else "lower"
        score.draw(canvas, f"score of held-out pictures: {measure.name}, {better} is better")
        points = [(max(step, BEFORE), value) for step, value in sorted(scores.items())]
        score.draw_level(canvas, points[0][1], f"at step {min(scores)}")
        score.draw_line(canvas, points, SCORE)
    canvas.step_axis(last.steps, last.values.bottom)
    return canvas.tensor()


def _means(losses: Course, steps: int, count: int) -> list[tuple[float, float]]:
    """At most so many points, each the mean of a stretch of the course, at its middle."""
    stretch = max(1, math.ceil(steps / count))
    parts: dict[int, list[tuple[int, float]]] = {}
    for step, value in sorted(losses.items()):
        if math.isfinite(value):
            parts.setdefault((step - 1) // stretch, []).append((step, value))
    return [
        (sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part))
        for part in parts.values()
    ]
