"""Our network inside the host's own ControlNet class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....cnpp_core.checkpoint.trained import Training
from ....cnpp_core.condition import Condition
from ....cnpp_core.control.residuals import ControlResiduals
from ....cnpp_core.network.controlnet import ControlNet
from .family import require_inputs
from .finite import FiniteWatch

TYPES, WEIGHTS = "control_type", "control_weights"  # arguments of a union network, in the host


class HostedNetwork(ControlNet):
    """Speaks to the host's ControlNet and ModelPatcher: lists by place, hints in one tensor.

    The host's class around it is all that a control without a shape needs, so what can't fit is
    refused here, and NaN named.

    kinds: of condition that it reads; empty where nobody knows. trained: how, where its file or the
    node that trained it says so.
    """

    kinds: Sequence[Condition] = ()
    trained: Training | None = None

    device: torch.device | None = None  # type: ignore[assignment]  the patcher writes it down

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._finite = FiniteWatch()

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        hint: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        control_type: Sequence[int] = (),
        control_weights: Sequence[float] | None = None,
        **_unused: Any,
    ) -> dict[str, list[Tensor | None]]:
        """Lists of the residuals, all of them None where every union type has weight 0.

        hint: (B or 1, C, 8H, 8W); those of several union types one behind another in its channels,
        or one for all of them. ValueError for inputs of another family.
        """
        if control_weights is not None and not any(control_weights):
            return {"middle": [None], "output": [None] * len(self.zero_convs)}
        require_inputs(self.config, x, hint, context, y, len(control_type))
        watched = not torch.compiler.is_compiling()
        if watched:
            self._finite.look()
        hints = hint.split(self.config.hint_channels, dim=1)
        if len(hints) == 1:
            hints *= max(1, len(control_type))
        residuals = super().forward(x, hints, timesteps, context, y, control_type, control_weights)
        if watched:
            self._finite.see(ControlResiduals(residuals), x, hint)
        *skips, middle = residuals
        return {"middle": [middle], "output": [*skips]}


def is_silent(control: Any) -> bool:
    """True for a union network all of whose conditions have weight 0."""
    weights = getattr(control, "extra_args", {}).get(WEIGHTS)
    return weights is not None and not any(weights)
