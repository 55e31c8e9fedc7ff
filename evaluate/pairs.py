"""Which pictures belong to which condition."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..pictures.files import by_name, folder_of, read_picture

log = logging.getLogger(__name__)


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
    wanted = by_name(conditions, "conditions")
    groups = sorted(
        folder for folder in folder_of(pictures, "pictures").iterdir() if folder.is_dir()
    )
    found: dict[str, list[Path]] = {}
    for folder in (pictures, *groups):
        for name, file in by_name(folder, "pictures").items():
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


def _example(names: dict) -> str:
    return next(iter(names), "none")
