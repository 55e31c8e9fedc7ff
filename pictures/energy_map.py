"""The heat map of residual energies: blocks from fine to coarse, steps from left to right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..cnpp_core.control.energy import EnergyTable, number

# The colour map "viridis" of matplotlib at eight places: lightness rises evenly with the number.
COLOURS = (
    (68, 1, 84), (70, 50, 127), (54, 92, 141), (39, 127, 142),
    (31, 161, 135), (74, 194, 109), (159, 218, 58), (253, 231, 37),
)  # fmt: skip
NOTHING, NOT_FINITE = (48, 51, 57), (220, 50, 47)
GROUND, WORDS, FAINT = (24, 26, 30), (232, 234, 237), (150, 155, 163)
# Pixels.
MARGIN, GAP = 20, 16
ROW, COLUMN, WIDEST = 28, 48, 1008
BAR = 18


@dataclass(frozen=True)
class Layout:
    """Where things are in the picture, in pixels; (left, top) is the first cell's corner."""

    left: int
    top: int
    column: int  # width of a step's cell
    blocks: int
    steps: int

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


def layout_of(table: EnergyTable) -> Layout:
    """The layout of this table's picture: cells as wide as the number of steps allows."""
    names = max(_font(14).getlength(name) for name in table.blocks)
    column = max(1, min(COLUMN, WIDEST // table.steps))
    left, top = MARGIN + int(names) + 12, MARGIN + 74
    return Layout(left, top, column, len(table.blocks), table.steps)


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
    layout = layout_of(table)
    title = f"Residual energy of the {side} rows"
    notes = [_about(table, side), "|residual| / |feature it is added to|"]
    words = max(_font(18).getlength(title), *(_font(13).getlength(note) for note in notes))
    width = max(layout.bar + BAR + 64, int(words) + 2 * MARGIN)
    image = Image.new("RGB", (width, layout.bottom + 54), GROUND)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN - 4), title, WORDS, _font(18), anchor="lt")
    for i, note in enumerate(notes):
        draw.text((MARGIN, MARGIN + 22 + 18 * i), note, FAINT, _font(13), anchor="lt")
    _draw_cells(draw, layout, values, limit)
    _draw_means(draw, layout, table.means(side), limit)
    _draw_axes(draw, layout, table)
    _draw_scale(image, draw, layout, limit, largest > limit)
    return torch.from_numpy(np.array(image)).movedim(-1, 0)[None].float() / 255


def colour(value: float, limit: float) -> tuple[int, int, int]:
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


def _draw_cells(draw: ImageDraw.ImageDraw, layout: Layout, values: Tensor, limit: float) -> None:
    for block in range(layout.blocks):
        for step in range(layout.steps):
            value = float(values[block, step])
            _draw_cell(draw, layout.cell(block, step), value, limit)


def _draw_means(draw: ImageDraw.ImageDraw, layout: Layout, means: Tensor, limit: float) -> None:
    for block, mean in enumerate(means.tolist()):
        _, top, _, bottom = layout.cell(block, 0)
        box = (layout.means, top, layout.means + COLUMN, bottom)
        _draw_cell(draw, box, mean, limit)
    middle = layout.means + COLUMN // 2
    draw.text((middle, layout.bottom + 8), "mean", FAINT, _font(13), anchor="mt")


def _draw_cell(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], value: float, limit: float
) -> None:
    """A coloured cell, with its number where there is room for it."""
    left, top, right, bottom = box
    wide = right - left >= 40
    middle = ((left + right) / 2, (top + bottom) / 2)
    if value != value:
        if wide:
            draw.text(middle, "-", FAINT, _font(13), anchor="mm")
        return
    fill = colour(value, limit) if value else NOTHING
    line = 1 if right - left >= 6 else 0
    draw.rectangle((left, top, right - 1 - line, bottom - 2), fill)
    if wide:
        # Dark words on light colours (weights of the eye's sensitivity, ITU-R BT.601).
        light = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 130
        words = GROUND if light else WORDS if value else FAINT
        draw.text(middle, number(value), words, _font(13), anchor="mm")


def _draw_axes(draw: ImageDraw.ImageDraw, layout: Layout, table: EnergyTable) -> None:
    for block, name in enumerate(table.blocks):
        _, top, _, bottom = layout.cell(block, 0)
        place = (layout.left - 10, (top + bottom) / 2)
        draw.text(place, name, WORDS, _font(14), anchor="rm")
    widest = _font(13).getlength(str(table.steps)) + 10
    every = next(n for k in range(6) for n in (10**k, 2 * 10**k, 5 * 10**k)
                 if n * layout.column >= widest)  # fmt: skip
    first = (every - 1) * layout.column >= widest or every == 1
    for step in range(table.steps):
        if (step + 1) % every == 0 or (step == 0 and first):
            left, _, right, _ = layout.cell(0, step)
            place = ((left + right) / 2, layout.bottom + 8)
            draw.text(place, str(step + 1), WORDS, _font(13), anchor="mt")
    middle = layout.left + layout.column * layout.steps / 2
    draw.text((middle, layout.bottom + 28), "step", FAINT, _font(13), anchor="mt")


def _draw_scale(
    image: Image.Image, draw: ImageDraw.ImageDraw, layout: Layout, limit: float, exceeded: bool
) -> None:
    """The colours from ``limit`` at the top down to 0, with numbers."""
    height = layout.bottom - layout.top - 1
    places = [limit * (1 - y / (height - 1)) for y in range(height)]
    strip = np.array([colour(place, limit) for place in places], np.uint8)[:, None]
    image.paste(Image.fromarray(strip).resize((BAR, height)), (layout.bar, layout.top))
    ticks = 4 if height > 150 else 2 if height > 60 else 1
    for i in range(ticks + 1):
        y = layout.top + (height - 1) * (1 - i / ticks)
        more = "+" if exceeded and i == ticks else ""
        draw.line((layout.bar + BAR, y, layout.bar + BAR + 3, y), FAINT)
        words = f"{limit * i / ticks:.3g}{more}"
        draw.text((layout.bar + BAR + 8, y), words, WORDS, _font(13), anchor="lm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
