"""What a ControlNet says at one step: the outputs of its zero convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..network.config import NetworkConfig
from .scales import BlockScales


@dataclass(frozen=True)
class ControlResiduals:
    """Residuals (B, C, H, W), shallow to deep, the middle block's last; None where a block is mute.

    Tensors are shared with whoever made them, so no method writes in place.
    """

    blocks: tuple[Tensor | None, ...]

    def __init__(self, blocks: Sequence[Tensor | None]) -> None:
        object.__setattr__(self, "blocks", tuple(blocks))

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Tensor | None]:
        return iter(self.blocks)

    @property
    def skips(self) -> tuple[Tensor | None, ...]:
        """Residuals of the skip connections, shallow to deep."""
        return self.blocks[:-1]

    @property
    def middle(self) -> Tensor | None:
        return self.blocks[-1]

    def scaled(self, scales: BlockScales) -> ControlResiduals:
        """Each residual times its scale; 1 keeps the very tensor, 0 makes the block mute."""
        factors = scales.resolve(len(self)).values
        return ControlResiduals(
            [_times(block, factor) for block, factor in zip(self.blocks, factors, strict=True)]
        )

    def times(self, strength: float) -> ControlResiduals:
        """All residuals times one number; 1 keeps the very tensors, 0 makes every block mute."""
        return ControlResiduals([_times(block, strength) for block in self.blocks])

    def plus(self, other: ControlResiduals) -> ControlResiduals:
        """The sum of two controls; ValueError if they have different numbers of blocks."""
        if len(self) != len(other):
            raise ValueError(
                f"A control of {len(self)} blocks cannot be added to one of {len(other)} blocks; "
                "both ControlNets must belong to the family of the model."
            )
        return ControlResiduals(
            [_sum(a, b) for a, b in zip(self.blocks, other.blocks, strict=True)]
        )

    def require_shapes(self, config: NetworkConfig, height: int, width: int) -> None:
        """ValueError naming the first block that does not fit a UNet at this latent size."""
        layout = config.block_layout
        if len(self) != len(layout):
            raise ValueError(f"{len(layout)} control residuals were expected, found {len(self)}.")
        for i, (block, (channels, downscale)) in enumerate(zip(self.blocks, layout, strict=True)):
            expected = (channels, -(-height // downscale), -(-width // downscale))
            if block is not None and tuple(block.shape[1:]) != expected:
                name = "middle block" if i == len(layout) - 1 else f"input block {i}"
                raise ValueError(
                    f"The control residual of {name} has shape {tuple(block.shape[1:])}, "
                    f"{expected} was expected; check that the hint has the aspect of the picture."
                )


def _times(block: Tensor | None, factor: float) -> Tensor | None:
    if block is None or factor == 0.0:
        return None
    return block if factor == 1.0 else block * factor


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
