"""What feedback did in a sampling: a plot of score and factor over the steps, and the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..cnpp_core.consistency.agreement.measure import Measure
from ..cnpp_core.consistency.steering.feedback import Feedback

# Eight colours that the colour-blind tell apart (Okabe and Ito), lightened for a dark ground.
COLOURS = (
    (86, 180, 233), (240, 165, 20), (0, 190, 140), (240, 228, 66),
    (235, 115, 60), (214, 135, 180), (130, 150, 255), (205, 205, 205),
)  # fmt: skip
GROUND, PANEL, GRID = (24, 26, 30), (33, 36, 41), (54, 58, 66)
WORDS, FAINT, TARGET = (232, 234, 237), (150, 155, 163), (255, 255, 255)
# Pixels.
MARGIN, LEFT, TOP = 20, 72, 48
WIDTH, HEIGHT = 680, 190  # of one panel
BETWEEN, BELOW = 46, 54
ENTRY, ENTRY_HEIGHT = 96, 20  # of the legend

Points = Sequence[tuple[float, float]]  # (step from 1, value)


@dataclass(frozen=True)
class Panel:
    """A pair of axes. Every step has a column of its own; values rise from low to high."""

    top: int
    steps: int
    low: float
    high: float

    @property
    def bottom(self) -> int:
        return self.top + HEIGHT

    def x(self, step: float) -> float:
        """The middle of a step's column; steps count from 1."""
        return LEFT + WIDTH * (step - 0.5) / self.steps

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.bottom - HEIGHT * min(max(share, 0.0), 1.0)


def panels_of(feedback: Feedback, planned: int = 0) -> tuple[Panel, Panel]:
    """The axes of the scores and, below them, those of the factors."""
    steps = step_count(feedback, planned)
    scores = [s for step in feedback.steps for s in step.scores if math.isfinite(s)]
    high = 1.0
    if not feedback.higher_is_better:
        high = _round_up(max([*scores, feedback.settings.target, 1.0]))
    acted = [f for line in factors_over_steps(feedback, steps) for f in line]
    rows = -(-len(feedback.steps[0].scores) // _entries_per_row())
    above = Panel(TOP + ENTRY_HEIGHT * rows + 26, steps, 0.0, high)
    top = above.bottom + BETWEEN
    return above, Panel(top, steps, 0.0, max(2.0, _round_up(max(acted))))


def step_count(feedback: Feedback, planned: int = 0) -> int:
    """Columns of the plot: the planned steps, and never fewer than were looked at."""
    return max(planned, feedback.steps[-1].step + 1)


def factors_over_steps(feedback: Feedback, steps: int) -> list[list[float]]:
    """For each picture the factor that each step was sampled with; 1 before the first look."""
    now: Sequence[float] = [1.0] * len(feedback.steps[0].factors)
    looks = {look.step: look.factors for look in feedback.steps}
    columns = []
    for step in range(steps):
        columns.append(now)
        now = looks.get(step, now)
    return [list(line) for line in zip(*columns, strict=True)]


def plot(feedback: Feedback, measure: Measure, planned: int = 0) -> Tensor:
    """The picture (1, 3, H, W) in 0..1: scores above with their target, factors below.

    planned: how many steps the sampling has, if known. A factor is drawn at the steps that were
    sampled with it, so it answers the scores of the steps before. At least one look is needed.
    """
    scores, factors = panels_of(feedback, planned)
    size = (LEFT + WIDTH + 2 * MARGIN, factors.bottom + BELOW)
    image = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN - 4), "Consistency Feedback", WORDS, _font(18), anchor="lt")
    pictures = len(feedback.steps[0].scores)
    _draw_legend(draw, pictures)

    better = "higher" if feedback.higher_is_better else "lower"
    _draw_panel(draw, scores, f"score: {measure.name}, {better} is better")
    for picture in range(pictures):
        points = [(look.step + 1, look.scores[picture]) for look in feedback.steps]
        _draw_line(draw, scores, points, picture)
    _draw_level(draw, scores, feedback.settings.target, f"target {feedback.settings.target:g}")

    _draw_panel(draw, factors, "factor of the strength, at the steps sampled with it")
    for picture, line in enumerate(factors_over_steps(feedback, factors.steps)):
        _draw_line(draw, factors, list(enumerate(line, start=1)), picture)
    _draw_level(draw, factors, 1.0, "as set in Apply")
    _draw_steps(draw, factors)
    return torch.from_numpy(np.array(image)).movedim(-1, 0)[None].float() / 255


def table(feedback: Feedback, measure: Measure) -> str:
    """A line for every look: scores of all pictures, and the factors that follow from them."""
    header = f"{'step':>4} {'percent':>8}  {measure.name} -> factor from the next step on"
    lines = [header]
    for look in feedback.steps:
        pairs = zip(look.scores, look.factors, strict=True)
        cells = [f"{measure.text(score):>8} -> {factor:.3f}" for score, factor in pairs]
        lines.append(f"{look.step + 1:>4} {look.percent:>8.1%}  {'   '.join(cells)}")
    return "\n".join(lines)


def summary(feedback: Feedback, measure: Measure) -> str:
    """A heading, and for each picture its first and last score and the range of its factors."""
    first, last = feedback.steps[0], feedback.steps[-1]
    looks = len(feedback.steps)
    lines = [
        f"{measure.name}: looked {looks} time{'s' * (looks != 1)}, "
        f"steps {first.step + 1} to {last.step + 1}"
    ]
    for picture, (before, after) in enumerate(zip(first.scores, last.scores, strict=True)):
        factors = [look.factors[picture] for look in feedback.steps]
        lines.append(
            f"picture {picture + 1}: score {measure.text(before)} to {measure.text(after)}, "
            f"factor {min(factors):.2f} to {max(factors):.2f}"
        )
    return "\n".join(lines)


def _draw_legend(draw: ImageDraw.ImageDraw, pictures: int) -> None:
    per_row = _entries_per_row()
    for picture in range(pictures):
        x = LEFT + ENTRY * (picture % per_row)
        y = TOP + ENTRY_HEIGHT * (picture // per_row)
        draw.line((x, y + 7, x + 16, y + 7), _colour(picture), 3)
        draw.text((x + 22, y + 7), f"picture {picture + 1}", WORDS, _font(13), anchor="lm")


def _draw_panel(draw: ImageDraw.ImageDraw, panel: Panel, title: str) -> None:
    """Ground, grid, numbers at the left, and the title above."""
    box = (LEFT, panel.top, LEFT + WIDTH, panel.bottom)
    draw.rectangle(box, PANEL)
    draw.text((LEFT, panel.top - 6), title, FAINT, _font(13), anchor="lb")
    for i in range(5):
        value = panel.low + (panel.high - panel.low) * i / 4
        y = panel.y(value)
        draw.line((LEFT, y, LEFT + WIDTH, y), GRID)
        draw.text((LEFT - 8, y), f"{value:.3g}", WORDS, _font(13), anchor="rm")


def _draw_level(draw: ImageDraw.ImageDraw, panel: Panel, value: float, words: str) -> None:
    """A dashed line across, with its name at the right end, on a ground that covers lines."""
    y = round(panel.y(value))
    for x in range(LEFT, LEFT + WIDTH, 10):
        draw.line((x, y, x + 5, y), TARGET)
    below = y < panel.top + HEIGHT / 2
    place = (LEFT + WIDTH - 8, y + 6 if below else y - 6)
    anchor = "rt" if below else "rb"
    left, top, right, bottom = draw.textbbox(place, words, _font(12), anchor=anchor)
    draw.rectangle((left - 3, top - 2, right + 3, bottom + 2), PANEL)
    draw.text(place, words, TARGET, _font(12), anchor=anchor)


def _draw_line(draw: ImageDraw.ImageDraw, panel: Panel, points: Points, picture: int) -> None:
    """A line with a dot at each point; what is not finite is left out."""
    places = [(panel.x(step), panel.y(value)) for step, value in points if math.isfinite(value)]
    colour = _colour(picture)
    if len(places) > 1:
        draw.line(places, colour, 2, joint="curve")
    radius = 3 if WIDTH / panel.steps >= 12 else 1
    for x, y in places:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def _draw_steps(draw: ImageDraw.ImageDraw, panel: Panel) -> None:
    """Numbers of the steps, as many as there is room for."""
    widest = _font(13).getlength(str(panel.steps)) + 10
    column = WIDTH / panel.steps
    every = next(n for k in range(6) for n in (10**k, 2 * 10**k, 5 * 10**k) if n * column >= widest)
    for step in range(1, panel.steps + 1):
        if step % every == 0 or (step == 1 and (every - 1) * column >= widest):
            place = (panel.x(step), panel.bottom + 8)
            draw.text(place, str(step), WORDS, _font(13), anchor="mt")
    draw.text((LEFT + WIDTH / 2, panel.bottom + 28), "step", FAINT, _font(13), anchor="mt")


def _entries_per_row() -> int:
    return WIDTH // ENTRY


def _colour(picture: int) -> tuple[int, int, int]:
    return COLOURS[picture % len(COLOURS)]


def _round_up(value: float) -> float:
    """The next number of one digit that four intervals divide well: 0.4, 1, 2, 4, 8, 20 ..."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 4, 8, 10) if n * power >= value * (1 - 1e-9))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
