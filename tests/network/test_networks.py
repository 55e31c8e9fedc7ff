"""ControlNet and UNet against diffusers with the same random weights, and against the papers."""

import importlib

import pytest
import torch
from controlnet_pp.cnpp_core.network.blocks import Place, scaled_dot_product
from controlnet_pp.cnpp_core.network.config import SD15, SD21, SDXL, NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.tests.network.small import SMALL, TINY

pytest.importorskip("diffusers", reason="diffusers is the oracle of these tests")
oracle = importlib.import_module("controlnet_pp.tests.network.diffusers_oracle")


def random_weights(net, seed: int = 0):
    """Random everywhere, the zero convolutions included, else nothing would be compared."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        noise = torch.randn(parameter.shape, generator=generator)
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        with torch.no_grad():
            scale = fan_in**-0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(offset + scale * noise)
    return net.eval()


def inputs(config, batch: int = 2, height: int = 8, width: int = 16):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, config.in_channels, height, width, generator=generator)
    hint = torch.rand(batch, config.hint_channels, 8 * height, 8 * width, generator=generator)
    timesteps = torch.tensor([999.0, 3.0])[:batch]
    context = torch.randn(batch, 7, config.context_dim, generator=generator)
    return x, hint, timesteps, context


def relative_error(ours, theirs) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def compare_with_diffusers(config, batch, height, width):
    net, unet = random_weights(ControlNet(config)), random_weights(UNet(config), seed=7)
    x, hint, timesteps, context = inputs(config, batch, height, width)
    y, added = oracle.label_inputs(config, batch)
    with torch.no_grad():
        residuals = net(x, hint, timesteps, context, y)
        down, mid = oracle.controlnet(net)(
            x, timesteps, context, hint, added_cond_kwargs=added, return_dict=False
        )
        for ours, theirs in zip(residuals, (*down, mid), strict=True):
            assert relative_error(ours, theirs) < 1e-4
        theirs = oracle.unet(unet)(
            x,
            timesteps,
            context,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample
        ours = unet(x, timesteps, context, y, residuals=residuals)
        assert relative_error(ours, theirs) < 1e-4
        assert relative_error(unet(x, timesteps, context, y), theirs) > 1e-2  # control did matter


@pytest.mark.parametrize("family", SMALL)
def test_residuals_and_noise_agree_with_diffusers(family):
    compare_with_diffusers(SMALL[family], batch=2, height=8, width=16)


@pytest.mark.slow
def test_residuals_and_noise_agree_with_diffusers_at_the_true_size_of_sd15():
    compare_with_diffusers(SD15, batch=1, height=32, width=32)


@pytest.mark.parametrize(
    ("config", "family", "blocks", "control_parameters", "control_tensors", "unet_parameters"),
    [
        (SD15, "SD1.5", 13, 361_279_120, 340, 859_520_964),
        (SD21, "SD2.x", 13, 364_228_240, 340, 865_910_724),
        (SDXL, "SDXL", 10, 1_251_014_160, 844, 2_567_463_684),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_full_size_networks_have_the_published_counts(
    config, family, blocks, control_parameters, control_tensors, unet_parameters
):
    net, unet = ControlNet(config, device="meta"), UNet(config, device="meta")
    assert (config.family, config.blocks) == (family, blocks)
    assert sum(p.numel() for p in net.parameters()) == control_parameters
    assert len(net.state_dict()) == control_tensors
    assert sum(p.numel() for p in unet.parameters()) == unet_parameters


def test_full_sdxl_has_diffusers_keys_and_shapes():
    config, arguments = SDXL, oracle.settings(SDXL)
    for net, load in (
        (ControlNet(config, device="meta"), oracle.controlnet),
        (UNet(config, device="meta"), oracle.unet),
    ):
        theirs = load(net)  # strict: fails where a key or a shape differs
        assert len(theirs.state_dict()) == len(net.state_dict())
    assert arguments["transformer_layers_per_block"] == (1, 2, 10)


@pytest.mark.parametrize("family", SMALL)
def test_a_fresh_controlnet_leaves_the_unet_unchanged_bit_for_bit(family):
    config = SMALL[family]
    unet = random_weights(UNet(config))
    net = ControlNet.from_unet(unet)
    x, hint, timesteps, context = inputs(config)
    y, _ = oracle.label_inputs(config, 2)
    with torch.no_grad():
        residuals = net(x, hint, timesteps, context, y)
        assert all(not block.any() for block in residuals)
        alone = unet(x, timesteps, context, y)
        assert torch.equal(unet(x, timesteps, context, y, residuals=residuals), alone)


def test_a_fresh_controlnet_starts_from_the_encoder_of_its_unet():
    unet = random_weights(UNet(TINY))
    copied = ControlNet.from_unet(unet).state_dict()
    theirs = unet.state_dict()
    shared = copied.keys() & theirs.keys()
    assert shared == {k for k in theirs if not k.startswith(("output_blocks", "out."))}
    assert all(torch.equal(copied[key], theirs[key]) for key in shared)


def test_residual_shapes_are_those_the_configuration_promises():
    for config in SMALL.values():
        net = random_weights(ControlNet(config))
        x, hint, timesteps, context = inputs(config, batch=1, height=16, width=16)
        y, _ = oracle.label_inputs(config, 1)
        with torch.no_grad():
            shapes = [tuple(r.shape[1:]) for r in net(x, hint, timesteps, context, y)]
        assert shapes == [(c, 16 // s, 16 // s) for c, s in config.block_layout]


def test_each_residual_enters_at_its_own_skip_connection():
    unet = random_weights(UNet(TINY))
    x, _, timesteps, context = inputs(TINY)
    seen = {}
    for depth, block in enumerate(unet.output_blocks):
        block[0].register_forward_pre_hook(
            lambda _, args, depth=depth: seen.__setitem__(depth, args[0])
        )
    with torch.no_grad():
        unet(x, timesteps, context)
        before = dict(seen)
        control: list = [None] * TINY.blocks
        control[0] = torch.ones(1, 32, 8, 16)  # shallowest: reaches the last output block only
        unet(x, timesteps, context, residuals=control)
    last = len(unet.output_blocks) - 1
    assert all(torch.equal(seen[i], before[i]) for i in range(last))
    assert torch.allclose(seen[last] - before[last], _ones_on_the_skip(seen[last]), atol=1e-5)


def _ones_on_the_skip(features):
    expected = torch.zeros_like(features)
    expected[:, -32:] = 1.0
    return expected


def test_an_odd_latent_size_passes_through_both_networks():
    net, unet = random_weights(ControlNet(TINY)), random_weights(UNet(TINY))
    x, hint, timesteps, context = inputs(TINY, height=15, width=17)
    with torch.no_grad():
        eps = unet(x, timesteps, context, residuals=net(x, hint, timesteps, context))
    assert eps.shape == x.shape


def test_residuals_of_another_family_are_refused_by_number_and_by_shape():
    unet = random_weights(UNet(TINY))
    x, _, timesteps, context = inputs(TINY)
    with pytest.raises(ValueError, match="takes 5 control residuals, found 13"):
        unet(x, timesteps, context, residuals=[None] * 13)
    wrong = [None, torch.zeros(2, 64, 8, 16), None, None, None]
    with pytest.raises(ValueError, match=r"input block 1 has shape \(2, 64, 8, 16\)"):
        unet(x, timesteps, context, residuals=wrong)


def test_a_missing_pooled_embedding_is_named():
    config = SMALL["SDXL"]
    x, _, timesteps, context = inputs(config)
    with pytest.raises(ValueError, match="pooled text embedding y of width 96, found none"):
        random_weights(UNet(config))(x, timesteps, context)


def test_lists_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="transformer_depth names 8 ResBlocks"):
        NetworkConfig(channel_mult=(1, 2), num_res_blocks=(2, 2))


def test_attention_is_told_its_layer_and_whether_it_looks_at_the_prompt():
    """A function that treats one self-attention differently changes that layer and no other."""
    seen: list[Place] = []

    def attention(q, k, v, heads, place):
        seen.append(place)
        return scaled_dot_product(q, k, v, heads, place)

    unet = UNet(TINY, attention=attention)
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 3, TINY.context_dim)
    unet(x, torch.tensor([5]), context)
    end = ".attn1.to_q.weight"
    layers = {name.removesuffix(end) for name in unet.state_dict() if name.endswith(end)}
    assert {place.layer for place in seen} == layers
    assert len(seen) == 2 * len(layers)
    assert [place.cross for place in seen] == [False, True] * len(layers)
    assert seen[0].layer.startswith("input_blocks.")
    assert seen[-1].layer.startswith("output_blocks.")
