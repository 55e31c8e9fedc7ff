"""Graphs to POST: those that the repository ships, and the demo's model through a few nodes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from controlnet_pp.tests.host.harness import Host
from controlnet_pp.tests.source import ROOT
from PIL import Image

Graph = dict[str, dict[str, Any]]


def shipped(name: str) -> Graph:
    """A graph of workflows/api."""
    return json.loads((ROOT / "workflows/api" / f"{name}.json").read_text(encoding="utf-8"))


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    """A node of a graph; a link is [name of the other node, number of its output]."""
    return {"class_type": kind, "inputs": inputs}


def node_of(graph: Graph, kind: str) -> str:
    """The name of the one node of this kind."""
    (found,) = (key for key, node in graph.items() if node["class_type"] == kind)
    return found


def demo_graph(steps: int, batch: int = 1) -> Graph:
    """The demo's model sampled along the edges of its example; what follows is for a test to add.

    Nodes: demo, text, canny, apply, empty, sampler.
    """
    return {
        "demo": node("CNPP_DemoModel", example=3),
        "text": node("CLIPTextEncode", clip=["demo", 1], text=["demo", 5]),
        "canny": node(
            "CNPP_Canny", image=["demo", 4], mode="ControlNet++", low=100, high=200, resolution=0
        ),
        "apply": node(
            "CNPP_Apply",
            positive=["text", 0], negative=["text", 0], control_net=["demo", 3],
            image=["canny", 0], strength=1.0, start_percent=0.0, end_percent=1.0,
        ),
        "empty": node("EmptyLatentImage", width=128, height=128, batch_size=batch),
        "sampler": node(
            "KSampler",
            model=["demo", 0], positive=["apply", 0], negative=["apply", 1],
            latent_image=["empty", 0], seed=1, steps=steps, cfg=3.0, denoise=1.0,
            sampler_name="euler", scheduler="normal",
        ),
    }  # fmt: skip


def saved(host: Host, outputs: dict[str, dict], graph: Graph) -> np.ndarray:
    """The pictures that Save Image wrote, (N, H, W, 3)."""
    files = (image["filename"] for image in outputs[node_of(graph, "SaveImage")]["images"])
    return np.stack([np.asarray(Image.open(host.folder / "output" / file)) for file in files])


def checked(outputs: dict[str, dict], graph: Graph) -> float:
    """The score that the Cycle-Consistency Check showed, 0..1."""
    text = outputs[node_of(graph, "CNPP_CycleConsistencyCheck")]["text"][0]
    return float(text.split(": ")[1].split("%")[0]) / 100
