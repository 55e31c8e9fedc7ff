"""What a consistency check must know about a kind of condition."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

# Words and RGB colours (0..1) of a difference picture.
Legend = tuple[tuple[str, tuple[float, float, float]], ...]


class Comparison(NamedTuple):
    """What a measure finds."""

    scores: Tensor  # (B,)
    lines: list[str]  # one sentence per picture
    difference: Tensor  # (B, 3, H, W) in 0..1


class Measure(Protocol):
    """What agreement means for one kind of condition."""

    @property
    def name(self) -> str:
        """The score's name, with its settings."""
        ...

    @property
    def legend(self) -> Legend:
        """Words and RGB colours of the difference picture."""
        ...

    def read(self, condition: Tensor) -> tuple[Tensor, list[str]]:
        """The map in a condition image (N, 1 or 3, H, W), and remarks; ValueError if it's none."""
        ...

    def resize(self, wanted: Tensor, height: int, width: int) -> Tensor:
        """A map that was read, at another size."""
        ...

    def compare(self, recovered: Tensor, wanted: Tensor, mask: Tensor | None) -> Comparison:
        """`recovered` as the annotator gave it, `wanted` as read, mask (B, 1, H, W) bool."""
        ...
