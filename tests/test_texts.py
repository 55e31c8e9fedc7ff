"""Help pages and translations, held against the source of the nodes; no ComfyUI needed."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "web" / "docs"
LANGUAGES = ("en", "zh")


def python_files() -> list[Path]:
    folders = ("cnpp_core", "annotators", "nodes", "demo")
    return [file for top in folders for file in sorted((ROOT / top).rglob("*.py"))]


def constants(file: Path) -> Iterator[str]:
    """Every text in a module, f-strings as the pieces between their values."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def node_ids() -> set[str]:
    """Ids of all nodes: the texts in nodes/ that are nothing but an id."""
    files = (ROOT / "nodes").rglob("*.py")
    return {
        text
        for file in files
        for text in constants(file)
        if re.fullmatch(r"CNPP_[A-Za-z0-9]+", text)
    }


def definitions(language: str) -> dict[str, Any]:
    file = ROOT / "locales" / language / "nodeDefs.json"
    return json.loads(file.read_text(encoding="utf-8"))


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts(part)


PAGES = sorted(DOCS.glob("*.md"))
CHINESE_PAGES = sorted(DOCS.glob("*/zh.md"))  # the web page looks there first


def test_there_are_nodes_to_describe():
    assert {"CNPP_Apply", "CNPP_LoadControlNet", "CNPP_Canny"} <= node_ids()


def test_every_node_has_a_help_page_and_every_page_a_node():
    assert {page.stem for page in PAGES} == node_ids()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_tells_what_goes_in_and_out_an_example_and_what_can_go_wrong(page: Path):
    text = page.read_text(encoding="utf-8")
    name = definitions("en")[page.stem]["display_name"]
    assert text.startswith(f"# {name}\n")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    wanted = ["Inputs", "Outputs", "Example", "What can go wrong"]
    assert [heading for heading in headings if heading in wanted] == wanted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_lists_every_input_and_output(page: Path):
    text = page.read_text(encoding="utf-8")
    node = definitions("en")[page.stem]
    parts = [*node.get("inputs", {}), *(out["name"] for out in node.get("outputs", {}).values())]
    assert not [part for part in parts if f"`{part}`" not in text]


def quoted_errors(page: Path) -> list[str]:
    return re.findall(r"^\*\*`(.+?)`\*\*", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_pages_quote_error_messages_as_they_are_in_the_code():
    said = "\n".join(text for file in python_files() for text in constants(file))
    missing = []
    for page in PAGES:
        for piece in (part.strip() for text in quoted_errors(page) for part in text.split("…")):
            if piece and piece not in said:
                missing.append(f"{page.stem}: {piece}")
    assert not missing


def test_every_page_is_there_in_chinese():
    assert {page.parent.name for page in CHINESE_PAGES} == node_ids()


@pytest.mark.parametrize("page", CHINESE_PAGES, ids=lambda page: page.parent.name)
def test_a_chinese_page_says_as_much_as_the_english_one(page: Path):
    english = DOCS / f"{page.parent.name}.md"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {definitions('zh')[page.parent.name]['display_name']}\n")
    assert quoted_errors(page) == quoted_errors(english)
    names = set(re.findall(r"`([a-z_0-9]+)`", english.read_text(encoding="utf-8")))
    assert not [name for name in names if f"`{name}`" not in text]


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_are_of_the_nodes_that_exist(language: str):
    assert set(definitions(language)) == node_ids()


def test_both_languages_have_the_same_entries():
    def shape(value: Any) -> Any:
        return {key: shape(part) for key, part in value.items()} if isinstance(value, dict) else 0

    assert shape(definitions("zh")) == shape(definitions("en"))


def test_the_chinese_is_chinese():
    kept = {"CNPP_", "ControlNet", "VAE", "MODEL", "CLIP"}  # names that stay
    latin = [t for t in texts(definitions("zh")) if not re.search(r"[\u4e00-\u9fff]", t)]
    assert not [text for text in latin if text not in kept]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_holds_a_character_that_the_web_page_would_interpret(language: str):
    # vue-i18n: {value}, @:link, singular | plural.
    assert not [text for text in texts(definitions(language)) if re.search(r"[{}@|]", text)]
