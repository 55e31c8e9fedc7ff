"""What a CONTROL_NET of any loader is, read off its network."""

from __future__ import annotations

from typing import Any

from ....cnpp_core.network.config import NetworkConfig
from ..control.family import config_of


def require_config(control_net: Any) -> NetworkConfig:
    """The layout of a Stable Diffusion ControlNet; ValueError for controls of another kind."""
    config = config_of(control_net)
    if config is None:
        raise ValueError(
            f"control_net is a {type(control_net).__name__}, which has no blocks with zero "
            "convolutions. Connect a ControlNet for SD1.5, SD2.x or SDXL."
        )
    return config
