"""The one canvas that all pictures of numbers are drawn on: colours, text that fits, axes."""

from __future__ import annotations

import bisect
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[int, int, int]  # RGB, 0..255
Point = tuple[float, float]  # pixels from the left and from the top
Box = tuple[float, float, float, float]  # left, top, right, bottom; the last two not included

# Sizes of text in pixels. Below LEAST nobody can read it.
LEAST, TEXT, TITLE = 10, 13, 18
BOLDER = 0.5  # pixels by which bold strokes are wider


@dataclass(frozen=True)
class Theme:
    """Colours of the ground, of what is read first, of what stands back, and of lines around."""

    ground: Colour
    words: Colour
    faint: Colour
    frame: Colour


DARK = Theme((24, 26, 30), (232, 234, 237), (150, 155, 163), (54, 58, 66))
LIGHT = Theme((255, 255, 255), (20, 20, 20), (110, 110, 110), (150, 150, 150))


@dataclass(frozen=True)
class Columns:
    """Columns of one width from ``left`` to ``right``, one for each sampling step."""

    left: float
    right: float
    count: int

    @property
    def width(self) -> float:
        return (self.right - self.left) / self.count

    def middle(self, step: float) -> float:
        """The x of a step; steps count from 1."""
        return self.left + self.width * (step - 0.5)


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` at the pixel ``bottom`` to ``high`` at ``top``."""

    bottom: float
    top: float
    low: float
    high: float

    def y(self, value: float) -> float:
        """Where a value lies; one outside of the scale lies at its nearer end."""
        share = (value - self.low) / (self.high - self.low)
        return self.bottom - (self.bottom - self.top) * min(max(share, 0.0), 1.0)

    def ticks(self, intervals: int) -> list[float]:
        """The values between so many equal intervals, both ends included."""
        return [self.low + (self.high - self.low) * i / intervals for i in range(intervals + 1)]


class Canvas:
    """A picture of ``width`` x ``height`` pixels in the colours of ``theme``, drawn bit by bit."""

    def __init__(self, width: int, height: int, theme: Theme = DARK) -> None:
        self.theme = theme
        self._image = Image.new("RGB", (width, height), theme.ground)
        self._draw = ImageDraw.Draw(self._image)

    def text(
        self,
        point: Point,
        words: str,
        colour: Colour | None = None,
        size: int = TEXT,
        anchor: str = "la",
        *,
        width: float = math.inf,
        bold: bool = False,
    ) -> None:
        """Words on one line, no wider than ``width`` (see `fitted`); anchor as Pillow names it."""
        words, fitting = fitted(words, size, width - BOLDER * bold)
        x, y = point
        for shift in (0.0, BOLDER)[: 1 + bold]:  # the font has no bold face
            self._draw.text(
                (x + shift, y), words, colour or self.theme.words, _font(fitting), anchor=anchor
            )

    def rectangle(self, box: Box, colour: Colour) -> None:
        left, top, right, bottom = box
        if right > left and bottom > top:
            self._draw.rectangle((left, top, right - 1, bottom - 1), colour)

    def frame(self, box: Box) -> None:
        """A thin line just outside of a box."""
        left, top, right, bottom = box
        self._draw.rectangle((left - 1, top - 1, right, bottom), outline=self.theme.frame)

    def line(self, points: Sequence[Point], colour: Colour, width: int = 1) -> None:
        """Straight lines from point to point; fewer than two draw nothing."""
        if len(points) > 1:
            self._draw.line(points, colour, width, joint="curve")

    def dashes(self, left: int, right: int, y: int, colour: Colour) -> None:
        """A dashed line from ``left`` to ``right`` at the height ``y``, in pixels."""
        for x in range(left, right, 10):
            self._draw.line((x, y, min(x + 5, right), y), colour)

    def dot(self, point: Point, radius: int, colour: Colour) -> None:
        x, y = point
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)

    def swatch(
        self,
        point: Point,
        colour: Colour,
        words: str,
        size: int = TEXT,
        *,
        width: float = math.inf,
    ) -> None:
        """A square in a colour with words right of it, both no wider than ``width``.

        point: the left side of the square, and its middle from top to bottom.
        """
        x, y = point
        side = _swatch_side(size)
        top = round(y - side / 2)
        self.frame((x, top, x + side, top + side))
        self.rectangle((x, top, x + side, top + side), colour)
        left = side + size // 2
        self.text((x + left, y), words, size=size, anchor="lm", width=width - left)

    def picture(self, corner: tuple[int, int], picture: Tensor) -> None:
        """Lay a picture (1 or 3, H, W) uint8 down, its upper left corner at ``corner``."""
        pixels = picture.expand(3, -1, -1).movedim(0, -1).contiguous()
        self._image.paste(Image.fromarray(pixels.numpy()), corner)

    def step_axis(self, columns: Columns, y: float) -> None:
        """Below y the numbers of the steps, as many as there is room for, and the word "step"."""
        needed = length(str(columns.count)) + 10
        every = next(
            n for k in itertools.count() for n in (10**k, 2 * 10**k, 5 * 10**k)
            if n * columns.width >= needed
        )  # fmt: skip
        steps = list(range(every, columns.count + 1, every))
        if (every - 1) * columns.width >= needed:
            steps.insert(0, 1)
        for step in steps:
            self.text((columns.middle(step), y + 8), str(step), anchor="mt")
        middle = (columns.left + columns.right) / 2
        self.text((middle, y + 28), "step", self.theme.faint, anchor="mt")

    def value_axis(
        self, scale: Scale, x: float, ticks: Sequence[float], side: str, and_more: bool = False
    ) -> None:
        """The numbers of ``ticks`` on the "left" or "right" of x, the last with a + if wanted."""
        shift, anchor = (-8, "rm") if side == "left" else (8, "lm")
        for value in ticks:
            plus = "+" if and_more and value == ticks[-1] else ""
            self.text((x + shift, scale.y(value)), f"{value:.3g}{plus}", anchor=anchor)

    def tensor(self) -> Tensor:
        """The picture (1, 3, H, W) float in 0..1."""
        return torch.from_numpy(np.array(self._image)).movedim(-1, 0)[None].float() / 255

    def png(self) -> bytes:
        """The picture as the bytes of a PNG file."""
        file = io.BytesIO()
        self._image.save(file, "PNG", optimize=True)
        return file.getvalue()


def to_8_bit(picture: Tensor) -> Tensor:
    """A picture (...) in 0..1 -> uint8 in main memory, rounded; values outside are clipped."""
    return (picture.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)


def length(words: str, size: int = TEXT) -> float:
    """How wide a line of text is, in pixels."""
    return _font(size).getlength(_on_one_line(words))


def swatch_length(words: str, size: int = TEXT) -> float:
    """How wide a swatch with its words is, in pixels."""
    return _swatch_side(size) + size // 2 + length(words, size)


def fitted(words: str, size: int, width: float) -> tuple[str, int]:
    """Words and a size at which they are no wider than ``width``: smaller, and at LEAST cut."""
    words = _on_one_line(words)
    wanted = length(words, size)
    if wanted <= width:
        return words, size
    size = max(min(size, LEAST), int(size * width / wanted))
    if length(words, size) <= width:
        return words, size
    counts = range(len(words) + 1)
    kept = bisect.bisect_right(counts, width, key=lambda n: length(words[:n].rstrip() + "…", size))
    return (words[: kept - 1].rstrip() + "…" if kept else ""), size


def _on_one_line(words: str) -> str:
    return " ".join(words.splitlines())


def _swatch_side(size: int) -> int:
    return round(size * 0.8)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
