"""A CONTROL_NET into a file in models/controlnet."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors import SafetensorError

from ....cnpp_core.checkpoint.report import weights_text
from ....cnpp_core.checkpoint.save import save_controlnet_file
from ....cnpp_core.checkpoint.trained import VERSION, Training
from ..control.network import HostedNetwork
from .networks import clone_of

FOLDER = "controlnet"
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


def save_control(control: Any, prefix: str, layout: str, dtype: str) -> tuple[Path, str]:
    """Write its network as safetensors; the file, which is a new one each time, and a report.

    prefix: name in models/controlnet, with folders and what the host puts for %date and the like.
    dtype: of DTYPES. Raises ValueError for a control that has no such network, and OSError in words
    if the file can't be written.
    """
    network = clone_of(control)
    trained = training_of(control) or Training("unknown", "unknown", 0, VERSION)
    path = _new_file(prefix)
    needed = sum(p.numel() for p in network.parameters()) * DTYPES[dtype].itemsize
    try:
        save_controlnet_file(path, network, trained, layout=layout, dtype=DTYPES[dtype])
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{path} can't be written ({error}); it needs {needed / 1e6:,.0f} MB. Make room and "
            "queue again: what was trained is still there, and is not trained again."
        ) from error
    lines = [
        f"{path.name}: {layout}, {dtype}, {path.stat().st_size / 1e6:,.1f} MB",
        f"in {path.parent}",
        weights_text(network.config, network.state_dict()),
        trained.text(),
    ]
    return path, "\n".join(lines)


def training_of(control: Any) -> Training | None:
    """How the network of a CONTROL_NET was trained, if it says so."""
    network = getattr(control, "control_model", None)
    return network.trained if isinstance(network, HostedNetwork) else None


def _new_file(prefix: str) -> Path:
    """The next free name; ValueError for one that leads out of the folder."""
    folder = os.path.abspath(folder_paths.get_folder_paths(FOLDER)[0])
    if not Path(prefix).name.strip():
        raise ValueError(f"filename_prefix is {prefix!r}; write a name, such as my_canny.")
    inside = os.path.abspath(os.path.join(folder, prefix))
    if os.path.commonpath((folder, inside)) != folder:
        raise ValueError(
            f"filename_prefix is {prefix!r}, which leads out of {folder}; write a name, with "
            "folders in front if you like."
        )
    place, name, counter, *_ = folder_paths.get_save_image_path(prefix, folder)
    return Path(place) / f"{name}_{counter:05}_.safetensors"
