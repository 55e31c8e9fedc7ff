"""One record from its files, which are looked into as far as their heads tell."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..cnpp_core.training.data.records import Record
from ..pictures.files import Source, read_condition, read_picture, read_size


def record_of(
    name: str, picture: Source, condition: Source | None, caption: str, stamp: str
) -> Record:
    """The record; ValueError for a caption or pictures that can't be used."""
    if not caption.strip():
        raise ValueError("the caption is empty.")
    size = read_size(picture)
    if condition is not None and (other := read_size(condition)) != size:
        raise ValueError(
            f"{picture} is {size[0]}x{size[1]} pixels and its condition {condition} "
            f"{other[0]}x{other[1]}; both must be of one size."
        )
    read = None if condition is None else partial(read_condition, condition)
    return Record(name, size, caption.strip(), stamp, partial(read_picture, picture), read)


def caption_in(source: Source) -> str:
    """The text of a caption file, in one line; ValueError for what is no text."""
    with source.open("rb") as file:
        return " ".join(text_of(file.read(), source).split())


def text_of(content: bytes, where: object) -> str:
    """Text in UTF-8; ValueError naming where it is not."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text in UTF-8 ({error}).") from error


def stamp_of(path: Path, part: str = "") -> str:
    """Which file this is, or which part of one; another one once the file has changed."""
    found = path.stat()
    return f"{path.resolve()} {found.st_size} {found.st_mtime_ns} {part}".rstrip()
