"""The heat map of residual energies: blocks from fine to coarse, steps from left to right."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..cnpp_core.control.energy import EnergyTable, number
from .canvas import DARK, TITLE, Box, Canvas, Colour, Columns, Scale, length

# The colour map "viridis" of matplotlib at eight places: lightness rises evenly with the number.
COLOURS = (
    (68, 1, 84), (70, 50, 127), (54, 92, 141), (39, 127, 142),
    (31, 161, 135), (74, 194, 109), (159, 218, 58), (253, 231, 37),
)  # fmt: skip
NOTHING, NOT_FINITE = (48, 51, 57), (220, 50, 47)
# Pixels.
MARGIN, GAP = 20, 16
ROW, COLUMN, WIDEST = 28, 48, 1008
BAR = 18


@dataclass(frozen=True)
class CellGrid:
    """Where the cells and what is beside them lie, in pixels; (left, top) is the first corner."""

    left: int
    top: int
    column: int  # width of a step's cell
    blocks: int
    steps: int

    @property
    def columns(self) -> Columns:
        """The columns of the steps, for the axis below them."""
        return Columns(self.left, self.left + self.column * self.steps, self.steps)

    @property
    def means(self) -> int:
        """Left side of the column of means."""
        return self.left + self.column * self.steps + GAP

    @property
    def bar(self) -> int:
        """Left side of the colour scale."""
        return self.means + COLUMN + GAP

    @property
    def bottom(self) -> int:
        return self.top + ROW * self.blocks

    def cell(self, block: int, step: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a cell, the last two not included."""
        x, y = self.left + self.column * step, self.top + ROW * block
        return x, y, x + self.column, y + ROW


def grid_of(table: EnergyTable) -> CellGrid:
    """The grid of this table: cells as wide as the number of steps allows."""
    names = max(length(name) for name in table.blocks)
    column = max(1, min(COLUMN, WIDEST // table.steps))
    left, top = MARGIN + int(names) + 12, MARGIN + 74
    return CellGrid(left, top, column, len(table.blocks), table.steps)


def heat_map(table: EnergyTable, limit: float = 0.0) -> Tensor:
    """The picture (1, 3, H, W) in 0..1 of the side that the table shows.

    limit: the number that gets the last colour, and all above it; 0 stands for the largest one.
    Cells where nothing was added are grey, those of steps without a call empty, and those of
    numbers that are not finite red.
    """
    side, values = table.shown
    finite = values[values.isfinite()]
    largest = float(finite.max()) if len(finite) else 0.0
    limit = limit or largest or 1.0
    grid = grid_of(table)
    title = f"Residual energy of the {side} rows"
    notes = [_about(table, side), "|residual| / |feature it is added to|"]
    words = max(length(title, TITLE), *(length(note) for note in notes))
    width = max(grid.bar + BAR + 64, int(words) + 2 * MARGIN)
    canvas = Canvas(width, grid.bottom + 54)
    canvas.text((MARGIN, MARGIN - 4), title, size=TITLE, anchor="lt")
    for i, note in enumerate(notes):
        canvas.text((MARGIN, MARGIN + 22 + 18 * i), note, DARK.faint, anchor="lt")
    for block, name in enumerate(table.blocks):
        for step in range(grid.steps):
            _draw_cell(canvas, grid.cell(block, step), float(values[block, step]), limit)
        _, top, _, bottom = grid.cell(block, 0)
        canvas.text((grid.left - 10, (top + bottom) / 2), name, anchor="rm")
    canvas.step_axis(grid.columns, grid.bottom)
    _draw_means(canvas, grid, table.means(side), limit)
    _draw_scale(canvas, grid, limit, largest > limit)
    return canvas.tensor()


def colour(value: float, limit: float) -> Colour:
    """The colour of a number, ``limit`` and above it getting the last one."""
    if value == float("inf"):
        return NOT_FINITE
    place = min(max(value / limit, 0.0), 1.0) * (len(COLOURS) - 1)
    i = min(int(place), len(COLOURS) - 2)
    mixed = (a + (b - a) * (place - i) for a, b in zip(COLOURS[i], COLOURS[i + 1], strict=True))
    red, green, blue = (round(part) for part in mixed)
    return red, green, blue


def _about(table: EnergyTable, side: str) -> str:
    if table.is_silent:
        return "Nothing was added to the UNet."
    block, step = table.hottest(side)
    value = number(table.sides[side][block, step])
    return f"largest: {value} in {table.blocks[block]} at step {step + 1} of {table.steps}"


def _draw_means(canvas: Canvas, grid: CellGrid, means: Tensor, limit: float) -> None:
    for block, mean in enumerate(means.tolist()):
        _, top, _, bottom = grid.cell(block, 0)
        _draw_cell(canvas, (grid.means, top, grid.means + COLUMN, bottom), mean, limit)
    middle = grid.means + COLUMN // 2
    canvas.text((middle, grid.bottom + 8), "mean", DARK.faint, anchor="mt")


def _draw_cell(canvas: Canvas, box: Box, value: float, limit: float) -> None:
    """A coloured cell, with its number where there is room for it."""
    left, top, right, bottom = box
    wide = right - left >= 40
    middle = ((left + right) / 2, (top + bottom) / 2)
    if value != value:
        if wide:
            canvas.text(middle, "-", DARK.faint, anchor="mm")
        return
    fill = colour(value, limit) if value else NOTHING
    line = 1 if right - left >= 6 else 0
    canvas.rectangle((left, top, right - line, bottom - 1), fill)
    if wide:
        # Dark words on light colours (weights of the eye's sensitivity, ITU-R BT.601).
        light = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 130
        words = DARK.ground if light else DARK.words if value else DARK.faint
        canvas.text(middle, number(value), words, anchor="mm")


def _draw_scale(canvas: Canvas, grid: CellGrid, limit: float, exceeded: bool) -> None:
    """The colours from ``limit`` at the top down to 0, with numbers."""
    left, right, top, last = grid.bar, grid.bar + BAR, grid.top, grid.bottom - 2
    scale = Scale(last, top, 0.0, limit)
    for y in range(top, last + 1):
        value = limit * (last - y) / (last - top)
        canvas.rectangle((left, y, right, y + 1), colour(value, limit))
    height = last - top
    ticks = scale.ticks(4 if height > 150 else 2 if height > 60 else 1)
    for value in ticks:
        canvas.line([(right, scale.y(value)), (right + 3, scale.y(value))], DARK.faint)
    canvas.value_axis(scale, right, ticks, "right", and_more=exceeded)
