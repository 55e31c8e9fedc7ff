"""What the networks of the annotators cost: parameters, multiply-accumulates, sizes in and out.

MACs are those of convolutions, linear layers and attention in one run of the bare network on one
picture, counted on the meta device, where operations have shapes and none is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .annotator import LearnedAnnotator
from .catalogue import WEIGHTS
from .depth import DPTHybrid
from .kinds import weight_keys
from .lineart import LineArt
from .mlsd import MLSD
from .openpose import OpenPoseBody, OpenPoseHand
from .softedge import HED


@dataclass(frozen=True)
class NetworkCost:
    """One network. Shapes are (channels, height, width), outputs all that the network gives."""

    name: str
    files: tuple[str, ...]  # that hold weights of it
    parameters: int
    macs: int
    input: tuple[int, ...]
    outputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Entry:
    kind: type[LearnedAnnotator]
    run: Callable[[Any, Tensor], Any]  # the bare network, without scaling and decoding
    side: int  # of the square input that the reference uses


_NETWORKS: dict[str, _Entry] = {
    "HED": _Entry(HED, HED.sides, 512),
    "Line Art": _Entry(LineArt, LineArt.generator, 512),
    "M-LSD": _Entry(MLSD, MLSD.maps, 512),
    "OpenPose body": _Entry(OpenPoseBody, OpenPoseBody.stages, 368),
    "OpenPose hand": _Entry(OpenPoseHand, OpenPoseHand.stages, 368),
    "DPT-hybrid": _Entry(DPTHybrid, DPTHybrid.inverse_depth, 384),
}


@cache
def network_costs() -> tuple[NetworkCost, ...]:
    """The cost of every learned annotator at the input size of its reference."""
    return tuple(_cost(name, entry) for name, entry in _NETWORKS.items())


def text() -> str:
    """The costs as a table for people."""
    head = f"{'network':<15}{'parameters':>13}{'GMAC':>9}  {'input':<15}{'output':<33}weights"
    rows = [
        f"{cost.name:<15}{cost.parameters:>13,}{cost.macs / 1e9:>9.2f}  "
        f"{_size(cost.input):<15}{_sizes(cost.outputs):<33}{', '.join(cost.files)}"
        for cost in network_costs()
    ]
    return "\n".join([head, *rows])


def _cost(name: str, entry: _Entry) -> NetworkCost:
    module = entry.kind(device="meta").eval()
    shape = (3, entry.side, entry.side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        found = entry.run(module, torch.empty(1, *shape, device="meta"))
    return NetworkCost(
        name=name,
        files=tuple(WEIGHTS[key].name for key in weight_keys(entry.kind)),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        macs=counter.get_total_flops() // 2,
        input=shape,
        outputs=tuple(tuple(one.shape[1:]) for one in _tensors(found)),
    )


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    else:
        for one in found:
            yield from _tensors(one)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _sizes(shapes: tuple[tuple[int, ...], ...]) -> str:
    """The first and the last, where there are many."""
    shown = [_size(shape) for shape in shapes]
    return ", ".join(shown) if len(shown) < 3 else f"{shown[0]} ... {shown[-1]}"
