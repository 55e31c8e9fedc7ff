"""A configuration read off a network's shapes is the one it was built from."""

from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import read_config
from controlnet_pp.cnpp_core.network.config import SD15, SD21, SDXL, NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.tests.source import thawed

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


@st.composite
def configs(draw) -> NetworkConfig:
    mults = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    blocks = tuple(draw(st.integers(1, 3)) for _ in mults)
    depth = st.integers(0, 3)
    linear = draw(st.booleans())
    depths = tuple(draw(depth) for _ in range(sum(blocks)))
    config = NetworkConfig(
        model_channels=64 * draw(st.integers(1, 3)) if linear else 32 * draw(st.integers(1, 3)),
        channel_mult=mults,
        num_res_blocks=blocks,
        transformer_depth=(max(depths[0], 1), *depths[1:]),  # heads show only in a transformer
        transformer_depth_middle=draw(st.integers(-1, 3)),
        context_dim=8 * draw(st.integers(1, 5)),
        adm_in_channels=draw(st.none() | st.integers(1, 50)),
        head_channels=64 if linear else None,
        use_linear_in_transformer=linear,
        in_channels=draw(st.integers(1, 9)),
    )
    return config


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    config=configs(), hint_channels=st.integers(1, 8), union=st.none() | st.integers(1, 9)
)
def test_any_controlnet(config, hint_channels, union):
    config = replace(config, hint_channels=hint_channels, union_types=union)
    assert read_config(ControlNet(config, device="meta").state_dict()) == config


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(config=configs(), out_channels=st.integers(1, 8), data=st.data())
def test_any_unet(config, out_channels, data):
    decoder = len(config.decoder_depths)
    depths = tuple(data.draw(st.integers(0, 3)) for _ in range(decoder))
    config = replace(config, out_channels=out_channels)
    if depths != config.decoder_depths:
        config = replace(config, transformer_depth_output=depths)
    assert read_config(UNet(config, device="meta").state_dict()) == config


@pytest.mark.parametrize("config", [SD15, SD21, SDXL], ids=["SD1.5", "SD2.x", "SDXL"])
def test_the_families_are_recognised(config):
    found = read_config(ControlNet(config, device="meta").state_dict())
    assert found == config
    assert found.family == config.family != "custom"


def test_linear_transformers_too_narrow_for_64_channels_a_head_have_8_heads():
    config = replace(SD15, model_channels=32, use_linear_in_transformer=True)
    assert read_config(ControlNet(config, device="meta").state_dict()) == config


def test_a_missing_tensor_is_named():
    state_dict = ControlNet(SD15, device="meta").state_dict()
    del state_dict["input_blocks.4.0.in_layers.2.weight"]
    with pytest.raises(ValueError, match=r"input_blocks\.4\.0\.in_layers\.2\.weight"):
        read_config(state_dict)


def test_a_width_that_no_normalisation_divides_is_named():
    state_dict = dict(ControlNet(SD15, device="meta").state_dict())
    state_dict["input_blocks.0.0.weight"] = torch.empty(1, 4, 3, 3, device="meta")
    with pytest.raises(ValueError, match="1 channels wide, which must be a multiple of 32"):
        read_config(state_dict)


def test_a_missing_tensor_reaches_users_as_a_plain_error():
    with pytest.raises(ValueError, match=r"no tensor input_blocks\.0") as caught:
        read_config({})
    assert type(caught.value) is ValueError  # ComfyUI shows other classes with their module's path


def test_a_width_that_is_no_multiple_is_named():
    state_dict = dict(ControlNet(SD15, device="meta").state_dict())
    state_dict["input_blocks.4.0.in_layers.2.weight"] = torch.empty(500, 320, 3, 3, device="meta")
    with pytest.raises(ValueError, match="500 channels"):
        read_config(state_dict)


def test_what_was_read_of_a_file_cannot_be_changed():
    assert not thawed("cnpp_core/checkpoint")
