"""A pair of axes for values over steps, with lines in it: what the plots of numbers are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .canvas import DARK, Canvas, Colour, Columns, Scale, length

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

    def draw(self, canvas: Canvas, title: str) -> None:
        """Ground, grid, numbers at the left, and the title above."""
        values, right = self.values, LEFT + WIDTH + 1
        canvas.rectangle((LEFT, values.top, right, values.bottom + 1), PANEL)
        canvas.text((LEFT, values.top - 6), title, DARK.faint, anchor="lb", width=WIDTH)
        ticks = values.ticks(4)
        for value in ticks:
            canvas.line([(LEFT, values.y(value)), (LEFT + WIDTH, values.y(value))], DARK.frame)
        canvas.value_axis(values, LEFT, ticks, "left")

    def draw_level(self, canvas: Canvas, value: float, words: str) -> None:
        """A dashed line across, with its name at the right end, on a ground that covers lines."""
        right, y = LEFT + WIDTH, round(self.values.y(value))
        canvas.dashes(LEFT, right, y, TARGET)
        top = y + 4 if y < (self.values.top + self.values.bottom) / 2 else y - 22
        canvas.rectangle((right - length(words) - 12, top, right - 4, top + 18), PANEL)
        canvas.text((right - 8, top + 9), words, TARGET, anchor="rm")

    def draw_line(
        self, canvas: Canvas, points: Curve, colour: Colour, width: int = 2, dots: bool = True
    ) -> None:
        """A line, with a dot at each point; what is not finite is left out."""
        places = [self.place(step, value) for step, value in points if math.isfinite(value)]
        canvas.line(places, colour, width)
        radius = 3 if self.steps.width >= 12 or len(places) <= WIDTH / 12 else 1
        for place in places if dots else ():
            canvas.dot(place, radius, colour)


def round_up(value: float) -> float:
    """The next number of one digit that four intervals divide well: 0.4, 1, 2, 4, 8, 20 ..."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(n * power for n in (1, 2, 4, 8, 10) if n * power >= value * (1 - 1e-9))
