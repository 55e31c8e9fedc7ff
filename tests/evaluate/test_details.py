"""Numbers and words of the evaluation, one by one."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.kinds import KINDS
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.evaluate import pairs, published
from controlnet_pp.evaluate.command import main
from controlnet_pp.evaluate.paper import PUBLISHED, PaperSoftMaps, paper_protocol
from controlnet_pp.evaluate.published import stretched
from PIL import Image


def test_the_published_figures_are_those_of_the_tables():
    """arXiv 2404.07987, tables 1 and 2 of the camera-ready version."""
    assert PUBLISHED == {
        Condition.SEG: (32.55, 43.64, 55.07),
        Condition.CANNY: (34.65, 37.04, 100.0),
        Condition.SOFTEDGE: (0.7621, 0.8097, 1.0),
        Condition.LINEART: (0.7054, 0.8399, 1.0),
        Condition.DEPTH: (35.90, 28.32, 0.0),
    }


def test_similarity_is_shown_with_the_digits_of_its_table():
    assert PaperSoftMaps.digits == 4


def test_grey_is_what_pillow_makes_of_every_colour():
    steps = np.arange(0, 256, 3, dtype=np.uint8)  # 86 of each channel
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    label = paper_protocol(Condition.SOFTEDGE).label(
        torch.from_numpy(colours).movedim(-1, 0)[None].float() / 255
    )
    assert np.array_equal(np.asarray(label).reshape(expected.shape).astype(np.uint8), expected)


def test_depth_as_a_condition_has_the_size_of_the_picture_and_the_range_of_one():
    depth = torch.stack([torch.arange(6.0).reshape(1, 2, 3), torch.full((1, 2, 3), 7.0)])
    image = torch.zeros(2, 3, 4, 6)
    found = stretched(depth, image)
    sized = torch.nn.functional.interpolate(depth[:1], (4, 6), mode="bilinear")
    torch.testing.assert_close(found[:1], sized / 5)
    assert not found[1].any()  # flat everywhere


def test_a_model_that_can_not_be_loaded_is_refused_in_its_librarys_first_line(tmp_path):
    class Kind:
        @staticmethod
        def from_pretrained(*_, **__):
            raise OSError("no weights here")

    (tmp_path / "config.json").write_text('{"model_type": "dpt"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"can't be loaded as dpt: no weights here"):
        published._load(Kind, tmp_path, "dpt", torch.device("cpu"))


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_patience_is_a_number_of_seconds(text, capsys):
    with pytest.raises(SystemExit):
        main(["canny", "a", "b", "--patience", text])
    assert f"'{text}' is no number of seconds from 0 upwards" in capsys.readouterr().err


def test_the_help_names_the_methods_where_there_is_a_choice(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for key, row in KINDS.items():
        named = f"{key}: {', '.join(method.name for method in row)}"
        assert (f" {named};" in said) is (len(row) > 1), key


def test_conditions_without_a_picture_are_counted_and_none_is_not(monkeypatch, caplog, tmp_path):
    names = {f"n{i:03}": Path(f"n{i:03}.png") for i in range(300)}
    given = dict(names)
    monkeypatch.setattr(
        pairs, "by_name", lambda folder, what: names if what == "conditions" else given
    )
    with caplog.at_level(logging.INFO):
        assert len(pairs.find_pairs(tmp_path, Path("b"))) == 300
    assert "have no picture" not in caplog.text
    del given["n000"]
    with caplog.at_level(logging.INFO):
        pairs.find_pairs(tmp_path, Path("b"))
    assert "1 of 300 conditions have no picture" in caplog.text
