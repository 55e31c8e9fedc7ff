"""Decides, call by call, what of a control has to be computed, and shapes what comes out.

Everything that is remembered between two steps lies in a `ControlRunner`. A new one serves every
sampling, so nothing outlives an interrupt, an error or a full memory.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import Area, resize_mask
from .residuals import ControlResiduals
from .reuse import ResidualStore
from .scales import BlockScales
from .shape import ControlShape


@dataclass(frozen=True)
class Chunk:
    """The rows of one prompt in a batch: as many as there are images.

    index: its place in the batch; side: COND or UNCOND; area: the part of the picture it is for,
    None for all of it; key: names the prompt and the place, the same at every step.
    """

    index: int
    side: str
    key: Hashable = None
    area: Area | None = None


@dataclass(frozen=True)
class Request:
    """A batch of noisy latents x (chunks * images, C, H, W) that control is asked for.

    full: latent size of the whole picture, where areas are in use; frames: which images of a longer
    batch these are, if not all.
    """

    x: Tensor
    chunks: tuple[Chunk, ...]
    full: tuple[int, int] | None = None
    frames: tuple[int, ...] | None = None

    @property
    def images(self) -> int:
        """How many rows a chunk has, one for each image that is sampled."""
        return self.x.shape[0] // len(self.chunks)

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.x.shape[-2], self.x.shape[-1]

    def rows(self, tensor: Tensor, chunk: Chunk) -> Tensor:
        """The rows of a chunk, out of a tensor (B, ...) that holds those of every chunk."""
        return tensor[chunk.index * self.images : (chunk.index + 1) * self.images]


# Computes the residuals of some chunks, in their order; of the blocks asked for (None: all).
Evaluate = Callable[[Sequence[Chunk], "frozenset[int] | None"], ControlResiduals]
ChunkScales = Mapping[Chunk, BlockScales]


class ControlRunner:
    """One sampling of one control.

    blocks: how many residuals there are; None if only the first answer can tell.
    """

    def __init__(self, shape: ControlShape, blocks: int | None) -> None:
        self.shape = shape
        self.blocks = blocks
        self._store = ResidualStore(shape.speed.reuse)
        self._masks: dict[Hashable, Tensor] = {}

    def scales(self, chunks: Sequence[Chunk], percent: Callable[[], float]) -> ChunkScales | None:
        """Scales of each chunk; None where residuals pass as they are, or nothing is known yet."""
        if self.shape.is_neutral or self.blocks is None:
            return None
        now = percent()
        return {chunk: self.shape.of_rows(chunk.side, self.blocks, now) for chunk in chunks}

    def residuals(
        self,
        request: Request,
        percent: Callable[[], float],
        step: int | None,
        evaluate: Evaluate,
        drift_input: Tensor | None = None,
    ) -> ControlResiduals:
        """Shaped residuals (B, C, H, W) for every row, zero for the rows that get no control.

        percent: of the sampling, asked only where something depends on it. step: from 0, for the
        reuse of residuals; None to compute at once. evaluate: computes what is needed, if anything.
        drift_input: what drift is measured on, the latents (B, C, H, W) as the network gets them
        (default: those of the request).
        """
        scales = self.scales(request.chunks, percent)
        active, asked = request.chunks, None
        if scales is not None:
            active = tuple(chunk for chunk in request.chunks if scales[chunk].asked)
            asked = frozenset[int]().union(*(scales[chunk].asked for chunk in active))
            if not active:
                return ControlResiduals([None] * (self.blocks or 0))
        inputs = request.x if drift_input is None else drift_input
        residuals = self._latest(request, inputs, active, asked, step, evaluate)
        if self.blocks is None:
            self.blocks = len(residuals)  # the first answer tells, for the other calls as well
            self.shape.require_blocks(self.blocks)
            scales = self.scales(request.chunks, percent)
        if scales is not None:
            _require_some_asked(residuals, scales, active)
            residuals = residuals.scaled_by_chunk([scales[chunk] for chunk in active])
        if self.shape.masks.layers:
            residuals = self._masked(residuals, request, active)
        return residuals.spread([chunk.index for chunk in active], len(request.chunks))

    def _latest(
        self,
        request: Request,
        inputs: Tensor,
        chunks: Sequence[Chunk],
        asked: frozenset[int] | None,
        step: int | None,
        evaluate: Evaluate,
    ) -> ControlResiduals:
        """Residuals of these chunks, remembered ones where they are still good."""
        if step is None or self.shape.speed.reuse.every == 1:
            return evaluate(chunks, asked)
        found = {
            chunk: self._store.find(chunk.key, step, request.rows(inputs, chunk), asked)
            for chunk in chunks
        }
        stale = [chunk for chunk in chunks if found[chunk] is None]
        fresh = evaluate(stale, asked) if stale else ControlResiduals(())
        parts = []
        for chunk in chunks:
            stored = found[chunk]
            if stored is None:
                part = fresh.chunk(stale.index(chunk), len(stale))
                self._store.keep(chunk.key, step, request.rows(inputs, chunk), part, asked)
                parts.append(part)
            else:
                parts.append(stored.residuals)
        # A copy: what is handed out may be written to by others, what is kept must not change.
        return ControlResiduals.joined(parts)

    def _masked(
        self, residuals: ControlResiduals, request: Request, chunks: Sequence[Chunk]
    ) -> ControlResiduals:
        masks = [self.shape.masks.of_block(i, len(residuals)) for i in range(len(residuals))]

        def masked(block: Tensor, mask: Tensor | None) -> Tensor:
            return block if mask is None else block * self._mask(mask, block, request, chunks)

        return residuals.each(masked, masks)

    def _mask(
        self, mask: Tensor, block: Tensor, request: Request, chunks: Sequence[Chunk]
    ) -> Tensor:
        """The mask of a block, shaped to be multiplied with its residual (rows, ...)."""
        areas = tuple(chunk.area for chunk in chunks)
        where = (str(block.device), request.latent_size, request.full, request.frames)
        kind = (id(mask), tuple(block.shape), block.dtype, areas, where)
        if kind not in self._masks:
            size = _grid(block, request.latent_size)
            frames = request.frames or range(request.images)
            images = [i % mask.shape[0] for i in frames]
            parts = [resize_mask(mask, size, request.full, area)[images] for area in areas]
            rows = torch.cat(parts)
            shape = (rows.shape[0], 1, *size) if block.ndim == 4 else (rows.shape[0], -1, 1)
            self._masks[kind] = rows.reshape(shape).to(block)
        return self._masks[kind]


def _require_some_asked(
    residuals: ControlResiduals, scales: ChunkScales, chunks: Sequence[Chunk]
) -> None:
    """ValueError if the scales leave nothing but blocks where this control is silent."""
    spoken = {i for i, block in enumerate(residuals) if block is not None}
    asked = set[int]().union(*(scales[chunk].asked for chunk in chunks))
    if asked and spoken and not asked & spoken:
        raise ValueError(
            f"The block scales leave only {_numbers(asked)}, where this control says nothing at "
            f"all; it speaks at {_numbers(spoken)}. Give one of those a scale."
        )


def _numbers(blocks: set[int]) -> str:
    return f"block{'s' * (len(blocks) > 1)} {', '.join(map(str, sorted(blocks)))}"


def _grid(block: Tensor, latent_size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a residual: a map, or tokens row by row (patches of 1 or 2 latents)."""
    if block.ndim == 4:
        return block.shape[-2], block.shape[-1]
    height, width = latent_size
    for patch in (2, 1):
        grid = -(-height // patch), -(-width // patch)
        if block.ndim == 3 and grid[0] * grid[1] == block.shape[1]:
            return grid
    raise ValueError(
        f"Block Masks: this control answers in residuals of shape {tuple(block.shape)}, whose "
        "place in the picture is not known, so a mask can't be applied. Disconnect Block Masks."
    )
