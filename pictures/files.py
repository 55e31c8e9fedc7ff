"""Reading picture files of every depth, upright, and finding them by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
TURNED = range(5, 9)  # values of EXIF_ORIENTATION that swap width and height
EXIF_ORIENTATION = 0x0112


class Source(Protocol):
    """A file, or what is read like one, such as a part of an archive; its str() names it."""

    def open(self, mode: Literal["rb"], /) -> IO[bytes]: ...


def read_picture(source: Source) -> Tensor:
    """(1, 3, H, W) in 0..1, upright; transparency is dropped. ValueError for what can't be read."""
    return _read(source, lambda image: image.convert("RGB")).expand(-1, 3, -1, -1)


def read_condition(source: Source, numbers: bool = False) -> Tensor:
    """(1, 1 or 3, H, W) in 0..1, upright: one channel for grey files.

    numbers: a file with a palette or one channel holds class numbers, which stay as they are / 255.
    16-bit grey is divided by 65535. Raises ValueError for what can't be read.
    """

    def plain(image: Image.Image) -> Image.Image:
        keep = image.mode == "L" or (image.mode == "P" and numbers)
        return image if keep else image.convert("RGB")

    return _read(source, plain, numbers)


def read_size(source: Source) -> tuple[int, int]:
    """Width and height of the upright picture, from the head of the file alone.

    Raises ValueError for what can't be read.
    """
    try:
        with source.open("rb") as file, Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(EXIF_ORIENTATION) in TURNED
    except Exception as error:  # as below
        raise _unreadable(source, error) from error
    return (height, width) if turned else (width, height)


def by_name(folder: Path, what: str) -> dict[str, Path]:
    """The picture files in a folder by their names without suffix, sorted.

    Raises ValueError if the folder isn't there, naming what it should hold, or if two have a name.
    """
    files = [
        file
        for file in sorted(folder_of(folder, what).iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    names: dict[str, Path] = {}
    for file in files:
        if file.stem in names:
            raise ValueError(f"{names[file.stem]} and {file} have one name; which one is meant?")
        names[file.stem] = file
    return names


def folder_of(folder: Path, what: str) -> Path:
    """The folder; ValueError if it isn't there, naming what was looked for in it."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} with {what}.")
    return folder


def _read(
    source: Source, plain: Callable[[Image.Image], Image.Image], numbers: bool = False
) -> Tensor:
    """The file's pixels in 0..1: those of `plain`, or one channel where it holds more than 8 bits.

    A camera's file says how it was held (EXIF), as every program shows it.
    """
    try:
        with source.open("rb") as file, Image.open(file) as image:
            upright = ImageOps.exif_transpose(image)
            deep = upright.mode.startswith(("I", "F"))
            # PIL cuts such numbers off at 255 when it converts them.
            pixels = np.array(upright if deep else plain(upright))
    except Exception as error:  # PIL's readers raise whatever a broken file makes them raise
        raise _unreadable(source, error) from error
    if deep:
        pixels = _in_8_bit_steps(pixels.astype(np.float64), upright.mode, numbers, source)
    tensor = torch.from_numpy(pixels)
    return (tensor[None] if tensor.ndim == 2 else tensor.movedim(-1, 0))[None].float() / 255


def _unreadable(source: Source, error: Exception) -> ValueError:
    reason = str(error) or type(error).__name__
    return ValueError(f"{source} can't be read as a picture: {reason}")


def _in_8_bit_steps(pixels: np.ndarray, mode: str, numbers: bool, source: Source) -> np.ndarray:
    """Integers of 16 bits or floats in 0..1, times what makes them 0..255."""
    low, high = float(pixels.min()), float(pixels.max())
    if mode == "F":
        if not (low >= 0 and high <= 1):  # also for NaN
            raise ValueError(
                f"{source} holds floats from {low:g} to {high:g}; they must lie in 0..1. Save it "
                "with 8 or 16 bits, or divide it."
            )
        return pixels * 255
    if not (low >= 0 and high <= 65535):
        raise ValueError(
            f"{source} holds integers from {low:g} to {high:g}; they must lie in 0..65535. Save it "
            "with 8 or 16 bits."
        )
    if high > 255 or high == 0:
        return pixels / 257
    if numbers:
        return pixels
    raise ValueError(
        f"{source} has 16 bits, but nothing in it is above {high:g} of 65535, which is black. Save "
        "numbers of 0 to 255 with 8 bits."
    )
