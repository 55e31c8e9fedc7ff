"""Checkpoints of a training: written whole or not at all, the newest few kept.

A checkpoint is one safetensors file, `step-00000500.safetensors`: tensors by name, and everything
else as JSON in its header. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "controlnet-plus-plus training 1"
NAME = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Checkpoints:
    """Where checkpoints lie, how many steps apart they are, and how many of the newest stay."""

    folder: Path
    every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise ValueError(
                f"Checkpoints every {self.every} steps of which {self.keep} are kept were asked "
                "for, expected at least 1 of both."
            )

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"step-{step:08}.safetensors"

    def steps(self) -> list[int]:
        """The steps that have a file, oldest first."""
        names = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(match[1]) for path in names if (match := NAME.fullmatch(path.name)))

    def write(self, step: int, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step, then remove those that are too many.

        ``rest`` is whatever JSON can hold. Whatever happens meanwhile, the file of an earlier step
        stays, and a file of this name is complete. Raises OSError in words if it can't be written.
        """
        path = self.path(step)
        part = path.with_suffix(".part")
        whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        header = {"format": FORMAT, "rest": json.dumps(rest)}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob("step-*.part"):
                left.unlink()
            save_file(whole, part, metadata=header)
            _to_disk(part)
            os.replace(part, path)
            _to_disk(self.folder)
        except (OSError, SafetensorError) as error:
            part.unlink(missing_ok=True)
            kept = [f"that of step {kept} stays" for kept in self.steps()[-1:]] or ["there is none"]
            size = sum(tensor.nbytes for tensor in whole.values())
            raise OSError(
                f"The checkpoint of step {step} can't be written to {self.folder} ({error}); of "
                f"the earlier ones {kept[0]}. Make room for {size / 1e6:,.0f} MB or choose another "
                "folder, and resume the training."
            ) from error
        for old in self.steps()[: -self.keep]:
            self.path(old).unlink(missing_ok=True)
        return path

    def read(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors on the CPU, rest) of a step; ValueError if the file is damaged or another's."""
        path = self.path(step)
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header.get("format") != FORMAT:
                raise ValueError(f"its format is {header.get('format')!r}, expected {FORMAT!r}")
            return tensors, json.loads(header["rest"])
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path} is no checkpoint of a training that can be read ({error}): delete it to "
                "resume from the one before, or choose another folder."
            ) from error


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What two settings differ in, by name, each as a phrase."""
    for name in sorted({*then, *now}):
        before, after = then.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name} was {json.dumps(before)} and is {json.dumps(after)}"


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power cut."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders, and writes their names through
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
