"""One sampling of a control in the host: its calls, turned into requests to the core's runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....cnpp_core.control.partial import HintCache, count_blocks, is_controlnet
from ....cnpp_core.control.residuals import ControlResiduals
from ....cnpp_core.control.runner import Chunk, ControlRunner
from ....cnpp_core.control.shape import ControlShape
from ....cnpp_core.control.timing import Timing
from .call import Call
from .factors import Factors
from .family import unet_block_layout
from .finite import FiniteWatch
from .foreign import explained
from .hints import Hints
from .lists import Layout, LazyLists, Lists
from .speed import beside, calls_for_eager, can_overlap, partial_of, release


@dataclass(frozen=True)
class Setup:
    """What a run has to know of its control.

    inner: the host's control; its settings are read at every call. union_hints: of a union
    network's conditions, None for the inner control's own; empty where all are in that one. whole:
    the hint of the whole picture.
    """

    inner: Any
    shape: ControlShape
    union_hints: tuple[Tensor | None, ...] = ()
    whole: Tensor | None = None

    @property
    def network(self) -> Any:
        """The network, if it is a ControlNet for UNets."""
        network = getattr(self.inner, "control_model", None)
        return network if is_controlnet(network) else None


class Run:
    """What a control keeps from its first step to its last. Every sampling makes a new one."""

    def __init__(
        self, setup: Setup, model: Any, percent_to_sigma: Callable[[float], float]
    ) -> None:
        self.inner, self.shape, self.network = setup.inner, setup.shape, setup.network
        self.model, self.unet = model, unet_block_layout(model)
        self.timing = Timing(percent_to_sigma, self.shape.marks)
        blocks = None
        if self.network is not None:
            blocks = count_blocks(self.network)
        elif self.unet is not None:
            blocks = len(self.unet)  # whatever speaks to a UNet speaks at its places
        if blocks is not None:
            self.shape.require_blocks(blocks)
        self.runner = ControlRunner(self.shape, blocks)
        self.hints = Hints(self.inner, self.shape.hint, setup.union_hints, setup.whole)
        self._embedded = HintCache()
        self._factors = Factors(self.shape.feedback)
        self._finite = FiniteWatch()
        self._layout: Layout | None = None
        self._sigmas: list[float] = []
        self._overlaps: bool | None = None

    def control(self, call: Call) -> Lists | None:
        """The shaped residuals in the host's lists; None where this control is silent."""
        factors = self._factors.of(call)  # as they are now, whenever the control is computed
        if self._is_outside(call) or (factors is not None and not any(factors)):
            return None
        self.hints.require_place(call, has_masks=bool(self.shape.masks.layers))
        self._finite.look()
        active = self._active(call)
        if not active:
            return None
        step = self._step(call)
        return self._when_due(call, active, lambda: self._compute(call, step, factors))

    def can_see_features(self, options: dict[str, Any]) -> bool:
        """True for a UNet whose features can be watched: a compiled one would compile that too."""
        return self.unet is not None and not calls_for_eager(options, self.model)

    def forget(self) -> None:
        """Instead of the last step, where a sampling broke off and nothing was cleaned up."""
        if self.network is not None:
            release(self.network)
        self.hints.forget()

    def finish(self) -> None:
        """After the last step: ValueError for residuals that only now turn out to be NaN."""
        if self.network is not None:
            release(self.network)
        self._finite.look()

    def _is_outside(self, call: Call) -> bool:
        """True where the window of the control does not hold this call."""
        window = self.inner.timestep_range
        # In tensors, as the host compares: floats of Python round otherwise.
        return window is not None and bool(call.t[0] > window[0] or call.t[0] < window[1])

    def _active(self, call: Call) -> list[Chunk]:
        """The chunks that have a block whose scale is not zero."""
        scales = self.runner.scales(call.chunks, lambda: self._percent(call))
        return [chunk for chunk in call.chunks if scales is None or scales[chunk].asked]

    def _percent(self, call: Call) -> float:
        return self.timing.percent(call.sigma)

    def _step(self, call: Call) -> int | None:
        """The step of this call; None where nothing is reused, or a sampler keeps no plan."""
        planned = call.options.get("sample_sigmas")
        if self.shape.speed.reuse.every == 1 or planned is None:
            return None
        self._sigmas = self._sigmas or planned.tolist()
        return self.timing.step(call.sigma, self._sigmas)

    def _when_due(self, call: Call, active: Sequence[Chunk], compute: Callable[[], Lists]) -> Lists:
        """What ``compute`` gives: now, beside the UNet's encoder, or as soon as the model asks."""
        if calls_for_eager(call.options, self.model):
            return compute()
        if self._may_overlap(call):
            return beside(compute, (call.x, call.t, *call.cond.values()))
        if self._may_wait(call, active):
            return LazyLists(compute, None if self.unet is None else [])
        return compute()

    def _may_overlap(self, call: Call) -> bool:
        if not self.shape.speed.overlap or self.network is None:
            return False
        if self._overlaps is None:
            self._overlaps = can_overlap(call.x, self.inner)
        return self._overlaps

    def _may_wait(self, call: Call, active: Sequence[Chunk]) -> bool:
        # A UNet asks for `input` at once; only of ControlNets is it known that they have none.
        if not self.shape.speed.lazy or (self.network is None and self.unet is not None):
            return False
        # A hint that goes through a VAE is encoded before the model runs, not in the middle of it.
        return self.inner.vae is None or self.hints.has(call, active)

    def _compute(self, call: Call, step: int | None, factors: tuple[float, ...] | None) -> Lists:
        drift_input = None
        if self.shape.speed.reuse.max_drift is not None:
            drift_input = self.model.model_sampling.calculate_input(call.t, call.x)

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
        lists = self._ask(call, asked)
        self._layout = Layout.of(lists, unet=None if self.unet is None else len(self.unet))
        residuals = self._layout.read(lists, call.x.shape[0])
        self._finite.see(residuals, call.x)
        if self.unet is not None:
            # The host would log and drop a residual that does not fit.
            residuals.require_shapes(self.unet, *call.latent_size)
        return residuals

    def _ask(self, call: Call, asked: frozenset[int] | None) -> Lists:
        x, speed = call.x, self.shape.speed
        if speed.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with self.hints.reader(call) as reader, explained(self.inner, self.model):
            if self.network is not None:
                reader.control_model = partial_of(
                    self.network, asked, self._embedded, speed.compiled
                )
            return reader.get_control(x, call.t, dict(call.cond), len(call.chunks), call.options)
