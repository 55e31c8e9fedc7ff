"""The heat map of residual energies against its numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from controlnet_pp.cnpp_core.control.energy import EnergyTable
from controlnet_pp.pictures.canvas import DARK
from controlnet_pp.pictures.energy_map import (
    BAR,
    COLOURS,
    NOT_FINITE,
    NOTHING,
    colour,
    grid_of,
    heat_map,
)


def table(values, **sides):
    names = tuple(f"in_{i}" for i in range(len(values) - 1))
    steps = values.shape[1]
    sigmas = tuple(float(steps - i) for i in range(steps))
    return EnergyTable((*names, "middle"), {"cond": values, **sides}, sigmas)


def pixel(picture, box):
    """The colour at a corner of a cell, where no words are; 8 bits."""
    left, top, _, _ = box
    return tuple((picture[0, :, top + 1, left + 1] * 255).round().int().tolist())


@pytest.mark.parametrize("steps", [1, 4, 20, 50, 300, 1000])
def test_every_cell_has_the_colour_of_its_number(steps):
    values = torch.rand(5, steps, generator=torch.Generator().manual_seed(1)) + 0.01
    found = table(values)
    picture, grid = heat_map(found), grid_of(found)
    limit = float(values.max())
    for block in range(5):
        for step in {0, steps // 2, steps - 1}:
            left, top, right, _ = grid.cell(block, step)
            assert right > left
            shown = tuple((picture[0, :, top + 1, left] * 255).round().int().tolist())
            assert shown == colour(float(values[block, step]), limit)


def test_the_hottest_cell_is_where_the_number_is_largest():
    values = torch.rand(13, 20, generator=torch.Generator().manual_seed(2))
    values[7, 11] = 1.5
    found = table(values)
    picture, grid = heat_map(found), grid_of(found)
    assert found.hottest("cond") == (7, 11)
    cells = [(block, step) for block in range(13) for step in range(20)]
    light = {place: sum(pixel(picture, grid.cell(*place))) for place in cells}
    assert max(light, key=light.__getitem__) == (7, 11)
    assert pixel(picture, grid.cell(7, 11)) == COLOURS[-1]


def test_colours_grow_lighter_with_the_number():
    light = [
        0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (colour(i / 50, 1) for i in range(51))
    ]
    assert light == sorted(light)


def test_silent_missing_and_broken_cells_look_different():
    values = torch.tensor([[1.0, 0.0], [math.nan, math.inf], [1.0, 1.0]])
    found = table(values)
    picture, grid = heat_map(found), grid_of(found)
    assert pixel(picture, grid.cell(0, 1)) == NOTHING
    assert pixel(picture, grid.cell(1, 0)) == DARK.ground
    assert pixel(picture, grid.cell(1, 1)) == NOT_FINITE


def test_a_limit_makes_pictures_comparable():
    weak, strong = torch.full((2, 2), 0.2), torch.full((2, 2), 0.4)
    colours = []
    for values in (weak, strong):
        found = table(values)
        colours.append(pixel(heat_map(found, 0.4), grid_of(found).cell(0, 0)))
    assert colours == [colour(0.2, 0.4), COLOURS[-1]]


def test_a_run_without_control_is_drawn_too():
    found = table(torch.zeros(13, 4))
    picture = heat_map(found)
    assert picture.isfinite().all()
    assert "No control reached the UNet" in found.text()


def test_a_row_for_every_block_and_labels_beside_them():
    found = table(torch.rand(13, 6) + 0.1)
    picture, grid = heat_map(found), grid_of(found)
    ground = torch.tensor(DARK.ground)[:, None, None] / 255
    for block in range(13):
        _, top, _, bottom = grid.cell(block, 0)
        label = picture[0, :, top:bottom, : grid.left - 2]
        assert ((label - ground).abs() > 0.3).sum() > 30
    below = picture[0, :, grid.bottom + 4 : grid.bottom + 24]
    for step in range(6):
        left, _, right, _ = grid.cell(0, step)
        assert ((below[..., left:right] - ground).abs() > 0.3).sum() > 10


def scale_of(picture, grid):
    """The colours of the scale from top to bottom, 8 bits."""
    strip = picture[0, :, grid.top : grid.bottom - 1, grid.bar + BAR // 2]
    return [tuple(colour) for colour in (strip.T * 255).round().int().tolist()]


def test_the_scale_runs_from_the_limit_at_the_top_to_0():
    found = table(torch.rand(13, 6) + 0.1)
    shown = scale_of(heat_map(found, 0.5), grid_of(found))
    assert shown[0] == COLOURS[-1]
    assert shown[-1] == colour(0.0, 0.5) == COLOURS[0]
    light = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in shown]
    assert all(above > below - 1 for above, below in itertools.pairwise(light))
    assert shown[len(shown) // 2] == pytest.approx(colour(0.25, 0.5), abs=2)


def test_means_have_the_colour_of_their_number():
    values = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.25, 0.0]])
    found = table(values)
    picture, grid = heat_map(found), grid_of(found)
    for block, mean in enumerate((0.5, 0.5, 0.125)):
        _, top, _, bottom = grid.cell(block, 0)
        assert pixel(picture, (grid.means, top, 0, bottom)) == colour(mean, 1.0)


def test_a_limit_that_is_exceeded_is_marked_at_the_top_of_the_scale():
    strong, weak = table(torch.full((13, 4), 0.9)), table(torch.full((13, 4), 0.3))
    grid = grid_of(weak)
    beside = [heat_map(found, 0.5)[..., grid.bar + BAR :] for found in (strong, weak)]
    rows = (beside[0] != beside[1]).any(1)[0].any(1).nonzero()
    assert len(rows)
    assert rows.max() < grid.top + 10
