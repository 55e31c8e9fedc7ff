"""Files that somebody made to do harm: each a function that writes one, by what it tries."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from controlnet_pp.cnpp_core.checkpoint import to_diffusers
from controlnet_pp.tests.checkpoint.files import TINY, weights
from safetensors.torch import save_file
from torch import Tensor

ONE = torch.zeros(1)
Write = Callable[[Path], Any]
HOSTILE: dict[str, Write] = {}


def tiny_diffusers() -> dict[str, Tensor]:
    """A sound ControlNet as diffusers saves it."""
    return to_diffusers(weights(), TINY)


def torch_zip(path: Path, program: bytes, compress: int = zipfile.ZIP_STORED, **more: bytes):
    """What torch.save would have written, around any pickle."""
    with zipfile.ZipFile(path, "w", compress) as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/byteorder", b"little")
        for name, content in more.items():
            archive.writestr(f"a/data/{name.strip('_')}", content)


def with_header(path: Path, header: bytes, length: int | None = None, data: bytes = b"") -> None:
    """A safetensors file around any header."""
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)


def empties(names: list[str]) -> bytes:
    """A header of tensors of no bytes."""
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps(dict.fromkeys(names, entry)).encode()


def ones(names: list[str]) -> dict[str, Tensor]:
    """A tensor of its own for each name."""
    return {name: torch.ones(1) for name in names}


def text(value: str) -> bytes:
    """The opcode BINUNICODE."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def tensor(
    numel: int = 1, offset: int = 0, size: int = 1, stride: int = 1, key: str = "0"
) -> bytes:
    """Opcodes of one float tensor with one dimension."""
    number = [b"J" + struct.pack("<i", n) for n in (numel, offset, size, stride)]
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    place = storage + number[0] + b"tQ" + number[1] + number[2] + b"\x85" + number[3] + b"\x85"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + b"\x89}tR"


def hostile(suffix: str) -> Callable[[Write], Write]:
    """Adds a function to HOSTILE, as the file of its name."""

    def add(write: Write) -> Write:
        HOSTILE[write.__name__ + suffix] = write
        return write

    return add


for _number, _name in enumerate(
    (
        "middle_block.1.transformer_blocks.99999.norm1.weight",
        "output_blocks.999999999.0.x",
        "input_blocks.999999999.0.in_layers.2.weight",
    )
):
    HOSTILE[f"huge_number_{_number}.safetensors"] = lambda path, name=_name: save_file(
        weights() | {name: ONE}, path
    )
for _number, _name in enumerate(
    (
        "down_blocks.999999999.resnets.0.conv1.weight",
        "down_blocks.0.resnets.999999999.conv1.weight",
        "mid_block.attentions.0.transformer_blocks.9999999.norm1.weight",
        "mid_block.resnets.999999999.norm1.weight",
        "up_blocks.99999999.resnets.0.x",
    )
):
    HOSTILE[f"huge_diffusers_number_{_number}.safetensors"] = lambda path, name=_name: save_file(
        tiny_diffusers() | {name: ONE}, path
    )


@hostile(".safetensors")
def many_keys(path):
    with_header(path, empties([f"{i}" for i in range(100_000)]))


@hostile(".safetensors")
def many_real_keys(path):
    names = [f"input_blocks.{i}.1.proj_in.weight" for i in range(9_000)]
    with_header(path, empties([*names, "zero_convs.0.0.weight"]))


@hostile(".safetensors")
def many_levels(path):
    save_file(tiny_diffusers() | ones([f"down_blocks.{i}.x" for i in range(9_000)]), path)


@hostile(".safetensors")
def many_blocks(path):
    conv = torch.zeros(32, 1, 1, 1)
    blocks = {f"input_blocks.{i}.0.in_layers.2.weight": conv.clone() for i in range(1, 5_000)}
    save_file(weights() | blocks, path)


@hostile(".safetensors")
def as_many_blocks_as_are_read(path):
    conv = torch.zeros(32, 1, 1, 1)
    blocks = {f"input_blocks.{i}.0.in_layers.2.weight": conv.clone() for i in range(1, 500)}
    save_file(weights() | blocks, path)


@hostile(".safetensors")
def deep_transformer(path):
    blocks = ones([f"middle_block.1.transformer_blocks.{i}.norm1.weight" for i in range(9_000)])
    save_file(weights() | blocks, path)


@hostile(".safetensors")
def dots(path):
    names = ["." * 290 + str(i) for i in range(9_000)]
    save_file(tiny_diffusers() | ones(names), path)


@hostile(".safetensors")
def deep_header(path):
    with_header(path, b'{"a":' + b"[" * 500_000)


@hostile(".safetensors")
def long_header(path):
    with_header(path, b'{"a":[' + b"{}," * 15_000_000)


@hostile(".safetensors")
def header_in_limits(path):
    with_header(path, b'{"a":[' + b"{}," * 2_500_000)


@hostile(".safetensors")
def long_name(path):
    save_file(weights() | {"n" * 200_000: ONE}, path)


@hostile(".safetensors")
def terminal_codes(path):
    save_file({"\x1b[2J\x07\r\n\u202e" + "x" * 90: ONE}, path)


@hostile(".safetensors")
def declared_length(path):
    with_header(path, b"{}", length=2**32 - 1)


@hostile(".safetensors")
def wide_without_bytes(path):
    names = ("input_blocks.0.0.weight", "zero_convs.0.0.weight")
    entry = {"dtype": "F32", "shape": [2**40, 0, 3, 3], "data_offsets": [0, 0]}
    with_header(path, json.dumps(dict.fromkeys(names, entry)).encode())


@hostile(".safetensors")
def no_channels(path):
    save_file(weights() | {"input_blocks.0.0.weight": torch.zeros(0, 4, 3, 3)}, path)


@hostile(".pth")
def sharing(path):
    shared: dict[str, Any] = {"x": 1}
    for _ in range(40):
        shared = {"a": shared, "b": shared}
    torch.save(shared, path)


@hostile(".bin")
def sharing_in_an_old_file(path):
    shared: dict[str, Any] = {"x": torch.zeros(1)}
    for _ in range(40):
        shared = {"a": shared, "b": shared}
    torch.save(shared, path, _use_new_zipfile_serialization=False)


@hostile(".pth")
def sharing_widely(path):
    shared: dict[str, Any] = {"x": 1}
    for _ in range(12):
        shared = dict.fromkeys("abcdefgh", shared)
    torch.save(shared, path)


@hostile(".pth")
def holding_itself(path):
    itself: dict[str, Any] = {}
    itself["itself"] = itself
    torch_zip(path, pickle.dumps(itself, protocol=2))


@hostile(".pth")
def deep(path):
    torch_zip(path, b"\x80\x02}" + (text("a") + b"}") * 90_000 + b"s" * 90_000 + b".")


@hostile(".pth")
def keys_that_are_hashed_for_ever(path):
    doubled = b"".join(b"q\x00h\x00\x86" for _ in range(40))
    torch_zip(path, b"\x80\x02})" + doubled + b"Ns.")


@hostile(".pth")
def keys_of_one_hash(path):
    prime = 2**61 - 1
    keys = [b"\x8a\x0a" + (prime * n).to_bytes(10, "little") + b"N" for n in range(1, 100_000)]
    torch_zip(path, b"\x80\x02}(" + b"".join(keys) + b"u.")


@hostile(".pth")
def copies_of_a_long_list(path):
    pairs = b"](" + b"N" * 100_000 + b"eq\x00"
    copies = b"ccollections\nOrderedDict\nh\x00\x85R0" * 30_000
    torch_zip(path, b"\x80\x02" + pairs + copies + b".")


@hostile(".pth")
def bytes_by_the_milliard(path):
    torch_zip(path, b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R" * 50 + b".")


@hostile(".pth")
def a_far_place_of_the_memo(path):
    torch_zip(path, b"\x80\x02}r\xff\xff\xff\xff.")


@hostile(".pth")
def declared_bytes(path):
    torch_zip(path, b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.")


@hostile(".pth")
def bomb(path):
    torch_zip(path, b"\x80\x02" + b"N" * 100_000_000, zipfile.ZIP_DEFLATED)


@hostile(".pth")
def rare_compression(path):
    torch_zip(path, b"\x80\x02}" + b"N" * 1_000_000 + b".", zipfile.ZIP_LZMA)


@hostile(".pth")
def many_opcodes(path):
    torch_zip(path, b"\x80\x02" + b"N0" * 1_900_000 + b"}.")


@hostile(".pth")
def many_tensors(path):
    torch.save(ones([f"zero_convs.{i}.0.weight" for i in range(9_000)]), path)


@hostile(".bin")
def many_tensors_in_an_old_file(path):
    tensors = ones([f"zero_convs.{i}.0.weight" for i in range(9_000)])
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


@hostile(".pth")
def many_entries(path):
    torch_zip(path, b"\x80\x02}.")
    content = path.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.rindex(b"PK\x05\x06")
    entries = content[start:end] * 200_000
    size = struct.pack("<II", len(entries), start)
    path.write_bytes(content[:start] + entries + content[end : end + 12] + size + bytes(2))


@hostile(".pth")
def a_tensor_larger_than_its_numbers(path):
    torch_zip(
        path, b"\x80\x02}" + text("a") + tensor(1, size=2**31 - 1, stride=0) + b"s.", _0=b"0000"
    )


@hostile(".pth")
def a_tensor_beyond_its_numbers(path):
    torch_zip(path, b"\x80\x02}" + text("a") + tensor(2, offset=1, size=2) + b"s.", _0=bytes(8))


@hostile(".pth")
def numbers_beyond_the_file(path):
    torch_zip(path, b"\x80\x02}" + text("a") + tensor(2**30, size=2**30) + b"s.", _0=bytes(8))


@hostile(".pth")
def compressed_numbers(path):
    program = b"\x80\x02}" + text("a") + tensor(100_000, size=100_000) + b"s."
    torch_zip(path, program, zipfile.ZIP_DEFLATED, _0=bytes(400_000))


@hostile(".pth")
def names_that_grow(path):
    nested: dict[str, Any] = {"x": 1}
    for _ in range(15):
        nested = {"n" * 100: nested}
    torch.save(nested, path)


@hostile(".pth")
def a_sparse_tensor(path):
    torch.save({"a": torch.eye(3).to_sparse()}, path)


@hostile(".pth")
def a_meta_tensor(path):
    torch.save({"a": torch.empty(3, device="meta")}, path)


@hostile(".pth")
def a_conjugated_tensor(path):
    torch.save({"a": torch.zeros(3, dtype=torch.complex64).conj()}, path)


@hostile(".bin")
def an_old_file_of_a_long_pickle(path):
    torch.save({"x" * 5_000_000: ONE}, path, _use_new_zipfile_serialization=False)


@hostile(".ckpt")
def zeros(path):
    path.write_bytes(b"")
    os.truncate(path, 20_000_000_000)


@hostile(".pt")
def a_pickle_before_nothing(path):
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2))
    os.truncate(path, 20_000_000_000)
