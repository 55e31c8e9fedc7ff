"""Many pictures on one sheet, with some words under each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP = 8
LINE = 14
LEAST_WIDTH = 152  # so that a caption with a seed of twenty digits can be read
MOST_COLUMNS = 8
PAPER, INK = (24, 24, 24), (235, 235, 235)


@dataclass(frozen=True)
class Cell:
    """A small picture (3, H, W) uint8, and the lines under it."""

    picture: Tensor
    lines: Sequence[str]


def thumbnail(picture: Tensor, side: int) -> Tensor:
    """A picture (3, H, W) in 0..1 -> (3, h, w) uint8 in main memory, no side above `side`."""
    height, width = picture.shape[-2:]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = picture[None].float()
    if scale < 1.0:
        small = F.interpolate(small, size, mode="bilinear", antialias=True)
    return (small[0].clamp(0, 1) * 255).round().to("cpu", torch.uint8)


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
    size = (columns * (wide + GAP) + GAP, rows * (high + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    font = ImageFont.load_default()
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        x, y = GAP + column * (wide + GAP), GAP + row * (high + GAP)
        sheet.paste(Image.fromarray(cell.picture.movedim(0, -1).numpy()), (x, y))
        caption = Image.new("RGB", (wide, high - pictures), PAPER)
        draw = ImageDraw.Draw(caption)
        for line, text in enumerate(cell.lines):
            draw.text((0, GAP // 2 + line * LINE), text, fill=INK, font=font)
        sheet.paste(caption, (x, y + pictures))
    return torch.from_numpy(np.array(sheet)).movedim(-1, 0)[None].float() / 255
