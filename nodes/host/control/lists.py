"""The host's form of a control, three lists named after where a model adds them, and ours.

A UNet adds ``output`` (shallow to deep) to its skip connections and ``middle`` behind its middle
block; T2I adapters answer in ``input``, deep to shallow. Transformers add ``input`` behind their
first, double blocks and ``output`` behind the single ones that follow, both front to back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....cnpp_core.control.residuals import ControlResiduals

KEYS = ("input", "middle", "output")
Lists = dict[str, list["Tensor | None"]]
Slot = tuple[str, int]


@dataclass(frozen=True)
class Layout:
    """Where each residual stands in the lists, shallow to deep.

    slots: None is a place of the model where this control never speaks. lengths: of the lists.
    silence: what a muted place holds; zeros of no size where the model takes no None.
    """

    slots: tuple[Slot | None, ...]
    lengths: dict[str, int]
    silence: dict[Slot, Tensor]

    @classmethod
    def of(cls, lists: Lists, *, unet: int | None) -> Layout:
        """The order in which this control reaches the model.

        unet: how many places the model's UNet has, its middle block included; None for another
        kind of model. ValueError for a control that speaks at places which the UNet lacks.
        """
        lengths = {key: len(lists[key]) for key in KEYS}
        front = {key: tuple((key, i) for i in range(lengths[key])) for key in KEYS}
        if unet is None:
            # Stable Cascade takes its maps off the end, transformers their tokens off the front.
            maps = any(block is not None and block.ndim == 4 for block in lists["input"])
            first = front["input"][::-1] if maps else front["input"]
            silence = {
                slot: _nothing(block)
                for key in KEYS
                for slot, block in zip(front[key], lists[key], strict=True)
                # HunyuanDiT adds whatever it finds; a list with gaps belongs to a model that looks.
                if block is not None and None not in lists[key]
            }
            return cls((*first, *front["middle"], *front["output"]), lengths, silence)
        skips = front["input"][::-1] or front["output"]
        if front["input"] and front["output"]:
            raise ValueError("A control that answers in both `input` and `output` can't be shaped.")
        beyond = [lists[key][i] for key, i in skips[unet - 1 :]] + lists["middle"][1:]
        if any(block is not None for block in beyond):
            raise ValueError(
                f"This control speaks at {len(skips)} blocks beside the middle, the model's UNet "
                f"has {unet - 1}; it was made for another family (SD1.5 12, SDXL 9). Load a "
                "control for this model."
            )
        padding: tuple[Slot | None, ...] = (None,) * (unet - 1 - len(skips))
        middle = front["middle"][:1] or (None,)
        return cls((*skips[: unet - 1], *padding, *middle), lengths, {})

    def read(self, lists: Lists, rows: int) -> ControlResiduals:
        """The residuals, each with a row of its own for every row of the call."""
        blocks = [None if slot is None else lists[slot[0]][slot[1]] for slot in self.slots]
        return ControlResiduals(_for_rows(blocks, rows))

    def write(self, residuals: ControlResiduals) -> Lists:
        """Fresh lists, for the model takes them apart."""
        lists: Lists = {key: [None] * length for key, length in self.lengths.items()}
        for slot, block in zip(self.slots, residuals, strict=True):
            if slot is not None:
                lists[slot[0]][slot[1]] = self.silence.get(slot) if block is None else block
        return lists


def _nothing(block: Tensor) -> Tensor:
    """A zero that looks like one row of a residual and takes no memory."""
    return block.new_zeros(()).expand(1, *block.shape[1:])


def _for_rows(blocks: list[Tensor | None], rows: int) -> list[Tensor | None]:
    """T2I adapters answer once for all rows; what one tensor says at many places stays one."""
    spread: dict[int, Tensor] = {}
    for block in blocks:
        if block is not None and id(block) not in spread:
            alone = block.shape[0] == 1 and rows > 1
            spread[id(block)] = block.expand(rows, *block.shape[1:]) if alone else block
    return [None if block is None else spread[id(block)] for block in blocks]


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
    """Control lists that are computed when the model asks for them.

    A step cache that skips the model never asks, and then nothing is computed. inputs: a UNet asks
    for ``input`` long before the rest, so where that list is known it is handed out by itself.
    """

    def __init__(self, compute: Callable[[], Lists], inputs: list[Tensor | None] | None) -> None:
        super().__init__({"input": inputs or [], "middle": [], "output": []})
        self.knows_inputs = inputs is not None
        self._compute: Callable[[], Lists] | None = compute

    def _fill(self) -> None:
        if self._compute is not None:
            compute, self._compute = self._compute, None
            super().update(compute())

    def __getitem__(self, key: str) -> Any:
        if key != "input" or not self.knows_inputs:
            self._fill()
        return super().__getitem__(key)

    # Every other way to read a dict goes through the same gate.

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in KEYS else default

    def pop(self, key: str, *default: Any) -> Any:
        self._fill()
        return super().pop(key, *default)

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
