"""A contact sheet: titled columns of pictures with a caption under each, drawn with OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MARGIN = 16
GAP = 10
LINE = 20
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
FONT = cv2.FONT_HERSHEY_SIMPLEX
SIZE_OF_TEXT = 0.45
SIZE_OF_TITLE = 0.7


@dataclass(frozen=True)
class Cell:
    """A picture (S, S, 3) uint8 RGB with an optional line below it."""

    picture: np.ndarray
    note: str = ""


@dataclass(frozen=True)
class Row:
    """Cells from left to right, with a line of text above them."""

    text: str
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class Sheet:
    """`heading` and `lines` on top, then the columns' titles, the rows, and `footer` in colours."""

    heading: str
    lines: Sequence[str]
    columns: Sequence[Sequence[str]]  # lines of text, the first one bold
    rows: Sequence[Row]
    footer: Sequence[tuple[str, tuple[int, int, int]]] = ()

    def draw(self, side: int = 160) -> np.ndarray:
        """The sheet as (H, W, 3) uint8 RGB, every picture scaled to `side` pixels."""
        columns = max([len(self.columns), *(len(row.cells) for row in self.rows)])
        titles = max(len(lines) for lines in self.columns)
        needed = max(
            MARGIN + columns * (side + GAP) - GAP + MARGIN,
            2 * MARGIN + _width(self.heading, SIZE_OF_TITLE),
            *(2 * MARGIN + _width(line) for line in self.lines),
        )
        row_height = LINE + side + LINE + GAP
        top = MARGIN + LINE + 4 + len(self.lines) * LINE + GAP
        height = top + titles * LINE + GAP + len(self.rows) * row_height + LINE + MARGIN
        canvas = np.full((height, needed, 3), PAPER, np.uint8)

        _write(canvas, self.heading, MARGIN, MARGIN + LINE - 4, scale=SIZE_OF_TITLE, bold=True)
        for number, line in enumerate(self.lines, start=1):
            _write(canvas, line, MARGIN, MARGIN + 4 + LINE + number * LINE - 6, FAINT)
        for number, lines in enumerate(self.columns):
            for line, text in enumerate(lines, start=1):
                left = MARGIN + number * (side + GAP)
                _write(canvas, text, left, top + line * LINE - 6, width=side, bold=line == 1)
        y = top + titles * LINE + GAP
        for row in self.rows:
            _write(canvas, row.text, MARGIN, y + LINE - 6, FAINT)
            for number, cell in enumerate(row.cells):
                if cell is not None:
                    _draw_cell(canvas, cell, MARGIN + number * (side + GAP), y + LINE, side)
            y += row_height
        x = MARGIN
        for word, colour in self.footer:
            canvas[y + 4 : y + 16, x : x + 12] = colour
            cv2.rectangle(canvas, (x, y + 4), (x + 11, y + 15), FAINT)
            _write(canvas, word, x + 18, y + 15)
            x += 18 + _width(word) + 2 * GAP
        return canvas


def encode_png(picture: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 RGB as a PNG file."""
    done, data = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a picture of shape {picture.shape} as PNG.")
    return data.tobytes()


def _draw_cell(canvas: np.ndarray, cell: Cell, x: int, y: int, side: int) -> None:
    larger = cell.picture.shape[0] <= side
    way = cv2.INTER_NEAREST if larger else cv2.INTER_AREA
    canvas[y : y + side, x : x + side] = cv2.resize(cell.picture, (side, side), interpolation=way)
    cv2.rectangle(canvas, (x, y), (x + side - 1, y + side - 1), FAINT)
    _write(canvas, cell.note, x, y + side + LINE - 5, width=side)


def _write(
    canvas: np.ndarray,
    text: str,
    x: int,
    y: int,
    colour: tuple[int, int, int] = INK,
    *,
    width: int | None = None,
    scale: float = SIZE_OF_TEXT,
    bold: bool = False,
) -> None:
    """Text with its base line at (x, y); made smaller where it is wider than `width`."""
    if width is not None and _width(text, scale) > width:
        scale *= width / _width(text, scale)
    cv2.putText(canvas, text, (x, y), FONT, scale, colour, 1 + bold, cv2.LINE_AA)


def _width(text: str, scale: float = SIZE_OF_TEXT) -> int:
    return cv2.getTextSize(text, FONT, scale, 2)[0][0]
