"""Reading files: what is stored comes out, what is no checkpoint is refused, no code runs."""

import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
from random import Random

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import read_tensors
from controlnet_pp.cnpp_core.checkpoint.words import shown, some
from safetensors.torch import save, save_file

DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.tensor([-1.5])}


class Trap:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def refusal(path) -> str:
    with pytest.raises(ValueError, match=re.escape(path.name)) as error:
        read_tensors(path)
    assert type(error.value) is ValueError
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message  # one sentence
    assert ": " in message  # what it is: what to do
    return message


def written(path, content: bytes):
    path.write_bytes(content)
    return path


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        tensor.dtype == expected[name].dtype
        and torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8))
        for name, tensor in found.items()
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_every_storage_type_is_kept_bit_for_bit(tmp_path, dtype, suffix):
    tensors = {name: tensor.to(dtype) for name, tensor in TENSORS.items()}
    path = tmp_path / f"net{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    assert same(read_tensors(path), tensors)


def test_a_legacy_pickle_is_read(tmp_path):
    torch.save(TENSORS, tmp_path / "net.bin", _use_new_zipfile_serialization=False)
    assert same(read_tensors(tmp_path / "net.bin"), TENSORS)


def test_content_counts_and_not_the_name(tmp_path):
    torch.save(TENSORS, tmp_path / "a.safetensors")
    save_file(TENSORS, tmp_path / "b.ckpt")
    assert same(read_tensors(tmp_path / "a.safetensors"), TENSORS)
    assert same(read_tensors(tmp_path / "b.ckpt"), TENSORS)


def tensors_of_every_kind():
    numbers = torch.arange(24.0).reshape(2, 3, 4)
    return {
        "transposed": numbers.transpose(0, 2),
        "a part": numbers[1, :, 1:3],
        "tied": numbers,
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "bool": torch.tensor([True, False]),
        "complex": torch.tensor([1 + 2j]),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "double": torch.ones(3, dtype=torch.float64),
        "long": torch.tensor([2**40]),
        "fp8": torch.ones(5).to(torch.float8_e5m2),
        "inner": torch.nn.Linear(3, 2).state_dict(),  # an OrderedDict with attributes
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_those_of_torch_load(tmp_path, zipped, protocol):
    path = tmp_path / "net.pth"
    saved = tensors_of_every_kind() | {"note": ["a", 1, None, 2.5, (3,), {4}, torch.Size([1])]}
    if not zipped:  # torch itself can't read these from an old file
        saved.pop("fp8")
    torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=False)
    expected |= {f"inner.{name}": value for name, value in expected.pop("inner").items()}
    del expected["note"]
    found = read_tensors(path)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.stride() == expected[name].stride()
    assert same(contiguous(found), contiguous(expected))
    tied, part = (found[name].untyped_storage().data_ptr() for name in ("tied", "a part"))
    assert tied == part


def contiguous(tensors):
    return {name: value.detach().reshape(-1).contiguous() for name, value in tensors.items()}


def test_an_old_file_is_read_however_long(tmp_path):
    tensors = {"a": torch.arange(1 << 22, dtype=torch.float32), "b": torch.ones(3)}
    torch.save(tensors, tmp_path / "net.bin", _use_new_zipfile_serialization=False)
    assert same(read_tensors(tmp_path / "net.bin"), tensors)


def test_of_a_training_checkpoint_the_weights_are_taken(tmp_path):
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}}
    torch.save(
        {"state_dict": TENSORS, "global_step": 7, "optimizer": optimizer}, tmp_path / "net.ckpt"
    )
    assert same(read_tensors(tmp_path / "net.ckpt"), TENSORS)


@pytest.mark.parametrize("length", [0x7B, 0x7B20, 0x3C20])
def test_a_header_length_that_reads_like_text_is_still_safetensors(tmp_path, length):
    header = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    text = json.dumps(header).encode().ljust(length)
    path = written(tmp_path / "net.safetensors", struct.pack("<Q", length) + text + b"\x05")
    assert read_tensors(path)["a"].tolist() == [5]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_are_memory_mapped(tmp_path, suffix):
    tensors = {"a": torch.zeros(64, 1 << 18)}  # 64 MiB
    path = tmp_path / f"net{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    smaps = "/proc/self/maps"
    if not os.path.exists(smaps):
        pytest.skip("mappings are listed on Linux only")
    found = read_tensors(path)
    with open(smaps) as maps:
        ranges = [line.split()[0].split("-") for line in maps if path.name in line]
    address = found["a"].data_ptr()
    assert any(int(start, 16) <= address < int(end, 16) for start, end in ranges)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".bin", ".safetensors"])
def test_a_pickle_with_code_is_refused_by_name_and_runs_nothing(tmp_path, suffix, legacy):
    mark = tmp_path / "it-ran"
    path = tmp_path / f"net{suffix}"
    content = {**TENSORS, "trap": Trap(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    message = refusal(path)
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert "safetensors" in message
    assert not mark.exists()
    with path.open("rb") as file:
        torch.load(file, weights_only=False)
    assert mark.exists()  # the trap is a real one


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_plain_pickle_with_code_is_refused_by_name_and_runs_nothing(tmp_path, protocol):
    mark = tmp_path / "it-ran"
    path = written(tmp_path / "net.pt", pickle.dumps({"trap": Trap(mark)}, protocol=protocol))
    assert f"{os.mkdir.__module__}.mkdir" in refusal(path)
    assert not mark.exists()


def test_a_saved_module_is_refused_by_the_name_of_its_class(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    assert "torch.nn.modules.linear.Linear" in refusal(tmp_path / "net.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "net.pt")
    assert "TorchScript" in refusal(tmp_path / "net.pt")


def test_a_tar_is_refused_before_torch_sees_it(tmp_path):
    member = written(tmp_path / "\x80\x02", b"pickle")
    with tarfile.open(tmp_path / "net.pth", "w") as archive:
        archive.add(member, arcname="\x80\x02")
    assert "tar archive" in refusal(tmp_path / "net.pth")


@pytest.mark.parametrize("kept", [1, 8, 20, 0.5, 0.99])
def test_a_truncated_safetensors_is_refused(tmp_path, kept):
    content = save({"a": torch.zeros(1000)})
    size = kept if isinstance(kept, int) else int(kept * len(content))
    message = refusal(written(tmp_path / "net.safetensors", content[:size]))
    assert "cut off" in message or "damaged" in message
    assert "download it again" in message


def test_a_safetensors_with_bytes_lost_in_its_data_names_both_sizes(tmp_path):
    content = save({"a": torch.zeros(1000)})
    message = refusal(written(tmp_path / "net.safetensors", content[:-1]))
    assert f"{len(content) - 1} bytes of {len(content)}" in message


def test_a_safetensors_with_a_foreign_header_is_refused(tmp_path):
    for header in (b"{not json", b'{"a": 3}', b'{"a": {"data_offsets": 1}}', b"{}" + b"\xff" * 9):
        path = written(tmp_path / "net.safetensors", struct.pack("<Q", len(header)) + header)
        assert "damaged" in refusal(path)


def test_a_safetensors_whose_shape_contradicts_its_bytes_is_refused(tmp_path):
    header = b'{"a": {"dtype": "F32", "shape": [7], "data_offsets": [0, 8]}}'
    path = tmp_path / "net.safetensors"
    refusal(written(path, struct.pack("<Q", len(header)) + header + bytes(8)))


@pytest.mark.parametrize("kept", [0.2, 0.9])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_truncated_pickle_is_refused(tmp_path, legacy, kept):
    path = tmp_path / "net.pth"
    torch.save({"a": torch.zeros(5000)}, path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    assert "cut off" in refusal(written(path, content[: int(kept * len(content))]))


@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
def test_damage_anywhere_gives_tensors_or_a_refusal_and_nothing_else(tmp_path, container):
    path = tmp_path / ("net.safetensors" if container == "safetensors" else "net.pth")
    if container == "safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=container == "zip")
    sound = path.read_bytes()
    random = Random(0)
    for _ in range(250):
        damaged = bytearray(sound)
        for _ in range(random.choice([1, 1, 4])):
            place = random.randrange(len(damaged) if random.random() < 0.5 else 100)
            cut = random.choice([0, 1, 1, 1, 20])
            damaged[place : place + cut] = random.randbytes(random.choice([1, 1, 1, 6]))
        try:
            read_tensors(written(path, bytes(damaged)))
        except ValueError as error:
            assert re.fullmatch(r"net\.\w+ .*: .*\.", str(error))  # noqa: PT017 - most damage is refused, some is not seen


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"\n  <HTML>404</HTML>", "web page"),
        (b"\xef\xbb\xbf<!doctype html>", "web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b'{"error": "Invalid username or password."}', "JSON"),
        (b"GGUF\x03\x00\x00\x00" + bytes(50), "GGUF"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "picture"),
        (bytes(100), "nothing but zeros"),
        (bytes(10240), "nothing but zeros"),
        (b"Entry not found", "damaged"),
    ],
)
def test_what_is_no_model_is_refused_by_its_name(tmp_path, content, what):
    assert what in refusal(written(tmp_path / "net.safetensors", content))


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse"),
        (lambda: torch.empty(3, device="meta"), "without numbers"),
        (lambda: torch.zeros(3, dtype=torch.complex64).conj(), "conjugated"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
    ],
)
def test_a_tensor_whose_numbers_are_not_there_as_they_are_is_named(tmp_path, make, what):
    torch.save({"state_dict": {"a.weight": make()}}, tmp_path / "net.pth")
    assert f"holds the tensor a.weight, which is {what}" in refusal(tmp_path / "net.pth")


def test_names_are_shown_escaped_and_cut():
    assert shown("a\x1b[2J\n\u202e\ud800") == r"a\x1b[2J\n\u202e\ud800"
    assert shown("\u00e9" * 200_000) == "\u00e9" * 100 + "..."
    assert some(["a\r", "b", "c", "d"], 2) == r"a\r, b and 2 more"


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path / "net.pth", b"x")

    def denied(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "open", denied)
    assert "can't be read" in refusal(path)


def test_an_ordinary_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("net.safetensors", b"x")
    assert "zip archive" in refusal(tmp_path / "net.pth")


def test_anything_else_is_refused(tmp_path):
    assert "no checkpoint" in refusal(written(tmp_path / "net.pth", b"hello world"))


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"note": "nothing"}, tmp_path / "net.pth")
    assert "no tensors" in refusal(tmp_path / "net.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    assert "list" in refusal(tmp_path / "list.pth")


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    folder = tmp_path / "controlnet-canny"
    folder.mkdir()
    assert "diffusion_pytorch_model.safetensors" in refusal(folder)
    assert "does not exist" in refusal(tmp_path / "gone.safetensors")
