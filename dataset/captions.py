"""Captions for pictures that have none, by an image-to-text model such as BLIP."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..annotators.annotator import to_8_bit
from ..cnpp_core.training.data.records import Problems
from ..pictures.files import by_name, read_picture

log = logging.getLogger(__name__)

MOST_TOKENS = 40

# A picture (1, 3, H, W) in 0..1 to what it shows.
Captioner = Callable[[Tensor], str]


def captioner(model: Path, device: torch.device | str = "cpu") -> Captioner:
    """The model of a local folder in transformers' format, e.g. of Salesforce/blip-...-base.

    It takes the most likely word each time, so that a picture always gets the same caption. Raises
    ValueError without the package transformers, and for a folder that has no such model.
    """
    transformers = _transformers()
    if not (model / "config.json").is_file():
        raise ValueError(
            f"{model} has no config.json; captions need a folder with an image-to-text model in "
            "transformers' format, such as BLIP."
        )
    try:
        processor: Any = transformers.AutoProcessor.from_pretrained(model, local_files_only=True)
        network: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            model, local_files_only=True
        )
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{model} can't be loaded as an image-to-text model: {reason}") from error
    network = network.to(device).eval().requires_grad_(False)

    def caption(picture: Tensor) -> str:
        pixels = to_8_bit(picture)[0].movedim(0, -1).numpy()
        inputs = processor(images=pixels, return_tensors="pt").to(device)
        tokens = network.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
        return processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()

    return caption


def write_captions(pictures: Path, caption: Captioner, problems: Problems) -> int:
    """Write `NAME.txt` beside every picture that has none, or an empty one; how many were written.

    Pictures that can't be read, and those that the model says nothing of, are problems.
    """
    written = 0
    for picture in by_name(pictures, "pictures").values():
        target = picture.with_suffix(".txt")
        if target.is_file() and target.read_bytes().strip():
            continue
        try:
            text = caption(read_picture(picture))
            if not text:
                raise ValueError("the model says nothing of it.")
        except ValueError as error:
            problems.add(str(picture), error)
            continue
        target.write_text(text + "\n", encoding="utf-8")
        written += 1
    log.info("%s: %d captions written, %d pictures skipped", pictures, written, len(problems.found))
    return written


def _transformers() -> ModuleType:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"Captions need the package transformers ({error}): install it with pip install "
            "transformers, or write them by hand."
        ) from error
