"""What a CONTROL_NET of any loader is, read off its network."""

from __future__ import annotations

from typing import Any

from ....cnpp_core.checkpoint.shapes import read_config
from ....cnpp_core.network.config import NetworkConfig
from ..control.control import ControlNetPlusPlus


def config_of(control_net: Any) -> NetworkConfig:
    """The layout of a Stable Diffusion ControlNet; ValueError for controls of another kind."""
    if isinstance(control_net, ControlNetPlusPlus) and control_net.config is not None:
        return control_net.config
    network = getattr(control_net, "control_model", None)
    if network is None or not hasattr(network, "zero_convs"):
        raise ValueError(
            f"control_net is a {type(control_net).__name__}, which has no blocks with zero "
            "convolutions. Connect a ControlNet for SD1.5, SD2.x or SDXL."
        )
    return read_config(network.state_dict())
