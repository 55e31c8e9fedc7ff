"""Tar shards as webdataset has them."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from controlnet_pp.cnpp_core.training.data.records import Problems
from controlnet_pp.dataset.shards import read_shards
from PIL import Image

Members = list[tuple[str, bytes]]


def png(grey: int, width: int = 12, height: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width), grey, np.uint8)).save(file, "PNG")
    return file.getvalue()


def sample(key: str, grey: int) -> Members:
    return [
        (f"{key}.condition.png", png(grey + 1)),
        (f"{key}.PNG", png(grey)),
        (f"{key}.txt", f"grey {grey}".encode()),
    ]


def shard(path: Path, members: Members, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_members_of_one_key_are_a_record(tmp_path):
    shard(tmp_path / "a-0.tar", [*sample("x/1", 10), *sample("x/2", 20)])
    shard(tmp_path / "a-1.tar", sample("x/1", 30))
    records = read_shards(f"{tmp_path}/a-{{0..1}}.tar", Problems())
    assert [record.caption for record in records] == ["grey 10", "grey 20", "grey 30"]
    assert len({record.stamp for record in records}) == 3
    for record, grey in zip(records, (10, 20, 30), strict=True):
        assert record.size == (12, 8)
        assert torch.equal(record.picture(), torch.full((1, 3, 8, 12), grey) / 255)
        assert record.condition is not None
        assert torch.equal(record.condition(), torch.full((1, 1, 8, 12), grey + 1) / 255)


def test_webdatasets_own_reader_finds_the_same(tmp_path):
    import webdataset

    path = shard(tmp_path / "a.tar", [*sample("1", 10), ("__index__", b""), *sample("2", 20)])
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False))
    records = read_shards(str(path), Problems())
    assert [one["txt"].decode() for one in theirs] == [record.caption for record in records]


def test_without_conditions_they_are_left_to_an_annotator(tmp_path):
    [record] = read_shards(str(shard(tmp_path / "a.tar", sample("1", 10)[1:])), Problems())
    assert record.condition is None


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (sample("b", 20)[:1] + sample("b", 20)[2:], r"a\.tar: b: there is no picture"),
        (sample("b", 20)[:2], r"a\.tar: b: its caption b\.txt is missing"),
        ([*sample("b", 20)[:2], ("b.txt", b" ")], r"a\.tar: b: the caption is empty"),
        ([*sample("b", 20)[:2], ("b.txt", b"\xff")], r"a\.tar: b: .*b\.txt is no text in UTF-8"),
        ([("b.png", b"x"), ("b.txt", b"b")], r"a\.tar: b: .*b\.png can't be read as a picture"),
        (
            [("b.condition.png", png(3, 8)), *sample("b", 20)[1:]],
            r"a\.tar: b: .* 12x8 pixels and its condition .*b\.condition\.png 8x8",
        ),
    ],
)
def test_a_bad_record_is_named_and_is_an_error_or_skipped(tmp_path, members, words):
    path = str(shard(tmp_path / "a.tar", [*sample("a", 10), *members, *sample("c", 30)]))
    with pytest.raises(ValueError, match=f"{words}.*choose to skip"):
        read_shards(path, Problems())
    problems = Problems(skip=True)
    assert [r.caption for r in read_shards(path, problems)] == ["grey 10", "grey 30"]
    assert len(problems.found) == 1


def test_a_name_that_comes_twice_is_named(tmp_path):
    members = [*sample("a", 10), sample("a", 20)[2], *sample("c", 30)]
    problems = Problems(skip=True)
    path = str(shard(tmp_path / "a.tar", members))
    assert [r.caption for r in read_shards(path, problems)] == ["grey 10", "grey 30"]
    assert "a.tar: a.txt: duplicate file name" in problems.found[0]


def test_a_shard_that_breaks_off_is_named_and_what_is_whole_is_used(tmp_path):
    path = shard(tmp_path / "a.tar", [*sample("a", 10), *sample("b", 20)])
    path.write_bytes(path.read_bytes()[: 4 * 1024 + 600])
    problems = Problems(skip=True)
    assert [r.caption for r in read_shards(str(path), problems)][:1] == ["grey 10"]
    assert any("no uncompressed tar file that can be read here" in p for p in problems.found)


@pytest.mark.parametrize("mode", ["w:gz", None])
def test_what_is_no_plain_tar_is_named(tmp_path, mode):
    path = tmp_path / "a.tar"
    if mode:
        shard(path, sample("a", 10), mode)
    with pytest.raises(ValueError, match=r"a\.tar: this is no uncompressed tar file"):
        read_shards(str(path), Problems())


def test_without_the_package_it_is_refused_in_words(tmp_path, monkeypatch):
    for name in ("webdataset", "webdataset.shardlists", "webdataset.tariterators"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="pip install webdataset, or unpack them"):
        read_shards(str(tmp_path / "a.tar"), Problems())
