"""What feedback did in a sampling: scores and factors over the steps, as a plot."""

from __future__ import annotations

import math

from torch import Tensor

from ..cnpp_core.consistency.agreement.measure import Measure
from ..cnpp_core.consistency.steering.feedback import Feedback, factors_over_steps
from .canvas import TITLE, Canvas, Colour
from .panel import (
    BELOW,
    BETWEEN,
    COLOURS,
    HEIGHT,
    LEFT,
    MARGIN,
    TOP,
    WIDTH,
    Panel,
    round_up,
)

ENTRY, ENTRY_HEIGHT = 96, 20  # pixels of the legend


def panels_of(feedback: Feedback, planned: int = 0) -> tuple[Panel, Panel]:
    """The axes of the scores and, below them, those of the factors."""
    steps = max(planned, feedback.steps[-1].step + 1)
    scores = [s for step in feedback.steps for s in step.scores if math.isfinite(s)]
    high = 1.0
    if not feedback.higher_is_better:
        high = round_up(max([*scores, feedback.settings.target, 1.0]))
    acted = [f for line in factors_over_steps(feedback, steps) for f in line]
    rows = -(-len(feedback.steps[0].scores) // _entries_per_row())
    top = TOP + ENTRY_HEIGHT * rows + 26
    above = Panel.at(top, steps, high)
    return above, Panel.at(top + HEIGHT + BETWEEN, steps, max(2.0, round_up(max(acted))))


def plot(feedback: Feedback, measure: Measure, planned: int = 0) -> Tensor:
    """The picture (1, 3, H, W) in 0..1: scores above with their target, factors below.

    planned: how many steps the sampling has, if known. A factor is drawn at the steps that were
    sampled with it, so it answers the scores of the steps before. At least one look is needed.
    """
    scores, factors = panels_of(feedback, planned)
    canvas = Canvas(LEFT + WIDTH + 2 * MARGIN, int(factors.values.bottom) + BELOW)
    canvas.text((MARGIN, MARGIN - 4), "Consistency Feedback", size=TITLE, anchor="lt")
    pictures = len(feedback.steps[0].scores)
    _draw_legend(canvas, pictures)

    better = "higher" if feedback.higher_is_better else "lower"
    scores.draw(canvas, f"score: {measure.name}, {better} is better")
    for picture in range(pictures):
        points = [(look.step + 1, look.scores[picture]) for look in feedback.steps]
        scores.draw_line(canvas, points, _colour(picture))
    scores.draw_level(canvas, feedback.settings.target, f"target {feedback.settings.target:g}")

    factors.draw(canvas, "factor of the strength, at the steps sampled with it")
    for picture, line in enumerate(factors_over_steps(feedback, factors.steps.count)):
        factors.draw_line(canvas, list(enumerate(line, start=1)), _colour(picture))
    factors.draw_level(canvas, 1.0, "as set in Apply")
    canvas.step_axis(factors.steps, factors.values.bottom)
    return canvas.tensor()


def _draw_legend(canvas: Canvas, pictures: int) -> None:
    per_row = _entries_per_row()
    for picture in range(pictures):
        x = LEFT + ENTRY * (picture % per_row)
        y = TOP + ENTRY_HEIGHT * (picture // per_row)
        canvas.swatch((x, y + 7), _colour(picture), f"picture {picture + 1}")


def _entries_per_row() -> int:
    return WIDTH // ENTRY


def _colour(picture: int) -> Colour:
    return COLOURS[picture % len(COLOURS)]
