"""Tensors out of the files of torch.save, zipped and old, memory mapped; nothing is run."""

from __future__ import annotations

import io
import logging
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .pickled import SPECIAL, Made, Storage, StoredTensor, Unpicklable, unpickle
from .words import (
    DOWNLOAD_AGAIN,
    LONGEST_NAME,
    SAVE_AS_SAFETENSORS,
    UNPACK,
    first_line,
    refusal,
    require_few,
    shown,
    some,
)

log = logging.getLogger(__name__)

MOST_PICKLE = 4 << 20  # bytes; a ControlNet has 50 thousand
MOST_DIRECTORY = 2 << 20  # bytes of a zip's list of entries; a ControlNet has 40 thousand
MOST_VALUES = 20_000  # that are looked at in the dictionaries of a file
DEEPEST = 20
CONVERT = "convert it to .safetensors where you trust it, or get it as .safetensors"
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# What zipfile and struct raise for broken entries; UnicodeDecodeError is a ValueError.
BAD_FILE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, KeyError, TypeError),
    *(ValueError, NotImplementedError, RuntimeError, OverflowError, AttributeError),
)
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may ask for gigabytes

Find = Callable[[Storage], int]  # where in the file the first byte of a storage lies


def read_zip(path: Path) -> dict[str, Tensor]:
    """Tensors of a zip of torch.save; ValueError, one sentence, for any other."""
    with _sound(path), _Sparing(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.NameToInfo
    _require_torch_zip(path, entries)
    program = next(name for name in entries if name.endswith("/data.pkl"))
    folder = program.removesuffix("data.pkl")
    text, order = (_content(path, entries.get(folder + end)) for end in ("data.pkl", "byteorder"))
    if order not in (b"", sys.byteorder.encode()):
        raise refusal(path, "was saved with the other byte order", SAVE_AS_SAFETENSORS)
    try:
        loaded = unpickle(io.BytesIO(text))
    except Unpicklable as error:
        raise _unpicklable(path, error) from error

    def find(storage: Storage) -> int:
        entry = entries[f"{folder}data/{storage.key}"]
        size = storage.numel * storage.dtype.itemsize
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise zipfile.BadZipFile(f"{shown(entry.filename)} is compressed")
        if size > entry.file_size:
            raise zipfile.BadZipFile(f"{shown(entry.filename)} is too short")
        with path.open("rb") as file:  # the entry's own header is as long as it says
            file.seek(entry.header_offset + 26)
            return entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))

    return _mapped(path, _weights(path, loaded), find)


def read_old(path: Path) -> dict[str, Tensor]:
    """Tensors of a file of torch.save before PyTorch 1.6; ValueError, one sentence, for others."""
    size = path.stat().st_size
    with path.open("rb") as file:
        stream = io.BytesIO(file.read(MOST_PICKLE))
    storages: dict[str, Storage] = {}
    try:
        if unpickle(stream) != OLD_MAGIC or unpickle(stream) != OLD_PROTOCOL:
            raise refusal(path, "is a pickle, but none of torch.save", SAVE_AS_SAFETENSORS)
        system, loaded, keys = unpickle(stream), unpickle(stream, storages), unpickle(stream)
    except Unpicklable as error:
        if not error.name and size > MOST_PICKLE == stream.tell():
            what = f"is an old pickle with more than {MOST_PICKLE >> 20} MB before its tensors"
            raise refusal(path, what, CONVERT) from error
        raise _unpicklable(path, error) from error
    places: dict[str, int] = {}
    with _sound(path):
        if system["little_endian"] is not (sys.byteorder == "little"):
            raise ValueError("it was saved with the other byte order")
        position = stream.tell()
        with path.open("rb") as file:
            for key in keys:
                file.seek(position)
                (count,) = struct.unpack("<q", file.read(8))
                if count != storages[key].numel:
                    raise ValueError("its list of numbers contradicts itself")
                places[key] = position + 8
                position += 8 + count * storages[key].dtype.itemsize
    return _mapped(path, _weights(path, loaded), lambda storage: places[storage.key])


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """What a broken file makes the libraries raise, as a refusal."""
    try:
        yield
    except BAD_FILE as error:
        what = f"is damaged or cut off ({first_line(error)})"
        raise refusal(path, what, DOWNLOAD_AGAIN) from error


class _Sparing(io.FileIO):
    """A file that does not give more at once than the list of entries may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # zipfile does so at the very end only
            size = MOST_DIRECTORY
        if size > MOST_DIRECTORY:
            raise zipfile.BadZipFile("it lists far more entries than a model has")
        return super().read(size) or b""


def _require_torch_zip(path: Path, entries: Mapping[str, Any]) -> None:
    if any(name.endswith("/constants.pkl") for name in entries):
        what = "is a TorchScript program, which would run its own code"
        raise refusal(path, what, SAVE_AS_SAFETENSORS)
    if not any(name.endswith("/data.pkl") for name in entries):
        raise refusal(path, "is a zip archive", UNPACK)


def _content(path: Path, entry: zipfile.ZipInfo | None) -> bytes:
    """What the entry holds, without reading more than is allowed; b"" without an entry."""
    if entry is None:
        return b""
    if entry.compress_type not in ZIP_METHODS:
        raise refusal(path, "is compressed in a way that torch.save does not use", CONVERT)
    with _sound(path), zipfile.ZipFile(path) as archive, archive.open(entry) as file:
        content = file.read(MOST_PICKLE + 1)
    if len(content) > MOST_PICKLE:
        raise refusal(path, f"has a pickle of more than {MOST_PICKLE >> 20} MB", CONVERT)
    return content


def _unpicklable(path: Path, error: Unpicklable) -> ValueError:
    if error.name:
        what = f"{error} (it asks for {shown(error.name)}), nothing was run"
        return refusal(path, what, SAVE_AS_SAFETENSORS)
    advice = DOWNLOAD_AGAIN if "damaged" in str(error) else CONVERT
    return refusal(path, str(error), advice)


def _weights(path: Path, loaded: Any) -> dict[str, StoredTensor]:
    """The tensors in a loaded file, not read yet; of a training checkpoint its "state_dict"."""
    if not isinstance(loaded, dict):
        kind = loaded.by if isinstance(loaded, Made) else type(loaded).__name__
        advice = "choose a ControlNet from models/controlnet"
        raise refusal(path, f"holds a {kind} instead of named tensors", advice)
    nested = loaded.get("state_dict")
    inside = nested if isinstance(nested, dict) else loaded
    ignored = [str(name) for name in loaded if inside is not loaded and name != "state_dict"]
    tensors: dict[str, StoredTensor] = {}
    for count, (name, value) in enumerate(_flatten(path, inside)):
        if count > MOST_VALUES:
            raise refusal(
                path, f"has more than {MOST_VALUES:,} values in its dictionaries", CONVERT
            )
        if isinstance(value, StoredTensor):
            tensors[name] = value
        elif isinstance(value, Made) and value.by in SPECIAL:
            what = f"holds the tensor {shown(name)}, which is {SPECIAL[value.by]}"
            raise refusal(path, what, SAVE_AS_SAFETENSORS)
        else:
            ignored.append(name)
    require_few(path, tensors)
    if ignored:
        log.info("%s: ignored what are no weights: %s", shown(path.name), some(ignored, 10))
    return tensors


def _flatten(
    path: Path, mapping: Mapping[Any, Any], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """Values by their whole names; a dictionary counts as one before what is in it."""
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if depth > DEEPEST or len(name) > LONGEST_NAME:
            what = f"has dictionaries or names that are too deep or too long ({shown(name, 40)})"
            raise refusal(path, what, CONVERT)
        yield name, value
        if isinstance(value, dict):
            yield from _flatten(path, value, f"{name}.", depth + 1)


def _mapped(path: Path, stored: Mapping[str, StoredTensor], find: Find) -> dict[str, Tensor]:
    """The tensors as views of the mapped file."""
    if not stored:
        return {}
    size = path.stat().st_size
    whole = torch.UntypedStorage.from_file(str(path), False, size)
    storages: dict[Storage, torch.UntypedStorage] = {}
    tensors = {}
    with _sound(path):
        for name, tensor in stored.items():
            storage = tensor.storage
            if storage not in storages:
                start = find(storage)
                end = start + storage.numel * storage.dtype.itemsize
                if end > size:
                    raise EOFError(f"{size} bytes are there, {end} are needed")
                storages[storage] = whole[start:end]  # pyright: ignore
            empty = torch.empty(0, dtype=tensor.dtype)
            places = (tensor.offset, tensor.size, tensor.stride)
            tensors[name] = empty.set_(storages[storage], *places)  # pyright: ignore
    return tensors
