"""What docs/training.md shows is what the commands take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
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
