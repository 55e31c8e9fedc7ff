"""Trying several seeds and strengths: the grid of trials, and what came out of them as a text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..control.scales import PRESETS
from .agreement.measure import Measure
from .check import CheckResult

SEEDS = 2**64  # as many as the host takes; behind the last one comes 0 again
MOST_STRENGTH = 10.0
SEPARATORS = ",;，；、\n"  # those of a Chinese keyboard as well


@dataclass(frozen=True)
class Trial:
    """One picture to be made. preset: one of `PRESETS`, or "" where scales are left alone."""

    seed: int
    strength: float
    preset: str = ""

    @property
    def setting(self) -> tuple[float, str]:
        """Strength and preset: all but the seed."""
        return self.strength, self.preset

    def __str__(self) -> str:
        return f"seed {self.seed}, {setting_text(*self.setting)}"


def setting_text(strength: float, preset: str) -> str:
    """A strength and a preset, in words."""
    return f"strength {strength:g}" + (f", {preset}" if preset else "")


def parse_strengths(text: str) -> tuple[float, ...]:
    """Strengths out of a text such as "0.6, 0.8, 1.0", each once; ValueError for what is none."""
    words = [word for part in _entries(text) for word in part.split()]
    strengths = tuple(dict.fromkeys(_strength(word) for word in words))
    if not strengths:
        raise ValueError("strengths is empty; write at least one number, for example '0.8, 1.0'.")
    return strengths


def parse_presets(text: str) -> tuple[str, ...]:
    """Presets out of a text such as "uniform, structure", each once; ("",) if it is empty."""
    names = [" ".join(entry.lower().split()) for entry in _entries(text)]
    for name in names:
        if name not in PRESETS:
            raise ValueError(
                f"presets names '{name}', which is none. There are {', '.join(PRESETS)}; write "
                "them with commas between, or leave it empty to keep the scales as they are."
            )
    return tuple(dict.fromkeys(names)) or ("",)


def grid(
    seed: int, seeds: int, strengths: Iterable[float], presets: Iterable[str], most: int
) -> tuple[Trial, ...]:
    """Every seed from `seed` on with every strength and preset; ValueError if more than `most`.

    Seed by seed, so that of equal scores the one with the earlier seed and setting wins. Without
    strength no preset can act, so strength 0 comes once.
    """
    strengths, presets = tuple(strengths), tuple(presets)
    settings = dict.fromkeys(
        (strength, preset if strength else "") for preset in presets for strength in strengths
    )
    count = seeds * len(settings)
    if count > most:
        raise ValueError(
            f"{seeds} seeds x {len(strengths)} strengths x {len(presets)} presets make {count} "
            f"pictures, and max_trials is {most}. Take fewer of them, or raise max_trials if you "
            "have the time."
        )
    return tuple(
        Trial((seed + number) % SEEDS, *setting) for number in range(seeds) for setting in settings
    )


@dataclass
class Standings:
    """The scores of the trials so far; `measure` says which of two is better."""

    measure: Measure
    results: list[tuple[Trial, float]] = field(default_factory=list)

    def add(self, trial: Trial, score: float) -> bool:
        """Note a score; True if it is the best so far."""
        self.results.append((trial, score))
        return self.order[0] == len(self.results) - 1

    @property
    def order(self) -> list[int]:
        """Numbers of the trials, the best first; of equals the earlier."""
        sign = -1 if self.measure.higher_is_better else 1
        return sorted(range(len(self.results)), key=lambda i: sign * self.results[i][1])

    def table(self) -> str:
        """A line that names the best, a line for each trial in order, and means if they say more.

        Means are over all trials with one strength or one preset, where there are several of them.
        """
        order = self.order
        trial, score = self.results[order[0]]
        text = self.measure.text
        direction = "higher" if self.measure.higher_is_better else "lower"
        heading = (
            f"Best of {len(order)}: {text(score)} with {trial} ({self.measure.name}, {direction} "
            "is better)"
        )
        places = [f"#{place}" for place in range(1, len(order) + 1)]
        scores = [text(self.results[i][1]) for i in order]
        wide, wider = len(places[-1]), max(map(len, scores))
        lines = [
            f"{place:<{wide}}  {score:>{wider}}  {self.results[i][0]}"
            for place, score, i in zip(places, scores, order, strict=True)
        ]
        means = [
            *self._means("strength", lambda trial: f"{trial.strength:g}"),
            *self._means("preset", lambda trial: trial.preset or "none"),
        ]
        return "\n".join([heading, *lines, *means])

    def _means(self, name: str, of: Callable[[Trial], str]) -> list[str]:
        groups: dict[str, list[float]] = {}
        for trial, score in self.results:
            groups.setdefault(of(trial), []).append(score)
        if len(groups) < 2 or max(map(len, groups.values())) < 2:
            return []
        means = (
            f"{value} {self.measure.text(sum(scores) / len(scores))}"
            for value, scores in groups.items()
        )
        return [f"Mean by {name}: {', '.join(means)}"]


def ranking_text(result: CheckResult, count: int, measure: Measure) -> str:
    """How pictures rank, the best first, with a sentence for each; `count` of them were wanted."""
    ranking, total = result.ranking, len(result.per_image)
    chosen = min(count, total)
    best = measure.text(result.per_image[ranking[0]])
    heading = f"{measure.name}: {chosen} of {total} chosen, the best {best}"
    if count > total:
        heading += f" ({count} were asked for)"
    lines = [
        f"#{place} picture {index + 1}{' (chosen)' * (place <= chosen)}: {result.lines[index]}"
        for place, index in enumerate(ranking, start=1)
    ]
    notes = [line for line in result.report.splitlines() if line.startswith("Note: ")]
    return "\n".join([heading, *lines, *notes])


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in re.split(f"[{SEPARATORS}]", text) if entry.strip()]


def _strength(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= MOST_STRENGTH:
        raise ValueError(
            f"strengths holds '{word}'; expected numbers from 0 to {MOST_STRENGTH:g} with commas "
            "between, for example '0.6, 0.8, 1.0'."
        )
    return value + 0.0  # -0 is 0
