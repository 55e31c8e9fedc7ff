"""What a UNet is told beside the latents: prompts of any length, and sizes where it is SDXL."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...network.blocks import timestep_embedding

SIZE_EMBEDDING_DIM = 256


def joined(contexts: Sequence[Tensor]) -> Tensor:
    """(N, L, C) of contexts (1, L', C); longer captions take more tokens.

    Shorter ones are repeated: to attention, tokens that all come twice are the same tokens.
    """
    length = math.lcm(*(context.shape[1] for context in contexts))
    return torch.cat([context.repeat(1, length // context.shape[1], 1) for context in contexts])


def size_embedding(*numbers: int) -> Tensor:
    """(1536,) of six numbers: original size, what was cut off and trained size.

    Each height before width (arXiv 2307.01952, section 2.2).
    """
    return timestep_embedding(torch.tensor(numbers), SIZE_EMBEDDING_DIM).flatten()
