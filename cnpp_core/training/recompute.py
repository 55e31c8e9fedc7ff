"""Less memory for more time: activations inside of blocks are computed again when needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..network.blocks import ResBlock, SpatialTransformer


@contextmanager
def recomputed(*networks: nn.Module) -> Iterator[None]:
    """Keep only what goes into the blocks of these networks, not what happens inside of them.

    Gradient checkpointing (arXiv 1604.06174) of every ResBlock and SpatialTransformer, as long as
    the context lasts. Gradients are the same; keys and modules of the networks don't change. A
    frozen UNet that gradients pass through counts too: name it beside its ControlNet.
    """
    blocks = [
        block
        for network in networks
        for block in network.modules()
        if isinstance(block, ResBlock | SpatialTransformer) and "forward" not in vars(block)
    ]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward
