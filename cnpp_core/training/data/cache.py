"""What encoders gave, kept by what it was made of: in memory, or in a folder for later runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
Key = Mapping[str, object]  # whatever JSON can hold


class Cache:
    """Tensors by a key that says all that they depend on.

    A key has "kind" and "encoder". In a folder each entry is a file of its own, below one for its
    kind and encoder, and says in its header what it is. Whatever of a key changes, such as encoder
    or size, the entry is another one: nothing out of date is ever found. Processes may share the
    folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.made = 0
        self.found = 0
        self._kept: dict[str, Tensors] = {}

    def get(self, key: Key, make: Callable[[], Tensors]) -> Tensors:
        """The tensors of this key, on the CPU; made now if there are none yet."""
        name = json.dumps(key, sort_keys=True)
        tensors = self._kept.get(name) if self.folder is None else _read(self.path(key), name)
        if tensors is not None:
            self.found += 1
            return tensors
        # What is made in inference mode, as in ComfyUI, could never take part in a training.
        with torch.inference_mode(False), torch.no_grad():
            tensors = {
                part: tensor.to("cpu", copy=True).contiguous() for part, tensor in make().items()
            }
        self.made += 1
        if self.folder is None:
            self._kept[name] = tensors
        else:
            _write(self.path(key), tensors, name)
        return tensors

    def path(self, key: Key) -> Path:
        """The file of an entry in the folder."""
        maker = hashlib.sha256(str(key["encoder"]).encode()).hexdigest()[:8]
        entry = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        folder = self.folder or Path()
        return folder / f"{key['kind']}-{maker}" / f"{entry}.safetensors"


def fingerprint(*modules: nn.Module) -> str:
    """Hex digits that change when any weight of the modules does: a name for an encoder."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _read(path: Path, name: str) -> Tensors | None:
    """The entry of this name; None if there is none that can be read."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            if (file.metadata() or {}).get("key") == name:
                return {part: file.get_tensor(part) for part in file.keys()}  # noqa: SIM118
        reason = "it is the entry of something else"
    except (OSError, SafetensorError) as error:
        reason = str(error)
    log.warning("%s can't be used and is made again: %s", path, reason)
    return None


def _write(path: Path, tensors: Tensors, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    try:
        save_file(tensors, unfinished, {"key": name})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
