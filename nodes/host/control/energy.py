"""Watches the controls of a UNet while it samples, and keeps numbers only.

A wrapper around the UNet sees its control lists, patches and forward hooks that live as long as one
call see its features just before something is added to them. Nothing is changed and nothing leaves
the device before the sampling has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....cnpp_core.control.energy import CallEnergy, EnergyTable, Feature
from ....cnpp_core.control.rows import COND, UNCOND
from .family import unet_block_layout
from .speed import calls_for_eager

KEY = "cnpp_residual_energy"
PATCH = "input_block_patch"
Lists = Mapping[str, "list[Tensor | None]"]


class EnergyRecorder:
    """Measures what controls add to a model. table: of the last complete sampling, if any."""

    def __init__(self) -> None:
        self.table: EnergyTable | None = None
        self._run: Recording | None = None

    def attached_to(self, model: Any) -> Any:
        """A copy of the host's ModelPatcher that is watched; ValueError if it has no UNet."""
        unet = getattr(model.model, "diffusion_model", None)
        if unet_block_layout(model.model) is None or not hasattr(unet, "input_blocks"):
            raise ValueError(
                f"Residual Energy: the model is {type(model.model).__name__}, and only the UNets "
                "of Stable Diffusion (SD1.5, SD2.x, SDXL) can be measured. Bypass this node."
            )
        twin = model.clone()
        twin.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self._sampling)
        twin.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, self._call)
        return twin

    def _sampling(self, sample: Any, *args: Any, **kwargs: Any) -> Any:
        """Around one sampling: begin anew, and keep nothing of one that fails."""
        options = sample.class_obj.model_options.get("transformer_options", {})
        if calls_for_eager(options, sample.class_obj.model_patcher.model):
            raise ValueError(
                "Residual Energy: the model is compiled (torch.compile), so its features can't be "
                "watched. Bypass the node that compiles it while you measure."
            )
        self.table, before = None, self._run
        run = self._run = Recording()
        try:
            out = sample(*args, **kwargs)
            self.table = run.table()
        finally:
            self._run = before
        return out

    def _call(
        self,
        forward: Any,
        x: Tensor,
        timesteps: Any = None,
        context: Any = None,
        y: Any = None,
        control: Lists | None = None,
        transformer_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Around one call of the UNet."""
        options = {} if transformer_options is None else transformer_options
        if self._run is None or "sigmas" not in options:
            return forward(x, timesteps, context, y, control, options, **kwargs)
        unet = forward.class_obj
        probe = Probe(control, len(unet.input_blocks), has_middle=unet.middle_block is not None)
        # Behind the patches of others: the skip connections as they are kept.
        patches = options.get("patches", {})
        patches = {**patches, PATCH: [*patches.get(PATCH, []), probe.see_skip]}
        options = {**options, "patches": patches}
        handles = []
        try:
            for index in probe.adapted:
                last = unet.input_blocks[index][-1]
                handles.append(last.register_forward_hook(probe.before_input(index)))
            if unet.middle_block is not None:
                handles.append(unet.middle_block[-1].register_forward_hook(probe.see_middle))
            out = forward(x, timesteps, context, y, control, options, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        self._run.add(probe, options)
        return out


class Recording:
    """What one sampling has measured so far."""

    def __init__(self) -> None:
        self._calls: list[CallEnergy] = []
        self._seen: set[str] = set()
        self._blocks: list[str] = []
        self._planned: Tensor | None = None

    def add(self, probe: Probe, options: Mapping[str, Any]) -> None:
        """Keep the numbers of a call; a step cache may have skipped it, then there are none."""
        energies = probe.energies()
        if energies is None:
            return
        order = options.get("cond_or_uncond", [0])
        images = energies.shape[0] // len(order)
        sides = tuple(COND if i == 0 else UNCOND for i in order for _ in range(images))
        sigma = options["sigmas"].flatten()[0].float()
        self._calls.append(CallEnergy(energies, sigma, sides))
        self._seen |= probe.seen
        self._blocks = probe.names
        self._planned = options.get("sample_sigmas")

    def table(self) -> EnergyTable | None:
        """The numbers as a table; None if the UNet was never called."""
        if not self._calls:
            return None
        planned = None if self._planned is None else self._planned.tolist()
        columns = {name: i for i, name in enumerate(self._blocks) if self._is_shown(name)}
        return EnergyTable.gather(self._calls, columns, planned)

    def _is_shown(self, name: str) -> bool:
        """All blocks of a ControlNet, silent ones too; of a T2I adapter those that speak."""
        if name in self._seen:
            return True
        skips = any(seen.startswith(SKIP) for seen in self._seen)
        return not name.startswith(ADAPTER) and (skips or not self._seen)


# As the sliders of the Block Scales nodes are called; adapters add inside the encoder.
SKIP, ADAPTER, MIDDLE = "in_", "adapter_", "middle"


class Probe:
    """Sees the features of one call of a UNet with ``count`` input blocks, and the residuals.

    adapted: input blocks that a T2I adapter speaks to. seen: names of blocks with a residual.
    """

    def __init__(self, control: Lists | None, count: int, *, has_middle: bool) -> None:
        self._control: Lists = control or {}
        self._count = count
        self._has_middle = has_middle
        # The UNet takes the lists apart from their ends, `input` while it encodes. Others are not
        # read before it asks for them: they may be computed on demand.
        found = list(self._control["input"])[::-1] if "input" in self._control else []
        self._inputs = dict(enumerate(found[:count]))
        self.adapted = [i for i, residual in self._inputs.items() if residual is not None]
        self.seen: set[str] = set()
        self._skips: list[Feature] = []
        self._energies: dict[str, Tensor] = {}

    @property
    def names(self) -> list[str]:
        """All places where something can be added: shallow to deep, adapters first."""
        adapters = [f"{ADAPTER}{i}" for i in range(self._count)]
        return [*adapters, *(f"{SKIP}{i}" for i in range(self._count)), MIDDLE]

    def energies(self) -> Tensor | None:
        """(rows, places); None if the UNet did not run."""
        if MIDDLE not in self._energies:
            return None
        silent = torch.zeros_like(self._energies[MIDDLE])
        return torch.stack([self._energies.get(name, silent) for name in self.names], dim=1)

    def before_input(self, index: int) -> Callable[..., None]:
        """A forward hook on an input block, which ends before the adapter's residual is added."""

        def hook(_module: Any, _args: Any, feature: Tensor) -> None:
            self._measure(f"{ADAPTER}{index}", Feature.of(feature), self._inputs[index])

        return hook

    def see_skip(self, feature: Tensor, _options: Any) -> Tensor:
        """A patch where the UNet keeps a skip connection."""
        self._skips.append(Feature.of(feature))
        if len(self._skips) == self._count and not self._has_middle:
            self._see_lists(self._skips[-1])
        return feature

    def see_middle(self, _module: Any, _args: Any, feature: Tensor) -> None:
        """A forward hook on the middle block, which ends before its residual is added."""
        self._see_lists(Feature.of(feature))

    def _see_lists(self, middle: Feature) -> None:
        """The UNet asks for ``middle`` and ``output`` next: they may be read now."""
        last = [*self._control.get("middle", [])][-1:]
        self._measure(MIDDLE, middle, last[0] if last else None)
        outputs = [*self._control.get("output", [])][::-1]
        for i, (feature, residual) in enumerate(zip(self._skips[::-1], outputs, strict=False)):
            self._measure(f"{SKIP}{self._count - 1 - i}", feature, residual)

    def _measure(self, name: str, feature: Feature, residual: Tensor | None) -> None:
        self._energies[name] = feature.energy(residual)
        if residual is not None:
            self.seen.add(name)
