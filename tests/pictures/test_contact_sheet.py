"""Contact sheets: thumbnails, rows and columns, captions under their own picture."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.pictures.contact_sheet import (
    GAP,
    LEAST_WIDTH,
    Cell,
    contact_sheet,
    side_for,
    thumbnail,
)

SEED = 2**64 - 1  # the last one


def test_a_thumbnail_keeps_the_shape_and_is_never_enlarged():
    picture = torch.rand(3, 400, 200)
    assert thumbnail(picture, 100).shape == (3, 100, 50)
    assert thumbnail(picture, 1000).shape == (3, 400, 200)
    assert torch.equal(thumbnail(picture, 1000), (picture * 255).round().to(torch.uint8))
    assert thumbnail(torch.full((3, 1, 5000), 0.5), 100).shape == (3, 1, 100)
    assert thumbnail(torch.full((3, 300, 300), 0.5).half(), 100).unique().tolist() == [128]


@pytest.mark.parametrize("count", [1, 2, 7, 24, 200])
def test_every_picture_lies_in_its_place_row_by_row(count):
    side = min(side_for(count), 16)
    noise = torch.Generator().manual_seed(count)
    pictures = torch.randint(0, 256, (count, 3, side, side), generator=noise, dtype=torch.uint8)
    sheet = contact_sheet([Cell(picture, ["#1", "seed"]) for picture in pictures])
    seen = (sheet[0] * 255).round().to(torch.uint8)
    wide = LEAST_WIDTH + GAP
    columns = (seen.shape[2] - GAP) // wide
    rows = -(-count // columns)
    high = (seen.shape[1] - GAP) // rows
    assert columns <= 8
    assert rows >= columns - 1 or columns == 8
    for number, picture in enumerate(pictures):
        y, x = GAP + number // columns * high, GAP + number % columns * wide
        assert torch.equal(seen[:, y : y + side, x : x + side], picture)


def test_pictures_of_other_shapes_have_room():
    shapes = [(20, 300), (90, 30), (1, 1)]
    sheet = contact_sheet([Cell(torch.full((3, *s), 255, dtype=torch.uint8), []) for s in shapes])
    assert (sheet == 1).all(1).sum() == sum(h * w for h, w in shapes)


def words_of(sheet: torch.Tensor) -> torch.Tensor:
    """Where there is light text on black pictures and a dark ground, (H, W)."""
    return sheet[0].mean(0) > 0.5


def test_captions_stand_under_their_own_picture_and_are_cut_at_its_edge():
    black = torch.zeros(3, 40, 200, dtype=torch.uint8)
    cells = [Cell(black, [f"seed {SEED}" * 5]), Cell(black, [""])]
    words = words_of(contact_sheet(cells))
    assert words[GAP + 40 :, :200].any()
    assert not words[: GAP + 40].any()
    assert not words[:, GAP + 200 :].any()


def test_every_line_of_a_caption_has_a_row_of_its_own():
    black = torch.zeros(3, 40, 200, dtype=torch.uint8)

    def rows(*lines: str) -> torch.Tensor:
        return words_of(contact_sheet([Cell(black, lines)])).any(1)

    first, second = rows("seed", ""), rows("", "seed")
    assert first.sum() == second.sum() > 5
    assert not (first & second).any()
    assert first.nonzero().min() < second.nonzero().min()


def test_a_seed_of_twenty_digits_fits_under_the_smallest_picture(monkeypatch):
    from controlnet_pp.pictures.canvas import LEAST, TEXT, fitted

    words, size = fitted(f"seed {SEED}", TEXT, LEAST_WIDTH)
    assert words == f"seed {SEED}"
    assert size >= LEAST
