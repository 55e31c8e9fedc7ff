"""Controls of UNets, each the host's own class around tiny random weights."""

from __future__ import annotations

from typing import Any

import torch
from controlnet_pp.tests.host.harness import TINY, TINY_SD15, TINY_XL, Host, randomise

# The levels of SD1.5 and of SDXL, as T2I adapters know them, with narrow deep ones.
FOUR_LEVELS = TINY_SD15 | {"channel_mult": [1, 1, 2, 2]}
THREE_LEVELS = TINY_XL | {"channel_mult": [1, 1, 2]}


def controlnet(host: Host) -> Any:
    return host.pair(TINY)[1]


def shuffle_controlnet(host: Host) -> Any:
    control = host.pair(TINY)[1].copy()
    control.global_average_pooling = True
    return control


def sdxl_controlnet(host: Host) -> Any:
    return host.pair(TINY_XL)[1]


def control_lora(host: Host) -> Any:
    """Rank 4 on every weight that the UNet has too, whole tensors for the rest."""
    from comfy.controlnet import ControlLora

    unet = host.model(TINY).model.diffusion_model.state_dict()
    weights = {"lora_controlnet": torch.zeros(0)}
    generator = torch.Generator().manual_seed(4)
    for name, value in host.network(TINY, seed=4).state_dict().items():
        if name not in unet:
            weights[name] = value
        elif value.ndim > 1:
            module = name.removesuffix(".weight")
            up = torch.randn(value.shape[0], 4, generator=generator)
            down = torch.randn(4, *value.shape[1:], generator=generator)
            weights[f"{module}.up"] = up / 8
            weights[f"{module}.down"] = down / down[0].numel() ** 0.5
    return ControlLora(weights)


def t2i_light(host: Host) -> Any:
    from comfy.t2i_adapter.adapter import Adapter_light

    return _t2i(Adapter_light(cin=3 * 64, channels=[64, 64, 128, 128], nums_rb=1))


def t2i_full(host: Host) -> Any:
    return _t2i(_adapter(cin=3 * 64, xl=False))


def t2i_sketch(host: Host) -> Any:
    return _t2i(_adapter(cin=64, xl=False))


def t2i_xl(host: Host) -> Any:
    return _t2i(_adapter(cin=3 * 256, xl=True))


def _adapter(cin: int, xl: bool) -> torch.nn.Module:
    from comfy.t2i_adapter.adapter import Adapter

    return Adapter([64, 64, 128, 128], nums_rb=2, cin=cin, ksize=1, sk=True, use_conv=False, xl=xl)


def _t2i(network: torch.nn.Module) -> Any:
    from comfy.controlnet import T2IAdapter

    return T2IAdapter(randomise(network, 5), network.input_channels, 8, "nearest-exact")
