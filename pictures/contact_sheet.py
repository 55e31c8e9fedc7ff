"""Many pictures on one sheet, with some words under each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .canvas import Canvas, to_8_bit

GAP = 8
LINE = 18
LEAST_WIDTH = 152  # so that a caption with a seed of twenty digits can be read
MOST_COLUMNS = 8


@dataclass(frozen=True)
class Cell:
    """A small picture (1 or 3, H, W) uint8, and the lines under it."""

    picture: Tensor
    lines: Sequence[str] = ()


def thumbnail(picture: Tensor, side: int) -> Tensor:
    """A picture (3, H, W) in 0..1 -> (3, h, w) uint8 in main memory, no side above `side`."""
    height, width = picture.shape[-2:]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = picture[None].float()
    if scale < 1.0:
        small = F.interpolate(small, size, mode="bilinear", antialias=True)
    return to_8_bit(small[0])


def side_for(count: int) -> int:
    """The longest side of a thumbnail on a sheet of `count` pictures, so that it stays small."""
    return 256 if count <= 32 else 128


def contact_sheet(cells: Sequence[Cell]) -> Tensor:
    """Cells in rows, from left to right -> (1, 3, H, W) in 0..1; words too long are cut.

    About as many rows as columns, up to 8 columns.
    """
    columns = min(MOST_COLUMNS, math.ceil(math.sqrt(len(cells))))
    rows = math.ceil(len(cells) / columns)
    wide = max(LEAST_WIDTH, max(cell.picture.shape[-1] for cell in cells))
    pictures = max(cell.picture.shape[-2] for cell in cells)
    high = pictures + LINE * max(len(cell.lines) for cell in cells) + GAP // 2
    canvas = Canvas(columns * (wide + GAP) + GAP, rows * (high + GAP) + GAP)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        x, y = GAP + column * (wide + GAP), GAP + row * (high + GAP)
        height, width = cell.picture.shape[-2:]
        canvas.frame((x, y, x + width, y + height))
        canvas.picture((x, y), cell.picture)
        for line, words in enumerate(cell.lines):
            canvas.text((x, y + pictures + GAP // 2 + line * LINE), words, width=wide)
    return canvas.tensor()
