"""ControlNet files of tiny networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from controlnet_pp.cnpp_core.checkpoint import to_diffusers
from controlnet_pp.cnpp_core.network.config import NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]

TINY = NetworkConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(0, 1),
    context_dim=24,
)
UNION = replace(TINY, union_types=8, adm_in_channels=20)


def weights(
    config: NetworkConfig = TINY, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Tensors:
    """Random weights under the original names."""
    generator = torch.Generator().manual_seed(seed)
    empty = ControlNet(config, device="meta").state_dict()
    return {k: torch.randn(v.shape, generator=generator).to(dtype) for k, v in empty.items()}


def saved(path: Path, tensors: Tensors) -> Path:
    """The path, with a file of these tensors in the container that its suffix says."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def same(found: Tensors, expected: Tensors) -> bool:
    """Bit for bit, whatever the dtype."""
    return found.keys() == expected.keys() and all(
        torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8))
        for name, tensor in found.items()
    )


# What the loader calls each layout, and how it is made of the original names.
LAYOUTS = {
    "original": lambda sd: sd,
    "original, control_model. prefix": lambda sd: prefixed("control_model.", sd),
    "original, module. prefix": lambda sd: prefixed("module.", sd),
    "original, module.control_model. prefix": lambda sd: prefixed("module.control_model.", sd),
    "diffusers": lambda sd: to_diffusers(sd, TINY),
}
