"""Tar shards as webdataset has them: members of one name are one record."""

from __future__ import annotations

import importlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..cnpp_core.training.data.records import Problems, Record
from ..pictures.files import SUFFIXES
from .record import caption_in, record_of, stamp_of

CAPTION = "txt"
CONDITION = "condition"  # and the suffix of a picture behind it


@dataclass(frozen=True)
class Member:
    """A file in a tar, read from its place in it without what comes before."""

    shard: Path
    name: str
    offset: int
    size: int

    def open(self, mode: Literal["rb"], /) -> io.BytesIO:
        """Its content."""
        with self.shard.open(mode) as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.size))

    def __str__(self) -> str:
        return f"{self.shard}: {self.name}"


def read_shards(shards: str | Sequence[str], problems: Problems) -> list[Record]:
    """Records of uncompressed tar files: `KEY.jpg`, `KEY.txt` and `KEY.condition.png`.

    The suffixes are those of any picture. Members of one key stand one behind the other. Without
    conditions they are to be found in the pictures when they are drawn. Braces stand for many
    files: "train-{000..099}.tar". Only the heads of the members are read now. Raises ValueError
    without the package webdataset, and where no record can be used.
    """
    expand_urls, group_by_keys = _webdataset()
    records = []

    for shard in map(Path, expand_urls(shards)):

        def name_twice(error: Exception, shard: Path = shard) -> bool:
            problems.add(str(shard), error.args[0])
            return True

        for sample in group_by_keys(_members(shard, problems), handler=name_twice):
            name = f"{shard}: {sample['__key__']}"
            try:
                records.append(_record(shard, name, sample))
            except (ValueError, OSError) as error:
                problems.add(name, error)
    problems.count(len(records), shards)
    return records


def _record(shard: Path, name: str, sample: dict[str, Any]) -> Record:
    picture, condition = _picture(sample, ""), _picture(sample, f"{CONDITION}.")
    if picture is None:
        raise ValueError(f"there is no picture of this name, such as {sample['__key__']}.jpg.")
    if CAPTION not in sample:
        raise ValueError(f"its caption {sample['__key__']}.{CAPTION} is missing.")
    caption = caption_in(sample[CAPTION])
    return record_of(name, picture, condition, caption, stamp_of(shard, picture.name))


def _picture(sample: dict[str, Any], before: str) -> Member | None:
    found = (sample.get(f"{before}{suffix[1:]}") for suffix in SUFFIXES)
    return next((member for member in found if member is not None), None)


def _members(shard: Path, problems: Problems) -> Iterator[dict[str, Any]]:
    """As webdataset's own reader gives them, with the place of the content instead of it."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                if info.isreg():
                    member = Member(shard, info.name, info.offset_data, info.size)
                    yield {"fname": info.name, "data": member, "__url__": str(shard)}
    except (OSError, tarfile.TarError) as error:
        problems.add(str(shard), f"this is no uncompressed tar file that can be read here: {error}")


def _webdataset() -> tuple[Any, Any]:
    try:
        expand_urls = importlib.import_module("webdataset.shardlists").expand_urls
        group_by_keys = importlib.import_module("webdataset.tariterators").group_by_keys
    except ImportError as error:
        raise ValueError(
            f"Tar shards need the package webdataset ({error}): install it with pip install "
            "webdataset, or unpack them into a folder."
        ) from error
    return expand_urls, group_by_keys
