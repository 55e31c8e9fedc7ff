"""What the nodes say of themselves: their texts, and what saved workflows rely on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Texts = dict[str, Any]  # as in nodeDefs.json: id -> display_name, description, inputs, outputs
# id -> names of the inputs, of those that are required among them, types of the outputs
Pins = dict[str, dict[str, list[str]]]


def english(nodes: Iterable[Any]) -> Texts:
    """The texts of node classes, by id, in the form of ComfyUI's nodeDefs.json."""
    schemas = [node.GET_SCHEMA() for node in nodes]
    return {schema.node_id: _texts_of(schema) for schema in schemas}


def _texts_of(schema: Any) -> Texts:
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {given.id: _words(given) for given in schema.inputs},
        "outputs": {str(slot): _words(out) for slot, out in enumerate(schema.outputs)},
    }


def _words(part: Any) -> dict[str, str]:
    return {"name": part.display_name or part.id, "tooltip": part.tooltip or ""}


def pins(nodes: Iterable[Any]) -> Pins:
    """Inputs of node classes in the order in which widgets are saved, outputs by type."""
    return {node.GET_SCHEMA().node_id: _pin_of(node) for node in nodes}


def _pin_of(node: Any) -> dict[str, list[str]]:
    types = node.INPUT_TYPES()  # the web page draws the required ones first
    required = list(types.get("required", {}))
    inputs = [*required, *types.get("optional", {})]
    return {"inputs": inputs, "required": required, "outputs": list(node.RETURN_TYPES)}


def extended(pinned: Pins, now: Pins) -> Pins:
    """``now``, if it only adds to ``pinned``: nodes, or inputs and outputs behind the others.

    ValueError names every node that lost, renamed or moved something: saved workflows keep values
    and links by position. So it does for an input that a node of old requires since: graphs saved
    for the API have no value for it.
    """
    broken = [f"{key} is gone" for key in pinned if key not in now]
    for key in pinned.keys() & now.keys():
        for side in ("inputs", "outputs"):
            old, new = pinned[key][side], now[key][side]
            if new[: len(old)] != old:
                broken.append(f"{side} of {key} were {', '.join(old)}; now {', '.join(new)}")
        for name in now[key]["required"]:
            if name not in pinned[key]["required"]:
                broken.append(f"{key} did not require {name}; now it does")
    if broken:
        raise ValueError(
            f"Saved workflows would break. {'. '.join(sorted(broken))}. Ids stay, new inputs and "
            "outputs go behind the others, and new inputs are optional."
        )
    return now
