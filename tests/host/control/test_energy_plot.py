"""The picture and text of Residual Energy."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.graphs import demo_graph, node
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


def energy_graph(limit):
    graph = demo_graph(steps=10)
    graph["apply"]["inputs"]["end_percent"] = 0.6
    graph["energy"] = node("CNPP_ResidualEnergy", model=["demo", 0])
    graph["sampler"]["inputs"]["model"] = ["energy", 0]
    plot = {"energy": ["energy", 1], "latent": ["sampler", 0], "limit": limit}
    graph["plot"] = node("CNPP_ResidualEnergyPlot", **plot)
    return graph


def test_a_plot_behind_a_sampler_that_was_cached_shows_the_last_run(host):
    first = host.run(energy_graph(0.0))["plot"]
    again = host.run(energy_graph(0.5), keep_cache=True)["plot"]
    assert first["text"] == again["text"]
    assert first["text"][0].startswith("|residual| / |feature|, mean over 10 steps")
    assert first["images"][0]["type"] == "temp"
