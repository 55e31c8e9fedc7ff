"""The commands `train` and `reward`."""

from __future__ import annotations

from collections.abc import Sequence

from .reading import read_options
from .run import run

ABOUT = {
    "train": "Train a ControlNet. Settings come from a TOML file, from flags, or from both; flags "
    "win. docs/training.md has worked examples.",
    "reward": "Fine-tune a ControlNet with an annotator as its reward, as ControlNet++ does. "
    "Settings come from a TOML file, from flags, or from both; flags win.",
}


def main(command: str, argv: Sequence[str] = ()) -> int:
    """0 when the ControlNet is written, or with --plan when the plan is."""
    return run(command, read_options(command, argv, ABOUT[command]))
