"""Where the limits of foreign files lie: what is just within them is read, one more is refused."""

import json
import logging
import pickle
import re
import struct
import zipfile

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import read_tensors
from controlnet_pp.cnpp_core.checkpoint.foreign import LOOK_ALIKE, describe
from controlnet_pp.cnpp_core.checkpoint.torch_files import MOST_PICKLE, OLD_MAGIC, OLD_PROTOCOL
from controlnet_pp.cnpp_core.checkpoint.trained import KEY, LONGEST, Training
from controlnet_pp.cnpp_core.checkpoint.words import require_few
from controlnet_pp.tests.checkpoint.hostile import tensor, text, torch_zip, with_header

FOUR = b"".join(struct.pack("<f", n) for n in (1, 2, 3, 4))


def refused(path) -> str:
    with pytest.raises(ValueError, match=re.escape(path.name)) as error:
        read_tensors(path)
    return str(error.value)


def written(path, content: bytes):
    path.write_bytes(content)
    return path


# Bytes that a file begins with


@pytest.mark.parametrize("last", range(1, 8))
def test_every_byte_of_the_header_length_counts(tmp_path, last):
    length = bytes(last == place for place in range(8))
    what = "is cut off inside its header" if last < 4 else "is no checkpoint"
    assert what in refused(written(tmp_path / "a.bin", length + b"{"))


def test_nothing_but_zeros_means_512_of_them(tmp_path):
    assert "nothing but zeros" in refused(written(tmp_path / "a.bin", bytes(513)))
    assert "is no checkpoint" in refused(written(tmp_path / "b.bin", bytes(511) + b"x"))
    assert "nothing but zeros" in refused(written(tmp_path / "c.bin", bytes(512) + b"x"))


@pytest.mark.parametrize("suffix", [".bin", ".safetensors2", ".vae", ".zip"])
def test_only_of_a_safetensors_file_a_header_is_missed(tmp_path, suffix):
    assert "is no checkpoint" in refused(written(tmp_path / f"a{suffix}", b"nonsense" * 9))
    assert "no safetensors header" in refused(written(tmp_path / "a.safetensors", b"nonsense" * 9))


def test_a_file_that_ends_in_its_header_says_what_the_header_needs(tmp_path):
    path = tmp_path / "a.safetensors"
    with_header(path, b"{}", length=1000)
    assert "(10 bytes are there, the header alone needs 1008)" in refused(path)


@pytest.mark.parametrize("data", [3, 4])
def test_a_file_that_ends_in_its_data_says_how_much_was_promised(tmp_path, data):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "a.safetensors"
    with_header(path, header.ljust(95), data=bytes(data))  # 103 | 4 is not 103 + 4
    if data == 4:
        assert read_tensors(path).keys() == {"a"}
    else:
        assert "is cut off (106 bytes of 107 are there)" in refused(path)


def test_a_header_of_eight_megabytes_is_read_and_of_a_byte_more_is_not(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    longest = 8_388_608
    path = tmp_path / "a.safetensors"
    with_header(path, header.ljust(longest), data=bytes(4))
    assert read_tensors(path).keys() == {"a"}
    with_header(path, header.ljust(longest + 1), data=bytes(4))
    assert "a header of 8,388,609 bytes, at most 8,388,608 are read" in refused(path)


# Numbers and lengths


def test_ten_thousand_tensors_are_looked_at_and_one_more_is_not():
    names = [f"n{i}" for i in range(10_001)]
    require_few("a", names[:-1])
    with pytest.raises(ValueError, match=r"10,001 tensors, at most 10,000"):
        require_few("a", names)


def test_how_it_was_trained_may_be_as_long_as_stated():
    def entry(length: int) -> dict[str, str]:
        made = Training("base", "canny", 1, "1", {"note": ""}).metadata()[KEY]
        return {KEY: made.replace('"note": ""', f'"note": "{"x" * (length - len(made))}"')}

    assert len(entry(LONGEST)[KEY]) == LONGEST
    assert Training.of(entry(LONGEST)) is not None
    assert Training.of(entry(LONGEST + 1)) is None


@pytest.mark.parametrize(("key", "read"), [(2**31 - 1, True), (2**31, False), (-1, False)])
def test_numbers_as_keys_end_where_they_hash_to_themselves(tmp_path, key, read):
    number = b"\x8a\x05" + key.to_bytes(5, "little", signed=True)
    program = b"\x80\x02}" + number + b"N\x73" + text("w") + tensor() + b"\x73."
    path = tmp_path / "a.pth"
    torch_zip(path, program, _0=FOUR)
    if read:
        assert read_tensors(path)["w"].tolist() == [1]
    else:
        assert "keys are no names" in refused(path)


# Pickles


@pytest.mark.parametrize("more", [0, 1])
def test_a_pickle_in_a_zip_may_have_four_megabytes(tmp_path, more):
    program = pickle.dumps({"a": 1}, protocol=2)
    path = tmp_path / "a.pth"
    torch_zip(path, program.ljust(MOST_PICKLE + more, b"\0"), compress=zipfile.ZIP_DEFLATED)
    what = "has a pickle of more than 4 MB" if more else "holds no tensors"
    assert what in refused(path)


def test_an_old_pickle_says_how_much_of_it_is_read(tmp_path):
    head = pickle.dumps(OLD_MAGIC, 2) + pickle.dumps(OLD_PROTOCOL, 2)
    system = pickle.dumps({"little_endian": True}, 2)
    endless = b"\x80\x02]" + b"K\x01a" * (MOST_PICKLE // 3)
    path = written(tmp_path / "a.pt", head + system + endless)
    said = refused(path)
    assert "more than 4 MB before its tensors" in said or "opcodes" in said
    long = b"\x80\x02X" + struct.pack("<I", MOST_PICKLE) + b"x" * MOST_PICKLE + b"."
    path = written(tmp_path / "b.pt", head + system + long)
    assert "is an old pickle with more than 4 MB before its tensors" in refused(path)


def test_an_old_pickle_of_another_protocol_is_none_of_torch_save(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pt").read_bytes()
    protocol = pickle.dumps(OLD_PROTOCOL, 2)
    assert content.count(protocol) == 1
    other = content.replace(protocol, pickle.dumps(OLD_PROTOCOL + 1, 2))
    assert "none of torch.save" in refused(written(tmp_path / "b.pt", other))
    assert read_tensors(tmp_path / "a.pt")["w"].tolist() == [1]


def test_a_record_has_to_hold_every_number_of_its_storage(tmp_path):
    path = tmp_path / "a.pth"
    program = b"\x80\x02}" + text("w") + tensor(numel=4, size=4) + b"\x73."
    torch_zip(path, program, _0=FOUR)
    assert read_tensors(path)["w"].tolist() == [1, 2, 3, 4]
    torch_zip(path, program, _0=FOUR[:-1])
    assert "a/data/0 is too short" in refused(path)


def test_bytes_are_counted_where_a_storage_has_no_type(tmp_path):
    path = tmp_path / "a.pth"

    def written_with(count: int):
        number = b"J" + struct.pack("<i", count)
        storage = b"(" + text("storage") + b"ctorch\nUntypedStorage\n" + text("0") + text("cpu")
        place = storage + b"J" + struct.pack("<i", 16) + b"tQK\x00" + number + b"\x85K\x01\x85"
        third = b"ctorch._utils\n_rebuild_tensor_v3\n(" + place
        program = b"\x80\x02}" + text("w") + third + b"\x89}ctorch\nfloat32\ntR\x73."
        torch_zip(path, program, _0=FOUR)
        return path

    assert read_tensors(written_with(4))["w"].tolist() == [1, 2, 3, 4]
    assert "damaged" in refused(written_with(5))


@pytest.mark.parametrize(("dimensions", "read"), [(8, True), (9, False)])
def test_tensors_have_eight_dimensions_at_most(tmp_path, dimensions, read):
    torch.save({"w": torch.ones([1] * dimensions)}, tmp_path / "a.pth")
    if read:
        assert read_tensors(tmp_path / "a.pth")["w"].dim() == 8
    else:
        assert "damaged" in refused(tmp_path / "a.pth")


def test_a_tensor_with_notes_of_its_own_is_read_without_them(tmp_path):
    noted = torch.arange(3.0)
    noted.note = "kept by its class"
    torch.save({"w": noted}, tmp_path / "a.pth")
    assert b"_rebuild_from_type_v2" in (tmp_path / "a.pth").read_bytes()
    assert read_tensors(tmp_path / "a.pth")["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("view", "read"), [(b"N", True), (b"K\x01", False)])
def test_a_view_of_a_storage_is_refused(tmp_path, view, read):
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    place = storage + b"K\x04" + view + b"tQK\x00K\x01\x85K\x01\x85"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + b"\x89}tR"
    path = tmp_path / "a.pth"
    torch_zip(path, b"\x80\x02}" + text("w") + made + b"\x73.", _0=FOUR)
    if read:
        assert read_tensors(path)["w"].tolist() == [1]
    else:
        assert "damaged" in refused(path)


def test_what_is_beside_the_weights_is_named_and_what_holds_them_is_not(tmp_path, caplog):
    torch.save({"state_dict": {"w": torch.ones(1)}, "epoch": 3}, tmp_path / "a.pth")
    with caplog.at_level(logging.INFO):
        assert read_tensors(tmp_path / "a.pth").keys() == {"w"}
    (said,) = [r.getMessage() for r in caplog.records if "ignored" in r.getMessage()]
    assert said.endswith("no weights: epoch")


# Names


@pytest.mark.parametrize("part", [".lora_A.", ".lora_up.", ".hada_w1", ".lokr_w", "lllite_"])
def test_a_part_of_a_name_is_looked_for_as_a_whole(part):
    assert describe([f"a{part}x"], LOOK_ALIKE) is not None
    assert describe([part[1:]], LOOK_ALIKE) is None
