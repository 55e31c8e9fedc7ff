"""Read the tensors of a checkpoint file without ever running code from it.

What a file is decides its first bytes, never its name: a pickle that was renamed to .safetensors
still goes through the safe reader, and a web page that was saved as one is called a web page.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import pickletools
import re
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from torch import Tensor

log = logging.getLogger(__name__)

DOWNLOAD_AGAIN = "download it again and compare its size with the one on the download page"
SAVE_AS_SAFETENSORS = "get it as .safetensors instead"
UNPACK = "unpack it and choose the model inside"
# what zipfile raises for broken entries; UnicodeDecodeError is a ValueError
BAD_ZIP = (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError)
PICTURE = "choose a ControlNet file, pictures go into Load Image"


class CheckpointError(ValueError):
    """A file that cannot be used; its message is one sentence: what the file is, what to do."""


class UnreadableFile(CheckpointError):  # noqa: N818 - reads as what it says
    """The file is damaged, unsafe, or no checkpoint at all."""


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a .safetensors file or of a pickle (.pth, .pt, .bin, .ckpt), by name.

    Safetensors and zipped pickles are memory mapped: nothing is read until it is used. Of a
    training checkpoint, the tensors under "state_dict" are taken. Raises UnreadableFile (a
    ValueError), one sentence that says what the file is and what to do.
    """
    path = Path(path)
    _require_file(path)
    kind = _kind(path)
    tensors = _read_safetensors(path) if kind == "safetensors" else _read_pickle(path, kind)
    if not tensors:
        raise UnreadableFile(f"{path.name} holds no tensors: {DOWNLOAD_AGAIN}.")
    return tensors


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise UnreadableFile(
            f"{path} is a folder: choose the file inside it, in a diffusers folder that is "
            "diffusion_pytorch_model.safetensors."
        )
    if not path.is_file():
        raise UnreadableFile(
            f"{path} does not exist: choose a file from models/controlnet, or refresh the list."
        )
    if path.stat().st_size == 0:
        raise UnreadableFile(f"{path.name} is empty (0 bytes): {DOWNLOAD_AGAIN}.")


def _kind(path: Path) -> str:
    """Safetensors, zip or pickle, by the first bytes; anything else is refused by name."""
    with path.open("rb") as file:
        head = file.read(512)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<!--")):
        raise UnreadableFile(
            f"{path.name} is a web page (HTML), not a model: the link led to a login or error "
            "page, so download the file again, signed in or from its direct link."
        )
    if text.startswith(b"<?xml") or text.startswith(b"<error"):
        raise UnreadableFile(
            f"{path.name} is a server's error message (XML), not a model: download it again."
        )
    if text.startswith(b"version https://git-lfs"):
        raise UnreadableFile(
            f"{path.name} is a Git LFS pointer, not the model itself: run `git lfs pull` in its "
            "repository or download the file from the web page."
        )
    if text.startswith(b"{"):
        raise UnreadableFile(
            f"{path.name} is a JSON text (a configuration, an index or an error message), not a "
            "model: choose or download the .safetensors file that belongs to it."
        )
    for magic, name, advice in _FOREIGN:
        if head.startswith(magic):
            raise UnreadableFile(f"{path.name} is {name}: {advice}.")
    if head.startswith(b"PK"):
        return "zip"
    if tarfile.is_tarfile(path):
        # PyTorch's old tar reader has unpickled code even in its safe mode (CVE-2025-32434).
        raise UnreadableFile(f"{path.name} is a tar archive: {UNPACK}.")
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if path.suffix == ".safetensors":
        raise UnreadableFile(
            f"{path.name} is damaged, it has no safetensors header: {DOWNLOAD_AGAIN}."
        )
    raise UnreadableFile(
        f"{path.name} is no checkpoint (neither safetensors nor a PyTorch file): choose a "
        "ControlNet from models/controlnet."
    )


_FOREIGN = (
    (b"GGUF", "a GGUF model", "this loader needs a ControlNet as .safetensors"),
    (b"\x89HDF", "an HDF5 (TensorFlow) file", "get the PyTorch version as .safetensors"),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"7z\xbc\xaf", "a 7-Zip archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\x89PNG", "a picture (PNG)", PICTURE),
    (b"\xff\xd8\xff", "a picture (JPEG)", PICTURE),
)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _check_safetensors_header(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the library raises types of its own, and some torch ones
        raise UnreadableFile(
            f"{path.name} cannot be read as safetensors ({_first_line(error)}): {DOWNLOAD_AGAIN}."
        ) from error


def _check_safetensors_header(path: Path) -> None:
    """Compare what the header promises with the file's size, to name a broken download."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if 8 + length > size:
            raise UnreadableFile(
                f"{path.name} is cut off inside its header ({size} bytes are there, the header "
                f"alone needs {8 + length}): {DOWNLOAD_AGAIN}."
            )
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for k, entry in header.items() if k != "__metadata__"]
            promised = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UnreadableFile(
                f"{path.name} is damaged, its safetensors header is not readable: {DOWNLOAD_AGAIN}."
            ) from error
    if promised > size:
        raise UnreadableFile(
            f"{path.name} is cut off ({size} bytes of {promised} are there): {DOWNLOAD_AGAIN}."
        )


def _read_pickle(path: Path, kind: str) -> dict[str, Tensor]:
    if kind == "zip":
        _check_torch_zip(path)
    # By path torch goes by the name's end, so that a misnamed pickle has to come as an open file.
    mapped = kind == "zip" and path.suffix != ".safetensors"
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what matters is raised
            source = path if mapped else file
            loaded = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise UnreadableFile(_pickle_refusal(path, kind, error)) from error
    return _tensors_of(loaded, path)


def _check_torch_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except BAD_ZIP as error:
        raise UnreadableFile(
            f"{path.name} is damaged or cut off ({_first_line(error)}): {DOWNLOAD_AGAIN}."
        ) from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise UnreadableFile(
            f"{path.name} is a TorchScript program, which would run its own code: "
            f"{SAVE_AS_SAFETENSORS}."
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise UnreadableFile(f"{path.name} is a zip archive: {UNPACK}.")


def _tensors_of(loaded: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(loaded, Mapping):
        raise UnreadableFile(
            f"{path.name} holds a {type(loaded).__name__} instead of named tensors: choose a "
            "ControlNet from models/controlnet."
        )
    nested = loaded.get("state_dict")
    weights = nested if isinstance(nested, Mapping) else loaded
    tensors: dict[str, Tensor] = {}
    ignored = [str(name) for name in loaded if weights is not loaded and name != "state_dict"]
    for name, value in _flatten(weights):
        if isinstance(value, Tensor):
            tensors[name] = value.detach()
        else:
            ignored.append(name)
    if ignored:
        log.info("%s: ignored what are no weights: %s", path.name, ", ".join(ignored[:10]))
    return tensors


def _flatten(mapping: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _pickle_refusal(path: Path, kind: str, error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = [named[1]] if named else _foreign_globals(path, kind)
        if found:
            return (
                f"{path.name} is a pickle that would run code when loaded (it asks for "
                f"{', '.join(found[:3])}), nothing was run: {SAVE_AS_SAFETENSORS}."
            )
        return f"{path.name} is a pickle that PyTorch's safe reader refuses: {SAVE_AS_SAFETENSORS}."
    if isinstance(error, (EOFError, RuntimeError, OSError)):
        return f"{path.name} is damaged or cut off ({_first_line(error)}): {DOWNLOAD_AGAIN}."
    return f"{path.name} cannot be read ({_first_line(error)}): {SAVE_AS_SAFETENSORS}."


def _foreign_globals(path: Path, kind: str) -> list[str]:
    """Names outside torch that a pickle would import, read off its opcodes without running them."""
    found: list[str] = []
    try:
        if kind == "zip":
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
                found.extend(_globals_in(archive.read(name)))
        else:
            with path.open("rb") as stream:
                found.extend(_globals_in(stream))
    except BAD_ZIP:  # damaged: what was found before still counts
        pass
    return found


def _globals_in(stream: bytes | IO[bytes]) -> Iterator[str]:
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
        elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
            module, name = strings[-2:]
        else:
            if isinstance(argument, str):
                strings.append(argument)
            continue
        if module.partition(".")[0] not in ("torch", "collections"):
            yield f"{module}.{name}"


def _first_line(error: Exception) -> str:
    sentence = re.split(r"\n|\. ", str(error).strip())[0]
    return sentence.rstrip(".")[:120] or type(error).__name__
