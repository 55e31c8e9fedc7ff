"""One sampling of a control in the host: its calls, turned into requests to the core's runner."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....cnpp_core.control.partial import KEPT, HintCache, is_controlnet
from ....cnpp_core.control.residuals import ControlResiduals
from ....cnpp_core.control.runner import Chunk, ControlRunner
from ....cnpp_core.control.timing import Timing
from .call import Call
from .factors import Factors
from .family import unet_block_layout
from .foreign import explained
from .lists import Layout, LazyLists, Lists
from .speed import beside, calls_for_eager, can_overlap, partial_of, release

if TYPE_CHECKING:
    from .control import ControlNetPlusPlus


class Run:
    """What a control keeps from its first step to its last. Every sampling makes a new one."""

    def __init__(
        self, control: ControlNetPlusPlus, model: Any, percent_to_sigma: Callable[[float], float]
    ) -> None:
        self.inner = control.inner
        self.shape = control.shape
        own = control.inner.cond_hint_original
        self.union_hints = [own if hint is None else hint for hint in control.union_hints]
        self.all_hints = self.union_hints or [own]
        self.network = control.control_model if is_controlnet(control.control_model) else None
        self.unet = unet_block_layout(model)
        self.model, self.model_sampling = model, model.model_sampling
        self.timing = Timing(percent_to_sigma)
        self.hints = HintCache()
        blocks = control.blocks
        if blocks is None and self.unet is not None:
            blocks = len(self.unet)  # whatever speaks to a UNet speaks at its places
        if blocks is not None:
            self.shape.require_blocks(blocks)
        self.runner = ControlRunner(self.shape, blocks)
        self._layout: Layout | None = None
        self._sigmas: list[float] = []
        self._handlers: dict[Hashable, Any] = {}
        self._pending: list[tuple[ControlResiduals, Tensor]] = []
        self._overlaps: bool | None = None
        self._factors = Factors(control.shape.feedback)

    def control(self, call: Call) -> Lists | None:
        """The shaped residuals in the host's lists; None where this control is silent."""
        factors = self._factors.of(call)  # as they are now, whenever the control is computed
        window = self.inner.timestep_range
        # In tensors, as the host compares: floats of Python round otherwise.
        if window is not None and (call.t[0] > window[0] or call.t[0] < window[1]):
            return None
        if factors is not None and not any(factors):
            return None
        self._look_at_sums()
        scales = self.runner.scales(call.chunks, lambda: self._percent(call))
        if scales is not None:
            active = [chunk for chunk in call.chunks if scales[chunk].asked]
            if not active:
                return None
        else:
            active = list(call.chunks)
        step, speed = self._step(call), self.shape.speed

        def compute() -> Lists:
            return self._compute(call, step, factors)

        if calls_for_eager(call.options, self.model):
            return compute()
        if speed.overlap and self.network is not None and self._can_overlap(call):
            return beside(compute, (call.x, call.t, *call.cond.values()))
        # A UNet asks for `input` at once; only of ControlNets is it known that they have none.
        lazy = speed.lazy and (self.network is not None or self.unet is None)
        # A hint that goes through a VAE is encoded before the model runs, not in the middle of it.
        if self.inner.vae is not None and self._kind(call, active) not in self._handlers:
            lazy = False
        return LazyLists(compute, None if self.unet is None else []) if lazy else compute()

    def finish(self) -> None:
        """After the last step: ValueError for residuals that only now turn out to be NaN."""
        if self.network is not None:
            release(self.network)
        self._look_at_sums()

    def _look_at_sums(self) -> None:
        pending, self._pending = self._pending, []
        for blocks, sums in pending:
            blocks.require_finite(sums)

    def _can_overlap(self, call: Call) -> bool:
        if self._overlaps is None:
            self._overlaps = can_overlap(call.x, self.inner)
        return self._overlaps

    def _percent(self, call: Call) -> float:
        return self.timing.percent(call.sigma)

    def _step(self, call: Call) -> int | None:
        """The step of this call; None where nothing is reused, or a sampler keeps no plan."""
        planned = call.options.get("sample_sigmas")
        if self.shape.speed.reuse.every == 1 or planned is None:
            return None
        self._sigmas = self._sigmas or planned.tolist()
        return self.timing.step(call.sigma, self._sigmas)

    def _compute(self, call: Call, step: int | None, factors: tuple[float, ...] | None) -> Lists:
        drift_input = None
        if self.shape.speed.reuse.max_drift is not None:
            drift_input = self.model_sampling.calculate_input(call.t, call.x)

        def evaluate(chunks: Sequence[Chunk], asked: frozenset[int] | None) -> ControlResiduals:
            return self._evaluate(call.only(chunks), asked)

        residuals = self.runner.residuals(
            call, lambda: self._percent(call), step, evaluate, drift_input
        )
        if factors is not None:  # what is kept for other steps is kept without them
            residuals = residuals.times_rows(factors * len(call.chunks))
        assert self._layout is not None  # the first answer has set it
        return self._layout.write(residuals)

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
        with explained(self.inner, self.model):
            lists = handler.get_control(x, call.t, dict(call.cond), len(call.chunks), call.options)
        places = None if self.unet is None else len(self.unet)
        self._layout = Layout.of(lists, unet=places)
        residuals = self._layout.read(lists, call.x.shape[0])
        sums = residuals.sums()
        if sums.is_cuda:  # looked at when the next step comes, so that nobody waits for it now
            self._pending.append((ControlResiduals([None] * len(residuals)), sums))
        else:
            residuals.require_finite(sums)
        if self.unet is not None:
            # The host would log and drop a residual that does not fit.
            residuals.require_shapes(self.unet, *call.latent_size)
        return residuals

    def _kind(self, call: Call, chunks: Sequence[Chunk]) -> Hashable:
        """What decides how a hint is prepared: size, and area, rows and frames where they count."""
        areas = tuple(chunk.area for chunk in chunks)
        if self.shape.hint.by_area and any(areas):
            return call.latent_size, call.images, areas, call.frames
        if all(
            hint.shape[0] == 1 for hint in self.all_hints
        ):  # the host leaves a single hint single
            return call.latent_size
        return call.latent_size, call.images, len(chunks), call.frames

    def _handler(self, call: Call) -> Any:
        """The control that answers calls of this kind: it holds the hint as they need it.

        The host keeps one hint per control and cuts it down as it goes; a shallow copy of the
        control for each kind of call keeps them apart.
        """
        kind = self._kind(call, call.chunks)
        handler = self._handlers.pop(kind, None)
        if handler is None:
            handler = copy.copy(self.inner)
            by_area = self.shape.hint.by_area and any(chunk.area for chunk in call.chunks)
            if by_area or call.frames or self.union_hints or not self.shape.hint.is_default:
                handler.cond_hint_original = self._hint(call, by_area)
        self._handlers[kind] = handler  # the last one used is the last one to go
        while len(self._handlers) > KEPT:
            del self._handlers[next(iter(self._handlers))]
        return handler

    def _hint(self, call: Call, by_area: bool) -> Tensor:
        """The hint (or hints, one behind another in channels) as these rows see it."""
        ratio = self.inner.compression_ratio
        if self.inner.vae is not None:
            ratio *= self.inner.vae.spacial_compression_encode()
        size = (call.latent_size[0] * ratio, call.latent_size[1] * ratio)

        def placed(chunk: Chunk) -> Tensor:
            parts = [self.shape.hint.place(h, size, call.full, chunk.area) for h in self.all_hints]
            count = max(part.shape[0] for part in parts)
            rows = [part[[i % part.shape[0] for i in range(count)]] for part in parts]
            hint = torch.cat(rows, dim=1)
            if call.frames is None and not by_area:
                return hint
            frames = call.frames or range(call.images)
            return hint[[i % count for i in frames]]

        if not by_area:
            return placed(call.chunks[0])
        return torch.cat([placed(chunk) for chunk in call.chunks])
