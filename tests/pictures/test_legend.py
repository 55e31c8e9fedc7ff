"""Legends: every colour and word, in as many rows as there is need for."""

from __future__ import annotations

import torch
from controlnet_pp.cnpp_core.consistency.agreement.lines import EdgeMeasure
from controlnet_pp.pictures.canvas import DARK, Canvas
from controlnet_pp.pictures.legend import LegendRows, with_legend

LEGEND = EdgeMeasure().legend  # kept, lost, invented


def strip_of(width: int, legend=LEGEND) -> torch.Tensor:
    """What is added below a picture 50 pixels high, (3, h, width) in 0..255."""
    return (with_legend(torch.zeros(1, 3, 50, width), legend)[0, :, 50:] * 255).round().int()


def test_the_pictures_stay_and_each_gets_the_legend_below():
    pictures = torch.rand(3, 3, 40, 200)
    shown = with_legend(pictures, LEGEND)
    assert shown.shape == (3, 3, 40 + 14, 200)
    assert torch.equal(shown[..., :40, :], pictures)
    assert torch.equal(shown[0, :, 40:], shown[2, :, 40:])


def test_the_strip_comes_in_the_type_of_the_pictures():
    assert with_legend(torch.zeros(1, 3, 8, 64).half(), LEGEND).dtype == torch.float16


def test_every_colour_has_a_square():
    strip = strip_of(200).flatten(1).T.tolist()
    for _, colour in LEGEND:
        assert strip.count([round(255 * value) for value in colour]) >= 64


def test_words_stand_right_of_their_own_square():
    strip = strip_of(300)
    lost = torch.tensor([round(255 * value) for value in LEGEND[1][1]])[:, None, None]
    right = int((strip == lost).all(0).any(0).nonzero().max())
    ground = torch.tensor(DARK.ground)[:, None, None]
    assert (strip[..., right + 3 : right + 20] - ground).abs().max() > 150
    alone = strip_of(300, [("", LEGEND[1][1])])
    assert (alone[..., right + 3 :] == ground).all()


def test_a_narrow_picture_gets_a_row_for_each_word():
    assert strip_of(64).shape == (3, 3 * 14, 64)
    assert strip_of(128).shape == (3, 2 * 14, 128)


def test_a_word_wider_than_the_picture_is_cut_before_its_side():
    strip = strip_of(48, [("a word that no picture holds", (1, 0, 0)), ("x", (0, 1, 0))])
    assert strip.shape == (3, 2 * 14, 48)
    ground = torch.tensor(DARK.ground)[:, None]
    assert (strip[..., -5:] == ground[..., None]).all()


def test_text_grows_with_the_picture():
    assert strip_of(400).shape[1] == 14
    assert strip_of(1000).shape[1] == 35


def test_rows_never_reach_beyond_their_width():
    legend = [(f"class {i}", (1.0, 0.0, 0.0)) for i in range(20)]
    rows = LegendRows(legend, 150, 10)
    canvas = Canvas(400, rows.height)
    rows.draw(canvas, 20, 0)
    marked = (canvas.tensor()[0] * 255).round().int() != torch.tensor(DARK.ground)[:, None, None]
    columns = marked.any(0).any(0).nonzero()
    assert columns.min() >= 19
    assert columns.max() < 171
    assert marked.any(0).any(1)[-14:].any(), "the last row is in use"


def test_no_legend_is_one_empty_row():
    assert (strip_of(64, ()) == torch.tensor(DARK.ground)[:, None, None]).all()
