"""Batches of what was encoded elsewhere: latents and prompts that are there already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...consistency.resize import same_aspect
from ..batch import TrainingBatch, dropped
from .buckets import placed
from .embeddings import joined, size_embedding

DOWNSCALE = 8  # pixels of the picture, by side, that are one place of a latent


@dataclass(frozen=True, eq=False)
class Prompt:
    """context (1, L, context_dim), and pooled (1, width) where the text encoder gives it."""

    context: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Encoded:
    """latents (1, C, H, W), prompt, and condition (1, hint_channels, 8H, 8W) in 0..1."""

    latents: Tensor
    prompt: Prompt
    condition: Tensor


class EncodedDraw:
    """Draws batches of encoded pictures: a `Draw`; all of a batch are of one size.

    empty: the prompt of nothing, which replaces a ``drop_text`` part of the prompts. sizes: y is
    the pooled prompt followed by what SDXL is told of sizes: here that of the latents, uncut.
    Raises ValueError for a condition that is not of its picture's shape.
    """

    def __init__(
        self,
        rows: Sequence[Encoded],
        empty: Prompt,
        batch: int,
        *,
        drop_text: float = 0.5,
        sizes: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.empty, self.batch, self.drop_text, self.sizes = empty, batch, drop_text, sizes
        self.device = torch.device(device)
        self.rows = [_in_register(row, number) for number, row in enumerate(rows, 1)]
        self.of_size: dict[torch.Size, list[Encoded]] = defaultdict(list)
        for row in self.rows:
            self.of_size[row.latents.shape].append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __call__(self, generator: torch.Generator) -> TrainingBatch:
        """The batch of this state of the generator."""
        first = self.rows[_below(len(self.rows), generator)]
        among = self.of_size[first.latents.shape]
        more = [among[_below(len(among), generator)] for _ in range(self.batch - 1)]
        return self.of([first, *more], dropped(self.batch, self.drop_text, generator))

    def of(self, rows: Sequence[Encoded], dropped: Tensor | None = None) -> TrainingBatch:
        """The batch of these rows, all of one size; dropped as `TrainingBatch` has it."""
        prompts = [row.prompt for row in rows] + [self.empty] * len(rows)
        context, empty = joined([prompt.context for prompt in prompts]).to(self.device).chunk(2)
        y = empty_y = None
        if all(p.pooled is not None for p in prompts):
            pooled = torch.cat([p.pooled for p in prompts if p.pooled is not None])
            if self.sizes:
                height, width = (DOWNSCALE * side for side in rows[0].latents.shape[-2:])
                told = size_embedding(height, width, 0, 0, height, width)
                pooled = torch.cat([pooled, told.expand(len(pooled), -1).to(pooled)], 1)
            y, empty_y = pooled.to(self.device).chunk(2)
        return TrainingBatch(
            x0=torch.cat([row.latents for row in rows]).float().to(self.device),
            context=context,
            hint=torch.cat([row.condition for row in rows]).float().to(self.device),
            y=y,
            empty=empty,
            empty_y=empty_y,
            dropped=None if dropped is None else dropped.to(self.device),
        )


def _in_register(row: Encoded, number: int) -> Encoded:
    """The row, its condition at the size of its picture and of three channels where it is grey."""
    height, width = (DOWNSCALE * side for side in row.latents.shape[-2:])
    condition = row.condition
    if not same_aspect(condition.shape[-2:], (height, width)):
        raise ValueError(
            f"Condition {number} is {condition.shape[-1]}x{condition.shape[-2]} pixels and the "
            f"picture of its latents {width}x{height}; both must be of one shape."
        )
    condition = placed(condition, (width, height))
    if condition.shape[1] == 1:
        condition = condition.expand(-1, 3, -1, -1)
    return replace(row, condition=condition)


def _below(end: int, generator: torch.Generator) -> int:
    return int(torch.randint(end, (), generator=generator))
