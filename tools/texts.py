"""`nox -s texts`: the schemas of the nodes are the one source of words; the rest is written here.

From the schemas come locales/en and the pins that saved workflows rely on; from locales/en the
tables of README and help pages, and the headings of the pages. The README's tables of figures come
from bench/results. The Chinese is written by people:
only its headings follow its nodeDefs.json, and its gaps are listed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import chinese, marked, schemas
from .figures import figures
from .schemas import Pins, Texts
from .tables import tables

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "web" / "docs"
README = ROOT / "README.md"
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"
CHINESE = ROOT / "locales" / "zh" / "nodeDefs.json"
MEMORY = ROOT / "locales" / "zh" / "translated.json"  # ComfyUI reads no file of this name
PINS = ROOT / "tests" / "node_pins.json"


def main(argv: Sequence[str] = ()) -> str:
    """Write every file whose text has changed, and say what was written and what Chinese lacks.

    Without a ComfyUI the schemas can't be read, and locales/en and the pins stay as they are.
    A node that changed so that saved workflows would break is refused (ValueError).
    """
    parser = argparse.ArgumentParser(prog="nox -s texts --", description=main.__doc__)
    parser.add_argument(
        "--still-right",
        nargs="+",
        default=[],
        metavar="NAME",
        help="texts whose Chinese needs no change, e.g. CNPP_Apply.description, or whole nodes",
    )
    still_right = parser.parse_args(argv).still_right

    why_not = _comfy_host().why_not("texts")
    if why_not:
        lines = [f"The schemas were NOT read, only what follows from locales/en: {why_not}"]
        english, pins = read(ENGLISH), read(PINS)
    else:
        lines = []
        nodes = _nodes()
        english = schemas.english(nodes)
        pins = schemas.extended(read(PINS), schemas.pins(nodes))
    for file, text in written(english, pins, still_right).items():
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8", newline="\n")
            lines.append(f"written: {file.relative_to(ROOT).as_posix()}")
    return "\n".join([*(lines or ["Nothing to write."]), *report_of_gaps(english)])


def written(english: Texts, pins: Pins, still_right: Sequence[str] = ()) -> dict[Path, str]:
    """Every file that repeats words of the nodes, and the text that it should have."""
    zh = read(CHINESE)
    memory = read(MEMORY) if MEMORY.is_file() else {}
    files = {
        ENGLISH: as_json(english),
        PINS: as_json(pins),
        MEMORY: as_json(chinese.remembered(english, zh, memory, still_right)),
    }
    parts = {**tables(english, zh), **figures()}
    headings = {
        README: "",
        **{DOCS / f"{key}.md": node["display_name"] for key, node in english.items()},
        **{DOCS / key / "zh.md": node["display_name"] for key, node in zh.items()},
    }
    for file, heading in headings.items():
        if file.is_file():  # tests/test_texts.py misses those that are not there
            text = file.read_text(encoding="utf-8")
            body = text.partition("\n")[2]
            try:
                files[file] = marked.fill(f"# {heading}\n{body}" if heading else text, parts)
            except ValueError as error:
                raise ValueError(f"{file.relative_to(ROOT).as_posix()}: {error}") from error
    return files


def report_of_gaps(english: Texts) -> list[str]:
    """What the Chinese lacks, in lines to read; none if it lacks nothing."""
    found = chinese.gaps(english, read(CHINESE), read(MEMORY))
    pages = [DOCS / key / "zh.md" for key in english]
    missing = [page.relative_to(ROOT).as_posix() for page in pages if not page.is_file()]
    lines = [f"  {name}: {gap}" for name, gap in found.items()]
    lines += [f"  {page}: missing" for page in missing]
    if lines:
        lines.insert(
            0,
            "GAPS in Chinese. Mend locales/zh/nodeDefs.json and run this again; where the Chinese "
            "is still right, add: -- --still-right NAME ...",
        )
    return lines


def read(file: Path) -> dict[str, Any]:
    """A JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


def as_json(value: dict[str, Any]) -> str:
    """The text of a JSON file."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _comfy_host() -> Any:
    return importlib.import_module("..tests.comfy_host", __package__)


def _nodes() -> list[Any]:
    """The node classes, which can be imported inside ComfyUI only."""
    logging.disable(logging.INFO)  # what the host says of its start is of no use here
    _comfy_host().start()
    return importlib.import_module("..nodes", __package__).NODES
