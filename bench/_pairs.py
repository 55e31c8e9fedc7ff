"""Implementations timed turn by turn in one run, so that a busy machine slows down all of them."""

from __future__ import annotations

import json
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"

Times = dict[str, tuple[float, ...]]  # by name, the seconds of every turn


@dataclass(frozen=True)
class Spread:
    """The median of some numbers and their middle half."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Median and quartiles of at least two numbers."""
        low, _, high = quantiles(values, n=4)
        return cls(median(values), low, high, len(values))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; `count` under the name "pairs"."""
        return {"median": self.median, "quartiles": [self.low, self.high], "pairs": self.count}


@dataclass(frozen=True)
class PairedTimes:
    """Seconds per call of two implementations, pair by pair."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Their time over ours of every pair: above 1, ours is faster."""
        return tuple(b / a for a, b in zip(self.ours, self.theirs, strict=True))

    def text(self) -> str:
        """One line: the median ratio, the middle half of the ratios, and the median times."""
        ratio = Spread.of(self.ratios)
        return (
            f"{ratio.median:.2f}x as fast (middle half of {ratio.count} pairs "
            f"{ratio.low:.2f} to {ratio.high:.2f}): {median(self.ours):.3f} s against "
            f"{median(self.theirs):.3f} s"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: the ratio's spread, and all seconds."""
        ratio = Spread.of(self.ratios)
        return {
            "ratio": {"median": ratio.median, "quartiles": [ratio.low, ratio.high]},
            "seconds": {"ours": self.ours, "theirs": self.theirs},
        }


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = 11) -> PairedTimes:
    """Time both `pairs` times (at least 2), in turns of changing order, after one call each."""
    times = interleaved({"ours": ours, "theirs": theirs}, pairs)
    return PairedTimes(times["ours"], times["theirs"])


def interleaved(runs: Mapping[str, Callable[[], Any]], turns: int) -> Times:
    """Time all of them in every turn, each turn beginning with the next one, after one call each.

    What a call returns is let go of within its time.
    """
    names = list(runs)
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = perf_counter()
            runs[name]()
            times[name].append(perf_counter() - start)
    return {name: tuple(seconds) for name, seconds in times.items()}


def parsed(parser: ArgumentParser, argv: Sequence[str], *parts: str) -> Namespace:
    """The options, and `trial`: whether this run measures otherwise than published figures are.

    It does where an option has another value than its default; ``parts`` name those that only
    choose what is measured.
    """
    options = parser.parse_args(argv)
    given = vars(options).items()
    options.trial = any(
        name not in parts and value != parser.get_default(name) for name, value in given
    )
    return options


def results_file(name: str, trial: bool = False) -> Path:
    """Where results lie; those of a trial apart, so that they never replace published ones."""
    return RESULTS / f"{'trial-' * trial}{name}.json"


def save(name: str, results: Mapping[str, Any], *, trial: bool = False) -> Path:
    """Write results, with what they were measured on, to bench/results."""
    RESULTS.mkdir(exist_ok=True)
    file = results_file(name, trial)
    content = {"machine": machine(), "date": date.today().isoformat(), **results}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return file


def merge(
    name: str, results: Mapping[str, Any], *, trial: bool = False, inside: Collection[str] = ()
) -> Path:
    """Like `save`, but other results of earlier runs stay; ``inside`` these, other entries too."""
    file = results_file(name, trial)
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for key in ("machine", "date"):
        earlier.pop(key, None)
    for key, value in results.items():
        earlier[key] = {**earlier.get(key, {}), **value} if key in inside else value
    return save(name, earlier, trial=trial)


def machine() -> dict[str, Any]:
    """The machine that was measured on: Python, torch, threads, processor."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "cpu": _cpu_name(),
    }


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
