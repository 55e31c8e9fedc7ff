"""Where in the picture a control acts: a mask for all blocks, for a group of them, or for one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ALL, DETAIL, STRUCTURE, MIDDLE = "all blocks", "detail", "structure", "middle"
GROUPS = (ALL, DETAIL, STRUCTURE, MIDDLE)
Area = tuple[int, int, int, int]  # height, width, y, x in latent pixels


@dataclass(frozen=True)
class MaskLayer:
    """A mask (M, H, W) in 0..1 and the blocks that it is meant for: one of GROUPS or an index."""

    mask: Tensor
    target: str | int
    lowest: float
    highest: float

    def covers(self, block: int, blocks: int) -> bool:
        """True if this layer speaks about ``block`` of a network with so many blocks."""
        if isinstance(self.target, int):
            return self.target == block
        if block == blocks - 1:
            return self.target in (ALL, MIDDLE)
        return self.target in (ALL, DETAIL if block < blocks // 2 else STRUCTURE)


@dataclass(frozen=True)
class BlockMasks:
    """Masks by block; where several layers cover a block, the last one counts.

    1 lets the residual through, 0 takes it away. Masks are never changed in place.
    """

    layers: tuple[MaskLayer, ...] = ()

    def with_layer(self, mask: Tensor, target: str | int = ALL) -> BlockMasks:
        """A copy with another mask (M, H, W) or (H, W); ValueError for one that can't be used."""
        mask = mask[None] if mask.ndim == 2 else mask
        if mask.ndim != 3 or 0 in mask.shape:
            raise ValueError(
                f"A mask of shape {tuple(mask.shape)} can't be used; (M, H, W) with at least one "
                "pixel was expected."
            )
        low, high = (float(value) for value in mask.aminmax())
        if not (low >= 0.0 and high <= 1.0):  # false for NaN as well
            raise ValueError(f"The mask holds values from {low:g} to {high:g}; 0 to 1 is expected.")
        if isinstance(target, str) and target not in GROUPS:
            raise ValueError(f"No group of blocks '{target}'; there are {', '.join(GROUPS)}.")
        return BlockMasks((*self.layers, MaskLayer(mask.float(), target, low, high)))

    def of_block(self, block: int, blocks: int) -> Tensor | None:
        """The mask (M, H, W) of a block; None where the residual passes unchanged."""
        layer = self._layer(block, blocks)
        return None if layer is None or layer.lowest == 1.0 else layer.mask

    def muted(self, blocks: int) -> frozenset[int]:
        """The blocks whose mask is zero everywhere: nobody needs their residual."""
        layers = {i: self._layer(i, blocks) for i in range(blocks)}
        return frozenset(i for i, layer in layers.items() if layer and layer.highest == 0.0)

    def _layer(self, block: int, blocks: int) -> MaskLayer | None:
        covering = [layer for layer in self.layers if layer.covers(block, blocks)]
        return covering[-1] if covering else None

    def require_blocks(self, blocks: int) -> None:
        """ValueError if a layer is meant for a block that the network lacks."""
        for layer in self.layers:
            if isinstance(layer.target, int) and not 0 <= layer.target < blocks:
                raise ValueError(
                    f"Block Masks: a mask is meant for block {layer.target}, the ControlNet has "
                    f"blocks 0 to {blocks - 1} (the last is the middle block)."
                )


def prepare_mask(mask: Tensor, *, invert: bool = False, feather: float = 0.0) -> Tensor:
    """The mask (M, H, W), turned round and with a soft border if asked for.

    feather: standard deviation of a Gaussian in pixels of the mask.
    """
    mask = 1.0 - mask if invert else mask
    if feather <= 0.0:
        return mask
    radius = min(int(3.0 * feather + 0.5), *(side - 1 for side in mask.shape[-2:]))
    if radius < 1:
        return mask
    offsets = torch.arange(-radius, radius + 1, dtype=mask.dtype, device=mask.device)
    taps = torch.exp(-0.5 * (offsets / feather).square())
    taps = taps / taps.sum()
    padded = F.pad(mask[:, None], (radius,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    return blurred[:, 0].clamp(0.0, 1.0)


def resize_mask(
    mask: Tensor,
    size: tuple[int, int],
    full: tuple[int, int] | None = None,
    area: Area | None = None,
) -> Tensor:
    """The mask (M, H, W) at the size of a residual, each pixel the mean of what it covers.

    full: the latent size of the whole picture and ``area`` the part of it that is being sampled;
    both None if that is the whole.
    """
    mask = mask[:, None]
    if area is not None and full is not None:
        height, width, y, x = area
        whole = F.interpolate(mask, size=full, mode="area")
        mask = whole[..., y : y + height, x : x + width]
    return F.interpolate(mask, size=size, mode="area")[:, 0]
