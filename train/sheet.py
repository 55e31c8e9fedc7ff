"""What a validation shows: the condition, what was drawn of it, and the original picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..cnpp_core.training.batch import TrainingBatch
from ..pictures.canvas import Canvas
from ..pictures.contact_sheet import GAP, LINE, thumbnail

MOST_SIDE = 192
TITLES = ("condition", "drawn", "original")


class Sheets:
    """Writes one sheet a validation, `step-00000500.png`, a row for each held-out picture.

    decode: latents as the model has them -> pictures (1, 3, H, W) in 0..1, for the originals.
    """

    def __init__(
        self, folder: Path, held_out: Sequence[TrainingBatch], decode: Callable[[Tensor], Tensor]
    ) -> None:
        self.folder = folder
        self.held_out = held_out
        self.decode = decode
        self._originals: list[Tensor] = []

    @torch.no_grad()
    def write(self, step: int, pictures: Sequence[Tensor], words: str) -> Path:
        """Write the sheet of a step, with a line of words above; pictures (B, 3, H, W) in 0..1."""
        if not self._originals:
            self._originals = [
                self.decode(x0)[0] for batch in self.held_out for x0 in batch.x0.split(1)
            ]
        hints = [hint for batch in self.held_out if batch.hint is not None for hint in batch.hint]
        drawn = [picture for batch in pictures for picture in batch]
        rows = list(zip(hints, drawn, self._originals, strict=True))
        side = min(MOST_SIDE, max(max(picture.shape[-2:]) for picture in drawn))
        cell, top = side + GAP, 2 * LINE + GAP
        canvas = Canvas(len(TITLES) * cell + GAP, len(rows) * cell + top)
        canvas.text((GAP, GAP // 2), words, width=len(TITLES) * cell - GAP)
        for column, title in enumerate(TITLES):
            canvas.text((GAP + column * cell, LINE + GAP // 2), title, canvas.theme.faint)
        for row, shown in enumerate(rows):
            for column, picture in enumerate(shown):
                corner = GAP + column * cell, top + row * cell
                canvas.picture(corner, thumbnail(picture, side))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08}.png"
        pixels = (canvas.tensor()[0] * 255).round().byte().movedim(0, -1)
        Image.fromarray(pixels.numpy()).save(path)
        return path
