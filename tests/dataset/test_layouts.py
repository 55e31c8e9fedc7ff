"""fill50k's layout and folders: what they are read as, and what of them can't be used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from controlnet_pp.cnpp_core.training.data.records import Problems
from controlnet_pp.dataset.fill50k import read_fill50k, write_listing
from controlnet_pp.dataset.folders import read_folders
from PIL import Image

NAMES = ("ape", "bee", "cat")


def pixels(number: int, width: int = 12, height: int = 8) -> np.ndarray:
    return np.full((height, width, 3), 40 * (number + 1), np.uint8)


def save(path: Path, content: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(content).save(path)
    return path


def fill50k(folder: Path) -> Path:
    for number, name in enumerate(NAMES):
        save(folder / "target" / f"{name}.png", pixels(number))
        save(folder / "source" / f"{name}.png", pixels(number)[..., 0])
    entries = [(f"source/{name}.png", f"target/{name}.png", f"an {name}") for name in NAMES]
    write_listing(folder, entries)
    return folder


def folders(folder: Path) -> Path:
    """Conditions are written in another order than pictures, and have another suffix."""
    for number, name in enumerate(NAMES):
        save(folder / "pictures" / f"{name}.png", pixels(number))
        (folder / "pictures" / f"{name}.txt").write_text(f"an\n {name}\n", encoding="utf-8")
    for number, name in reversed(list(enumerate(NAMES))):
        save(folder / "conditions" / f"{name}.bmp", pixels(number)[..., 0])
    return folder


def read(layout, folder: Path, problems: Problems):
    if layout is fill50k:
        return read_fill50k(folder, problems)
    return read_folders(folder / "pictures", folder / "conditions", problems)


@pytest.mark.parametrize("layout", [fill50k, folders])
def test_pictures_conditions_and_captions_are_matched_by_name(tmp_path, layout):
    records = read(layout, layout(tmp_path), Problems())
    assert [record.caption for record in records] == [f"an {name}" for name in NAMES]
    for number, record in enumerate(records):
        grey = torch.from_numpy(pixels(number)).movedim(-1, 0)[None].float() / 255
        assert record.size == (12, 8)
        assert torch.equal(record.picture(), grey)
        assert record.condition is not None
        assert torch.equal(record.condition(), grey[:, :1])


def test_without_a_folder_of_conditions_they_are_left_to_an_annotator(tmp_path):
    records = read_folders(folders(tmp_path) / "pictures", None, Problems())
    assert [record.condition for record in records] == [None] * 3


@pytest.mark.parametrize("layout", [fill50k, folders])
def test_a_stamp_follows_the_file(tmp_path, layout):
    before = [record.stamp for record in read(layout, layout(tmp_path), Problems())]
    assert len(set(before)) == 3
    [changed] = tmp_path.rglob("t*/bee.png" if layout is fill50k else "pictures/bee.png")
    os.utime(changed, ns=(5, 5))
    after = [record.stamp for record in read(layout, tmp_path, Problems())]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def change_line(folder: Path, line: str | bytes) -> None:
    lines = (folder / "prompt.json").read_bytes().splitlines()
    lines[1] = line if isinstance(line, bytes) else line.encode()
    (folder / "prompt.json").write_bytes(b"\n".join(lines))


def entry(**changes: object) -> str:
    given = {"source": "source/bee.png", "target": "target/bee.png", "prompt": "a bee"}
    return json.dumps(given | changes)


BAD_FILL50K = {
    "no JSON": (lambda f: change_line(f, '{"source": '), "the line is no JSON"),
    "no text": (lambda f: change_line(f, b"\xff\xfe"), "the line is no JSON: the line is no text"),
    "deep": (lambda f: change_line(f, "[" * 100_000), "recursion"),
    "no object": (lambda f: change_line(f, "[1]"), "expected a JSON object with texts for source"),
    "no number": (lambda f: change_line(f, entry(prompt=3)), "expected a JSON object with texts"),
    "no caption": (lambda f: change_line(f, entry(prompt=" ")), "the caption is empty"),
    "no source": (lambda f: (f / "source/bee.png").unlink(), "the source .*bee.png is missing"),
    "no target": (lambda f: (f / "target/bee.png").unlink(), "the target .*bee.png is missing"),
    "no picture": (
        lambda f: (f / "target/bee.png").write_bytes(b"x"),
        "target/bee.png can't be read as a picture",
    ),
    "other size": (
        lambda f: save(f / "source/bee.png", pixels(1, 8, 12)),
        "target/bee.png is 12x8 pixels and its condition .*source/bee.png 8x12",
    ),
}
BAD_FOLDERS = {
    "no caption": (lambda f: (f / "pictures/bee.txt").unlink(), "caption .*bee.txt is missing"),
    "empty": (lambda f: (f / "pictures/bee.txt").write_text(" \n"), "caption .*bee.txt is empty"),
    "no text": (
        lambda f: (f / "pictures/bee.txt").write_bytes(b"\xff"),
        "bee.txt is no text in UTF-8",
    ),
    "no condition": (
        lambda f: (f / "conditions/bee.bmp").unlink(),
        "there is no condition bee in .*conditions",
    ),
    "no picture": (
        lambda f: (f / "conditions/bee.bmp").write_bytes(b"x"),
        "bee.bmp can't be read as a picture",
    ),
    "other size": (
        lambda f: save(f / "conditions/bee.bmp", pixels(1, 12, 9)),
        "bee.png is 12x8 pixels and its condition .*bee.bmp 12x9",
    ),
}
BAD = [
    *((fill50k, "prompt.json:2", *bad) for bad in BAD_FILL50K.values()),
    *((folders, "bee.png", *bad) for bad in BAD_FOLDERS.values()),
]


@pytest.mark.parametrize(("layout", "where", "spoil", "words"), BAD)
def test_a_bad_record_is_named_and_is_an_error_or_skipped(
    tmp_path, caplog, layout, where, spoil, words
):
    spoil(layout(tmp_path))
    with pytest.raises(ValueError, match=f"{where}: .*{words}.*choose to skip"):
        read(layout, tmp_path, Problems())
    caplog.set_level("INFO")
    problems = Problems(skip=True)
    records = read(layout, tmp_path, problems)
    assert [record.caption for record in records] == ["an ape", "an cat"]
    assert len(problems.found) == 1
    assert f"skipped {problems.found[0]}" in caplog.text
    assert "2 records, 1 skipped" in caplog.text


def test_a_condition_without_a_picture_is_named(tmp_path):
    (folders(tmp_path) / "pictures/bee.png").unlink()
    problems = Problems(skip=True)
    assert len(read(folders, tmp_path, problems)) == 2
    assert "there is no picture for the condition bee" in problems.found[0]


def test_empty_lines_are_no_records(tmp_path):
    listing = fill50k(tmp_path) / "prompt.json"
    listing.write_bytes(b"\r\n" + listing.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert len(read(fill50k, tmp_path, Problems())) == 3


@pytest.mark.parametrize("layout", [fill50k, folders])
def test_nothing_that_can_be_used_is_an_error(tmp_path, layout):
    for file in layout(tmp_path).rglob("*.png"):
        file.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"nothing to train with .* 3 were skipped, the first one"):
        read(layout, tmp_path, Problems(skip=True))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no prompt\.json"):
        read_fill50k(tmp_path, Problems())
    with pytest.raises(ValueError, match=r"There is no folder .* with pictures"):
        read_folders(tmp_path / "a", None, Problems())


def test_two_pictures_of_one_name_are_named(tmp_path):
    save(folders(tmp_path) / "pictures/bee.jpg", pixels(0))
    with pytest.raises(ValueError, match=r"bee\.jpg and .*bee\.png have one name"):
        read(folders, tmp_path, Problems())
