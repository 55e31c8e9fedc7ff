"""What users see of the nodes, and what saved workflows rely on."""

from __future__ import annotations

import pytest

SLIDERS = {
    "CNPP_BlockScalesSD15": [*(f"in_{i}" for i in range(12)), "middle"],
    "CNPP_BlockScalesSDXL": [*(f"in_{i}" for i in range(9)), "middle"],
}
ANNOTATE = ["resolution", "download", "target_width", "target_height"]
# Inputs in their order, outputs by type. Widget values are saved by position: append, never insert.
PINNED = {
    "CNPP_LoadControlNet": (["control_net_name", "dtype", "model"], ["CONTROL_NET", "STRING"]),
    "CNPP_ControlNetReport": (["control_net", "width", "height"], ["STRING", "STRING"]),
    "CNPP_DemoModel": (
        ["example"],
        ["MODEL", "CLIP", "VAE", "CONTROL_NET", "IMAGE", "STRING", "ANNOTATOR"],
    ),
    "CNPP_Apply": (
        [
            "positive",
            "negative",
            "control_net",
            "image",
            "strength",
            "start_percent",
            "end_percent",
            "scales",
            "vae",
        ],
        ["CONDITIONING", "CONDITIONING"],
    ),
    "CNPP_BlockScalesSD15": (SLIDERS["CNPP_BlockScalesSD15"], ["BLOCK_SCALES"]),
    "CNPP_BlockScalesSDXL": (SLIDERS["CNPP_BlockScalesSDXL"], ["BLOCK_SCALES"]),
    "CNPP_BlockScalePreset": (["preset", "strength"], ["BLOCK_SCALES"]),
    "CNPP_ScaleSchedule": (
        ["schedule", "interpolation", "scales", "previous"],
        ["BLOCK_SCALES"],
    ),
    "CNPP_BlockMasks": (
        ["control_net", "mask", "blocks", "block", "invert", "feather"],
        ["CONTROL_NET"],
    ),
    "CNPP_ControlMode": (
        [
            "control_net",
            "mode",
            "cond_strength",
            "uncond_strength",
            "cond_scales",
            "uncond_scales",
        ],
        ["CONTROL_NET"],
    ),
    "CNPP_HintFit": (["control_net", "fit", "resampling", "follow_area"], ["CONTROL_NET"]),
    "CNPP_ControlSpeed": (
        [
            "control_net",
            "reuse_every",
            "fresh_steps",
            "max_drift",
            "lazy",
            "overlap",
            "channels_last",
            "compile",
        ],
        ["CONTROL_NET"],
    ),
    "CNPP_UnionControlType": (["control_net", "type", "weight", "image"], ["CONTROL_NET"]),
    "CNPP_Canny": (
        ["image", "mode", "low", "high", "resolution", "target_width", "target_height"],
        ["IMAGE", "ANNOTATOR"],
    ),
    "CNPP_SoftEdge": (["image", "safe", *ANNOTATE], ["IMAGE", "ANNOTATOR"]),
    "CNPP_LineArt": (["image", "style", *ANNOTATE], ["IMAGE", "ANNOTATOR"]),
    "CNPP_MLSD": (["image", "score", "distance", *ANNOTATE], ["IMAGE", "ANNOTATOR"]),
    "CNPP_Scribble": (["image", "method", "threshold", *ANNOTATE], ["IMAGE", "ANNOTATOR"]),
    "CNPP_OpenPose": (
        ["image", "body", "hands", "sticks", *ANNOTATE],
        ["IMAGE", "ANNOTATOR", "POSE_KEYPOINT", "STRING"],
    ),
    "CNPP_Depth": (["image", *ANNOTATE], ["IMAGE", "ANNOTATOR"]),
    "CNPP_Normal": (
        ["image", "source", "background", "strength", *ANNOTATE],
        ["IMAGE", "ANNOTATOR"],
    ),
    "CNPP_Segmentation": (["image", "model_name", *ANNOTATE], ["IMAGE", "ANNOTATOR", "MASK"]),
    "CNPP_Annotate": (
        ["image", "condition", *ANNOTATE, "other_annotator"],
        ["IMAGE", "ANNOTATOR"],
    ),
    "CNPP_OpenPoseDraw": (
        ["json", "body", "hands", "face", "sticks", "width", "height", "keypoints"],
        ["IMAGE", "POSE_KEYPOINT", "STRING"],
    ),
    "CNPP_CycleConsistencyCheck": (
        ["images", "condition", "kind", "tolerance", "mask", "annotator"],
        ["FLOAT", "IMAGE", "IMAGE", "STRING"],
    ),
    "CNPP_PickMostConsistent": (
        ["images", "condition", "kind", "tolerance", "count", "latent", "mask", "annotator"],
        ["IMAGE", "LATENT", "FLOAT", "INT", "STRING", "STRING"],
    ),
    "CNPP_ConsistencySearch": (
        [
            *("model", "positive", "negative", "control_net", "condition", "latent_image", "vae"),
            *("seed", "seeds", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
            *("strengths", "presets", "start_percent", "end_percent", "kind", "tolerance"),
            *("max_trials", "scales", "mask", "annotator"),
        ],
        ["IMAGE", "LATENT", "FLOAT", "INT", "FLOAT", "STRING", "IMAGE", "BLOCK_SCALES"],
    ),
    "CNPP_ConsistencyGuidance": (
        [
            *("model", "vae", "condition", "kind", "strength", "start_percent", "end_percent"),
            *("every", "bound", "full_gradient", "mask", "annotator"),
        ],
        ["MODEL"],
    ),
    "CNPP_ConsistencyFeedback": (
        [
            *("model", "control_net", "vae", "condition", "kind", "tolerance", "target", "gain"),
            *("memory", "min_factor", "max_factor", "start_percent", "end_percent", "every"),
            *("mask", "annotator"),
        ],
        ["MODEL", "CONTROL_NET", "FEEDBACK"],
    ),
    "CNPP_ConsistencyFeedbackPlot": (["feedback", "latent"], ["IMAGE", "STRING"]),
    "CNPP_ResidualEnergy": (["model"], ["MODEL", "RESIDUAL_ENERGY"]),
    "CNPP_ResidualEnergyPlot": (["energy", "latent", "limit"], ["IMAGE", "STRING"]),
}


def ours(host):
    return {name: node for name, node in host.registry.items() if name.startswith("CNPP_")}


def inputs(node):
    types = node.INPUT_TYPES()
    return {**types.get("required", {}), **types.get("optional", {})}


def test_the_nodes_are_exactly_the_pinned_ones(host):
    assert ours(host).keys() == PINNED.keys()


@pytest.mark.parametrize("name", PINNED)
def test_inputs_and_outputs_keep_their_names_and_order(host, name):
    node = host.registry[name]
    assert list(inputs(node)) == PINNED[name][0]
    assert list(node.RETURN_TYPES) == PINNED[name][1]


@pytest.mark.parametrize("name", PINNED)
def test_every_input_and_output_has_a_tooltip(host, name):
    node = host.registry[name]
    for key, (_, options) in inputs(node).items():
        assert len(options.get("tooltip", "")) > 10, key
    tooltips = node.GET_SCHEMA().outputs
    for output in tooltips:
        assert len(output.tooltip or "") > 10, output.display_name


@pytest.mark.parametrize("name", PINNED)
def test_every_node_has_a_place_in_the_menu_and_a_description(host, name):
    node = host.registry[name]
    group = node.CATEGORY.removeprefix("ControlNet++/")
    assert group in ("load", "control", "annotate", "consistency")
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
