"""The command `captions`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ..cnpp_core.training.data.records import Problems
from ..dataset.captions import captioner, write_captions
from ..evaluate.sources import require_device


def main(argv: Sequence[str] = ()) -> int:
    """Write the captions."""
    parser = argparse.ArgumentParser(
        prog="cli.py captions",
        description="Write NAME.txt beside every picture of a folder that has none.",
    )
    parser.add_argument("pictures", type=Path, help="folder of pictures")
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help="local folder of an image-to-text model in transformers' format, such as BLIP",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out what can't be read")
    parser.add_argument("--device", default="", help="cpu, cuda:1, ...; else a GPU if there is one")
    options = parser.parse_args(argv)
    require_device(options.device)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    caption = captioner(options.model, device)
    write_captions(options.pictures, caption, Problems(options.skip_bad))
    return 0
