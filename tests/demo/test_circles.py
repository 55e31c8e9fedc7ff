"""The set of circles in fill50k's layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlnet_pp.cnpp_core.training.data.records import Problems
from controlnet_pp.dataset.fill50k import read_fill50k
from controlnet_pp.demo.circles import main, outline, sample_circle, write_circles
from controlnet_pp.demo.world import COLOURS, caption_colours, render


def test_what_is_written_is_read_as_records(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--count", "5", "--size", "64", "--seed", "3"]) == 0
    assert "5 circles" in capsys.readouterr().out
    records = read_fill50k(tmp_path, Problems())
    assert len(records) == 5
    for record in records:
        picture, source = record.picture()[0], record.condition()[0]
        assert picture.shape == source.shape == (3, 64, 64)
        [colour], ground = caption_colours(record.caption)
        inside = torch.tensor(COLOURS[colour])[:, None, None] / 255
        outside = torch.tensor(COLOURS[ground])[:, None, None] / 255
        filled = (picture - inside).abs().sum(0) < (picture - outside).abs().sum(0)
        edge = source[0] > 0.5
        # The outline is where the picture is filled and something beside it is not.
        grown = torch.nn.functional.max_pool2d((~filled)[None].float(), 3, 1, 1)[0] > 0
        assert torch.equal(edge, filled & grown)
        assert edge.any()


def test_a_circle_depends_on_seed_and_index_alone(tmp_path):
    for folder, count in (("a", 3), ("b", 7)):
        write_circles(tmp_path / folder, count, seed=1, size=32)
    for name in ("source/00002.png", "target/00002.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    circles = [sample_circle(seed, index) for seed in range(3) for index in range(20)]
    assert len(set(circles)) == 60


def test_circles_are_round_and_inside():
    for index in range(20):
        [shape] = sample_circle(0, index).shapes
        _, mask = render(sample_circle(0, index), 128)
        assert mask.sum() == pytest.approx(np.pi * (shape.radius * 128) ** 2, rel=0.03)
        assert shape.kind == "circle"


def test_an_outline_is_one_pixel_wide_and_open_at_the_border():
    mask = np.zeros((8, 8), bool)
    mask[:4, 2:6] = True
    rows = ["..#..#..", "..#..#..", "..#..#..", "..####.."]
    expected = np.array([[c == "#" for c in row] for row in [*rows, *["." * 8] * 4]])
    assert np.array_equal(outline(mask)[..., 0] == 255, expected)


@pytest.mark.parametrize(("count", "size"), [(0, 64), (3, 8)])
def test_numbers_that_make_no_picture_are_named(tmp_path, count, size):
    with pytest.raises(ValueError, match=f"{count} circles of {size} pixels"):
        write_circles(tmp_path, count, size=size)
