"""Evaluates a ControlNet no further than somebody asks for.

A *partial* network shares every weight with the one that it is made of. It leaves out the blocks
below the deepest one whose residual is wanted, leaves out the zero convolutions of the others, and
embeds each hint once. All that it asks for are the names of the original checkpoints
(``input_blocks``, ``zero_convs``, ``middle_block``, ``middle_block_out``, ``input_hint_block``), so
it serves the networks of other loaders as well as ours.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("input_blocks", "zero_convs", "middle_block", "middle_block_out", "input_hint_block")

# Sizes, areas and windows of frames that alternate in one step are few. Where they are many, to
# embed their hints anew costs less than the memory to keep them.
KEPT = 6
_outside_graphs: Any = torch.compiler.disable


def controlnet_in(network: Any) -> nn.Module | None:
    """The ControlNet that this is, or that lies in a wrapper such as torch.compile's; else None."""
    if not isinstance(network, nn.Module):
        return None
    inside = (network, *network.children())
    return next((m for m in inside if all(part in m._modules for part in PARTS)), None)


def is_controlnet(network: Any) -> bool:
    """True for a ControlNet of a UNet, also for one in a wrapper."""
    return controlnet_in(network) is not None


def is_divisible(network: Any) -> bool:
    """True if partial networks can be made of this one.

    False for a network that others run in their own way (compiled, wrapped, forward replaced): a
    part of it would go another way, and what is set on a wrapper's copy reaches the original.
    """
    own = controlnet_in(network)
    if own is None or own is not network:
        return False
    return "forward" not in vars(own) and own._compiled_call_impl is None


def count_blocks(network: nn.Module) -> int:
    """How many residuals the network gives, the middle block's included."""
    return len(controlnet_in(network).zero_convs) + 1  # type: ignore[union-attr, arg-type]


class HintCache:
    """The embeddings of the hints of one run, the last few of them.

    A hint must not be written to while it lives here.
    """

    def __init__(self, kept: int = KEPT) -> None:
        # The hint is kept beside its embedding, so that its address can't be given to another.
        self._embedded: OrderedDict[Any, tuple[Tensor, Tensor]] = OrderedDict()
        self._kept = kept

    def get(self, hint: Tensor, embed: Callable[[], Tensor]) -> Tensor:
        """The embedding (B, C, H / 8, W / 8) of this very hint (B, hint_channels, H, W).

        ``embed`` computes it the first time.
        """
        key = (hint.data_ptr(), hint.shape, hint.stride(), hint.dtype, hint.device)
        if key not in self._embedded:
            self._embedded[key] = (hint, embed())
        self._embedded.move_to_end(key)
        while len(self._embedded) > self._kept:
            self._embedded.popitem(last=False)
        return self._embedded[key][1]


def partial_network(
    network: nn.Module, asked: Collection[int] | None, hints: HintCache
) -> nn.Module:
    """A view of ``network`` that computes the residuals of the blocks ``asked`` (None: all).

    Called like the network itself, it gives the same residuals, bit for bit, and None for every
    block that was not asked for. At least one block must be asked for. A network that can't be
    divided comes back whole.
    """
    if not is_divisible(network):
        return network
    last = count_blocks(network) - 1
    wanted = frozenset(range(last + 1) if asked is None else asked)
    depth = last if last in wanted else max(wanted, default=-1) + 1
    blocks: Any = network.input_blocks
    zero_convs: Any = network.zero_convs

    partial = copy.copy(network)
    partial._modules = dict(network._modules)
    partial.input_blocks = nn.ModuleList(blocks[i] if i < depth else Mute() for i in range(last))
    partial.zero_convs = nn.ModuleList(
        zero_convs[i] if i in wanted else Mute() for i in range(last)
    )
    if last not in wanted:
        partial.middle_block, partial.middle_block_out = Mute(), Mute()
    partial.input_hint_block = CachedHintBlock(network.input_hint_block, hints)
    return partial


class Mute(nn.Module):
    """Stands in for a part of the network that is not asked for."""

    def forward(self, *_inputs: Any) -> None:
        """Takes what that part takes, computes nothing and gives None."""


class CachedHintBlock(nn.Module):
    """A hint block (B, hint_channels, H, W) -> (B, C, H / 8, W / 8) that asks the cache first."""

    def __init__(self, block: Any, hints: HintCache) -> None:
        super().__init__()
        self.block = block
        self.hints = hints

    def forward(self, hint: Tensor, *inputs: Any) -> Tensor:
        return self._look_up(hint, *inputs)

    @_outside_graphs
    def _look_up(self, hint: Tensor, *inputs: Any) -> Tensor:
        return self.hints.get(hint, lambda: self.block(hint, *inputs))
