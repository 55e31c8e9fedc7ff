"""The nodes: one file per menu group; `host/` is the only code that subclasses host classes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    annotate,
    consistency,
    control,
    control_shape,
    control_speed,
    energy,
    feedback,
    guidance,
    load,
    select,
)

NODES: list[type[io.ComfyNode]] = [
    *load.NODES,
    *control.NODES,
    *control_shape.NODES,
    *control_speed.NODES,
    *annotate.NODES,
    *consistency.NODES,
    *energy.NODES,
    *feedback.NODES,
    *guidance.NODES,
    *select.NODES,
]


class ControlNetPlusPlusExtension(ComfyExtension):
    """What the host asks for the node classes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
