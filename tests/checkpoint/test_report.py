"""Parameters and MACs against the published and independently counted numbers."""

import json
from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import report, report_module
from controlnet_pp.cnpp_core.checkpoint.report import network_title, weights_text
from controlnet_pp.cnpp_core.network.config import SD15, SDXL
from torch import nn


@pytest.mark.parametrize(
    ("kind", "parameters", "tensors"),
    [("ControlNet", 361_279_120, 340), ("UNet", 859_520_964, 686)],
)
def test_sd15_has_the_published_parameters(kind, parameters, tensors):
    found = report(SD15, kind=kind, width=64, height=64)
    assert (found.parameters, found.tensors) == (parameters, tensors)


@pytest.mark.parametrize(
    ("config", "kind", "batch", "gmac"),
    [
        (SD15, "ControlNet", 1, 141.65),
        (SD15, "ControlNet", 2, 283),
        (SD15, "UNet", 2, 803),
        (SDXL, "UNet", 2, 6761),
    ],
)
def test_macs_of_the_families(config, kind, batch, gmac):
    assert report(config, kind=kind, batch=batch).macs / 1e9 == pytest.approx(gmac, rel=0.005)


@pytest.mark.parametrize(("config", "gmac"), [(SD15, 7.4), (SDXL, 29.4)])
def test_macs_of_the_hint_block(config, gmac):
    hint = next(block for block in report(config).blocks if block.name == "hint")
    assert hint.macs / 1e9 == pytest.approx(gmac, rel=0.01)


def test_macs_of_sdxl_with_one_hint_for_both_rows():
    found = report(SDXL, batch=2)
    hint = next(block for block in found.blocks if block.name == "hint")
    assert (found.macs - hint.macs / 2) / 1e9 == pytest.approx(2991, rel=0.005)


SMALL = replace(SD15, model_channels=32, context_dim=24)
UNION = replace(SMALL, union_types=8, adm_in_channels=20, transformer_depth_middle=-1)


@pytest.mark.parametrize("kind", ["ControlNet", "UNet"])
@pytest.mark.parametrize("config", [SMALL, UNION], ids=["SD1.5", "union"])
def test_the_blocks_add_up_to_the_whole(config, kind):
    if kind == "UNet":
        config = replace(config, union_types=None)
    found = report(config, kind=kind, width=128, height=64)
    assert sum(block.macs for block in found.blocks) == found.macs
    in_blocks = sum(block.parameters for block in found.blocks)
    union_types = config.union_types or 0
    assert found.parameters - in_blocks == union_types * config.model_channels  # task_embedding


def test_output_shapes_are_those_of_the_residuals():
    found = report(SD15, width=512, height=768, batch=3)
    residuals = [b.output_shape for b in found.blocks if b.name.startswith(("input", "middle"))]
    assert residuals == [(3, c, 96 // down, 64 // down) for c, down in SD15.block_layout]


def test_any_module_is_counted_with_what_it_computes_outside_its_children():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.head = nn.Linear(8, 5)

        def forward(self, image):
            features = self.conv(image).mean((2, 3))
            return self.head(features @ features.new_zeros(8, 8))

    net = Net()
    found = report_module(net, {"image": torch.rand(2, 3, 10, 7)}, title="net", example_text="here")
    macs = {block.name: block.macs for block in found.blocks}
    assert macs == {"conv": 2 * 70 * 8 * 27, "head": 2 * 40}
    assert found.macs == sum(macs.values()) + 2 * 64
    assert [block.parameters for block in found.blocks] == [8 * 27 + 8, 45]
    assert next(net.parameters()).device.type == "cpu"


TEXT = """\
net, 2 blocks
4,027,400 parameters in 4 tensors
16.1 MB as fp32, 8.1 MB as fp16, 4.0 MB as fp8
0.31 GMAC at here

block       output                   parameters      GMAC
conv        2 x 800 x 100 x 70           22,400      0.30
head        2 x 5000                  4,005,000      0.01"""


def test_the_columns_of_the_text_stand_below_their_heads():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 800, 3, padding=1)
            self.head = nn.Linear(800, 5000)

        def forward(self, image):
            return self.head(self.conv(image).mean((2, 3)))

    image = torch.empty(2, 3, 100, 70)
    found = report_module(
        Net(), {"image": image}, title="net", example_text="here", residuals=2, family="none"
    )
    assert found.text() == TEXT
    assert (found.family, found.residuals, found.example) == ("none", 2, "here")


def test_what_is_known_of_weights_without_running_them():
    weights = {"a": torch.empty(3, 500, 1000), "b": torch.empty(7)}
    assert weights_text(SD15, weights).splitlines() == [
        "SD1.5 ControlNet, 13 blocks",
        "1,500,007 parameters in 2 tensors",
        "6.0 MB as fp32, 3.0 MB as fp16, 1.5 MB as fp8",
    ]


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        (3, " for latents of 3 channels"),
        (4, ""),
        (5, " for latents of 5 channels"),
        (9, " for latents of 9 channels, an inpaint model's"),
    ],
)
def test_latents_that_are_not_the_usual_ones_are_in_the_title(channels, said):
    assert network_title(replace(SD15, in_channels=channels), "UNet") == f"SD1.5 UNet{said}"


def test_the_size_is_the_familys_where_none_is_given():
    assert report(SD15).example == "512 x 512, batch 1"
    assert report(SDXL, width=64, batch=2).example == "64 x 1024, batch 2"
    assert report(SDXL, height=64).example == "1024 x 64, batch 1"


def test_attention_is_counted():
    class Attention(nn.Module):
        def forward(self, q):
            return nn.functional.scaled_dot_product_attention(q, q, q)

    q = torch.empty(2, 3, 10, 4)
    found = report_module(Attention(), {"q": q}, title="attention", example_text="here")
    assert found.macs == 2 * (2 * 3 * 10 * 10 * 4)


def test_it_works_as_the_host_calls_nodes():
    with torch.inference_mode():
        found = report.__wrapped__(SD15, width=64, height=64)
    assert found.macs == report(SD15, width=64, height=64).macs


def test_the_text_names_the_facts_and_the_dictionary_is_json():
    found = report(SD15)
    text = found.text()
    for fact in ("SD1.5 ControlNet, 13 blocks", "361,279,120", "722.6 MB as fp16", "141.65 GMAC"):
        assert fact in text
    assert len(found.text(blocks=False).splitlines()) == 4
    assert json.loads(json.dumps(found.as_dict()))["bytes"]["fp16"] == 722_558_240


@pytest.mark.parametrize(
    "wrong", [{"width": 100}, {"height": 68}, {"batch": 0}, {"kind": "VAE"}], ids=str
)
def test_a_wrong_request_is_refused(wrong):
    with pytest.raises(ValueError, match=str(*wrong.values())):
        report(SD15, **wrong)
