"""What docs/training.md shows is what the commands take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from controlnet_pp.cnpp_core.checkpoint import load_controlnet_file
from controlnet_pp.demo.circles import main as write_set
from controlnet_pp.train.command import main
from controlnet_pp.train.options import SETTINGS
from controlnet_pp.train.reading import read_toml

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
FILES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)


def test_there_are_examples_for_all_that_is_promised():
    assert len(FILES) >= 4
    assert {"demo", "models/sd15"} == set(re.findall(r'^model = "(.*)"', PAGE, re.MULTILINE))


@pytest.mark.parametrize("text", FILES)
def test_every_file_of_settings_can_be_read(text, tmp_path):
    file = tmp_path / "set.toml"
    file.write_text(text, encoding="utf-8")
    command = "reward" if "recipe" in text else "train"
    assert read_toml(file, command)


def test_every_setting_that_is_named_exists():
    named = set(re.findall(r"`(\w+)( = [^`]*)?`", PAGE))
    words = {name for name, value in named if value} | {
        flag.replace("-", "_") for flag in re.findall(r"`--([\w-]+)`", PAGE)
    }
    assert len(words) > 10
    assert not words - set(SETTINGS) - {"help"}


def test_the_walk_through_runs(tmp_path, monkeypatch):
    """A few of its steps, with its file of settings as it stands."""
    monkeypatch.chdir(tmp_path)
    write_set(["--out", "circles", "--count", "8"])
    Path("circles.toml").write_text(FILES[0], encoding="utf-8")
    few = ("--steps=2", "--batch=2", "--validation-steps=2", "--device=cpu")
    assert main("train", ["circles.toml", *few]) == 0
    loaded = load_controlnet_file("out/circles/controlnet.safetensors")
    assert loaded.training.settings["timestep_weights"] == "layout"
    assert len(list(Path("out/circles/validation").iterdir())) == 2
