"""Low-rank adaptation (arXiv 2106.09685): the change of a network in a small file of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """weight (out, in, ...) -> weight + up @ down, which is nothing until it was trained."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.shape = weight.shape
        outputs, inputs = weight.shape[0], weight[0].numel()
        rank = min(rank, outputs, inputs)
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view(self.shape)


def add_lora(network: nn.Module, rank: int) -> None:
    """Freeze a network, and give all its linear layers and convolutions a `LowRank` to train."""
    if rank < 1:
        raise ValueError(f"The rank of a LoRA is {rank}; give 1 or more.")
    network.requires_grad_(False)
    for layer in [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]:
        low_rank = LowRank(layer.weight, rank).to(layer.weight)
        parametrize.register_parametrization(layer, "weight", low_rank)


def lora_state_dict(unet: nn.Module) -> dict[str, Tensor]:
    """What `add_lora` added to a UNet, named and shaped as LoRA loaders read it.

    `lora_unet_<layer>.lora_up.weight` (out, rank, ...), `.lora_down.weight` (rank, in, ...) and
    `.alpha`, with the layer's name in the original checkpoints, `_` for its dots.
    """
    state: dict[str, Tensor] = {}
    for name, change in unet.named_modules():
        if isinstance(change, LowRank):
            layer = name.removesuffix(".parametrizations.weight.0").replace(".", "_")
            rank, (outputs, *inputs) = len(change.down), change.shape
            up = change.up.view(outputs, rank, *[1] * (len(inputs) - 1))
            state[f"lora_unet_{layer}.lora_up.weight"] = up.detach().clone()
            down = change.down.view(rank, *inputs)
            state[f"lora_unet_{layer}.lora_down.weight"] = down.detach().clone()
            state[f"lora_unet_{layer}.alpha"] = torch.tensor(float(rank))
    return state


@torch.no_grad()
def apply_lora(unet: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Add a file of `lora_state_dict` to the weights of a UNet, in place.

    Raises ValueError for a layer that the UNet does not have, or not of that size.
    """
    layers = {f"lora_unet_{name.replace('.', '_')}": m for name, m in unet.named_modules()}
    for key in [key for key in state if key.endswith(".lora_up.weight")]:
        base = key.removesuffix(".lora_up.weight")
        up, down = state[key].float().flatten(1), state[f"{base}.lora_down.weight"].float()
        weight = getattr(layers.get(base), "weight", None)
        if weight is None or weight.shape != (len(up), *down.shape[1:]):
            found = "no such layer" if weight is None else f"one of {tuple(weight.shape)}"
            raise ValueError(
                f"The LoRA changes {base} of {(len(up), *down.shape[1:])}, the UNet has {found}: "
                "it was trained for another model."
            )
        scale = float(state[f"{base}.alpha"]) / up.shape[1]
        weight += scale * (up @ down.flatten(1)).view_as(weight)
