"""What every node of the pack has in common: its menu, its custom type, text shown on a node."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

MENU = "ControlNet++"
BlockScalesType = io.Custom("BLOCK_SCALES")

_REMARKED: set[str | None] = set()  # nodes with a remark on the page, which stays until it is told

_HAS_ALIASES = any(field.name == "search_aliases" for field in fields(io.Schema))


def schema(
    node_id: str,
    name: str,
    group: str,
    description: str,
    inputs: list[io.Input],
    outputs: list[io.Output],
    *,
    aliases: tuple[str, ...] = (),
    **options: Any,
) -> io.Schema:
    """A schema in the pack's menu. ``aliases`` help the search of hosts that know them."""
    if _HAS_ALIASES:
        options["search_aliases"] = list(aliases)
    return io.Schema(
        node_id=node_id,
        display_name=name,
        category=f"{MENU}/{group}",
        description=description,
        inputs=inputs,
        outputs=outputs,
        **options,
    )


def percent_input(name: str, default: float, tooltip: str, step: float = 0.001) -> io.Input:
    """Begin or end of a part of the sampling, 0 to 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=step, tooltip=tooltip)


def show_text(node: type[io.ComfyNode], text: str) -> dict[str, tuple[str, ...]]:
    """Write ``text`` onto the running node; returns the ``ui`` entry that keeps it in history."""
    from server import PromptServer

    # Before the server is up (and in tests) there is nobody to tell.
    server = getattr(PromptServer, "instance", None)
    if server is not None and getattr(node, "hidden", None) is not None and node.hidden.unique_id:
        # Nodes 2.0 reads it as Markdown, where lines of their own need a list.
        heading, *lines = text.splitlines()
        shown = "\n".join([heading, "", *(f"- {line}" for line in lines)])
        server.send_progress_text(shown, node.hidden.unique_id)
    return {"text": (text,)}


def show_remark(node: type[io.ComfyNode], remark: str) -> dict[str, tuple[str, ...]] | None:
    """As `show_text`, for a text that is mostly empty: then only an earlier remark is wiped out."""
    unique_id = getattr(getattr(node, "hidden", None), "unique_id", None)
    if remark:
        _REMARKED.add(unique_id)
        return show_text(node, remark)
    if unique_id is None or unique_id not in _REMARKED:
        return None
    _REMARKED.discard(unique_id)
    return {"text": ("",)}
