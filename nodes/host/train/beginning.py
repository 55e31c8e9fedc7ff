"""A CONTROL_NET to train."""

from __future__ import annotations

from typing import Any

import torch

from ....cnpp_core.checkpoint.report import weights_text
from ....cnpp_core.training.initialise import begin_controlnet
from ..load.loading import build_control
from .networks import clone_of, encoder_of


def begin_control(model: Any, control: Any, hint_channels: int, seed: int) -> tuple[Any, str]:
    """The host's control around a float32 copy of one of the two, and what is new in it.

    Raises ValueError for what can't be trained, and unless exactly one of them is given.
    """
    if (model is None) == (control is None):
        found = "neither is" if model is None else "both are"
        raise ValueError(
            f"Initialise ControlNet begins from a model or from a control_net, and {found} "
            "connected. Connect one of them."
        )
    with torch.inference_mode(False), torch.no_grad():
        source = encoder_of(model) if control is None else clone_of(control)
        net, new = begin_controlnet(source, hint_channels, seed)
        made = build_control(net.config, net.state_dict(), dtype=torch.float32)
    return made, f"{new}\n{weights_text(net.config, net.state_dict())}"
