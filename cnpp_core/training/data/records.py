"""What a network learns from, picture by picture, and what of it can't be used."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

log = logging.getLogger(__name__)

Read = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Record:
    """A picture with its caption, and the condition that was found in it if there is one already.

    name: where it stands, for messages. size: (width, height) of both pictures. picture and
    condition read them: (1, 3, H, W) and (1, 1 or 3, H, W) in 0..1; both raise ValueError or
    OSError for what can't be read. stamp: which picture this is, another one whenever the picture
    changes; what is cached goes by it.
    """

    name: str
    size: tuple[int, int]
    caption: str
    stamp: str
    picture: Read
    condition: Read | None = None


class Problems:
    """Records that can't be used: the first one is an error, or all are named and left out."""

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.found: list[str] = []

    def add(self, where: str, what: object) -> None:
        """One more; ValueError if none is left out."""
        problem = f"{where}: {what}".rstrip(".")
        if not self.skip:
            raise ValueError(f"{problem}. Mend it, or choose to skip what can't be used.")
        self.found.append(problem)
        log.warning("skipped %s", problem)

    def count(self, records: int, place: object) -> None:
        """Say at the end of reading how many there are; ValueError if there is nothing to use."""
        if not records:
            raise ValueError(
                f"There is nothing to train with in {place}: no record can be used, "
                f"{len(self.found):,} were skipped{_first(self.found)}."
            )
        log.info("%s: %d records, %d skipped", place, records, len(self.found))


def _first(found: list[str]) -> str:
    return f", the first one {found[0]}" if found else ""
