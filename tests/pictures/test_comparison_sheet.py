"""The demo's sheet: pictures under their titles, text above them, room for everything."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.cnpp_core.consistency.agreement.lines import EdgeMeasure
from controlnet_pp.pictures.canvas import LIGHT
from controlnet_pp.pictures.comparison_sheet import (
    GAP,
    LINE,
    MARGIN,
    ComparisonSheet,
    SheetRow,
)
from controlnet_pp.pictures.contact_sheet import Cell

SIDE = 64


def noise(side: int = SIDE, channels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, side, side), generator=generator, dtype=torch.uint8)


def drawn(sheet: ComparisonSheet, side: int = SIDE) -> torch.Tensor:
    """(3, H, W) uint8."""
    return (sheet.draw(side).tensor()[0] * 255).round().to(torch.uint8)


def sheet(*rows: SheetRow, columns=(("one",), ("two", "and more")), legend=()) -> ComparisonSheet:
    return ComparisonSheet("heading", ["a line"], columns, rows, legend)


def places(picture: torch.Tensor, inside: torch.Tensor) -> list[tuple[int, int]]:
    """x and y of every place at which a picture lies."""
    _, height, width = picture.shape
    windows = inside.unfold(1, height, 1).unfold(2, width, 1)
    same = (windows == picture[:, None, None]).all(-1).all(-1).all(0)
    return [(x, y) for y, x in same.nonzero().tolist()]


def test_every_picture_lies_under_the_title_of_its_column():
    one, two, three = (noise(seed=seed) for seed in range(3))
    found = drawn(
        sheet(SheetRow("first", [Cell(one), Cell(two)]), SheetRow("second", [None, Cell(three)]))
    )
    ((x1, y1),), ((x2, y2),), ((x3, y3),) = (places(p, found) for p in (one, two, three))
    assert (x1, x2, x3) == (MARGIN, MARGIN + SIDE + GAP, MARGIN + SIDE + GAP)
    assert y1 == y2 < y3


def ink(found: torch.Tensor) -> torch.Tensor:
    return (found != torch.tensor(LIGHT.ground)[:, None, None]).any(0)


def test_an_empty_place_stays_empty():
    one = noise()
    found = drawn(sheet(SheetRow("", [None, Cell(one)])))
    ((_, y),) = places(one, found)
    assert not ink(found)[y : y + SIDE, : MARGIN + SIDE].any()


def test_a_picture_of_one_channel_is_grey():
    grey = noise(channels=1)
    assert places(grey.expand(3, -1, -1), drawn(sheet(SheetRow("", [Cell(grey)]))))


def test_a_multiple_of_the_size_keeps_whole_pixels():
    small = noise(32)
    larger = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert places(larger, drawn(sheet(SheetRow("", [Cell(small)]))))


@pytest.mark.parametrize("size", [24, 50, 100, 200])
def test_other_sizes_are_brought_to_the_side(size):
    flat = torch.full((3, size, size), 77, dtype=torch.uint8)
    found = drawn(sheet(SheetRow("", [Cell(flat)])))
    assert len(places(torch.full((3, SIDE, SIDE), 77, dtype=torch.uint8), found)) == 1
    assert (found == 77).all(0).sum() == SIDE * SIDE


def test_lines_stand_under_their_picture_and_the_next_row_below_them():
    black = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    one = noise()
    plain = drawn(sheet(SheetRow("", [Cell(black)]), SheetRow("", [Cell(one)])))
    noted = drawn(
        sheet(SheetRow("", [Cell(black, ["F1 0.84, a long note"])]), SheetRow("", [Cell(one)]))
    )
    ((_, without),), ((_, below),) = places(one, plain), places(one, noted)
    assert below - without == LINE
    assert noted.shape[1] - plain.shape[1] == LINE
    strip = ink(noted)[below - 2 * LINE - GAP : below - LINE]
    assert strip[:, MARGIN : MARGIN + SIDE].any()
    assert not strip[:, MARGIN + SIDE + 1 :].any()


def test_titles_keep_to_their_column():
    wide = "a title much wider than a picture of this size"
    found = ink(drawn(sheet(SheetRow("", [None, None]), columns=(("x",), (wide, wide)))))
    empty = ink(drawn(sheet(SheetRow("", [None, None]), columns=(("x",), ("", "")))))
    added = (found & ~empty).any(0).nonzero()
    assert added.min() >= MARGIN + SIDE + GAP - 1
    assert added.max() <= MARGIN + 2 * SIDE + GAP


def test_the_sheet_is_as_wide_as_its_longest_line():
    line = "a line that is far wider than a single column of pictures " * 3
    single = ComparisonSheet("h", [line], (("x",),), [SheetRow("", [Cell(noise())])])
    found = drawn(single)
    columns = ink(found).any(0).nonzero()
    assert found.shape[2] > 600
    assert columns.max() < found.shape[2] - MARGIN


def test_the_legend_stands_below_all_rows():
    one = noise()
    legend = EdgeMeasure().legend
    found = drawn(sheet(SheetRow("", [Cell(one)]), legend=legend))
    ((_, y),) = places(one, found)
    for _, colour in legend[1:]:  # white is the ground's colour too
        wanted = torch.tensor([round(255 * v) for v in colour])[:, None, None]
        rows = (found == wanted).all(0).sum(1).nonzero()
        assert len(rows) >= 8
        assert rows[-8:].min() > y + SIDE
