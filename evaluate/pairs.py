"""Which pictures belong to which condition, and reading them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """One condition and the pictures that were made from it."""

    name: str
    condition: Path
    pictures: tuple[Path, ...]

    @property
    def stamp(self) -> list[int]:
        """Changes when a file does: sizes and times."""
        files = [file.stat() for file in (self.condition, *self.pictures)]
        return [number for found in files for number in (found.st_size, found.st_mtime_ns)]


def find_pairs(pictures: Path, conditions: Path) -> list[Pair]:
    """Pairs by file name without suffix, sorted by it.

    Pictures lie in the folder itself or in sub-folders, one for each group of pictures, e.g.
    `group_0/7.png` to `group_3/7.png` for `7.png`. Conditions without pictures are skipped with a
    log line. Raises ValueError if no name is in both.
    """
    wanted = _by_name(conditions, "conditions")
    groups = sorted(folder for folder in _folder(pictures, "pictures").iterdir() if folder.is_dir())
    found: dict[str, list[Path]] = {}
    for folder in (pictures, *groups):
        for name, file in _by_name(folder, "pictures").items():
            found.setdefault(name, []).append(file)
    pairs = [
        Pair(name, file, tuple(found[name]))
        for name, file in sorted(wanted.items())
        if name in found
    ]
    if not pairs:
        raise ValueError(
            f"No picture in {pictures} has the name of a condition in {conditions} "
            f"({len(found)} pictures such as {_example(found)}, {len(wanted)} conditions such as "
            f"{_example(wanted)}). Name every picture like its condition."
        )
    if len(pairs) < len(wanted):
        log.info("%d of %d conditions have no picture", len(wanted) - len(pairs), len(wanted))
    counts = {len(pair.pictures) for pair in pairs}
    if len(counts) > 1:
        log.info("conditions have %d to %d pictures each", min(counts), max(counts))
    return pairs


def read_picture(path: Path) -> Tensor:
    """(1, 3, H, W) in 0..1, upright; transparency is dropped. ValueError for what can't be read."""
    return _read(path, lambda image: image.convert("RGB")).expand(-1, 3, -1, -1)


def read_condition(path: Path, numbers: bool = False) -> Tensor:
    """(1, 1 or 3, H, W) in 0..1, upright: one channel for grey files.

    numbers: a file with a palette or one channel holds class numbers, which stay as they are / 255.
    16-bit grey is divided by 65535. Raises ValueError for what can't be read.
    """

    def plain(image: Image.Image) -> Image.Image:
        keep = image.mode == "L" or (image.mode == "P" and numbers)
        return image if keep else image.convert("RGB")

    return _read(path, plain, numbers)


def read_batch(paths: Sequence[Path]) -> Tensor:
    """Pictures of one size, (B, 3, H, W); ValueError naming the files if sizes differ."""
    pictures = [read_picture(path) for path in paths]
    for path, picture in zip(paths, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise ValueError(
                f"{path} is {picture.shape[-1]}x{picture.shape[-2]} pixels and {paths[0]} "
                f"{pictures[0].shape[-1]}x{pictures[0].shape[-2]}; the pictures of one condition "
                "need one size."
            )
    return torch.cat(pictures)


def _read(path: Path, plain: Callable[[Image.Image], Image.Image], numbers: bool = False) -> Tensor:
    """The file's pixels in 0..1: those of `plain`, or one channel where it holds more than 8 bits.

    A camera's file says how it was held (EXIF), as every program shows it.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            deep = upright.mode.startswith(("I", "F"))
            # PIL cuts such numbers off at 255 when it converts them.
            pixels = np.array(upright if deep else plain(upright))
    except Exception as error:  # PIL's readers raise whatever a broken file makes them raise
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path} can't be read as a picture: {reason}") from error
    if deep:
        pixels = _in_8_bit_steps(pixels.astype(np.float64), upright.mode, numbers, path)
    tensor = torch.from_numpy(pixels)
    return (tensor[None] if tensor.ndim == 2 else tensor.movedim(-1, 0))[None].float() / 255


def _in_8_bit_steps(pixels: np.ndarray, mode: str, numbers: bool, path: Path) -> np.ndarray:
    """Integers of 16 bits or floats in 0..1, times what makes them 0..255."""
    low, high = float(pixels.min()), float(pixels.max())
    if mode == "F":
        if not (low >= 0 and high <= 1):  # also for NaN
            raise ValueError(
                f"{path} holds floats from {low:g} to {high:g}; they must lie in 0..1. Save it "
                "with 8 or 16 bits, or divide it."
            )
        return pixels * 255
    if not (low >= 0 and high <= 65535):
        raise ValueError(
            f"{path} holds integers from {low:g} to {high:g}; they must lie in 0..65535. Save it "
            "with 8 or 16 bits."
        )
    if high > 255 or high == 0:
        return pixels / 257
    if numbers:
        return pixels
    raise ValueError(
        f"{path} has 16 bits, but nothing in it is above {high:g} of 65535, which is black. Save "
        "numbers of 0 to 255 with 8 bits."
    )


def _by_name(folder: Path, what: str) -> dict[str, Path]:
    files = [
        file for file in sorted(_folder(folder, what).iterdir()) if file.suffix.lower() in SUFFIXES
    ]
    names: dict[str, Path] = {}
    for file in files:
        if file.stem in names:
            raise ValueError(f"{names[file.stem]} and {file} have one name; which one is meant?")
        names[file.stem] = file
    return names


def _folder(folder: Path, what: str) -> Path:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} with {what}.")
    return folder


def _example(names: dict) -> str:
    return next(iter(names), "none")
