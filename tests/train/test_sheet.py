"""The sheet of a validation: which picture stands where."""

from __future__ import annotations

import numpy as np
import torch
from controlnet_pp.cnpp_core.training.batch import TrainingBatch
from controlnet_pp.train.sheet import GAP, LINE, Sheets
from PIL import Image


def flat(*levels: float, side: int = 32) -> torch.Tensor:
    """Pictures (B, 3, side, side), each of one grey."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, side, side)


def batch(hints, originals):
    return TrainingBatch(originals, torch.zeros(len(originals), 1, 1), hints)


def test_a_row_has_the_condition_what_was_drawn_and_the_original(tmp_path):
    """Of two batches, the second one of wider pictures."""
    held_out = [
        batch(flat(0.1, 0.2), flat(0.7, 0.8)),
        batch(flat(0.3, side=64), flat(0.9, side=64)),
    ]
    sheets = Sheets(tmp_path / "new", held_out, lambda x0: x0)
    path = sheets.write(7, [flat(0.4, 0.5), flat(0.6, side=64)], "step 7")
    assert path.name == "step-00000007.png"
    pixels = np.asarray(Image.open(path)).astype(int)
    cell, top = 64 + GAP, 2 * LINE + GAP
    shown = [
        [pixels[top + row * cell + 16, GAP + column * cell + 16, 0] for column in range(3)]
        for row in range(3)
    ]
    expected = [[0.1, 0.4, 0.7], [0.2, 0.5, 0.8], [0.3, 0.6, 0.9]]
    assert np.abs(np.array(shown) - 255 * np.array(expected)).max() <= 1
    assert pixels.shape == (top + 3 * cell, GAP + 3 * cell, 3)
