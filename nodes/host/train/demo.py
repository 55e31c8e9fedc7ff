"""Training data of the demo model: scenes of its world, drawn as they are asked for."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ....cnpp_core.training.data.records import Record
from ....demo.world import HELD_OUT_SEED, SIZE, TRAIN_SEED, load_batch, sample_scene

FIRST_HELD_OUT = 10_000  # Demo Model shows those before


def demo_records(count: int, held_out: int) -> tuple[list[Record], list[Record]]:
    """So many scenes to train with, and others that no training has seen."""
    return (
        [_record(TRAIN_SEED, index) for index in range(count)],
        [_record(HELD_OUT_SEED, FIRST_HELD_OUT + index) for index in range(held_out)],
    )


def _record(seed: int, index: int) -> Record:
    caption = sample_scene(seed, index).caption
    name = f"scene {index} of world {seed}"
    return Record(name, (SIZE, SIZE), caption, name, partial(_draw, seed, index))


def _draw(seed: int, index: int) -> Tensor:
    return load_batch(seed, [index]).images
