"""The layout of fill50k, the data set that ControlNet's own tutorial trains with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..cnpp_core.training.data.records import Problems, Record
from .record import record_of, stamp_of, text_of

LISTING = "prompt.json"
KEYS = ("source", "target", "prompt")


def read_fill50k(folder: Path, problems: Problems) -> list[Record]:
    """The records of `prompt.json`, which has a JSON object in every line.

    "source" is the condition and "target" the picture, paths in the folder, and "prompt" the
    caption. Raises ValueError without such a file, and where no record can be used.
    """
    listing = folder / LISTING
    if not listing.is_file():
        raise ValueError(
            f"{folder} has no {LISTING}, which says in every line what belongs together, such as "
            '{"source": "source/0.png", "target": "target/0.png", "prompt": "a red circle"}.'
        )
    records = []
    for number, line in enumerate(listing.read_bytes().splitlines(), 1):
        if line.strip():
            name = f"{listing}:{number}"
            try:
                records.append(_record(folder, line, name))
            except (ValueError, OSError, RecursionError) as error:
                problems.add(name, error)
    problems.count(len(records), listing)
    return records


def write_listing(folder: Path, entries: Sequence[tuple[str, str, str]]) -> None:
    """Write `prompt.json` from (source, target, prompt) of each record."""
    lines = [json.dumps(dict(zip(KEYS, entry, strict=True))) for entry in entries]
    (folder / LISTING).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _record(folder: Path, line: bytes, name: str) -> Record:
    try:
        entry = json.loads(text_of(line, "the line"))
    except ValueError as error:
        raise ValueError(f"the line is no JSON: {error}.") from error
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in KEYS):
        raise ValueError(f"expected a JSON object with texts for {', '.join(KEYS)}.")
    source, target = folder / entry["source"], folder / entry["target"]
    for what, path in (("source", source), ("target", target)):
        if not path.is_file():
            raise ValueError(f"the {what} {path} is missing.")
    return record_of(name, target, source, entry["prompt"], stamp_of(target))
