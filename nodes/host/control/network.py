"""Our network inside the host's own ControlNet class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ....cnpp_core.network.controlnet import ControlNet

TYPES, WEIGHTS = "control_type", "control_weights"  # arguments of a union network, in the host


class HostedNetwork(ControlNet):
    """Speaks to the host's ControlNet and ModelPatcher: lists by place, hints in one tensor."""

    device: torch.device | None = None  # type: ignore[assignment]  the patcher writes it down

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
        """``hint`` holds the hints of several union types one behind another in its channels."""
        hints = hint.split(self.config.hint_channels, dim=1)
        *skips, middle = super().forward(
            x, hints, timesteps, context, y, control_type, control_weights
        )
        return {"middle": [middle], "output": [*skips]}


def is_silent(control: Any) -> bool:
    """True for a union network all of whose conditions have weight 0."""
    weights = getattr(control, "extra_args", {}).get(WEIGHTS)
    return weights is not None and not any(weights)
