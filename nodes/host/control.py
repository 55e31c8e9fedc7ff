"""Our control object: the host's ControlNet with a scale for every block.

The host's own ``get_control`` does the sampling side (window, hint size, batch, timestep, chain),
because packs that copied it broke at its updates. What differs is what it calls: our network,
whose list of residuals comes to ``control_merge`` and is shaped there.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy import controlnet as host
from torch import Tensor

from ...cnpp_core.control.residuals import ControlResiduals
from ...cnpp_core.control.scales import Scales
from ...cnpp_core.network.controlnet import ControlNet
from .family import require_model


class HostedNetwork(ControlNet):
    """Our network as the host's ModelPatcher wants it: it writes down where the weights are."""

    device: torch.device | None = None  # type: ignore[assignment]


class ControlNetPlusPlus(host.ControlNet):
    """A CONTROL_NET whose network is ours. Neutral scales give the host's result bit for bit.

    scales: anything with ``resolve(blocks)``, or None for neutral. Immutable, so copies may share
    it; every Apply sets it on a copy of its own.
    """

    def __init__(
        self,
        network: HostedNetwork | None,
        *,
        load_device: torch.device | None = None,
        manual_cast_dtype: torch.dtype | None = None,
        global_average_pooling: bool = False,
    ) -> None:
        super().__init__(
            network,
            global_average_pooling=global_average_pooling,
            load_device=load_device,
            manual_cast_dtype=manual_cast_dtype,
        )
        self.scales: Scales | None = None

    def copy(self) -> ControlNetPlusPlus:
        twin = ControlNetPlusPlus(
            None,
            load_device=self.load_device,
            manual_cast_dtype=self.manual_cast_dtype,
        )
        twin.control_model = self.control_model
        twin.control_model_wrapped = self.control_model_wrapped
        twin.scales = self.scales
        self.copy_to(twin)
        return twin

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Before the first step, several times per sampling: refuse a model of another family."""
        require_model(self.control_model.config, model)
        if self.scales is not None:
            self.scales.resolve(self.control_model.config.blocks)
        self.cond_hint = None  # cleanup does not run after an interrupt
        super().pre_run(model, percent_to_timestep_function)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict
    ) -> dict[str, list[Tensor | None]] | None:
        """The host's lists of residuals for this call, checked against the UNet's features."""
        control = super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        config = self.control_model.config
        # The host would log and drop a residual that does not fit. Outside our window, control is
        # the previous control's, which may have fewer (a T2I adapter has none of these).
        if control is not None and len(control["output"]) >= config.blocks - 1:
            merged = ControlResiduals([*control["output"], *control["middle"][:1]])
            merged.require_shapes(config, *x_noisy.shape[-2:])
        return control

    def control_merge(
        self, control: Any, control_prev: Any, output_dtype: torch.dtype | None
    ) -> dict[str, list[Tensor | None]]:
        """Shape the network's residuals, then let the host apply strength and the chain."""
        residuals = ControlResiduals(control)
        if self.scales is not None:
            residuals = residuals.scaled(self.scales.resolve(len(residuals)))
        if control_prev is not None:
            _require_same_shapes(residuals, control_prev)
        # The host multiplies in place; nobody else holds what the network has just computed.
        lists = {"input": [], "middle": [residuals.middle], "output": list(residuals.skips)}
        return super().control_merge(lists, control_prev, output_dtype)


def _require_same_shapes(residuals: ControlResiduals, previous: dict[str, list]) -> None:
    pairs = [
        (f"input block {i}", a, b)
        for i, (a, b) in enumerate(zip(residuals.skips, previous["output"], strict=False))
    ]
    pairs += [("middle block", residuals.middle, b) for b in previous["middle"][:1]]
    for name, ours, theirs in pairs:
        if ours is not None and theirs is not None and ours.shape[1:] != theirs.shape[1:]:
            raise ValueError(
                f"Two chained controls disagree at {name}: {tuple(theirs.shape[1:])} before, "
                f"{tuple(ours.shape[1:])} now. Both must belong to the family of the model: "
                "look at the two nodes that apply them."
            )
