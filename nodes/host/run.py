"""What a control does during one sampling: decide, compute as little as needed, shape.

Everything that is remembered between two steps lies in a `Run`. A new one is made before every
sampling, so nothing outlives an interrupt, an error or a full memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...cnpp_core.control.masks import resize_mask
from ...cnpp_core.control.residuals import ControlResiduals
from ...cnpp_core.control.reuse import ResidualStore
from ...cnpp_core.control.runner import HintCache, is_controlnet
from ...cnpp_core.control.scales import BlockScales
from ...cnpp_core.control.timing import Timing
from .call import Call, Chunk
from .family import unet_block_layout
from .lists import Layout, LazyLists, Lists
from .speed import beside, calls_for_eager, partial_of

if TYPE_CHECKING:
    from .control import ControlNetPlusPlus

ChunkScales = Mapping[Chunk, BlockScales]


class Run:
    """One sampling of one control."""

    def __init__(
        self, control: ControlNetPlusPlus, model: Any, percent_to_sigma: Callable[[float], float]
    ) -> None:
        self.inner = control.inner
        self.shape = control.shape
        self.union_hints = control.union_hints
        self.network = control.control_model if is_controlnet(control.control_model) else None
        self.blocks = control.blocks
        self.unet = unet_block_layout(model)
        self.model_sampling = model.model_sampling
        self.timing = Timing(percent_to_sigma)
        self.hints = HintCache()
        self.store = ResidualStore(self.shape.speed.reuse)
        self._layout: Layout | None = None
        self._sigmas: list[float] = []
        self._handlers: dict[Hashable, Any] = {}
        self._masks: dict[Hashable, Tensor] = {}

    def control(self, call: Call) -> Lists | None:
        """The shaped residuals in the host's lists; None where this control is silent."""
        window = self.inner.timestep_range
        # In tensors, as the host compares: floats of Python round otherwise.
        if window is not None and (call.t[0] > window[0] or call.t[0] < window[1]):
            return None
        scales = self._scales(call)
        if scales is not None and not any(chunk.asked for chunk in scales.values()):
            return None
        speed = self.shape.speed
        step = self._step(call)

        def compute() -> Lists:
            return self._compute(call, scales, step)

        # Only of a ControlNet for UNets is it known that it has no `input` to hand out at once.
        if self.network is None or calls_for_eager(call.options):
            return compute()
        if speed.overlap:
            return beside(compute, call.x, self.inner)
        return LazyLists(compute, []) if speed.lazy else compute()

    def _scales(self, call: Call) -> ChunkScales | None:
        """Scales of each chunk; None where residuals pass as they are, or nothing is known yet."""
        if self.shape.is_neutral or self.blocks is None:
            return None
        percent = self.timing.percent(float(call.t[0]))
        return {
            chunk: self.shape.of_rows(chunk.side, self.blocks, percent) for chunk in call.chunks
        }

    def _step(self, call: Call) -> int | None:
        """The step of this call; None where nothing is reused, or a sampler keeps no plan."""
        planned = call.options.get("sample_sigmas")
        if self.shape.speed.reuse.every == 1 or planned is None:
            return None
        self._sigmas = self._sigmas or planned.tolist()
        return self.timing.step(float(call.t[0]), self._sigmas)

    def _compute(self, call: Call, scales: ChunkScales | None, step: int | None) -> Lists:
        active, asked = call.chunks, None
        if scales is not None:
            active = tuple(chunk for chunk in call.chunks if scales[chunk].asked)
            asked = frozenset[int]().union(*(scales[chunk].asked for chunk in active))
        part = call.only(active)
        residuals = self._residuals(part, asked, step)
        if self.blocks is None:
            self.blocks = len(residuals)  # the first answer tells, for the other calls as well
            self.shape.require_blocks(self.blocks)
            scales = self._scales(call)
        if scales is not None:
            residuals = residuals.scaled_by_chunk([scales[chunk] for chunk in active])
        if self.shape.masks.layers:
            residuals = self._masked(residuals, part)
        whole = residuals.spread([chunk.index for chunk in active], len(call.chunks))
        assert self._layout is not None  # the first answer has set it
        return self._layout.write(whole)

    def _residuals(
        self, call: Call, asked: frozenset[int] | None, step: int | None
    ) -> ControlResiduals:
        """Residuals of every row of the call, remembered ones where they are still good."""
        if step is None:
            return self._evaluate(call, asked)
        inputs = self._inputs(call)
        found = {
            chunk: self.store.find(chunk.key, step, call.rows(inputs, chunk), asked)
            for chunk in call.chunks
        }
        stale = [chunk for chunk in call.chunks if found[chunk] is None]
        fresh = self._evaluate(call.only(stale), asked) if stale else None
        parts = []
        for chunk in call.chunks:
            if fresh is not None and chunk in stale:
                part = fresh.chunk(stale.index(chunk), len(stale))
                self.store.keep(chunk.key, step, call.rows(inputs, chunk), part, asked)
            else:
                part = found[chunk].residuals  # type: ignore[union-attr]
            parts.append(part)
        # A copy: what is handed out may be written to by others, what is kept must not change.
        return ControlResiduals.joined(parts)

    def _inputs(self, call: Call) -> Tensor:
        """What the drift is measured on: the latents as the network gets them."""
        if self.shape.speed.reuse.max_drift is None:
            return call.x
        return self.model_sampling.calculate_input(call.t, call.x)

    def _evaluate(self, call: Call, asked: frozenset[int] | None) -> ControlResiduals:
        """The host's own control for these rows, checked."""
        handler = self._handler(call)
        if self.network is not None:
            handler.control_model = partial_of(
                self.network, asked, self.hints, self.shape.speed.compiled
            )
        x = call.x
        if self.shape.speed.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        lists = handler.get_control(x, call.t, dict(call.cond), len(call.chunks), call.options)
        self._layout = Layout.of(lists, unet=self.unet is not None)
        residuals = self._layout.read(lists)
        residuals.require_finite()
        if self.unet is not None:
            # The host would log and drop a residual that does not fit.
            residuals.require_shapes(self._expected(residuals), *call.latent_size)
        return residuals

    def _expected(self, residuals: ControlResiduals) -> tuple[tuple[int, int], ...]:
        """The UNet's layout; without the middle block for a control that does not speak there."""
        assert self.unet is not None
        return self.unet if len(residuals) == len(self.unet) else self.unet[: len(residuals)]

    def _handler(self, call: Call) -> Any:
        """The control that answers calls of this kind: it holds the hint at the size they need.

        A kind is a size, a number of rows, an area, a window of frames. The host keeps one hint per
        control and cuts it down as it goes; a shallow copy for each kind keeps them apart.
        """
        by_area = self.shape.hint.by_area and any(chunk.area for chunk in call.chunks)
        areas = tuple(chunk.area for chunk in call.chunks) if by_area else None
        kind = (call.latent_size, call.images, len(call.chunks), call.frames, areas)
        if kind not in self._handlers:
            handler = copy.copy(self.inner)
            if by_area or call.frames or self.union_hints or not self.shape.hint.is_default:
                handler.cond_hint_original = self._hint(call, by_area)
            self._handlers[kind] = handler
        return self._handlers[kind]

    def _hint(self, call: Call, by_area: bool) -> Tensor:
        """The hint (or hints, one behind another in channels) as these rows see it."""
        ratio = self.inner.compression_ratio
        if self.inner.vae is not None:
            ratio *= self.inner.vae.spacial_compression_encode()
        size = (call.latent_size[0] * ratio, call.latent_size[1] * ratio)
        hints = [self.inner.cond_hint_original if h is None else h for h in self.union_hints]
        hints = hints or [self.inner.cond_hint_original]

        def placed(chunk: Chunk) -> Tensor:
            parts = [self.shape.hint.place(h, size, call.full, chunk.area) for h in hints]
            count = max(part.shape[0] for part in parts)
            hint = torch.cat([part[_turns(count, part.shape[0])] for part in parts], dim=1)
            if call.frames is None and not by_area:
                return hint
            frames = call.frames or range(call.images)
            return hint[[i % count for i in frames]]

        if not by_area:
            return placed(call.chunks[0])
        return torch.cat([placed(chunk) for chunk in call.chunks])

    def _masked(self, residuals: ControlResiduals, call: Call) -> ControlResiduals:
        blocks = []
        for i, block in enumerate(residuals):
            mask = self.shape.masks.of_block(i, len(residuals))
            if block is None or mask is None:
                blocks.append(block)
            else:
                blocks.append(block * self._mask(i, mask, block, call))
        return ControlResiduals(blocks)

    def _mask(self, index: int, mask: Tensor, block: Tensor, call: Call) -> Tensor:
        """The mask of a block, shaped to be multiplied with its residual (rows, ...)."""
        areas = tuple(chunk.area for chunk in call.chunks)
        kind = (index, tuple(block.shape), block.dtype, call.latent_size, areas, call.frames)
        if kind not in self._masks:
            size = _grid(block, call.latent_size)
            frames = call.frames or range(call.images)
            images = [i % mask.shape[0] for i in frames]
            parts = [resize_mask(mask, size, call.full, area)[images] for area in areas]
            rows = torch.cat(parts)
            shape = (rows.shape[0], 1, *size) if block.ndim == 4 else (rows.shape[0], -1, 1)
            self._masks[kind] = rows.reshape(shape).to(block)
        return self._masks[kind]


def _turns(count: int, available: int) -> list[int]:
    return [i % available for i in range(count)]


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
