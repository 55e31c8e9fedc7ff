"""Whatever a file holds: a ControlNet comes out of it or one sentence, never another exception."""

import json
import re
import string
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import load_controlnet_file
from controlnet_pp.tests.checkpoint.files import weights
from controlnet_pp.tests.checkpoint.hostile import (
    tensor,
    text,
    tiny_diffusers,
    torch_zip,
    with_header,
)
from safetensors.torch import save_file

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
many = hypothesis.settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
NETS = {"original": weights(), "diffusers": tiny_diffusers()}
NETS["with all"] = NETS["original"] | {
    name: torch.zeros(32, 20) for name in ("task_embedding", "label_emb.0.0.weight", "out.2.weight")
}
NETS["prefixed"] = {f"control_model.{name}": value for name, value in NETS["original"].items()}
SIZES = st.sampled_from([0, 1, 2, 3, 4, 5, 9, 31, 32, 33, 64, 96])
DTYPES = st.sampled_from(
    [torch.float32, torch.float16, torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64]
)
# The configuration is read off the shapes of these.
DECIDING = (
    *("input_blocks.0.0.weight", "conv_in.weight", "in_layers.2.weight", "conv1.weight"),
    *("input_hint_block.0.weight", "attn2.to_k.weight", "proj_in.weight", "label_emb.0.0.weight"),
    *("task_embedding", "out.2.weight"),
)
NUMBERS = st.sampled_from(["0", "1", "2", "3", "7", "99", "00", "-1", "99999999999", "x", "\u0663"])


def answer(path: Path) -> None:
    """Fails unless the file is loaded, or refused in one printable sentence."""
    try:
        loaded = load_controlnet_file(path)
    except ValueError as error:
        assert type(error) is ValueError  # noqa: PT017 - both ways are right
        message = str(error)
        assert re.fullmatch(rf"{re.escape(path.name)} .*: .*\.", message), message
        assert message.isprintable()
        assert len(message) < 1000
    else:
        assert loaded.network().config == loaded.config


@st.composite
def changed_nets(draw) -> dict[str, torch.Tensor]:
    net = dict(draw(st.sampled_from(list(NETS.values()))))
    for _ in range(draw(st.integers(1, 3))):
        deciding = [name for name in net if name.endswith(DECIDING)]
        name = draw(st.sampled_from(list(net)) | st.sampled_from(deciding or list(net)))
        value = net[name]
        change = draw(st.sampled_from(["gone", "shape", "dtype", "number", "beside", "copy"]))
        if change == "gone":
            del net[name]
        elif change == "shape":
            net[name] = torch.zeros(draw(st.lists(SIZES, max_size=5).filter(_is_small)))
        elif change == "dtype":
            net[name] = value.to(draw(DTYPES))
        elif change == "beside":
            net[draw(st.text(max_size=400).filter(_is_unicode))] = torch.zeros(1)
        else:
            parts = re.split(r"(?<=\.)\d+(?=\.)", name)
            other = draw(NUMBERS).join(parts)
            net[other] = net.pop(name) if change == "number" else value.clone()
    return net


def _is_small(sizes: list[int]) -> bool:
    return torch.Size(sizes).numel() < 100_000


def _is_unicode(name: str) -> bool:
    return not any(0xD800 <= ord(c) < 0xE000 for c in name)


@many
@hypothesis.given(net=changed_nets(), suffix=st.sampled_from([".safetensors", ".pth", ".bin"]))
def test_a_net_with_tensors_changed(tmp_path, net, suffix):
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(net, path)
    else:
        torch.save(net, path, _use_new_zipfile_serialization=suffix == ".pth")
    answer(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(
            ["F32", "F16", "BF16", "F8_E4M3", "I64", "BOOL", "F4", "C64", "x"]
        ),
        "shape": st.lists(st.integers(-1, 2**70) | SIZES, max_size=4) | JSON,
        "data_offsets": st.lists(st.integers(-1, 300), max_size=3) | JSON,
    }
)


@many
@hypothesis.given(
    header=JSON | st.dictionaries(st.sampled_from(list(NETS["original"])) | st.text(), ENTRIES),
    data=st.binary(max_size=200),
)
def test_any_safetensors_header(tmp_path, header, data):
    with_header(tmp_path / "net.safetensors", json.dumps(header).encode(), data=data)
    answer(tmp_path / "net.safetensors")


OPCODES = st.one_of(
    st.sampled_from(
        [bytes([c]) for c in b"()]}N.0123abdehijklopqrstuQRVX\x80\x81\x85\x86\x87\x88\x94"]
    ),
    st.sampled_from(
        [
            b"ccollections\nOrderedDict\n",
            b"ctorch._utils\n_rebuild_parameter\n",
            b"ctorch._tensor\n_rebuild_from_type_v2\n",
            b"ctorch\nFloatStorage\n",
            b"ctorch\nfloat16\n",
            b"ctorch.nn.parameter\nParameter\n",
            b"ctorch._utils\n_rebuild_tensor_v3\n",
            b"cos\nsystem\n",
            b"q\x00",
            b"h\x00",
            text("state_dict"),
            text("zero_convs.0.0.weight"),
            text("storage"),
            tensor(),
            tensor(numel=-1),
            tensor(offset=2**31 - 1, size=0),
            tensor(key="../data.pkl"),
        ]
    ),
    st.integers(-(2**31), 2**31 - 1).map(lambda number: b"J" + struct.pack("<i", number)),
    st.text(string.printable, max_size=5).map(text),
    st.binary(max_size=4),
)
PROGRAMS = st.lists(OPCODES, max_size=25).map(lambda parts: b"\x80\x02}" + b"".join(parts) + b".")


@many
@hypothesis.given(program=PROGRAMS, compress=st.sampled_from([0, zipfile.ZIP_DEFLATED]))
def test_any_pickle_in_a_zip(tmp_path, program, compress):
    torch_zip(tmp_path / "net.pth", program, compress, _0=bytes(4))
    answer(tmp_path / "net.pth")


@many
@hypothesis.given(programs=st.lists(PROGRAMS, max_size=3), data=st.binary(max_size=50))
def test_any_old_pickle(tmp_path, programs, data):
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    system = b"\x80\x02}" + text("little_endian") + b"\x88s."
    (tmp_path / "net.bin").write_bytes(magic + system + b"".join(programs) + data)
    answer(tmp_path / "net.bin")
