"""The canvas against what stands on it: text within its width, boxes, axes, files."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from controlnet_pp.pictures import canvas as canvas_module
from controlnet_pp.pictures.canvas import (
    DARK,
    LEAST,
    LIGHT,
    TEXT,
    Canvas,
    Columns,
    Scale,
    fitted,
    length,
    swatch_length,
    to_8_bit,
)
from PIL import Image

RED = (255, 0, 0)


def pixels(canvas: Canvas) -> np.ndarray:
    """(H, W, 3), 0..255."""
    return (canvas.tensor()[0] * 255).round().int().movedim(0, -1).numpy()


def box_of(canvas: Canvas, colour: tuple[int, int, int] | None = None) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of all that has a colour, or is not the ground."""
    seen = pixels(canvas)
    marked = (seen == colour).all(-1) if colour else (seen != canvas.theme.ground).any(-1)
    rows, columns = np.nonzero(marked)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_a_new_canvas_has_its_size_and_the_ground_of_its_theme():
    for theme in (DARK, LIGHT):
        picture = Canvas(30, 20, theme).tensor()
        assert picture.shape == (1, 3, 20, 30)
        assert picture.dtype == torch.float32
        wanted = torch.tensor(theme.ground).view(1, 3, 1, 1).expand(1, 3, 20, 30)
        assert torch.equal((picture * 255).round(), wanted.float())


def test_a_png_holds_the_same_pixels():
    canvas = Canvas(40, 30)
    canvas.text((3, 3), "abc")
    read = np.array(Image.open(io.BytesIO(canvas.png())))
    assert (read == pixels(canvas)).all()
    assert canvas.png().startswith(b"\x89PNG")


def test_a_box_ends_before_its_right_and_lower_side():
    canvas = Canvas(20, 20)
    canvas.rectangle((3, 4, 8, 10), RED)
    assert box_of(canvas, RED) == (3, 4, 8, 10)
    assert (pixels(canvas) == RED).all(-1).sum() == 5 * 6


def test_an_empty_box_draws_nothing():
    canvas = Canvas(20, 20)
    canvas.rectangle((5, 5, 5, 9), RED)
    canvas.rectangle((5, 5, 9, 4), RED)
    assert (pixels(canvas) == DARK.ground).all()


def test_a_frame_lies_outside_of_its_box():
    canvas = Canvas(20, 20)
    canvas.frame((3, 4, 8, 10))
    assert box_of(canvas) == (2, 3, 9, 11)
    assert (pixels(canvas)[4:10, 3:8] == DARK.ground).all()


def test_pictures_of_one_and_three_channels_are_laid_down_as_they_are():
    canvas = Canvas(20, 20)
    colours = torch.randint(0, 256, (3, 5, 6), dtype=torch.uint8)
    grey = torch.randint(0, 256, (1, 4, 4), dtype=torch.uint8)
    canvas.picture((2, 3), colours)
    canvas.picture((10, 12), grey)
    seen = pixels(canvas)
    assert (seen[3:8, 2:8] == colours.movedim(0, -1).numpy()).all()
    assert (seen[12:16, 10:14] == grey[0, ..., None].numpy()).all()


def test_bytes_are_rounded_and_clipped():
    values = torch.tensor([-1.0, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 1.0, 7.0])
    assert to_8_bit(values).tolist() == [0, 0, 0, 1, 128, 255, 255]
    assert to_8_bit(torch.ones(2, dtype=torch.float16)).tolist() == [255, 255]


WORDS = "strength 0.75, structure, seed 18446744073709551615"


def test_words_with_room_stay_as_they_are():
    assert fitted(WORDS, TEXT, length(WORDS, TEXT)) == (WORDS, TEXT)


def test_words_without_room_first_become_smaller():
    words, size = fitted(WORDS, 30, length(WORDS, 20))
    assert words == WORDS
    assert 18 <= size <= 20
    assert length(words, size) <= length(WORDS, 20)


@pytest.mark.parametrize("width", [1.0, 12.0, 40.0, 41.5, 100.0, 200.0])
@pytest.mark.parametrize("size", [LEAST, TEXT, 40])
def test_words_that_would_be_too_small_are_cut_as_late_as_possible(width, size):
    words, found = fitted(WORDS, size, width)
    assert found == LEAST
    assert length(words, found) <= width
    if words:
        kept = words.removesuffix("…")
        assert kept != words
        assert WORDS.startswith(kept)
        assert length(WORDS[: len(kept) + 2] + "…", found) > width


def test_drawn_words_keep_to_their_width_bold_or_not():
    for bold in (False, True):
        canvas = Canvas(300, 30)
        canvas.text((10, 5), WORDS, width=100, bold=bold)
        left, _, right, _ = box_of(canvas)
        assert left >= 9
        assert 90 < right <= 111


def test_bold_words_have_more_ink():
    def ink(bold: bool) -> int:
        canvas = Canvas(300, 30, LIGHT)
        canvas.text((10, 5), WORDS, bold=bold)
        return int((255 - pixels(canvas)).sum())

    assert ink(True) > 1.15 * ink(False)


def test_lines_of_a_text_are_joined():
    two, one = Canvas(200, 60), Canvas(200, 60)
    two.text((3, 3), "red star\non a white ground")
    one.text((3, 3), "red star on a white ground")
    assert (pixels(two) == pixels(one)).all()
    assert length("a\nb") == length("a b")


def test_a_long_text_is_not_measured_letter_by_letter(monkeypatch):
    measured = []
    monkeypatch.setattr(
        canvas_module, "length", lambda words, size: measured.append(1) or len(words) * 6
    )
    words, _ = fitted("xyz" * 20_000, TEXT, 200)
    assert len(words) == 33
    assert len(measured) < 25


def test_a_swatch_is_a_square_in_its_colour_with_the_words_beside_it():
    canvas = Canvas(120, 30)
    canvas.swatch((10, 15), RED, "kept", TEXT)
    left, top, right, bottom = box_of(canvas, RED)
    assert left == 10
    assert right - left == bottom - top >= 8
    assert abs((top + bottom) / 2 - 15) <= 0.5
    assert abs(box_of(canvas)[2] - (10 + swatch_length("kept", TEXT))) <= 2
    narrow = Canvas(120, 30)
    narrow.swatch((10, 15), RED, "a very long word", TEXT, width=50)
    assert box_of(narrow)[2] <= 61


def test_columns_share_the_width_and_count_from_1():
    columns = Columns(10, 50, 4)
    assert columns.width == 10
    assert [columns.middle(step) for step in (1, 2, 4)] == [15, 25, 45]


def test_a_scale_rises_upwards_and_holds_what_is_outside_at_its_ends():
    scale = Scale(bottom=100, top=20, low=1.0, high=3.0)
    assert [scale.y(value) for value in (1.0, 2.0, 3.0)] == [100, 60, 20]
    assert [scale.y(value) for value in (-9.0, 9.0)] == [100, 20]
    assert scale.ticks(4) == [1.0, 1.5, 2.0, 2.5, 3.0]


def steps_shown(monkeypatch, columns: Columns) -> list[tuple[float, str]]:
    shown = []
    canvas = Canvas(10, 10)
    monkeypatch.setattr(
        canvas, "text", lambda place, words, *_, **__: shown.append((place[0], words))
    )
    canvas.step_axis(columns, 0)
    assert shown.pop()[1] == "step"
    return shown


@pytest.mark.parametrize("count", [1, 3, 20, 50, 150, 999, 100_000, 12_345_678])
def test_steps_are_numbered_under_their_columns_without_touching(monkeypatch, count):
    columns = Columns(20, 700, count)
    shown = steps_shown(monkeypatch, columns)
    assert shown
    assert [x for x, _ in shown] == [columns.middle(int(words)) for _, words in shown]
    ends = [(x - length(words) / 2, x + length(words) / 2) for x, words in shown]
    assert all(a[1] + 4 < b[0] for a, b in itertools.pairwise(ends))


def test_steps_with_room_are_all_numbered_and_others_in_round_numbers(monkeypatch):
    numbers = [words for _, words in steps_shown(monkeypatch, Columns(0, 680, 12))]
    assert numbers == [str(step) for step in range(1, 13)]
    numbers = [words for _, words in steps_shown(monkeypatch, Columns(0, 680, 150))]
    assert numbers == ["1", *(str(step) for step in range(10, 151, 10))]


def test_values_stand_at_their_ticks_on_the_wanted_side():
    scale = Scale(80, 20, 0.0, 1.0)
    for side in ("left", "right"):
        canvas = Canvas(200, 100)
        canvas.value_axis(scale, 100, [0.5], side)
        left, top, right, bottom = box_of(canvas)
        assert abs((top + bottom) / 2 - 50) <= 1
        assert (right <= 93) if side == "left" else (left >= 107)


def test_a_plus_marks_a_scale_that_goes_on():
    def drawn(and_more: bool) -> np.ndarray:
        canvas = Canvas(200, 100)
        canvas.value_axis(Scale(80, 20, 0.0, 1.0), 100, [0.0, 1.0], "right", and_more=and_more)
        return pixels(canvas)

    changed = np.nonzero((drawn(True) != drawn(False)).any(-1))[0]
    assert len(changed)
    assert changed.max() < 40  # at the upper end alone


def test_no_picture_needs_opencv(repo):
    """Of what draws, and of what it draws with."""
    code = """
import importlib, sys
sys.modules["cv2"] = None
sys.path.insert(0, sys.argv[1])
import conftest
for name in sys.argv[2:]:
    importlib.import_module(f"controlnet_pp.pictures.{name}")
"""
    names = [file.stem for file in (repo / "pictures").glob("*.py") if file.stem != "__init__"]
    command = [sys.executable, "-c", code, str(repo / "tests"), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(names) >= 6
