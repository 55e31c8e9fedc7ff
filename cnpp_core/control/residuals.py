"""What a ControlNet gives at one step: the outputs of its zero convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .scales import BlockScales


@dataclass(frozen=True)
class ControlResiduals:
    """Residuals (B, C, H, W), shallow to deep, the middle block's last; None for no residual.

    Tensors are shared with whoever made them, so no method writes in place.
    """

    blocks: tuple[Tensor | None, ...]

    def __init__(self, blocks: Sequence[Tensor | None]) -> None:
        object.__setattr__(self, "blocks", tuple(blocks))

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter(self.blocks)

    def scaled(self, scales: BlockScales) -> ControlResiduals:
        """Each residual times its scale; 1 keeps the very tensor, 0 gives None."""
        return self.each(_times, scales.resolve(len(self)).values)

    def times(self, strength: float) -> ControlResiduals:
        """All residuals times one number; 1 keeps the very tensors, 0 gives None."""
        return self.each(_times, [strength] * len(self))

    def times_rows(self, factors: Sequence[float]) -> ControlResiduals:
        """Each row, or equal chunk of rows, times a factor of its own; like `times` if all agree.

        The batch divides evenly into the factors.
        """
        if all(factor == factors[0] for factor in factors):
            return self.times(factors[0])
        return self.each(_times_rows, [tuple(factors)] * len(self))

    def scaled_by_chunk(self, scales: Sequence[BlockScales]) -> ControlResiduals:
        """Each chunk of rows with scales of its own; the batch divides evenly into the chunks."""
        if all(chunk == scales[0] for chunk in scales):
            return self.scaled(scales[0])
        factors = zip(*(chunk.resolve(len(self)).values for chunk in scales), strict=True)
        return self.each(_times_rows, list(factors))

    def chunk(self, index: int, chunks: int) -> ControlResiduals:
        """The rows of one of so many equal chunks; views, not copies."""
        return self.each(lambda block: block.chunk(chunks)[index])

    def spread(self, indices: Sequence[int], chunks: int) -> ControlResiduals:
        """The chunks held here at their places in a batch of so many; zero in the other places."""
        if len(indices) == chunks:
            return self
        return self.each(lambda block: _spread(block, indices, chunks))

    @staticmethod
    def joined(parts: Sequence[ControlResiduals]) -> ControlResiduals:
        """Chunks of rows behind one another, copied; zeros where only one part has None."""
        whole: dict[tuple[int, ...], Tensor | None] = {}
        columns = list(zip(*(part.blocks for part in parts), strict=True))
        for blocks in columns:
            key = tuple(map(id, blocks))
            whole[key] = whole[key] if key in whole else _cat(blocks)
        return ControlResiduals([whole[tuple(map(id, blocks))] for blocks in columns])

    def each(
        self, change: Callable[..., Tensor | None], values: Sequence[Any] | None = None
    ) -> ControlResiduals:
        """``change(block)`` or ``change(block, value)`` of every block that is not None.

        Controls for transformers give the same at many places: what is one tensor stays one.
        """
        arguments = [()] * len(self) if values is None else [(value,) for value in values]
        changed: dict[tuple[int, ...], Tensor | None] = {}
        blocks = []
        for block, given in zip(self.blocks, arguments, strict=True):
            key = (id(block), *map(_identity, given))
            if block is not None and key not in changed:
                changed[key] = change(block, *given)
            blocks.append(None if block is None else changed[key])
        return ControlResiduals(blocks)

    def sums(self) -> Tensor:
        """A number per block (blocks,), finite if all of the block is; stays on the device."""
        present = [block for block in self.blocks if block is not None]
        zero = torch.zeros((), device=present[0].device if present else None)
        blocks = (zero if b is None else b.sum(dtype=torch.float32) for b in self.blocks)
        return torch.stack([*blocks, zero])

    def require_finite(self, sums: Tensor | None = None) -> None:
        """ValueError naming the blocks that hold NaN or infinite values.

        sums: (blocks,), what ``sums()`` gave earlier, to look at it once it is known anyway.
        """
        finite = torch.isfinite(self.sums() if sums is None else sums).tolist()
        bad = [self._name(i) for i in range(len(self)) if not finite[i]]
        if not bad:
            return
        raise ValueError(
            f"The ControlNet gave NaN or infinite residuals at {', '.join(bad)}. Its weights may "
            "have overflowed in half precision (choose fp32 or bf16 in Load ControlNet++), or the "
            "file may be damaged."
        )

    def _name(self, index: int) -> str:
        return "the middle block" if index == len(self) - 1 else f"input block {index}"

    def require_shapes(self, layout: Sequence[tuple[int, int]], height: int, width: int) -> None:
        """ValueError naming the first block that does not fit a UNet at this latent size.

        layout: (channels, downscale) of every block, like ``NetworkConfig.block_layout``.
        """
        if len(self) != len(layout):
            raise ValueError(f"{len(layout)} control residuals were expected, found {len(self)}.")
        for i, (block, (channels, downscale)) in enumerate(zip(self.blocks, layout, strict=True)):
            expected = (channels, -(-height // downscale), -(-width // downscale))
            if block is not None and tuple(block.shape[1:]) != expected:
                raise ValueError(
                    f"The control residual of {self._name(i)} has shape {tuple(block.shape[1:])}, "
                    f"{expected} was expected; check that the control was made for this model and "
                    "not for another family, and that the hint has the aspect of the picture."
                )


def _identity(value: Any) -> Any:
    return id(value) if isinstance(value, Tensor) else value


def _times(block: Tensor, factor: float) -> Tensor | None:
    if factor == 0.0:
        return None
    return block if factor == 1.0 else block * factor


def _times_rows(block: Tensor, factors: Sequence[float]) -> Tensor | None:
    if not any(factors):
        return None
    chunks = zip(block.chunk(len(factors)), factors, strict=True)
    return torch.cat([chunk * factor for chunk, factor in chunks])


def _spread(block: Tensor, indices: Sequence[int], chunks: int) -> Tensor:
    size = block.shape[0] // len(indices)
    whole = block.new_zeros(chunks * size, *block.shape[1:])
    for part, index in zip(block.chunk(len(indices)), indices, strict=True):
        whole[index * size : (index + 1) * size] = part
    return whole


def _cat(blocks: Sequence[Tensor | None]) -> Tensor | None:
    present = [block for block in blocks if block is not None]
    if not present:
        return None
    return torch.cat([torch.zeros_like(present[0]) if b is None else b for b in blocks])
