"""Scores on disk: one line per condition, written as soon as it is known, one file per process.

So a run that was broken off goes on where it was, and processes on one or many machines that share
the folder need nothing else to work together.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from .pairs import Pair
from .paper import SampleScore

log = logging.getLogger(__name__)

SETTINGS = "settings.json"
POLL = 0.5  # seconds
# What a line or a file that somebody else wrote makes `json` and `Record.from_json` raise.
NO_RECORD = (ValueError, KeyError, TypeError, IndexError, RuntimeError, RecursionError)


@dataclass(frozen=True)
class Shard:
    """Which process of how many this is, as torchrun and `accelerate launch` say."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def of_environment(cls) -> Shard:
        """From RANK, WORLD_SIZE and LOCAL_RANK; one process without them."""
        rank, count, local = (
            int(os.environ.get(name, default))
            for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        if not 0 <= rank < count:
            raise ValueError(f"RANK is {rank} and WORLD_SIZE {count}; ranks are 0 to {count - 1}.")
        return cls(rank, count, local)

    def part(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Every count-th pair, beginning with this rank's."""
        return list(pairs[self.rank :: self.count])


@dataclass(frozen=True)
class Record:
    """The score of one condition, the sentence for each picture, and what files it is about."""

    name: str
    stamp: list[int]
    score: SampleScore
    lines: list[str]

    def to_json(self) -> dict[str, Any]:
        """Counts as (row, column, number) of what is not 0: few of 150 classes meet."""
        counts = self.score.counts
        entry: dict[str, Any] = {
            "name": self.name,
            "stamp": self.stamp,
            "score": self.score.score,
            "per_picture": list(self.score.per_picture),
            "lines": self.lines,
        }
        if counts is not None:
            where = counts.nonzero()
            numbers = counts[where[:, 0], where[:, 1]]
            entry["shape"] = list(counts.shape)
            entry["counts"] = torch.cat([where, numbers[:, None]], dim=1).tolist()
        return entry

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Record:
        """The reverse; one of NO_RECORD for an entry of something else."""
        counts = None
        if "counts" in entry:
            counts = torch.zeros(entry["shape"], dtype=torch.int64)
            for row, column, number in entry["counts"]:
                counts[row, column] = number
        score = SampleScore(float(entry["score"]), tuple(map(float, entry["per_picture"])), counts)
        if not len(score.per_picture) == len(entry["lines"]) == len(entry["stamp"]) / 2 - 1:
            raise ValueError("a record has a score and a line for each picture")
        return cls(entry["name"], entry["stamp"], score, entry["lines"])


class Records:
    """The scores that all processes of one evaluation have written into a folder.

    Raises ValueError where the folder holds scores with other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._agree(settings)

    def done(self, pairs: Sequence[Pair]) -> dict[str, Record]:
        """Records of these pairs, by name, whose files are still the same."""
        return self._read({pair.name: pair.stamp for pair in pairs})

    def _read(self, stamps: dict[str, list[int]]) -> dict[str, Record]:
        found = {}
        for file in self._files():
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = Record.from_json(json.loads(line))
                except NO_RECORD:
                    continue  # the line that was being written when the run broke off
                if stamps.get(record.name) == record.stamp:
                    found[record.name] = record
        return found

    def open(self, shard: Shard) -> TextIO:
        """The file that this process adds lines to."""
        path = self.folder / f"scores-{shard.rank}-of-{shard.count}.jsonl"
        file = path.open("a", encoding="utf-8")
        if file.tell() and not path.read_bytes().endswith(b"\n"):
            file.write("\n")
        return file

    @staticmethod
    def add(file: TextIO, record: Record) -> None:
        """One line, on the disk at once."""
        file.write(json.dumps(record.to_json()) + "\n")
        file.flush()

    def wait(
        self, pairs: Sequence[Pair], patience: float, tell: Callable[[int], None]
    ) -> dict[str, Record]:
        """The records once all are there, or those that are when none came for `patience` seconds.

        tell: is called with how many are missing, whenever that changes.
        """
        stamps = {pair.name: pair.stamp for pair in pairs}
        missing, since, size, found = -1, time.monotonic(), -1, {}
        while True:
            now = sum(file.stat().st_size for file in self._files())
            if now != size:  # reading thousands of lines again and again would take long
                size, found = now, self._read(stamps)
            if len(pairs) - len(found) != missing:
                missing, since = len(pairs) - len(found), time.monotonic()
                if missing:
                    tell(missing)
            if not missing or time.monotonic() - since > patience:
                return found
            time.sleep(POLL)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("scores-*.jsonl"))

    def _agree(self, settings: dict[str, Any]) -> None:
        path = self.folder / SETTINGS
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        if path.exists():
            before = path.read_bytes()
            if before and before != text.encode():
                old = self._settings_in(path, before)
                changed = sorted(k for k in {*old, *settings} if old.get(k) != settings.get(k))
                raise ValueError(
                    f"{self.folder} holds scores with other settings "
                    f"({', '.join(f'{k}: {old.get(k)}' for k in changed)}). Give another folder "
                    "with --out, or remove this one."
                )
            return
        temporary = self.folder / f"{SETTINGS}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)

    @staticmethod
    def _settings_in(path: Path, content: bytes) -> dict[str, Any]:
        try:
            old = json.loads(content)
        except NO_RECORD:
            old = None
        if not isinstance(old, dict):
            raise ValueError(
                f"{path} is not as this command writes it. Give another folder with --out, or "
                "remove this one."
            )
        return old
