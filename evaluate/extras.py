"""Quality beside consistency, through torchmetrics: FID and CLIP score."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..pictures.files import SUFFIXES, read_picture
from .pairs import Pair

log = logging.getLogger(__name__)

CLIP_MODEL = "openai/clip-vit-base-patch16"  # the one of the published evaluation
FEATURES = 2048  # of Inception's last pooling


def fid(
    pairs: Sequence[Pair],
    real: Path,
    device: torch.device,
    features: int | nn.Module = FEATURES,
) -> float:
    """Fréchet inception distance to the pictures in `real`, mean over the groups of pictures.

    Group k is the k-th picture of every condition, as published. features: Inception's layer, for
    which torchmetrics needs torch-fidelity and fetches weights of 91 MB; or a module from pictures
    (B, 3, H, W) in 0..255 to (B, F).
    """
    files = sorted(file for file in real.glob("*") if file.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise ValueError(f"--fid: {real} holds {len(files)} pictures; at least 2 are needed.")
    metric = _metric(
        "torchmetrics.image.fid",
        "FrechetInceptionDistance",
        "--fid",
        "torchmetrics torch-fidelity",
        feature=features,
        reset_real_features=False,
    ).to(device)
    for file in files:
        metric.update(_pixels(file, device), real=True)
    groups = max(len(pair.pictures) for pair in pairs)
    values = []
    for group in range(groups):
        metric.reset()
        made = [pair.pictures[group] for pair in pairs if group < len(pair.pictures)]
        if len(made) < 2:
            raise ValueError(f"--fid: group {group + 1} has {len(made)} pictures; 2 are needed.")
        for file in made:
            metric.update(_pixels(file, device), real=False)
        values.append(float(metric.compute()))
    return sum(values) / len(values)


def clip_score(
    pairs: Sequence[Pair],
    prompts: Path,
    device: torch.device,
    model: str | Callable[[], Any] = CLIP_MODEL,
) -> float:
    """CLIP score of every picture with the prompt of its condition, mean, 0..100.

    prompts: a JSON file {"name of the condition": "prompt"}, or a folder with NAME.txt. model: a
    name on Hugging Face, fetched if it is not there, or what torchmetrics takes instead.
    """
    said = read_prompts(prompts, [pair.name for pair in pairs])
    metric = _metric(
        "torchmetrics.multimodal.clip_score",
        "CLIPScore",
        "--clip",
        "torchmetrics transformers",
        model_name_or_path=model,
    ).to(device)
    for pair in pairs:
        for file in pair.pictures:
            metric.update(_pixels(file, device), [said[pair.name]])
    return float(metric.compute())


def read_prompts(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The prompt of every name; ValueError naming the first one without."""
    if path.is_dir():
        found = {file.stem: _text(file).strip() for file in path.glob("*.txt")}
    elif path.is_file():
        found = _json(path)
    else:
        raise ValueError(f"--clip: there is no file or folder {path}.")
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"--clip: {path} has no prompt for {missing[0]} ({len(missing)} of {len(names)} lack "
            'one). It needs {"name of the condition": "prompt"}, or a folder with NAME.txt.'
        )
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--clip: {path} is no text in UTF-8 ({error.reason}).") from error


def _json(path: Path) -> dict[str, str]:
    try:
        found = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"--clip: {path} is no JSON ({error}).") from error
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise ValueError(
            f'--clip: {path} needs {{"name of the condition": "prompt"}} and nothing else.'
        )
    return found


def _metric(module: str, name: str, option: str, packages: str, **arguments: Any) -> Any:
    try:
        return getattr(importlib.import_module(module), name)(**arguments)
    except ImportError as error:  # torchmetrics raises its subclass where a part is missing
        raise ValueError(
            f"{option} needs packages that are not installed ({error}): pip install {packages}"
        ) from error
    except AttributeError as error:
        raise ValueError(
            f"{option} needs {packages.split()[-1]}, which torchmetrics does not find: "
            f"pip install {packages}"
        ) from error


def _pixels(file: Path, device: torch.device) -> torch.Tensor:
    return (read_picture(file) * 255).round().byte().to(device)
