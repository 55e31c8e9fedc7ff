"""The picture and text of Residual Energy."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY, apply


def test_the_plot_shows_the_last_run(host):
    watched, energy = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    latent = {"samples": host.sample(watched, *apply(host, host.pair(TINY)[0]))}
    plot = host.registry["CNPP_ResidualEnergyPlot"]
    picture, text = plot.execute(energy, latent, 0.0).result
    again, _ = host.call("CNPP_ResidualEnergyPlot", energy=energy, latent=latent, limit=0.0)
    assert picture.ndim == 4
    assert picture.shape[-1] == 3
    assert torch.equal(picture, again)
    assert text == energy.table.text()
    assert "cond, step by step" in text
    shown = plot.execute(energy, latent, 0.0).ui
    assert shown["images"]
    assert shown["text"] == (energy.table.summary(),)


def test_a_plot_without_a_run_says_what_to_connect(host):
    _, energy = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    with pytest.raises(ValueError, match="nothing was measured"):
        host.call("CNPP_ResidualEnergyPlot", energy=energy, latent={}, limit=0.0)


def graph(limit):
    """The demo's model through both nodes, as a graph to POST."""
    return {
        "demo": {"class_type": "CNPP_DemoModel", "inputs": {"example": 3}},
        "text": {
            "class_type": "CLIPTextEncode",
            "inputs": {"clip": ["demo", 1], "text": "red circle on a blue ground"},
        },
        "canny": {
            "class_type": "CNPP_Canny",
            "inputs": {"image": ["demo", 4], "mode": "ControlNet++", "low": 100, "high": 200,
                       "resolution": 0},
        },
        "apply": {
            "class_type": "CNPP_Apply",
            "inputs": {
                "positive": ["text", 0], "negative": ["text", 0], "control_net": ["demo", 3],
                "image": ["canny", 0], "strength": 1.0, "start_percent": 0.0, "end_percent": 0.6,
            },
        },
        "energy": {"class_type": "CNPP_ResidualEnergy", "inputs": {"model": ["demo", 0]}},
        "empty": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 128, "height": 128, "batch_size": 1},
        },
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["energy", 0], "positive": ["apply", 0], "negative": ["apply", 1],
                "latent_image": ["empty", 0], "seed": 1, "steps": 10, "cfg": 3.0, "denoise": 1.0,
                "sampler_name": "euler", "scheduler": "normal",
            },
        },
        "plot": {
            "class_type": "CNPP_ResidualEnergyPlot",
            "inputs": {"energy": ["energy", 1], "latent": ["sampler", 0], "limit": limit},
        },
    }  # fmt: skip


def test_a_plot_behind_a_sampler_that_was_cached_shows_the_last_run(host):
    first = host.run(graph(0.0))["plot"]
    again = host.run(graph(0.5), keep_cache=True)["plot"]
    assert first["text"] == again["text"]
    assert first["text"][0].startswith("|residual| / |feature|, mean over 10 steps")
    assert first["images"][0]["type"] == "temp"
