"""The tables that people look for, held against the list of conditions and of weight files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from controlnet_pp.annotators.weights import WEIGHTS
from controlnet_pp.cnpp_core.condition import Condition

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "web" / "docs" / "CNPP_Annotate.md",
    ROOT / "web" / "docs" / "CNPP_Annotate" / "zh.md",
]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
@pytest.mark.parametrize("condition", Condition, ids=lambda condition: condition.name)
def test_the_table_leads_from_a_condition_to_its_node_and_checkpoints(page: Path, condition):
    found = [row for row in rows(page.read_text(encoding="utf-8")) if len(row) == 5]
    (row,) = (row for row in found if row[0] == condition.name.lower())
    kind = condition.value
    if page.name != "zh.md":
        assert kind.label in row[1] or row[1].startswith(kind.label)
    assert kind.webui_preprocessor in [name.strip(" `") for name in row[2].split(",")]
    assert row[3] == kind.controlnet
    assert row[4] == (kind.controlnetpp or "-")


@pytest.mark.parametrize("key", WEIGHTS)
def test_the_readme_lists_every_weight_file_with_size_and_licence(key: str):
    wanted = WEIGHTS[key]
    (row,) = (row for row in rows(README) if len(row) == 4 and f"[{wanted.name}]" in row[1])
    assert f"({wanted.url})" in row[1]
    assert row[2] == wanted.size_text
    if wanted.commercial:
        assert row[3] == wanted.licence
    else:
        assert row[3].endswith("NON-COMMERCIAL USE ONLY")


@pytest.mark.parametrize("key", [key for key in WEIGHTS if not WEIGHTS[key].commercial])
def test_nodes_and_pages_warn_of_weights_that_forbid_commercial_use(key: str):
    nodes = "".join(
        file.read_text(encoding="utf-8") for file in sorted((ROOT / "nodes").rglob("*.py"))
    )
    assert WEIGHTS[key].name in nodes
    assert "NON-COMMERCIAL USE ONLY" in nodes
    page = (ROOT / "web" / "docs" / "CNPP_OpenPose.md").read_text(encoding="utf-8")
    assert re.search(rf"\| \[{WEIGHTS[key].name}\].*non-commercial \|", page)
