"""Pictures of the shapes world with one of their conditions, as a ControlNet learns from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..cnpp_core.training.batch import Draw, TrainingBatch, dropped
from .conditions import condition_of
from .stage import SCENES, Scenes, draw_scenes, embed, encode

TEXT_DROPOUT = 0.1


@dataclass(frozen=True, eq=False)
class Pairs:
    """Training scenes, encoded once: latents (N, 4, S/8, S/8), contexts (N, L, C), empty (1, L, C).

    kind: one of CONDITIONS, found anew in each batch.
    """

    kind: str
    scenes: Scenes
    latents: Tensor
    contexts: Tensor
    empty: Tensor

    @classmethod
    def of(cls, kind: str, out: Path, count: int = SCENES) -> Pairs:
        """The first scenes, by the autoencoder and the text encoder in ``out``."""
        scenes = draw_scenes(count)
        return cls(kind, scenes, encode(scenes.images, out), *embed(scenes.captions, out))

    def draw(self, rows: int) -> Draw:
        """Batches of so many pairs; a tenth of the prompts is dropped."""

        def draw(generator: torch.Generator) -> TrainingBatch:
            chosen = torch.randint(len(self.latents), (rows,), generator=generator)
            without = dropped(rows, TEXT_DROPOUT, generator)
            pictures = self.scenes.images[chosen].float() / 255
            hint = condition_of(self.kind, pictures, self.scenes.masks[chosen])
            return TrainingBatch(
                self.latents[chosen], self.contexts[chosen], hint, empty=self.empty, dropped=without
            )

        return draw
