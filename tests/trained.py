"""Trained weights, for the tests marked `weights`; they stay where they are.

Looked for in CNPP_WEIGHTS and where the pack itself would look without a ComfyUI.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from controlnet_pp.annotators import hub
from controlnet_pp.annotators.annotator import LearnedAnnotator
from controlnet_pp.annotators.kinds import KINDS, Ways
from controlnet_pp.annotators.weights import find
from torch import Tensor

# Those of scikit-image's pictures that come with its package or are plain photographs.
PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "coins", "rocket")
TEXTURES = ("brick", "grass", "gravel", "motorcycle")


def folders() -> list[Path]:
    """Where trained weights may lie."""
    named = os.environ.get("CNPP_WEIGHTS")
    return [*([Path(named)] if named else []), Path("models/annotators"), *hub.cache_folders()]


def trained_file(name: str) -> Path:
    """A file of CNPP_WEIGHTS by its name; skips where there is none."""
    path = Path(os.environ.get("CNPP_WEIGHTS", "")) / name
    if not path.is_file():
        pytest.skip(f"no trained {name}: set CNPP_WEIGHTS to a folder that has it")
    return path


def trained(kind: str, method: str = "") -> tuple[Ways, list[LearnedAnnotator]]:
    """The ways of a method with its trained networks; skips where a file is missing."""
    found = KINDS[kind].method(method)
    networks = []
    for network in found.networks:
        try:
            path = find(network.key, folders())
        except FileNotFoundError:
            pytest.skip(f"no trained weights {network.key}: set CNPP_WEIGHTS to their folder")
        networks.append(network.kind.open(path, network.key, dtype=torch.float32).eval())
    return found.ways(*networks), networks


def photo(name: str, side: int = 256) -> Tensor:
    """A picture of scikit-image, (1, 3, side, side), the middle of it in 8 bits."""
    from skimage import data  # not in every Python that runs tests with weights

    pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    pixels = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels[..., :3]
    height, width = pixels.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = pixels[top : top + short, left : left + short].copy()
    whole = torch.from_numpy(square).movedim(-1, 0)[None].float() / 255
    sized = F.interpolate(whole, (side, side), mode="bilinear", antialias=True)
    return (sized.clamp(0, 1) * 255).round() / 255
