"""Where training data comes from: a folder, or the lists of other nodes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from ....cnpp_core.training.data.encoded import Encoded
from ....cnpp_core.training.data.records import Problems, Record
from ....dataset.fill50k import LISTING, read_fill50k
from ....dataset.folders import read_folders
from .data import NODE, digest, kept, prompt_of, require_latents

DOWNSCALE = 8


def folder_records(folder: str, conditions: str, problems: Problems) -> list[Record]:
    """Of a folder with prompt.json, or with NAME.png and NAME.txt; see `dataset`.

    Relative paths begin in the host's input folder. Raises ValueError for folders that are not
    there, and as the readers do.
    """
    if not folder.strip():
        raise ValueError(
            f"{NODE}: source is folder, and folder is empty. Write a path, or the name of a folder "
            "in ComfyUI's input folder."
        )
    place = folder_path(folder)
    if (place / LISTING).is_file():
        if conditions.strip():
            raise ValueError(
                f"{NODE}: {place / LISTING} names the condition of each picture, and "
                f"conditions_folder is {conditions}. Clear it, or move {LISTING} away."
            )
        return read_fill50k(place, problems)
    return read_folders(place, folder_path(conditions) if conditions.strip() else None, problems)


def listed_records(
    images: Sequence[Tensor], captions: Sequence[str], conditions: Sequence[Tensor]
) -> list[Record]:
    """Of lists of IMAGE and STRING; conditions may be empty. ValueError where they don't match."""
    pictures = _pictures(images)
    wanted = _pictures(conditions)
    _require_alike("captions", len(captions), len(pictures))
    if conditions:
        _require_alike("conditions", len(wanted), len(pictures))
    records = []
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True), 1):
        if not caption.strip():
            raise ValueError(
                f"{NODE}: caption {number} of {len(captions)} is empty. Write what the picture "
                "shows; from a folder, that is a .txt file of the picture's name."
            )
        if picture.shape[1] < 3:
            raise ValueError(
                f"{NODE}: picture {number} has {picture.shape[1]} channels, expected 3."
            )
        condition = wanted[number - 1] if conditions else None
        if condition is not None and condition.shape[-2:] != picture.shape[-2:]:
            raise ValueError(
                f"{NODE}: picture {number} is {_size(picture)} pixels and condition {number} "
                f"{_size(condition)}; both must be of one size. Are the lists in the same order?"
            )
        read = None if condition is None else partial(_same, condition)
        rgb = picture[:, :3]
        records.append(
            Record(
                f"picture {number}",
                (picture.shape[-1], picture.shape[-2]),
                caption.strip(),
                digest(rgb),
                partial(_same, rgb),
                read,
            )
        )
    return records


def listed_rows(
    latents: Sequence[dict[str, Any]], prompts: Sequence[Any], conditions: Sequence[Tensor]
) -> list[Encoded]:
    """Of lists of LATENT, CONDITIONING and IMAGE; ValueError where they don't match."""
    samples = [
        one
        for number, latent in enumerate(latents, 1)
        for one in require_latents(latent["samples"], f"latent {number} holds").split(1)
    ]
    wanted = _pictures(conditions)
    if not wanted:
        raise ValueError(
            f"{NODE}: latents are connected and conditions are not. Connect the list of condition "
            "images; an annotator finds them in pictures only, so connect images instead of "
            "latents to have them found."
        )
    _require_alike("conditioning", len(prompts), len(samples), "latents")
    _require_alike("conditions", len(wanted), len(samples), "latents")
    return [
        Encoded(kept(one), prompt_of(prompt, f"conditioning {number}"), condition)
        for number, (one, prompt, condition) in enumerate(
            zip(samples, prompts, wanted, strict=True), 1
        )
    ]


def _pictures(images: Sequence[Tensor]) -> list[Tensor]:
    """(1, C, H, W) each, of a list of IMAGE, which may be batches."""
    return [kept(one).movedim(-1, 1).contiguous() for batch in images for one in batch.split(1)]


def _require_alike(what: str, found: int, expected: int, of: str = "images") -> None:
    if found != expected:
        raise ValueError(
            f"{NODE}: there are {expected} {of} and {found} {what}, expected one for each. Lists "
            "are paired in their order: take both from the same node, or from folders that hold "
            "the same names."
        )


def folder_path(name: str) -> Path:
    """A folder by its path, which may begin in the host's input folder."""
    return Path(folder_paths.get_input_directory()) / Path(name.strip()).expanduser()


def _same(pixels: Tensor) -> Tensor:
    return pixels


def _size(pixels: Tensor) -> str:
    return f"{pixels.shape[-1]}x{pixels.shape[-2]}"
