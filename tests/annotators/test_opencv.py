"""A machine without OpenCV is told so in words, at the start and where it matters."""

from __future__ import annotations

import importlib.util
import logging
import sys

import pytest
from controlnet_pp.annotators.opencv import load_cv2, note_if_missing
from controlnet_pp.demo.world import HELD_OUT_SEED, load_batch


@pytest.fixture
def without_opencv(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "cv2" else found(name)
    )
    monkeypatch.setitem(sys.modules, "cv2", None)


def test_it_is_said_when_the_pack_is_loaded(without_opencv, caplog):
    with caplog.at_level(logging.WARNING):
        note_if_missing()
    assert "OpenCV is not installed: the demo model" in caplog.text
    assert "pip install opencv-python" in caplog.text


def test_nothing_is_said_where_it_is_there(caplog):
    note_if_missing()
    assert not caplog.records


@pytest.mark.parametrize("step", [load_cv2, lambda: load_batch(HELD_OUT_SEED, [0])])
def test_what_needs_it_says_how_to_install_it(without_opencv, step):
    with pytest.raises(RuntimeError, match=r"OpenCV could not be imported.*pip install opencv"):
        step()
