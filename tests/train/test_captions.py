"""The command that writes captions."""

from __future__ import annotations

import pytest
from controlnet_pp.tests.dataset.test_captions import WORDS, model, picture
from controlnet_pp.train.captions import main

__all__ = ["model"]  # a fixture


def test_captions_are_written_beside_the_pictures_that_have_none(tmp_path, model, caplog):
    caplog.set_level("INFO")
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", 1)
    (tmp_path / "b.txt").write_text("mine")
    (tmp_path / "c.png").write_text("no picture")
    arguments = [str(tmp_path), "--model", str(model), "--device", "cpu"]
    with pytest.raises(ValueError, match=r"c\.png can't be read"):
        main(arguments)
    assert main([*arguments, "--skip-bad"]) == 0
    assert set((tmp_path / "a.txt").read_text().split()) <= set(WORDS)
    assert (tmp_path / "b.txt").read_text() == "mine"
    assert "0 captions written, 1 pictures skipped" in caplog.text
