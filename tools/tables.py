"""The tables that README and help pages show, each by the name that its marks have there."""

from __future__ import annotations

import re

from ..annotators.catalogue import WEIGHTS, WeightFile
from ..annotators.kinds import ADE20K, KINDS
from ..cnpp_core.condition import Condition
from .marked import table
from .schemas import Texts

KIND_HEAD = ("condition", "node", "score", "in the web UI", "ControlNet (SD1.5)")
KIND_HEAD_ZH = ("条件", "节点", "评分", "WebUI 名称", "ControlNet（SD1.5）")
ANY_NODE = "CNPP_Annotate"  # for kinds without a node of their own


def tables(english: Texts, chinese: Texts) -> dict[str, str]:
    """Every table, in Markdown, by name. english, chinese: the texts of the nodes."""
    return {
        "nodes": nodes(english),
        "kinds": kinds((*KIND_HEAD, "ControlNet++ (SD1.5)"), english, english),
        "kinds zh": kinds((*KIND_HEAD_ZH, "ControlNet++（SD1.5）"), english, chinese),
        "weights": weights(),
    }


def nodes(english: Texts) -> str:
    """A row for each node: its name, and the first sentence of its description."""
    rows = [
        (f"**{node['display_name']}**", first_sentence(node["description"]))
        for node in english.values()
    ]
    return table(("node", "what it does"), rows)


def kinds(head: tuple[str, ...], english: Texts, shown: Texts) -> str:
    """A row for each kind of condition. shown: the texts that name its node."""
    rows = []
    for condition in Condition:
        kind = condition.value
        node = next(
            (key for key, n in english.items() if n["display_name"] == kind.label), ANY_NODE
        )
        measure = condition.measure(classes=ADE20K)
        names = (kind.preprocessor, kind.controlnet, kind.controlnetpp)
        rows.append(
            (
                f"`{condition.key}`",
                shown[node]["display_name"],
                f"{measure.metric} {'↑' if measure.higher_is_better else '↓'}",
                *(", ".join(f"`{n}`" for n in name.split(", ")) if name else "-" for name in names),
            )
        )
    return table(head, rows)


def weights() -> str:
    """A row for each weight file: what reads it, its address, size and licence."""
    rows = [
        (users(key), f"{'folder ' * bool(file.files)}[{file.name}]({file.url})", *_terms(file))
        for key, file in WEIGHTS.items()
    ]
    return table(("read by", "file", "size", "licence"), rows)


def users(key: str) -> str:
    """The kinds that read these weights; with the method, where only some of a kind's do."""
    found = []
    for condition in Condition:
        row = KINDS[condition.key]
        mine = [method for method in row if any(n.key == key for n in method.networks)]
        running = [method for method in row if method.networks]
        if mine and len(mine) < len(running):
            found.append(f"{condition.value.label}: {', '.join(m.label for m in mine)}")
        elif mine:
            found.append(condition.value.label)
    return ", ".join(found)


def _terms(file: WeightFile) -> tuple[str, str]:
    licence = file.licence if file.commercial else f"{file.licence}, NON-COMMERCIAL USE ONLY"
    return file.size_text, licence


def first_sentence(text: str) -> str:
    """Up to the first full stop with a space behind it."""
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0]
