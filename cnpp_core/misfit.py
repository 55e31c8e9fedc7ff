"""What a ControlNet reads, by its name, and whether a picture plainly is nothing of the sort.

Both are guesses, so they are for remarks only, and where a name does not say it nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from .condition import Condition

# Words in the names of published ControlNets that read photographs, or anything at all.
PICTURE_READERS = (
    *("tile", "inpaint", "inpainting", "repaint", "outpaint", "ip2p", "shuffle", "blur", "upscale"),
    *("upscaler", "recolor", "recolour", "colorize", "color", "luminance", "gray", "grey"),
    *("brightness", "illumination", "relight", "light", "reference", "qr", "qrcode", "anytest"),
    *("face", "mediapipe", "union", "promax"),
)
# Names that diffusers gives to every file: the folder's says more.
NAMELESS = re.compile(r"(diffusion pytorch )?model( fp16| bf16)?")

LOOKED_AT = 1 << 14  # pixels: shares of them are within a percent of those of the whole picture
GOLDEN = 0.6180339887498949  # steps of it hit columns and rows evenly, whatever the width


def kinds_named(name: str) -> tuple[Condition, ...]:
    """The kinds that a ControlNet of this name reads; none where the name does not say."""
    words = f" {_words(name)} "
    if any(f" {word} " in words for word in PICTURE_READERS):
        return ()
    return tuple(
        kind for kind in Condition if any(f" {word} " in words for word in kind.value.words)
    )


def kinds_of_file(path: PurePath) -> tuple[Condition, ...]:
    """As `kinds_named`; where a file is named as diffusers names all of them, by its folder."""
    return kinds_named(path.parent.name if NAMELESS.fullmatch(_words(path.stem)) else path.stem)


def misfit(picture: Tensor, kinds: Sequence[Condition], classes: Sequence[Any]) -> str:
    """Why a picture (C, H, W) in 0..1 is plainly of none of these kinds, "" if it may be of one.

    classes: as for `Condition.measure`. It takes a few milliseconds, whatever the size.
    """
    pixels = _some_pixels(picture)
    problems = [kind.measure(classes=classes).misfit(pixels) for kind in kinds]
    if not problems or not all(problems):
        return ""
    labels = " or ".join(kind.value.label for kind in kinds)
    return (
        f"This ControlNet seems to read {labels}, but its image is no such condition: {problems[0]}"
    )


def _words(name: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))


def _some_pixels(picture: Tensor) -> Tensor:
    """(C, H, W) -> (C, 1, N) float: pixels from all over, every one of a small picture."""
    pixels = picture.flatten(1)
    count = pixels.shape[1]
    if count > LOOKED_AT:
        places = torch.arange(LOOKED_AT, dtype=torch.float64) * GOLDEN % 1 * count
        pixels = pixels[:, places.long().to(pixels.device)]
    return pixels[:, None].float()
