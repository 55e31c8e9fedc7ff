"""The templates that train: as they are shipped, and with a few steps."""

from __future__ import annotations

import json
import re
import time

import pytest
from controlnet_pp.tests.host.graphs import Graph, checked, node_of, shipped
from controlnet_pp.tests.source import ROOT

TEMPLATES = {
    "train_controlnet_demo": "CNPP_TrainControlNet",
    "reward_fine_tune_demo": "CNPP_RewardFineTune",
}
SECONDS = 300  # on two cores


def run(host, graph: Graph, kind: str) -> tuple[float, float, float]:
    """Scores of the held-out pictures before and after, and of the picture that is drawn."""
    outputs = host.run(graph)
    (text,) = outputs[node_of(graph, kind)]["text"]
    found = re.search(r"score ([\d.]+)%, ([\d.]+)% before", text)
    assert found, text
    assert len(outputs[node_of(graph, kind)]["images"]) == 2
    return float(found[2]), float(found[1]), checked(outputs, graph)


@pytest.mark.parametrize(("name", "kind"), TEMPLATES.items())
def test_a_template_runs_with_a_few_steps(host, name, kind):
    graph = shipped(name)
    short = {"steps": 2, "batch_size": 1, "validate_every": 2, "sampling_steps": 2}
    for training in (n for n in graph.values() if n["class_type"] in TEMPLATES.values()):
        training["inputs"] |= short
    graph[node_of(graph, "CNPP_ControlNetTrainingData")]["inputs"] |= {"pictures": 2, "held_out": 1}
    graph[node_of(graph, "KSampler")]["inputs"]["steps"] = 2
    before, after, score = run(host, graph, kind)
    assert 0 <= before <= 100
    assert 0 <= after <= 100
    assert 0 <= score <= 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_both_forms_of_a_template_have_the_same_settings(name):
    page = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    values = {n["type"]: n.get("widgets_values", []) for n in page["nodes"]}
    for node in shipped(name).values():
        sent = [v for v in node["inputs"].values() if not isinstance(v, list)]
        kept = [v for v in values[node["class_type"]] if v != "fixed"]
        if node["class_type"] != "CLIPTextEncode":  # there are two
            assert sorted(map(repr, sent)) == sorted(map(repr, kept)), node["class_type"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), TEMPLATES.items())
def test_a_template_teaches_what_it_promises_in_under_five_minutes(host, name, kind):
    begun = time.process_time()
    before, after, score = run(host, shipped(name), kind)
    assert after > before
    assert score > 0.5
    assert time.process_time() - begun < SECONDS
