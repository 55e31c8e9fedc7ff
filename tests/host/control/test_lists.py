"""The lists of residuals that a control answers with, read and written back."""

from __future__ import annotations

import torch
from controlnet_pp.tests.host.control.shaping import block_scales


def lists_of(host, **keys):
    return {"input": [], "middle": [], "output": []} | keys


def test_a_muted_place_holds_zeros_where_the_model_adds_whatever_it_finds(host):
    """HunyuanDiT adds each control to a skip connection without looking whether there is one."""
    module = host.pack("nodes.host.control.lists")
    answer = lists_of(host, output=[torch.ones(2, 6, 4) for _ in range(3)])
    layout = module.Layout.of(answer, unet=None)
    residuals = layout.read(answer, 2).scaled(block_scales(host, 1.0, 0.0, 2.0))
    written = layout.write(residuals)["output"]
    assert [float(block.mean()) for block in written] == [1.0, 0.0, 2.0]
    skip = torch.ones(2, 6, 4)
    assert torch.equal(skip + written[1], skip)


def test_places_that_a_control_leaves_empty_stay_empty(host):
    module = host.pack("nodes.host.control.lists")
    answer = lists_of(host, input=[torch.ones(1, 6, 4), None])
    layout = module.Layout.of(answer, unet=None)
    written = layout.write(layout.read(answer, 1).scaled(block_scales(host, 0.0, 1.0)))
    assert written["input"] == [None, None]
