"""The host's form of a control, three lists named after where a model adds them, and ours.

A UNet adds ``output`` (shallow to deep) to its skip connections and ``middle`` behind its middle
block; T2I adapters answer in ``input``, deep to shallow. Transformers read ``output`` and then
``input``, front to back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...cnpp_core.control.residuals import ControlResiduals

KEYS = ("input", "middle", "output")
Lists = dict[str, list["Tensor | None"]]


@dataclass(frozen=True)
class Layout:
    """Where each residual stands in the lists, shallow to deep."""

    slots: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, lists: Lists, *, unet: bool) -> Layout:
        """The order in which this control reaches the model."""
        lengths = {key: len(lists[key]) for key in KEYS}
        forward = {key: [(key, i) for i in range(length)] for key, length in lengths.items()}
        if unet:
            return cls((*forward["input"][::-1], *forward["output"], *forward["middle"]))
        return cls((*forward["output"], *forward["middle"], *forward["input"]))

    def read(self, lists: Lists) -> ControlResiduals:
        return ControlResiduals([lists[key][i] for key, i in self.slots])

    def write(self, residuals: ControlResiduals) -> Lists:
        """Fresh lists, for the model takes them apart."""
        lists: Lists = {key: [None] * sum(slot[0] == key for slot in self.slots) for key in KEYS}
        for (key, i), block in zip(self.slots, residuals, strict=True):
            lists[key][i] = block
        return lists


def merged(previous: Lists, ours: Lists) -> Lists:
    """The sum of two controls, as the host adds one behind another; ValueError if they disagree."""
    return {key: _sum(key, previous[key], ours[key]) for key in KEYS}


def _sum(key: str, previous: list[Tensor | None], ours: list[Tensor | None]) -> list[Tensor | None]:
    pairs = enumerate(zip(previous, ours, strict=False))
    common = [_added(f"{key} {i}", a, b) for i, (a, b) in pairs]
    rest = previous if len(previous) > len(ours) else ours
    return common + rest[len(common) :]


def _added(place: str, previous: Tensor | None, ours: Tensor | None) -> Tensor | None:
    if previous is None or ours is None:
        return ours if previous is None else previous
    if previous.shape[1:] != ours.shape[1:]:
        raise ValueError(
            f"Two chained controls disagree at {place}: {tuple(previous.shape[1:])} before, "
            f"{tuple(ours.shape[1:])} now. Both must belong to the family of the model: look at "
            "the two nodes that apply them."
        )
    return previous + ours


class LazyLists(dict):
    """Control lists that are computed when the model asks for more than ``input``.

    A step cache that skips the model never asks, and then nothing is computed.
    """

    def __init__(self, compute: Callable[[], Lists], inputs: list[Tensor | None]) -> None:
        super().__init__({"input": inputs, "middle": [], "output": []})
        self._compute: Callable[[], Lists] | None = compute

    def _fill(self) -> None:
        if self._compute is not None:
            compute, self._compute = self._compute, None
            super().update(compute())

    def __getitem__(self, key: str) -> Any:
        if key != "input":
            self._fill()
        return super().__getitem__(key)

    # Every other way to read a dict goes through the same gate.

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in KEYS else default

    def items(self) -> Any:
        self._fill()
        return super().items()

    def values(self) -> Any:
        self._fill()
        return super().values()

    def copy(self) -> Lists:
        return dict(self.items())

    def __iter__(self) -> Iterator[str]:
        return iter(KEYS)  # dict(lists) reads item by item when this is defined
