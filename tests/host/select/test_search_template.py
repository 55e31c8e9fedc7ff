"""The template of Consistency Search, run as users run it: through the executor."""

from __future__ import annotations

import numpy as np
import pytest
from controlnet_pp.tests.host.graphs import Graph, checked, node_of, saved, shipped
from PIL import Image


@pytest.fixture
def graph() -> Graph:
    return shipped("consistency_search_demo")


def test_the_best_picture_is_saved_checked_and_shown_with_its_table(host, graph):
    search = graph[node_of(graph, "CNPP_ConsistencySearch")]["inputs"]
    search |= {"steps": 5, "seeds": 2}
    outputs = host.run(graph)
    shown = outputs[node_of(graph, "CNPP_ConsistencySearch")]
    heading, *lines = shown["text"][0].splitlines()
    assert heading.startswith("Best of 8: ")
    assert len([line for line in lines if line.startswith("#")]) == 8
    assert len([line for line in lines if line.startswith("Mean by ")]) == 2
    check = outputs[node_of(graph, "CNPP_CycleConsistencyCheck")]["text"][0]
    assert check.split(": ")[1].splitlines()[0] == heading.split()[3]
    best, sheet = (Image.open(host.folder / "temp" / i["filename"]) for i in shown["images"])
    assert (np.asarray(best) == saved(host, outputs, graph)[0]).all()
    assert sheet.width > 3 * 128

    search |= {"seeds": 1, "strengths": "0", "presets": ""}
    without = host.run(graph)
    assert checked(outputs, graph) > checked(without, graph)


def test_queued_again_after_another_run_it_gives_the_same_picture(host, graph):
    search = graph[node_of(graph, "CNPP_ConsistencySearch")]["inputs"]
    search |= {"steps": 2, "seeds": 1, "strengths": "1", "presets": ""}
    first = saved(host, host.run(graph), graph)
    search["seed"] += 1
    other = saved(host, host.run(graph, keep_cache=True), graph)
    search["seed"] -= 1
    again = saved(host, host.run(graph, keep_cache=True), graph)
    assert (first != other).any()
    assert (first == again).all()
