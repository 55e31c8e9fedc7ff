"""Heat maps of the joints with a gradient where the network sees no joint at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .body import OpenPoseBody

LAST = "relu_Mconv7_stage6_L2"
ALIVE = 1e-4  # what the last ReLU gives in place of 0: it lets a gradient pass


def joint_maps(network: OpenPoseBody, image: Tensor) -> Tensor:
    """Heat maps (B, 18, H, W) as `network.maps` gives them, to within 1e-4, for a loss.

    The network ends in a ReLU, which stops the gradient wherever no joint is found: nothing would
    ever pull a missing one into the picture. Here it lets gradients pass.
    """
    last = network.get_submodule(f"model6_2.{LAST}")
    handle = last.register_forward_pre_hook(_let_through)
    try:
        return network.maps(image)[1]
    finally:
        handle.remove()


class _Alive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=ALIVE)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0]


def _let_through(_module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (_Alive.apply(inputs[0]),)
