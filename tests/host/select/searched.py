"""Consistency Search as the tests call it."""

from __future__ import annotations

from typing import Any

from controlnet_pp.tests.host.harness import Host

NODE = "CNPP_ConsistencySearch"
CANNY = "canny (ControlNet++)"
SAMPLING = {"steps": 3, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"}
SETTINGS = SAMPLING | {
    "seed": 5,
    "seeds": 2,
    "denoise": 1.0,
    "strengths": "0.4, 1.0",
    "presets": "",
    "start_percent": 0.0,
    "end_percent": 1.0,
    "kind": CANNY,
    "tolerance": 1,
    "max_trials": 8,
}
OUTPUTS = ("image", "latent", "score", "seed", "strength", "table", "sheet", "scales")


def run(host: Host, world: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A search's outputs by name."""
    inputs = world | SETTINGS | changes
    return dict(zip(OUTPUTS, host.call(NODE, **inputs), strict=True))


def entries(table: str) -> list[str]:
    """The lines of the table that stand for one trial each."""
    return [line for line in table.splitlines() if line.startswith("#")]
