"""The nodes: a folder per menu group; `host/` is the only code that subclasses host classes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import annotate, consistency, control, load, train

NODES: list[type[io.ComfyNode]] = [
    *load.NODES,
    *control.NODES,
    *annotate.NODES,
    *consistency.NODES,
    *train.NODES,
]


class ControlNetPlusPlusExtension(ComfyExtension):
    """What the host asks for the node classes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
