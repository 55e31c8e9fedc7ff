"""From a file to a CONTROL_NET: our network built with the host's operations, dtype and attention.

Dtype, casting and offloading are chosen as the host's own loader chooses them, so that with
neutral settings both give the same residuals bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.ldm.modules.attention as host_attention
import torch
from comfy import controlnet, model_management, ops, utils
from torch import Tensor

from ....cnpp_core.checkpoint.formats import DIFFUSERS, ORIGINAL
from ....cnpp_core.checkpoint.load import STORAGE, LoadedControl, load_controlnet_file
from ....cnpp_core.checkpoint.report import weights_text
from ....cnpp_core.checkpoint.trained import Training
from ....cnpp_core.condition import Condition
from ....cnpp_core.misfit import kinds_of_file
from ....cnpp_core.network.blocks import Attention, Place
from ....cnpp_core.network.config import NetworkConfig
from ..control.network import HostedNetwork

DTYPES: dict[str, torch.dtype | None] = {
    "auto": None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def load_control(
    path: str | Path, dtype: str = "auto", model: Any = None
) -> tuple[controlnet.ControlNet, str]:
    """The host's own control around the network in a file, and a few lines that say what it is.

    dtype: a key of DTYPES; "auto" is the host's choice. model: the host's MODEL, needed by files
    that hold only the difference to it. Raises ValueError for a file that is no ControlNet.
    """
    unet = _unet_state_dict(model) if model is not None else None
    loaded = load_controlnet_file(path, unet_state_dict=unet)
    chosen = DTYPES[dtype] or choose_dtype(loaded)
    control = build_control(
        loaded.config,
        loaded.state_dict,
        dtype=chosen,
        attn_precision=_attn_precision(loaded),
        global_average_pooling=_pools(path),
        kinds=kinds_of_file(Path(path)),
        trained=loaded.training,
    )
    lines = [
        f"{Path(path).name}: {loaded.format}, stored as {STORAGE[loaded.dtype]}, "
        f"loaded as {STORAGE[chosen]}",
        weights_text(loaded.config, loaded.state_dict),
        *([loaded.training.text()] if loaded.training else []),
    ]
    return control, "\n".join(lines)


def build_control(
    config: NetworkConfig,
    weights: dict[str, Tensor],
    *,
    dtype: torch.dtype,
    attn_precision: torch.dtype | None = None,
    global_average_pooling: bool = False,
    kinds: Sequence[Condition] = (),
    trained: Training | None = None,
) -> controlnet.ControlNet:
    """The host's own control around our network with these weights (original layout).

    It shares their memory. The host's own class, so that other packs know what it is. kinds and
    trained: as `HostedNetwork` has them.
    """
    load_device = model_management.get_torch_device()
    manual_cast_dtype = model_management.unet_manual_cast(dtype, load_device)
    network = HostedNetwork(
        config,
        operations=ops.pick_operations(dtype, manual_cast_dtype),
        attention=attention(attn_precision),
        dtype=dtype,
        device="meta",  # the file's own tensors become the parameters: no second copy
    )
    offload_device = model_management.unet_offload_device()
    placed = {key: value.to(device=offload_device, dtype=dtype) for key, value in weights.items()}
    network.kinds = tuple(kinds)
    network.trained = trained
    network.load_state_dict(placed, strict=True, assign=True)
    return controlnet.ControlNet(
        network.eval().requires_grad_(False),
        load_device=load_device,
        manual_cast_dtype=manual_cast_dtype,
        global_average_pooling=global_average_pooling,
    )


def attention(attn_precision: torch.dtype | None) -> Attention:
    """The host's attention, looked up at every call: its back end may be replaced at run time."""

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, _place: Place) -> Tensor:
        function = host_attention.optimized_attention
        return function(q, k, v, heads, attn_precision=attn_precision)

    return attend


def choose_dtype(loaded: LoadedControl) -> torch.dtype:
    """The host's choice for this file on this device."""
    # For diffusers files its loader knows no model class and offers only the device's default.
    supported = [torch.float16, torch.bfloat16, torch.float32]
    if loaded.layout == DIFFUSERS:
        supported = [model_management.unet_dtype()]
    return model_management.unet_dtype(
        model_params=-1,
        supported_dtypes=supported,
        weight_dtype=utils.weight_dtype(loaded.state_dict),
    )


def _attn_precision(loaded: LoadedControl) -> torch.dtype | None:
    """SD2.x overflows in half precision; the host knows it from the original layout only."""
    upcast = loaded.config.family == "SD2.x" and loaded.layout == ORIGINAL
    return torch.float32 if upcast else None


def _pools(path: str | Path) -> bool:
    """The shuffle models say nothing about position; only their file name tells."""
    return Path(path).stem.endswith(("_shuffle", "_shuffle_fp16"))


def _unet_state_dict(model: Any) -> dict[str, Tensor]:
    model_management.load_models_gpu([model])
    prefix = "diffusion_model."
    return {
        key[len(prefix) :]: value
        for key, value in model.model_state_dict().items()
        if key.startswith(prefix)
    }
