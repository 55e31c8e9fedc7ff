"""Pictures side by side under titled columns, with a line above each row: the demo's sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..cnpp_core.consistency.agreement.measure import Legend
from .canvas import LIGHT, TEXT, TITLE, Canvas, length, to_8_bit
from .contact_sheet import Cell
from .legend import LegendRows

MARGIN = 16
GAP = 10
LINE = 20


@dataclass(frozen=True)
class SheetRow:
    """Cells from left to right, None for an empty place, with a line of text above them."""

    text: str
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class ComparisonSheet:
    """`heading` and `lines` on top, then the columns' titles, the rows, and a legend."""

    heading: str
    lines: Sequence[str]
    columns: Sequence[Sequence[str]]  # lines of text, the first one bold
    rows: Sequence[SheetRow]
    legend: Legend = ()

    def draw(self, side: int = 160) -> Canvas:
        """The sheet, dark on white, every picture brought to `side` x `side` pixels."""
        columns = max(len(self.columns), *(len(row.cells) for row in self.rows))
        width = 2 * MARGIN + max(
            columns * (side + GAP) - GAP,
            *(int(length(line)) + 1 for line in self.lines),
            int(length(self.heading, TITLE)) + 2,
        )
        titles = max(len(lines) for lines in self.columns)
        notes = [max((len(c.lines) for c in row.cells if c), default=0) for row in self.rows]
        legend = LegendRows(self.legend, width - 2 * MARGIN, TEXT)
        top = MARGIN + 28 + len(self.lines) * LINE + GAP
        first = top + titles * LINE + GAP
        heights = [LINE + side + 4 + LINE * count + GAP for count in notes]
        canvas = Canvas(width, first + sum(heights) + legend.height + MARGIN, LIGHT)

        self._draw_head(canvas, top, side)
        y = first
        for row, height in zip(self.rows, heights, strict=True):
            canvas.text((MARGIN, y), row.text, LIGHT.faint, width=width - 2 * MARGIN)
            for number, cell in enumerate(row.cells):
                if cell is not None:
                    _draw_cell(canvas, cell, MARGIN + number * (side + GAP), y + LINE, side)
            y += height
        legend.draw(canvas, MARGIN, y)
        return canvas

    def _draw_head(self, canvas: Canvas, top: int, side: int) -> None:
        canvas.text((MARGIN, MARGIN - 4), self.heading, size=TITLE)
        for number, line in enumerate(self.lines):
            canvas.text((MARGIN, MARGIN + 26 + number * LINE), line, LIGHT.faint)
        for number, lines in enumerate(self.columns):
            x = MARGIN + number * (side + GAP)
            for line, words in enumerate(lines):
                canvas.text((x, top + line * LINE), words, width=side, bold=line == 0)


def _draw_cell(canvas: Canvas, cell: Cell, x: int, y: int, side: int) -> None:
    canvas.frame((x, y, x + side, y + side))
    canvas.picture((x, y), _resized(cell.picture, side))
    for line, words in enumerate(cell.lines):
        canvas.text((x, y + side + 4 + line * LINE), words, width=side)


def _resized(picture: Tensor, side: int) -> Tensor:
    """(1 or 3, H, W) uint8 -> (same, side, side): whole pixels where it is a multiple."""
    height, width = picture.shape[-2:]
    if side % height == 0 and side % width == 0:
        return F.interpolate(picture[None], (side, side), mode="nearest")[0]
    small = picture[None].float() / 255
    return to_8_bit(F.interpolate(small, (side, side), mode="bicubic", antialias=True)[0])
