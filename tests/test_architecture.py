"""The map of the pack names what is there, and every part that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from controlnet_pp.tests.test_arrows import ARROWS, CONSISTENCY, CORE, DIVIDED, HOST

ROOT = Path(__file__).resolve().parent.parent
MAP = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
NAMED = sorted({name for name in re.findall(r"`([\w./]+)`", MAP) if "/" in name})


@pytest.mark.parametrize("path", NAMED)
def test_what_the_map_names_is_there(path: str):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Z]\w+[a-z]\w*)`", MAP))))
def test_the_classes_that_it_names_exist(name: str):
    folders = ("cnpp_core", "nodes", "annotators")
    files = (file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    defined = rf"(?m)^(class {name}\b|{name}\b.* = )"
    assert any(re.search(defined, file.read_text(encoding="utf-8")) for file in files)


def parts() -> list[str]:
    """Folders and lone files that the arrows know, but those named with the room they are in."""
    inside = {f"{CORE}.control", HOST, CONSISTENCY}
    rows = [row for row in ARROWS if row.rpartition(".")[0] in {*DIVIDED, *inside}]
    return [row for row in rows if row not in ("__init__", "cli", "nodes.schema")]


@pytest.mark.parametrize("part", parts())
def test_every_part_has_its_place_on_the_map(part: str):
    path = ROOT.joinpath(*part.split("."))
    name = path.relative_to(ROOT).as_posix() + (".py" if path.with_suffix(".py").is_file() else "")
    assert f"`{name}`" in MAP or f"`{Path(name).name}`" in MAP, f"{name} is not in ARCHITECTURE.md"
