"""What the colours of a picture mean: squares with words, in as many rows as the width needs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cnpp_core.consistency.agreement.measure import Legend
from .canvas import LEAST, Canvas, Colour, swatch_length

SHARE = 40  # the width of a picture in heights of its legend's text


class LegendRows:
    """A legend laid out for a width, in text of a size; both in pixels."""

    def __init__(self, legend: Legend, width: float, size: int) -> None:
        self.width, self.size = width, size
        self._entries: list[tuple[float, int, str, Colour]] = []
        x, row, gap = 0.0, 0, size * 1.2
        for word, (red, green, blue) in legend:
            wide = swatch_length(word, size)
            if x > 0 and x + wide > width:
                x, row = 0.0, row + 1
            colour = (round(255 * red), round(255 * green), round(255 * blue))
            self._entries.append((x, row, word, colour))
            x += wide + gap
        self.height = (row + 1) * self._row

    def draw(self, canvas: Canvas, left: int, top: int) -> None:
        """Draw all rows; words wider than the legend are cut."""
        for x, row, word, colour in self._entries:
            middle = top + row * self._row + self._row / 2
            canvas.swatch((left + round(x), middle), colour, word, self.size, width=self.width)

    @property
    def _row(self) -> int:
        return round(self.size * 1.4)


def with_legend(pictures: Tensor, legend: Legend) -> Tensor:
    """pictures (B, 3, H, W) in 0..1 -> (B, 3, H + h, W): the legend in a strip below each.

    h: 14 for a row under a picture of up to 400 pixels; under wider ones text is larger.
    """
    width = pictures.shape[-1]
    size = max(LEAST, width // SHARE)
    margin = size // 2
    rows = LegendRows(legend, width - 2 * margin, size)
    strip = Canvas(width, rows.height)
    rows.draw(strip, margin, 0)
    pixels = strip.tensor().to(pictures)
    return torch.cat([pictures, pixels.expand(pictures.shape[0], -1, -1, -1)], dim=-2)
