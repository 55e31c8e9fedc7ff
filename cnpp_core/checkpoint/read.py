"""Read the tensors of a checkpoint file without ever running code from it.

What a file is decides its first bytes, never its name: a pickle that was renamed to .safetensors
still goes through the safe reader, and a web page that was saved as one is called a web page.
Whatever a file holds is answered within seconds and little memory: nothing of it is trusted to be
of a sensible length.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from .torch_files import read_old, read_zip
from .words import DOWNLOAD_AGAIN, MOST_TENSORS, UNPACK, first_line, refusal, require_few, shown

PICTURE = "choose a ControlNet file, pictures go into Load Image"
MOST_HEADER = 8 << 20  # bytes of a safetensors header; a ControlNet has 40 thousand
MOST_EXPLAINED = 1 << 20  # bytes of a broken header that are looked at for the reason


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a .safetensors file or of a pickle (.pth, .pt, .bin, .ckpt), by name.

    The file is memory mapped: no number is read until it is used. Of a training checkpoint, the
    tensors under "state_dict" are taken. Raises ValueError and nothing else for a file that can't
    be used: one sentence that says what the file is and what to do.
    """
    path = Path(path)
    try:
        _require_file(path)
        tensors = _READERS[_kind(path)](path)
    except OSError as error:
        advice = "look at its permissions and at the disk"
        raise refusal(path, f"can't be read ({first_line(error)})", advice) from error
    if not tensors:
        raise refusal(path, "holds no tensors", DOWNLOAD_AGAIN)
    return tensors


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts in the header of a file that `read_tensors` has read; only safetensors have any."""
    path = Path(path)
    if _kind(path) != "safetensors":
        return {}
    with safe_open(str(path), framework="pt", device="cpu") as file:
        return file.metadata() or {}


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise ValueError(
            f"{shown(path, 300)} is a folder: choose the file inside it, in a diffusers folder "
            "that is diffusion_pytorch_model.safetensors."
        )
    if not path.is_file():
        raise ValueError(
            f"{shown(path, 300)} does not exist: choose a file from models/controlnet, or refresh "
            "the list."
        )
    if path.stat().st_size == 0:
        raise refusal(path, "is empty (0 bytes)", DOWNLOAD_AGAIN)


def _kind(path: Path) -> str:
    """Safetensors, zip or pickle, by the first bytes; anything else is refused by name."""
    with path.open("rb") as file:
        head = file.read(512)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for starts, what, advice in _TEXTS:
        if text.startswith(starts):
            raise refusal(path, what, advice)
    for magic, name, advice in _FOREIGN:
        if head.startswith(magic):
            raise refusal(path, f"is {name}", advice)
    if head.startswith(b"PK"):
        return "zip"
    if head[257:262] == b"ustar":
        raise refusal(path, "is a tar archive", UNPACK)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if not any(head):
        raise refusal(path, "begins with nothing but zeros, its download broke off", DOWNLOAD_AGAIN)
    if path.suffix == ".safetensors":
        raise refusal(path, "is damaged, it has no safetensors header", DOWNLOAD_AGAIN)
    raise refusal(
        path,
        "is no checkpoint (neither safetensors nor a PyTorch file)",
        "choose a ControlNet from models/controlnet",
    )


_TEXTS = (
    (
        (b"<!doctype", b"<html", b"<head", b"<!--"),
        "is a web page (HTML), not a model",
        "the link led to a login or error page, so download the file again, signed in or from its "
        "direct link",
    ),
    (
        (b"<?xml", b"<error"),
        "is a server's error message (XML), not a model",
        "download it again",
    ),
    (
        (b"version https://git-lfs",),
        "is a Git LFS pointer, not the model itself",
        "run `git lfs pull` in its repository or download the file from the web page",
    ),
    (
        (b"{",),
        "is a JSON text (a configuration, an index or an error message), not a model",
        "choose or download the .safetensors file that belongs to it",
    ),
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
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
    if 8 + length > size:
        raise refusal(
            path,
            f"is cut off inside its header ({size} bytes are there, the header alone needs "
            f"{8 + length})",
            DOWNLOAD_AGAIN,
        )
    if length > MOST_HEADER:
        raise refusal(
            path,
            f"has a header of {length:,} bytes, at most {MOST_HEADER:,} are read",
            "choose a ControlNet file, whose header has some 40,000",
        )
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names[:MOST_TENSORS]}
    except Exception as error:  # the library raises types of its own, and some torch ones
        raise _damaged_safetensors(path, size, length, error) from error
    require_few(path, names)
    return tensors


def _damaged_safetensors(path: Path, size: int, length: int, error: Exception) -> ValueError:
    """Compare what the header promises with the file's size, to name a broken download."""
    if length > MOST_EXPLAINED:
        return refusal(path, f"cannot be read as safetensors ({first_line(error)})", DOWNLOAD_AGAIN)
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(8 + length)[8:])
        ends = [entry["data_offsets"][1] for k, entry in header.items() if k != "__metadata__"]
        promised = 8 + length + max(ends, default=0)
        if promised > size:
            what = f"is cut off ({size} bytes of {shown(promised)} are there)"
            return refusal(path, what, DOWNLOAD_AGAIN)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return refusal(path, "is damaged, its safetensors header is not readable", DOWNLOAD_AGAIN)
    return refusal(path, f"cannot be read as safetensors ({first_line(error)})", DOWNLOAD_AGAIN)


_READERS = {"safetensors": _read_safetensors, "zip": read_zip, "pickle": read_old}
