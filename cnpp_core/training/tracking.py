"""The course of a training, a row per step, in a CSV file."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Protocol

FILE = "training.csv"


class Tracker(Protocol):
    """Takes the numbers of each step, and those of a validation, by name."""

    def log(self, step: int, values: dict[str, float]) -> None: ...


class CsvTracker:
    """One file that is appended to; a name that turns up later gets a column of its own.

    Of a file that is there already, the rows up to ``step`` are kept: a training that goes on from
    there writes the later ones again.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.columns = ["step"]
        rows = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or self.columns)
                rows = [row for row in reader if _number(row) <= step]
        self._write(rows)

    def log(self, step: int, values: dict[str, float]) -> None:
        new = [name for name in values if name not in self.columns]
        if new:
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self.columns += new
            self._write(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow({"step": step, **values})

    def _write(self, rows: list[dict[str, str]]) -> None:
        part = self.path.with_suffix(".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(part, self.path)


def read_course(folder: Path, step: int) -> dict[int, dict[str, float]]:
    """The numbers of each step up to this one, by name; nothing without such a file."""
    path = folder / FILE
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if _number(row) <= step]
    return {
        int(row["step"]): {name: float(text) for name, text in row.items() if text} for row in rows
    }


def _number(row: dict[str, str]) -> float:
    """The step of a row; one that broke off when the power went is after all others."""
    whole = None not in row.values() and row["step"].isdecimal()
    return int(row["step"]) if whole else math.inf
