"""From what is connected to the node, to training data that is encoded and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....cnpp_core.condition import Condition
from ....cnpp_core.control.hints import NEAREST, SMOOTH
from ....cnpp_core.training.data.draw import DataSettings
from ....cnpp_core.training.data.records import Problems, Record
from ....dataset.conditions import random_canny
from ....demo.world import SIZE
from ..annotate.finder import Finder
from .data import (
    NODE,
    Latents,
    Pictures,
    TrainingData,
    cache_of,
    digest,
    encoded,
    encoders_of,
    found_by,
    prompt_of,
    split,
)
from .demo import demo_records
from .sources import folder_path, folder_records, listed_records, listed_rows

FOLDER, LISTS, DEMO = "folder", "lists", "demo world"
SOURCES = (FOLDER, LISTS, DEMO)


@dataclass(frozen=True, eq=False)
class Lists:
    """What other nodes gave: pictures with captions, or latents with prompts; and conditions."""

    images: Sequence[Tensor] = ()
    captions: Sequence[str] = ()
    latents: Sequence[dict[str, Any]] = ()
    prompts: Sequence[Any] = ()
    conditions: Sequence[Tensor] = ()

    def __post_init__(self) -> None:
        if bool(self.images) == bool(self.latents):
            found = "both" if self.images else "neither"
            raise ValueError(
                f"{NODE}: source is lists, which takes images with captions or latents with "
                f"conditioning; {found} of images and latents are connected. Connect one of them, "
                "or choose another source."
            )


@dataclass(frozen=True)
class Choices:
    """The widgets of the node."""

    source: str
    folder: str
    conditions_folder: str
    resolution: int
    pictures: int
    held_out: int
    drop_text: float
    mirror: bool
    vary_thresholds: bool
    skip_bad: bool
    cache_on_disk: bool


def make_data(
    choices: Choices,
    clip: Any,
    vae: Any,
    lists: Lists | None,
    condition: str,
    finder: Finder | None,
) -> TrainingData:
    """Read, pair, split and encode; ValueError in words for whatever can't be trained with.

    lists: where these are the source. condition: key of the kind, or another word. finder: finds
    conditions where there are none, and finds them again in pictures.
    """
    if lists is not None and lists.latents:
        return _of_latents(choices, clip, lists, condition, finder, vae)
    if vae is None:
        raise ValueError(
            f"{NODE}: vae is not connected; pictures need it. Connect the VAE of the model."
        )
    return _of_pictures(choices, clip, vae, lists, condition, finder)


def folder_stamp(*folders: str) -> str:
    """Another one when files in these folders change, so that the host runs the node again."""
    found = []
    for folder in filter(None, (name.strip() for name in folders)):
        place = folder_path(folder)
        files = sorted(place.rglob("*")) if place.is_dir() else []
        found += [f"{f} {s.st_size} {s.st_mtime_ns}" for f in files if (s := f.stat())]
    return digest(*found)


def _of_pictures(
    choices: Choices,
    clip: Any,
    vae: Any,
    lists: Lists | None,
    condition: str,
    finder: Finder | None,
) -> TrainingData:
    problems = Problems(choices.skip_bad)
    records, held = _records(choices, lists, problems)
    cache = cache_of(choices.cache_on_disk)
    kind = next((kind for kind in Condition if kind.key == condition), None)
    settings = DataSettings(
        resolution=SIZE if choices.source == DEMO else choices.resolution,
        drop_text=choices.drop_text,
        mirror=choices.mirror,
        kind=kind,
        resampling=NEAREST if kind is Condition.SEG else SMOOTH,
    )
    to_find = any(record.condition is None for record in records)
    annotate = vary = None
    if to_find:
        if finder is None:
            raise ValueError(
                f"{NODE}: the pictures have no conditions, and kind is {condition}, which nothing "
                "here finds. Connect an annotator, or give conditions (a folder or a list)."
            )
        annotate = found_by(finder.annotator, cache, settings.resampling)
    if choices.vary_thresholds:
        if condition != Condition.CANNY.key or not to_find:
            raise ValueError(
                f"{NODE}: vary_thresholds is for canny edges that are found here; kind is "
                f"{condition}{'' if to_find else ', and conditions are given'}. Switch it off."
            )
        vary = random_canny()
    passes = 2 if choices.mirror else 1
    encoders = encoders_of(
        clip, vae, passes * (len(records) + len(held)), named=choices.cache_on_disk
    )
    pictures = Pictures(records, held, encoders, settings, cache, annotate, problems, vary)
    pictures.encode()
    whose = "found in the pictures" if to_find else "given"
    lines = [
        f"{len(records)} pictures to train with, {len(held)} held out",
        f"conditions: {condition}, {whose}{', thresholds vary' if vary else ''}",
        *[f"skipped {problem}" for problem in problems.found],
    ]
    stamp = digest(*(f"{r.stamp} {r.caption}" for r in (*records, *held)), settings, condition)
    return TrainingData(pictures, condition, finder, vae, stamp, "\n".join(lines))


def _records(
    choices: Choices, lists: Lists | None, problems: Problems
) -> tuple[list[Record], list[Record]]:
    if choices.source == DEMO:
        return demo_records(choices.pictures, choices.held_out)
    if lists is not None:
        records = listed_records(lists.images, lists.captions, lists.conditions)
    else:
        records = folder_records(choices.folder, choices.conditions_folder, problems)
    return split(records, choices.held_out)


def _of_latents(
    choices: Choices,
    clip: Any,
    lists: Lists,
    condition: str,
    finder: Finder | None,
    vae: Any,
) -> TrainingData:
    if choices.vary_thresholds or choices.mirror:
        raise ValueError(
            f"{NODE}: mirror and vary_thresholds need pictures, and latents are connected. Switch "
            "them off, or connect images."
        )
    rows = listed_rows(lists.latents, lists.prompts, lists.conditions)
    empty = prompt_of(encoded(clip, ""), "clip")
    stamp = digest(
        *(part for row in rows for part in (row.latents, row.prompt.context, row.condition)),
        condition,
        choices.drop_text,
        choices.held_out,
    )
    train, held = split(rows, choices.held_out)
    lines = [f"{len(train)} latents to train with, {len(held)} held out"]
    lines.append(f"conditions: {condition}, given")
    made = Latents(train, held, empty, choices.drop_text)
    return TrainingData(made, condition, finder, vae, stamp, "\n".join(lines))
