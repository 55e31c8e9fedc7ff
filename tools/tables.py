"""The tables that README and help pages show, each by the name that its marks have there."""

from __future__ import annotations

import re

from .marked import table
from .schemas import Texts


def tables(english: Texts) -> dict[str, str]:
    """Every table, in Markdown, by name. english: the texts of the nodes."""
    return {"nodes": nodes(english)}


def nodes(english: Texts) -> str:
    """A row for each node: its name, and the first sentence of its description."""
    rows = [
        (f"**{node['display_name']}**", first_sentence(node["description"]))
        for node in english.values()
    ]
    return table(("node", "what it does"), rows)


def first_sentence(text: str) -> str:
    """Up to the first full stop with a space behind it."""
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0]
