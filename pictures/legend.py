"""A line under a picture that says what its colours mean."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..cnpp_core.consistency.agreement.measure import Legend

SQUARE = 8
GAP = 4
LINE = 14


def with_legend(pictures: Tensor, legend: Legend) -> Tensor:
    """pictures (B, 3, H, W) in 0..1 -> (B, 3, H + rows * 14, W): coloured squares with words.

    As many rows as the width needs; a word wider than the picture is cut.
    """
    width = pictures.shape[-1]
    font = ImageFont.load_default()
    place, places = [GAP, 0], []
    for word, colour in legend:
        length = SQUARE + GAP + int(font.getlength(word))
        if place[0] > GAP and place[0] + length > width:
            place = [GAP, place[1] + LINE]
        places.append((*place, word, colour))
        place[0] += length + 2 * GAP
    strip = Image.new("RGB", (width, place[1] + LINE))
    draw = ImageDraw.Draw(strip)
    for x, y, word, colour in places:
        top = y + (LINE - SQUARE) // 2
        fill = tuple(round(255 * value) for value in colour)
        draw.rectangle((x, top, x + SQUARE - 1, top + SQUARE - 1), fill=fill)
        draw.text((x + SQUARE + GAP, y + 1), word, fill=(255, 255, 255), font=font)
    pixels = torch.from_numpy(np.array(strip)).movedim(-1, 0).to(pictures) / 255
    return torch.cat([pictures, pixels.expand(pictures.shape[0], -1, -1, -1)], dim=-2)
