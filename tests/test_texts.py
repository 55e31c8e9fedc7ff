"""Help pages and translations, held against each other and the pins; no ComfyUI needed.

tests/host/test_locales.py holds locales/en and the pins against the schemas.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controlnet_pp.tools import chinese, texts
from controlnet_pp.tools.tables import first_sentence

ROOT = Path(__file__).resolve().parent.parent
DOCS = texts.DOCS
PINS = texts.read(texts.PINS)
LANGUAGES = ("en", "zh")


def python_files() -> list[Path]:
    folders = ("cnpp_core", "annotators", "dataset", "nodes", "demo")
    return [file for top in folders for file in sorted((ROOT / top).rglob("*.py"))]


def constants(file: Path) -> Iterator[str]:
    """Every text in a module, f-strings as the pieces between their values."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def definitions(language: str) -> dict[str, Any]:
    return texts.read(ROOT / "locales" / language / "nodeDefs.json")


def every_text(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from every_text(part)


PAGES = sorted(DOCS.glob("*.md"))
CHINESE_PAGES = sorted(DOCS.glob("*/zh.md"))  # the web page looks there first


def test_the_pinned_nodes_are_those_of_the_source():
    files = sorted((ROOT / "nodes").rglob("*.py"))
    found = [text for file in files for text in constants(file)]
    assert sorted(text for text in found if re.fullmatch(r"CNPP_[A-Za-z0-9]+", text)) == sorted(
        PINS
    )


def test_what_follows_from_the_english_is_written():
    said = texts.written(definitions("en"), PINS)
    old = [file.name for file, text in said.items() if file.read_text(encoding="utf-8") != text]
    assert not old, f"run nox -s texts, which writes {', '.join(old)}"


def test_every_node_has_a_help_page_and_every_page_a_node():
    assert {page.stem for page in PAGES} == PINS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_tells_what_goes_in_and_out_an_example_and_what_can_go_wrong(page: Path):
    text = page.read_text(encoding="utf-8")
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
    assert {page.parent.name for page in CHINESE_PAGES} == PINS.keys()


@pytest.mark.parametrize("page", CHINESE_PAGES, ids=lambda page: page.parent.name)
def test_a_chinese_page_says_as_much_as_the_english_one(page: Path):
    english = DOCS / f"{page.parent.name}.md"
    text = page.read_text(encoding="utf-8")
    assert quoted_errors(page) == quoted_errors(english)
    names = set(re.findall(r"`([a-z_0-9]+)`", english.read_text(encoding="utf-8")))
    assert not [name for name in names if f"`{name}`" not in text]


def test_english_has_the_pinned_inputs_and_outputs():
    for key, node in definitions("en").items():
        assert sorted(node["inputs"]) == sorted(PINS[key]["inputs"]), key
        assert list(node["outputs"]) == [str(i) for i in range(len(PINS[key]["outputs"]))], key


def test_the_first_sentence_of_a_description_is_a_row_of_the_readme():
    rows = {key: first_sentence(node["description"]) for key, node in definitions("en").items()}
    assert not {key: row for key, row in rows.items() if not row.endswith(".") or len(row) > 130}


def test_the_chinese_lacks_nothing():
    memory = texts.read(texts.MEMORY)
    assert not chinese.gaps(definitions("en"), definitions("zh"), memory), "run nox -s texts"


def test_the_chinese_is_chinese():
    kept = {"CNPP_", "ControlNet", "VAE", "MODEL", "CLIP"}  # names that stay
    latin = [t for t in every_text(definitions("zh")) if not re.search(r"[\u4e00-\u9fff]", t)]
    assert not [text for text in latin if text not in kept]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_holds_a_character_that_the_web_page_would_interpret(language: str):
    # vue-i18n: {value}, @:link, singular | plural.
    assert not [text for text in every_text(definitions(language)) if re.search(r"[{}@|]", text)]
