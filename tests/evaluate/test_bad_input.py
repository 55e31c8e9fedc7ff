"""Pictures of other depths and held otherwise, and options and files that are wrong."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp
from controlnet_pp.evaluate.command import main
from controlnet_pp.evaluate.extras import read_prompts
from controlnet_pp.pictures.files import read_condition, read_picture
from PIL import Image

EXIF_ORIENTATION = 0x0112


def ramp(height=6, width=9) -> np.ndarray:
    """Numbers in 0..1, each pixel another."""
    return np.linspace(0, 1, height * width).reshape(height, width)


def saved(path, pixels: np.ndarray, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


DEPTHS = {
    "8.png": (ramp() * 255).round().astype(np.uint8),
    "16.png": (ramp() * 65535).round().astype(np.uint16),
    "16.tiff": (ramp() * 65535).round().astype(np.uint16),
    "32.tiff": (ramp() * 65535).round().astype(np.int32),
    "float.tiff": ramp().astype(np.float32),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_every_depth_of_grey_reads_as_the_same_numbers(tmp_path, name):
    path = saved(tmp_path / name, DEPTHS[name])
    step = 1 / 255 if name.startswith("8") else 1 / 65535
    expected = torch.from_numpy(ramp()).float()
    condition = read_condition(path)
    assert condition.shape == (1, 1, 6, 9)
    torch.testing.assert_close(condition[0, 0], expected, rtol=0, atol=step)
    picture = read_picture(path)
    assert picture.shape == (1, 3, 6, 9)
    torch.testing.assert_close(picture[0], expected.expand(3, 6, 9), rtol=0, atol=step)


def test_class_numbers_of_16_bits_stay_numbers(tmp_path):
    numbers = np.arange(54, dtype=np.uint16).reshape(6, 9)
    path = saved(tmp_path / "a.png", numbers)
    found = (read_condition(path, numbers=True) * 255).round()
    assert found[0, 0].tolist() == numbers.tolist()
    with pytest.raises(ValueError, match=r"a\.png has 16 bits, but nothing in it is above 53"):
        read_condition(path)


@pytest.mark.parametrize(("highest", "read"), [(0, True), (255, False), (256, True), (65535, True)])
def test_16_bits_with_nothing_but_8_in_them_are_numbers_and_no_grey(tmp_path, highest, read):
    """All of it black is as well a picture."""
    pixels = np.zeros((6, 9), dtype=np.uint16)
    pixels[2, 3] = highest
    path = saved(tmp_path / "a.png", pixels)
    if read:
        assert read_condition(path).max().item() == pytest.approx(highest / 65535)
    else:
        with pytest.raises(ValueError, match=f"nothing in it is above {highest} of 65535"):
            read_condition(path)


def test_a_palette_is_colours_or_class_numbers(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 2]], dtype=np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 51, 255])
    image.save(tmp_path / "a.png")
    numbers = read_condition(tmp_path / "a.png", numbers=True)
    assert (numbers * 255).tolist() == [[[[0, 1], [2, 2]]]]
    colours = read_condition(tmp_path / "a.png")
    assert colours.shape == (1, 3, 2, 2)
    assert (colours[0, :, 0, 1] * 255).tolist() == [255, 0, 0]
    assert (colours[0, :, 1, 1] * 255).tolist() == [0, 51, 255]


@pytest.mark.parametrize(
    ("pixels", "what"),
    [
        (ramp().astype(np.float32) * 255, r"floats from 0 to 255; they must lie in 0\.\.1"),
        (ramp().astype(np.float32) - 0.5, r"floats from -0\.5 to 0\.5"),
        (np.full((6, 9), np.nan, dtype=np.float32), "floats from nan to nan"),
        (np.full((6, 9), np.inf, dtype=np.float32), "floats from inf to inf"),
        (np.full((6, 9), 2**20, dtype=np.int32), "integers from 1.04858e.06"),
        (np.full((6, 9), -1, dtype=np.int32), "integers from -1 to -1"),
    ],
)
@pytest.mark.parametrize("read", [read_picture, read_condition])
def test_numbers_that_are_no_grey_are_refused(tmp_path, read, pixels, what):
    with pytest.raises(ValueError, match=what) as caught:
        read(saved(tmp_path / "a.tiff", pixels))
    assert str(tmp_path / "a.tiff") in str(caught.value)


@pytest.mark.parametrize("read", [read_picture, read_condition])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("turn", range(2, 9))
def test_a_picture_that_was_held_otherwise_is_turned(tmp_path, read, mode, turn):
    upright = Image.fromarray(DEPTHS["8.png"]).convert(mode)
    # what a camera writes so that the viewer's transposition gives the picture back
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = turn
    upright.save(tmp_path / "upright.png")
    upright.transpose(undo[turn]).save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(read(tmp_path / "turned.png"), read(tmp_path / "upright.png"))


def test_a_decompression_bomb_is_refused_in_words(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", np.zeros((30, 30), dtype=np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"a\.png can't be read as a picture: Image size \(900"):
        read_picture(path)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x89PNG\r\n\x1a\n" + bytes(40), b"II*\x00\xff\xff\xff\xff"]
)
def test_a_broken_picture_is_refused_in_words(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png can't be read as a picture: ."):
        read_condition(tmp_path / "a.png")


# The command


@pytest.fixture
def folders(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for name in ("ape", "bee", "cat"):
        picture = torch.rand(1, 3, 8, 8, generator=generator)
        picture = torch.nn.functional.interpolate(picture, (64, 64), mode="bicubic").clamp(0, 1)
        pixels = (picture * 255).round().byte()
        edges = canny_cnpp(pixels / 255, drop_ties=True)
        saved(tmp_path / "pictures" / f"{name}.png", pixels[0].movedim(0, -1).numpy())
        saved(tmp_path / "conditions" / f"{name}.png", (edges[0, 0] * 255).byte().numpy())
    return tmp_path


def run(folder, *options) -> int:
    paths = [str(folder / name) for name in ("pictures", "conditions")]
    alone = ("--patience", "0")  # for scores of other processes: there is none
    return main(["canny", *paths, "--out", str(folder / "out"), *alone, *options])


def test_a_condition_of_16_bits_scores_as_one_of_8(folders, capsys):
    run(folders)
    before = capsys.readouterr().out
    for path in (folders / "conditions").iterdir():
        saved(path, np.array(Image.open(path)).astype(np.uint16) * 257)
    run(folders)
    assert capsys.readouterr().out == before
    assert "100.00" in before


@pytest.mark.parametrize("device", ["banana", "cuda:77", "meta"])
def test_a_device_that_is_not_there_is_named_before_anything_is_scored(folders, device):
    with pytest.raises(ValueError, match=f"^--device {device}.*Give cpu"):
        run(folders, "--device", device)
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    "options",
    [("--limit", "-1"), ("--show", "-2"), ("--tolerance", "1.5"), ("--patience", "nan")],
)
def test_a_number_that_makes_no_sense_is_named(folders, capsys, options):
    with pytest.raises(SystemExit) as caught:
        run(folders, *options)
    assert caught.value.code == 2
    assert f"argument {options[0]}: '{options[1]}' is no" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff\xfe", b"3", b"[" * 100_000])
def test_settings_that_are_none_are_named(folders, content):
    run(folders)
    (folders / "out" / "settings.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"settings\.json is not as this command writes it"):
        run(folders)


@pytest.mark.parametrize(
    "line", [b"[]", b"3", b"\xff", b"null", b'{"name": 3}', b"[" * 100_000, b'{"name": "ape"}']
)
def test_scores_that_are_none_are_made_again(folders, line):
    run(folders)
    file = folders / "out" / "scores-0-of-1.jsonl"
    whole = file.read_bytes().splitlines()
    shorter = json.loads(whole[0]) | {"lines": []}
    file.write_bytes(b"\n".join([line, json.dumps(shorter).encode(), *whole[1:]]))
    assert run(folders) == 0
    assert json.loads(file.read_bytes().splitlines()[-1])["name"] == json.loads(whole[0])["name"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_a_name_that_is_no_text_stops_nothing(folders):
    for place in ("pictures", "conditions"):
        old = os.fsencode(folders / place / "bee.png")
        os.rename(old, old.replace(b"bee", b"b\xff<&e"))
    assert run(folders) == 0
    for name in ("scores.csv", "report.html", "table.txt"):
        text = (folders / "out" / name).read_text(encoding="utf-8")
        assert r"b\udcff" in text or name == "table.txt"
        if name == "report.html":
            assert text.count(r"b\udcff&lt;&amp;e") == 2  # its name, its file
            assert "<&e" not in text


def test_prompts_that_are_none_are_named(tmp_path):
    path = tmp_path / "prompts.json"
    for content, what in (
        (b"[]", "needs"),
        (b'{"a": 3}', "needs"),
        (b"{", "JSON"),
        (b"\xff", "UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"--clip: .*prompts\.json.*{what}"):
            read_prompts(path, ["a"])
