"""The template that shapes control by place and time: it runs, and control acts where it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from controlnet_pp.tests.host.graphs import Graph, checked, node_of, shipped

MASKS = "comfy_extras/nodes_mask.py"


@pytest.fixture
def graph(host, comfy_root: Path) -> Graph:
    import nodes  # the host's own

    asyncio.run(nodes.load_custom_node(str(comfy_root / MASKS), module_parent="comfy_extras"))
    return shipped("schedule_and_masks_demo")


def test_edges_are_followed_inside_the_mask_and_not_if_it_is_turned_round(host, graph):
    outputs = host.run(graph)
    assert outputs[node_of(graph, "CNPP_ResidualEnergyPlot")]["text"][0].startswith("|residual|")
    inside = checked(outputs, graph)
    graph[node_of(graph, "CNPP_BlockMasks")]["inputs"]["invert"] = True
    assert inside > 0.6 > 0.3 > checked(host.run(graph), graph)
