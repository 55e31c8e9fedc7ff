"""The template that shapes control by place and time: it runs, and control acts where it says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

MASKS = "comfy_extras/nodes_mask.py"


@pytest.fixture
def graph(host, comfy_root: Path, repo: Path) -> dict[str, dict]:
    import nodes  # the host's own

    asyncio.run(nodes.load_custom_node(str(comfy_root / MASKS), module_parent="comfy_extras"))
    file = repo / "workflows/api/schedule_and_masks_demo.json"
    return json.loads(file.read_text(encoding="utf-8"))


def node_of(graph: dict[str, dict], kind: str) -> str:
    (found,) = (key for key, node in graph.items() if node["class_type"] == kind)
    return found


def score(outputs: dict, graph: dict[str, dict]) -> float:
    text = outputs[node_of(graph, "CNPP_CycleConsistencyCheck")]["text"][0]
    return float(text.split(": ")[1].split("%")[0]) / 100


def test_edges_are_followed_inside_the_mask_and_not_if_it_is_turned_round(host, graph):
    outputs = host.run(graph)
    assert outputs[node_of(graph, "CNPP_ResidualEnergyPlot")]["text"][0].startswith("|residual|")
    inside = score(outputs, graph)
    graph[node_of(graph, "CNPP_BlockMasks")]["inputs"]["invert"] = True
    assert inside > 0.6 > 0.3 > score(host.run(graph), graph)
