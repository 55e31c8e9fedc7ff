"""What users see of the nodes, and what saved workflows rely on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from controlnet_pp.tools import schemas

ROOT = Path(__file__).resolve().parents[2]
# Inputs in the order in which widgets are saved, outputs by type; `nox -s texts` extends it.
PINS = json.loads((ROOT / "tests" / "node_pins.json").read_text(encoding="utf-8"))
MENU = json.loads((ROOT / "locales" / "zh" / "main.json").read_text(encoding="utf-8"))
SLIDERS = ("CNPP_BlockScalesSD15", "CNPP_BlockScalesSDXL")


def ours(host):
    return {name: node for name, node in host.registry.items() if name.startswith("CNPP_")}


def inputs(node):
    types = node.INPUT_TYPES()
    return {**types.get("required", {}), **types.get("optional", {})}


def test_the_nodes_are_exactly_the_pinned_ones(host):
    assert ours(host).keys() == PINS.keys(), "run nox -s texts"


@pytest.mark.parametrize("name", PINS)
def test_inputs_and_outputs_keep_their_names_and_order(host, name):
    now = schemas.pins([host.registry[name]])
    assert now == {name: PINS[name]}, "run nox -s texts"


@pytest.mark.parametrize("name", PINS)
def test_every_input_and_output_has_a_tooltip(host, name):
    node = host.registry[name]
    for key, (_, options) in inputs(node).items():
        assert len(options.get("tooltip", "")) > 10, key
    tooltips = node.GET_SCHEMA().outputs
    for output in tooltips:
        assert len(output.tooltip or "") > 10, output.display_name


@pytest.mark.parametrize("name", PINS)
def test_every_node_has_a_place_in_the_menu_and_a_description(host, name):
    node = host.registry[name]
    group = node.CATEGORY.removeprefix("ControlNet++/")
    assert group in MENU["nodeCategories"], "translate the group in locales/zh/main.json"
    assert len(node.DESCRIPTION) > 30


def test_every_slider_names_its_resolution(host):
    options = inputs(host.registry["CNPP_BlockScalesSD15"])
    assert "64x64" in options["in_0"][1]["tooltip"]
    assert "32x32" in options["in_3"][1]["tooltip"]
    assert "16x16" in options["in_8"][1]["tooltip"]
    assert "8x8" in options["middle"][1]["tooltip"]
    options = inputs(host.registry["CNPP_BlockScalesSDXL"])
    assert "128x128" in options["in_0"][1]["tooltip"]
    assert "32x32" in options["middle"][1]["tooltip"]


def test_the_defaults_of_the_sliders_are_neutral(host):
    for name in SLIDERS:
        assert all(o["default"] == 1.0 for _, o in inputs(host.registry[name]).values())
