"""What a ControlNet begins from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.cnpp_core.training.initialise import begin_controlnet, zero_last_layers
from controlnet_pp.tests.network.small import SMALL
from controlnet_pp.tests.training.tiny import CONFIG, batch, filled


@pytest.mark.parametrize("hint_channels", [1, 3, 6])
@pytest.mark.parametrize("family", SMALL)
def test_a_fresh_controlnet_leaves_the_output_of_any_unet_as_it_is(family, hint_channels):
    config = SMALL[family]
    unet = filled(UNet(config))
    net, said = begin_controlnet(unet, hint_channels)
    one = batch(2, replace(config, hint_channels=hint_channels))
    t = torch.tensor([900, 30])
    with torch.no_grad():
        residuals = net(one.x0, one.hint, t, one.context, one.y)
        alone = unet(one.x0, t, one.context, one.y)
        assert torch.equal(unet(one.x0, t, one.context, one.y, residuals=residuals), alone)
    theirs = unet.state_dict()
    copied = [name for name, value in net.state_dict().items() if name in theirs]
    assert all(torch.equal(net.state_dict()[name], theirs[name]) for name in copied)
    assert said.startswith("The encoder is the model's")


def test_the_seed_decides_the_hint_block_and_nothing_else_is_drawn_from():
    unet = filled(UNet(CONFIG))
    before = torch.get_rng_state()
    nets = [begin_controlnet(unet, seed=seed)[0].state_dict() for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    differ = [name for name in nets[0] if not torch.equal(nets[0][name], nets[2][name])]
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert differ == [name for name in nets[0] if name.startswith("input_hint_block.")]


def test_a_controlnet_begins_from_another_with_all_its_weights():
    source = filled(ControlNet(CONFIG))
    net, said = begin_controlnet(source)
    assert said.startswith("All weights")
    for name, value in net.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])
        assert value.data_ptr() != source.state_dict()[name].data_ptr()


def test_for_hints_of_other_channels_only_the_first_hint_convolution_is_new():
    source = filled(ControlNet(CONFIG))
    net, said = begin_controlnet(source, hint_channels=1)
    theirs = source.state_dict()
    fresh = {n for n, v in net.state_dict().items() if not torch.equal(v, theirs[n])}
    assert fresh == {"input_hint_block.0.weight", "input_hint_block.0.bias"}
    assert "Only input_hint_block.0 is new, for 1 hint channels instead of 3" in said
    assert (net.config.hint_channels, source.config.hint_channels) == (1, 3)
    one = batch(2, net.config)
    assert net(one.x0, one.hint, torch.tensor([5, 9]), one.context)[-1].isfinite().all()


def test_half_precision_becomes_float32_with_the_same_values():
    source = filled(ControlNet(CONFIG)).half()
    net, _ = begin_controlnet(source)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert source.dtype == torch.float16
    assert torch.equal(net.time_embed[0].weight, source.time_embed[0].weight.float())
    assert begin_controlnet(UNet(CONFIG, dtype=torch.float16))[0].dtype == torch.float32


def test_a_union_network_is_refused():
    union = ControlNet(replace(CONFIG, union_types=6))
    with pytest.raises(ValueError, match="union network of 6 types; begin from the model"):
        begin_controlnet(union)


def test_a_unet_with_zeroed_layers_predicts_nothing_yet():
    unet = filled(UNet(CONFIG))
    zero_last_layers(unet)
    one = batch(2)
    assert not unet(one.x0, torch.tensor([1, 2]), one.context).any()
    h = torch.randn(2, 32, 8, 8)
    emb = torch.randn(2, CONFIG.time_embed_dim)
    assert torch.equal(unet.input_blocks[1](h, emb, one.context), h)
