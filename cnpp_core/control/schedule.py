"""Block scales that change while the picture is sampled: key frames over percent."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from .scales import PRESETS, BlockScales, ScalePreset, ScaleProduct, Scales

INTERPOLATIONS = ("linear", "cosine", "step")
FULL_WIDTH = str.maketrans("：；％，＊", ":;%,*")
ALIASES = {"soft": "guess mode", "off": "0", "on": "1"}
LARGEST = 1e6  # of a scale in a text; beyond it nothing but overflow comes of it
EXAMPLE = "0%: 1; 60%: 1; 90%: soft"


@dataclass(frozen=True)
class UniformScales:
    """The same scale for every block of a network of any depth."""

    value: float

    def resolve(self, blocks: int, percent: float = 0.0) -> BlockScales:
        return BlockScales((self.value,) * blocks)


@dataclass(frozen=True)
class KeyFrame:
    """The scales that hold at ``percent`` (0..1), and the way that leads there from the one before.

    interpolation: "linear", "cosine" (slow at both ends) or "step" (the one before holds until
    this one).
    """

    percent: float
    scales: Scales
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        if not 0.0 <= self.percent <= 1.0:
            raise ValueError(
                f"A key frame lies at {100 * self.percent:g} %; it must lie in 0 %..100 %."
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"No interpolation '{self.interpolation}'; there are {', '.join(INTERPOLATIONS)}."
            )


@dataclass(frozen=True)
class ScaleSchedule:
    """Key frames in order of percent; the first and the last also hold outside their span.

    Of two key frames at one percent the later one holds from there on, so a pair makes a jump.
    """

    keys: tuple[KeyFrame, ...]

    def __post_init__(self) -> None:
        if not self.keys:
            raise ValueError(f"A schedule needs at least one key frame, such as '{EXAMPLE}'.")
        object.__setattr__(self, "keys", tuple(sorted(self.keys, key=lambda key: key.percent)))

    def resolve(self, blocks: int, percent: float = 0.0) -> BlockScales:
        """The scales at ``percent``; a pure function of it.

        All key frames are looked at, so that one which can't fit is refused at once and not in the
        middle of a sampling.
        """
        scales = [key.scales.resolve(blocks, percent) for key in self.keys]
        after = bisect_right([key.percent for key in self.keys], percent)
        if after == 0 or after == len(self.keys):
            return scales[max(after - 1, 0)]
        start, end = self.keys[after - 1], self.keys[after]
        way = (percent - start.percent) / (end.percent - start.percent)
        return scales[after - 1].towards(scales[after], _ease(way, end.interpolation))


def key_frames(scales: Scales) -> tuple[KeyFrame, ...]:
    """The key frames of a schedule; of constant scales, one at the start."""
    return scales.keys if isinstance(scales, ScaleSchedule) else (KeyFrame(0.0, scales),)


def marks_of(scales: Scales | None) -> frozenset[float]:
    """The percents of all key frames in these scales, also of schedules inside of others."""
    if isinstance(scales, ScaleSchedule):
        inside = (marks_of(key.scales) for key in scales.keys)
        return frozenset(key.percent for key in scales.keys).union(*inside)
    if isinstance(scales, ScaleProduct):
        return frozenset().union(*map(marks_of, scales.factors))
    return frozenset()


def parse_schedule(
    text: str, interpolation: str = "linear", named: Mapping[str, Scales] | None = None
) -> tuple[KeyFrame, ...]:
    """Key frames out of a text such as "0%: 1; 40%: soft; 80%: detail * 0.5".

    Entries are separated by semicolons or lines. Before the colon stands a percentage (40% or 0.4),
    behind it a number for all blocks, a preset, a name in ``named``, a list of one number per block
    in brackets, or any of these times a number. ValueError naming the entry that can't be read.
    """
    text = text.translate(FULL_WIDTH).lower()
    entries = [entry.strip() for entry in re.split(r"[;\n]", text) if entry.strip()]
    return tuple(_parse_entry(entry, interpolation, named or {}) for entry in entries)


def _parse_entry(entry: str, interpolation: str, named: Mapping[str, Scales]) -> KeyFrame:
    when, colon, what = entry.partition(":")
    percent = _number(when.strip().removesuffix("%"))
    if not colon or percent is None:
        raise ValueError(
            f"Scale Schedule: '{entry}' is no key frame; expected 'percent: scales', for example "
            f"'{EXAMPLE}'."
        )
    if when.strip().endswith("%"):
        percent /= 100.0
    if not 0.0 <= percent <= 1.0:
        raise ValueError(
            f"Scale Schedule: '{entry}' lies at {100 * percent:g} %; expected 0 % to 100 % "
            "(a number without % counts from 0 to 1)."
        )
    factors = [_parse_factor(part.strip(), entry, named) for part in what.split("*")]
    largest = math.prod(map(_largest, factors))
    if not largest <= LARGEST:  # also for 0 times infinity
        raise ValueError(
            f"Scale Schedule: '{entry}' comes to a scale of {largest:g}; scales may be "
            f"{LARGEST:,.0f} at most. 1 is the control as it was trained."
        )
    scales = factors[0] if len(factors) == 1 else ScaleProduct(tuple(factors))
    return KeyFrame(percent, scales, interpolation)


def _parse_factor(word: str, entry: str, named: Mapping[str, Scales]) -> Scales:
    word = ALIASES.get(word, word)
    if word in named:
        return named[word]
    if word in PRESETS:
        return ScalePreset(word)
    value = _number(word)
    if value is not None:
        return UniformScales(value)
    if word.startswith("[") and word.endswith("]"):
        values = [_number(part) for part in word[1:-1].replace(",", " ").split()]
        if values and None not in values:
            return BlockScales(tuple(value for value in values if value is not None))
    if word == "scales":
        raise ValueError(
            f"Scale Schedule: '{entry}' says 'scales', but nothing is connected to that input. "
            "Connect Block Scales or Block Scale Preset to it, or write a number."
        )
    names = ", ".join(f"'{name}'" for name in (*named, "soft", *PRESETS))
    raise ValueError(
        f"Scale Schedule: '{word}' in '{entry}' is neither a number nor {names} nor a list in "
        "brackets."
    )


def _largest(factor: Scales) -> float:
    """How far a factor that is written as numbers goes from 0; 1 for presets and names."""
    if isinstance(factor, UniformScales):
        return abs(factor.value)
    return max(map(abs, factor.values)) if isinstance(factor, BlockScales) else 1.0


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _ease(way: float, interpolation: str) -> float:
    if interpolation == "step":
        return 0.0
    return way if interpolation == "linear" else 0.5 - 0.5 * math.cos(math.pi * way)
