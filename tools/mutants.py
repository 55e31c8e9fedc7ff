"""Faults planted in a package one at a time (mutants), and the share that its tests catch.

The sample of a seed hangs on what a mutant is, not on a count of all mutants: an edit elsewhere in
the package leaves it as it was. Mutants that change nothing that anyone can see are listed, each
with its reason, in equivalent_mutants.json; they don't count.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
Z95 = 1.959964  # standard deviations on either side of the mean that hold 95 % of a normal law


@dataclass(frozen=True)
class Mutant:
    """One change of one file. before, after: the lines that change, stripped, and what they become.

    file: below the root, with forward slashes. line: the first one that changes, from 1.
    """

    file: str
    line: int
    before: str
    after: str

    @classmethod
    def of(cls, file: str, source: str, mutated: str) -> Mutant:
        """What lies between two texts of a file."""
        old, new = source.splitlines(), mutated.splitlines()
        changes = [
            c for c in SequenceMatcher(None, old, new, False).get_opcodes() if c[0] != "equal"
        ]
        (_, start, _, begin, _), (_, _, stop, _, end) = changes[0], changes[-1]
        return cls(file, start + 1, _stripped(old[start:stop]), _stripped(new[begin:end]))

    @property
    def key(self) -> tuple[str, str, str]:
        """What stays the same when lines are added elsewhere in the file."""
        return self.file, self.before, self.after

    def text(self) -> str:
        """Where it is, and the change as a diff."""
        removed = [f"    - {line}" for line in self.before.splitlines()]
        added = [f"    + {line}" for line in self.after.splitlines()]
        return "\n".join([f"{self.file}:{self.line}", *removed, *added])


def _stripped(lines: Iterable[str]) -> str:
    return "\n".join(line.strip() for line in lines)


def shuffled(identities: Iterable[tuple[str, ...]], seed: int) -> list[int]:
    """The places of the identities, in an order that hangs on the seed.

    Of any two it puts the same one first, whatever else there is. Of equal ones, the first, the
    second, ... are told apart.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    ranks = []
    for identity in identities:
        seen[identity] += 1
        ranks.append(hashlib.sha256(repr((seed, *identity, seen[identity])).encode()).digest())
    return sorted(range(len(ranks)), key=ranks.__getitem__)


def annotation_spans(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end, as (line from 1, column from 0): no run evaluates them."""
    nodes = ast.walk(ast.parse(source))
    notes = [getattr(node, name, None) for node in nodes for name in ("annotation", "returns")]
    return [
        ((note.lineno, note.col_offset), (note.end_lineno or 0, note.end_col_offset or 0))
        for note in notes
        if isinstance(note, ast.expr)
    ]


def compiles(source: str) -> bool:
    """False for a text that no test is needed to refuse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about `is` with a number
            compile(source, "mutant", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def equivalent(file: Path = EQUIVALENT) -> dict[tuple[str, str, str], str]:
    """The reasons why mutants are equivalent, by `Mutant.key`."""
    entries = json.loads(file.read_text(encoding="utf-8"))
    return {(e["file"], e["before"], e["after"]): e["reason"] for e in entries}


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927): it stays within 0 and 1, at those ends too.

    Without trials nothing is known: (0, 1).
    """
    if not trials:
        return 0.0, 1.0
    share, z2 = hits / trials, Z95**2
    middle = share + z2 / (2 * trials)
    half = Z95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    scale = 1 + z2 / trials
    return (middle - half) / scale, (middle + half) / scale


@dataclass(frozen=True)
class Score:
    """What became of a package's sample. caught: no test passed over it, or it ran too long."""

    package: str
    possible: int  # mutants that could have been drawn
    caught: Sequence[Mutant]
    survived: Sequence[Mutant]
    equivalent: Sequence[Mutant]

    @classmethod
    def of(
        cls,
        package: str,
        possible: int,
        fates: Sequence[tuple[Mutant, bool]],
        reasons: Mapping[tuple[str, str, str], str],
    ) -> Score:
        """fates: each mutant of the sample, and whether it was caught.

        ValueError if one that is said to be equivalent was caught.
        """
        caught = [mutant for mutant, was_caught in fates if was_caught]
        passed = [mutant for mutant, was_caught in fates if not was_caught]
        wrong = [mutant for mutant in caught if mutant.key in reasons]
        if wrong:
            raise ValueError(f"{EQUIVALENT.name} lists what a test catches:\n{wrong[0].text()}")
        survived = [mutant for mutant in passed if mutant.key not in reasons]
        return cls(package, possible, caught, survived, [m for m in passed if m.key in reasons])

    @property
    def counted(self) -> int:
        """How many of the sample are not equivalent."""
        return len(self.caught) + len(self.survived)

    @property
    def share(self) -> float:
        """Of those that count, the share that was caught."""
        return len(self.caught) / self.counted if self.counted else 0.0

    def text(self) -> str:
        """The score in one line, then every survivor."""
        low, high = wilson(len(self.caught), self.counted)
        head = (
            f"{self.package}: {len(self.caught)} of {self.counted} caught, {self.share:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%}); beside them {len(self.equivalent)} "
            f"equivalent; drawn from {self.possible}"
        )
        return "\n".join([head, *(mutant.text() for mutant in self.survived)])

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "possible": self.possible,
            "caught": len(self.caught),
            "survived": len(self.survived),
            "equivalent": len(self.equivalent),
            "share": round(self.share, 4),
            "interval_95": [round(end, 4) for end in wilson(len(self.caught), self.counted)],
        }
