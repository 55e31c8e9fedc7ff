"""Write what was trained: a file appears whole or not at all, and says how it was made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..network.controlnet import ControlNet
from ..network.unet import UNet
from .formats import DIFFUSERS, ORIGINAL
from .keys import to_diffusers
from .trained import Training

UNET_PREFIX = "model.diffusion_model."


def save_controlnet_file(
    path: str | os.PathLike[str],
    network: ControlNet,
    training: Training,
    *,
    layout: str = ORIGINAL,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a ControlNet as safetensors, in the names of one of the two layouts.

    Raises ValueError for another layout.
    """
    if layout not in (ORIGINAL, DIFFUSERS):
        raise ValueError(f"'{layout}' is no layout of a file; choose {ORIGINAL} or {DIFFUSERS}.")
    tensors = network.state_dict()
    if layout == DIFFUSERS:
        tensors = to_diffusers(tensors, network.config)
    _write(Path(path), tensors, training, dtype)


def save_unet_file(
    path: str | os.PathLike[str],
    unet: UNet,
    training: Training,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a whole UNet as safetensors, under the names that it has in a checkpoint.

    It is the model that belongs to a ControlNet which was trained with the decoder unlocked. The
    host's loader of diffusion models takes it (models/diffusion_models); text encoder and
    autoencoder stay those of the base checkpoint.
    """
    tensors = {UNET_PREFIX + name: tensor for name, tensor in unet.state_dict().items()}
    _write(Path(path), tensors, training, dtype)


def _write(
    path: Path, tensors: Mapping[str, Tensor], training: Training, dtype: torch.dtype
) -> None:
    placed = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    unfinished = path.with_name(path.name + ".tmp")
    try:
        save_file(placed, unfinished, training.metadata())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
