"""What feedback did in a sampling: scores and factors over the steps, as a plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..cnpp_core.consistency.agreement.measure import Measure
from ..cnpp_core.consistency.steering.feedback import Feedback, factors_over_steps
from .canvas import DARK, TITLE, Canvas, Colour, Columns, Scale, length

# Eight colours that the colour-blind tell apart (Okabe and Ito), lightened for a dark ground.
COLOURS = (
    (86, 180, 233), (240, 165, 20), (0, 190, 140), (240, 228, 66),
    (235, 115, 60), (214, 135, 180), (130, 150, 255), (205, 205, 205),
)  # fmt: skip
PANEL, TARGET = (33, 36, 41), (255, 255, 255)
# Pixels.
MARGIN, LEFT, TOP = 20, 72, 48
WIDTH, HEIGHT = 680, 190  # of one panel
BETWEEN, BELOW = 46, 54
ENTRY, ENTRY_HEIGHT = 96, 20  # of the legend

Curve = Sequence[tuple[float, float]]  # (step from 1, value)


@dataclass(frozen=True)
class Panel:
    """A pair of axes: every step has a column of its own, values rise from bottom to top."""

    steps: Columns
    values: Scale

    @classmethod
    def at(cls, top: int, steps: int, high: float) -> Panel:
        """The panel whose upper side is ``top``, for that many steps and values from 0."""
        return cls(Columns(LEFT, LEFT + WIDTH, steps), Scale(top + HEIGHT, top, 0.0, high))

    def place(self, step: float, value: float) -> tuple[float, float]:
        """Where a value of a step lies; steps count from 1."""
        return self.steps.middle(step), self.values.y(value)


def panels_of(feedback: Feedback, planned: int = 0) -> tuple[Panel, Panel]:
    """The axes of the scores and, below them, those of the factors."""
    steps = max(planned, feedback.steps[-1].step + 1)
    scores = [s for step in feedback.steps for s in step.scores if math.isfinite(s)]
    high = 1.0
    if not feedback.higher_is_better:
        high = _round_up(max([*scores, feedback.settings.target, 1.0]))
    acted = [f for line in factors_over_steps(feedback, steps) for f in line]
    rows = -(-len(feedback.steps[0].scores) // _entries_per_row())
    top = TOP + ENTRY_HEIGHT * rows + 26
    above = Panel.at(top, steps, high)
    return above, Panel.at(top + HEIGHT + BETWEEN, steps, max(2.0, _round_up(max(acted))))


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
    _draw_panel(canvas, scores, f"score: {measure.name}, {better} is better")
    for picture in range(pictures):
        points = [(look.step + 1, look.scores[picture]) for look in feedback.steps]
        _draw_line(canvas, scores, points, picture)
    _draw_level(canvas, scores, feedback.settings.target, f"target {feedback.settings.target:g}")

    _draw_panel(canvas, factors, "factor of the strength, at the steps sampled with it")
    for picture, line in enumerate(factors_over_steps(feedback, factors.steps.count)):
        _draw_line(canvas, factors, list(enumerate(line, start=1)), picture)
    _draw_level(canvas, factors, 1.0, "as set in Apply")
    canvas.step_axis(factors.steps, factors.values.bottom)
    return canvas.tensor()


def _draw_legend(canvas: Canvas, pictures: int) -> None:
    per_row = _entries_per_row()
    for picture in range(pictures):
        x = LEFT + ENTRY * (picture % per_row)
        y = TOP + ENTRY_HEIGHT * (picture // per_row)
        canvas.swatch((x, y + 7), _colour(picture), f"picture {picture + 1}")


def _draw_panel(canvas: Canvas, panel: Panel, title: str) -> None:
    """Ground, grid, numbers at the left, and the title above."""
    values, right = panel.values, LEFT + WIDTH + 1
    canvas.rectangle((LEFT, values.top, right, values.bottom + 1), PANEL)
    canvas.text((LEFT, values.top - 6), title, DARK.faint, anchor="lb", width=WIDTH)
    ticks = values.ticks(4)
    for value in ticks:
        canvas.line([(LEFT, values.y(value)), (LEFT + WIDTH, values.y(value))], DARK.frame)
    canvas.value_axis(values, LEFT, ticks, "left")


def _draw_level(canvas: Canvas, panel: Panel, value: float, words: str) -> None:
    """A dashed line across, with its name at the right end, on a ground that covers lines."""
    right, y = LEFT + WIDTH, round(panel.values.y(value))
    canvas.dashes(LEFT, right, y, TARGET)
    top = y + 4 if y < (panel.values.top + panel.values.bottom) / 2 else y - 22
    canvas.rectangle((right - length(words) - 12, top, right - 4, top + 18), PANEL)
    canvas.text((right - 8, top + 9), words, TARGET, anchor="rm")


def _draw_line(canvas: Canvas, panel: Panel, points: Curve, picture: int) -> None:
    """A line with a dot at each point; what is not finite is left out."""
    places = [panel.place(step, value) for step, value in points if math.isfinite(value)]
    canvas.line(places, _colour(picture), 2)
    radius = 3 if panel.steps.width >= 12 else 1
    for place in places:
        canvas.dot(place, radius, _colour(picture))


def _entries_per_row() -> int:
    return WIDTH // ENTRY


def _colour(picture: int) -> Colour:
    return COLOURS[picture % len(COLOURS)]


def _round_up(value: float) -> float:
    """The next number of one digit that four intervals divide well: 0.4, 1, 2, 4, 8, 20 ..."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 4, 8, 10) if n * power >= value * (1 - 1e-9))
