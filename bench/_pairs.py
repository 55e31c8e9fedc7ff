"""Two implementations timed turn by turn in one run, so that a busy machine slows down both."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Comparison:
    """Seconds per call, pair by pair."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """Their time over ours of every pair: above 1, ours is faster."""
        return tuple(b / a for a, b in zip(self.ours, self.theirs, strict=True))

    def text(self) -> str:
        """One line: the median ratio, the middle half of the ratios, and the median times."""
        low, _, high = quantiles(self.ratios, n=4)
        return (
            f"{median(self.ratios):.2f}x as fast (middle half of {len(self.ours)} pairs "
            f"{low:.2f} to {high:.2f}): {median(self.ours):.3f} s against "
            f"{median(self.theirs):.3f} s"
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers."""
        low, _, high = quantiles(self.ratios, n=4)
        return {
            "ratio": {"median": median(self.ratios), "quartiles": [low, high]},
            "seconds": {"ours": self.ours, "theirs": self.theirs},
        }


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = 11) -> Comparison:
    """Time both `pairs` times (at least 2), in turns of changing order, after one call each."""
    times: dict[Callable[[], Any], list[float]] = {ours: [], theirs: []}
    for run in times:
        run()
    for turn in range(pairs):
        for run in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            start = perf_counter()
            run()
            times[run].append(perf_counter() - start)
    return Comparison(tuple(times[ours]), tuple(times[theirs]))


def save(name: str, results: Mapping[str, Any]) -> Path:
    """Write results, with what they were measured on, to bench/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
    }
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n", encoding="utf-8")
    return file
