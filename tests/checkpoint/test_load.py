"""Loading a ControlNet in each of its layouts."""

from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import (
    load_controlnet_file,
    report,
    to_diffusers,
)
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.tests.checkpoint.files import (
    LAYOUTS,
    TINY,
    UNION,
    prefixed,
    same,
    saved,
    weights,
)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin", ".ckpt", ".pt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_in_every_container(tmp_path, layout, suffix):
    loaded = load_controlnet_file(saved(tmp_path / f"n{suffix}", LAYOUTS[layout](weights())))
    assert loaded.format == layout
    assert loaded.config == TINY
    assert same(loaded.state_dict, weights())


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_storage_is_kept_and_reported(tmp_path, dtype):
    stored = weights(dtype=dtype)
    loaded = load_controlnet_file(saved(tmp_path / "n.safetensors", to_diffusers(stored, TINY)))
    assert same(loaded.state_dict, stored)
    assert loaded.dtype == dtype
    elements = sum(tensor.numel() for tensor in stored.values())
    assert loaded.bytes_by_dtype == {dtype: elements * dtype.itemsize}


def test_of_mixed_storage_the_one_with_most_bytes_is_reported(tmp_path):
    mixed = {
        name: tensor if tensor.ndim < 2 else tensor.half() for name, tensor in weights().items()
    }
    loaded = load_controlnet_file(saved(tmp_path / "n.safetensors", mixed))
    assert loaded.dtype == torch.float16
    assert list(loaded.bytes_by_dtype) == [torch.float16, torch.float32]
    assert same(loaded.state_dict, mixed)


@pytest.mark.parametrize("types", [6, 8])
def test_a_union_network_in_both_layouts(tmp_path, types):
    config = replace(UNION, union_types=types)
    original = weights(config)
    theirs = to_diffusers(original, config)
    assert "transformer_layes.0.attn.in_proj_weight" in theirs
    name = f"union, {types} types" + (" (ProMax)" if types == 8 else "")
    for layout, expected in ((theirs, name), (original, f"{name}, original layout")):
        loaded = load_controlnet_file(saved(tmp_path / "n.safetensors", layout))
        assert (loaded.format, loaded.config) == (expected, config)
        assert same(loaded.state_dict, original)


def test_the_summary_says_what_was_loaded(tmp_path):
    mixed = weights() | {"zero_convs.0.0.bias": torch.zeros(32).half()}
    loaded = load_controlnet_file(saved(tmp_path / "n.pth", LAYOUTS["diffusers"](mixed)))
    parameters = sum(tensor.numel() for tensor in mixed.values())
    assert loaded.summary().splitlines() == [
        f"custom ControlNet, {TINY.blocks} blocks",
        f"{parameters:,} parameters in {len(mixed)} tensors",
        "format: diffusers",
        f"stored: {(parameters - 32) * 4 / 1e6:,.1f} MB as fp32, 0.0 MB as fp16",
    ]


def test_the_network_computes_with_the_stored_weights(tmp_path):
    expected = ControlNet(TINY)
    expected.load_state_dict(weights())
    net = load_controlnet_file(saved(tmp_path / "n.safetensors", weights())).network()
    x, hint, context = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 64, 64), torch.randn(1, 5, 24)
    with torch.no_grad():
        pairs = zip(*(n(x, hint, torch.tensor([9]), context) for n in (net, expected)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_network_in_another_type(tmp_path):
    path = saved(tmp_path / "n.safetensors", weights(dtype=torch.float8_e4m3fn))
    net = load_controlnet_file(path).network(dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in net.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_controlnet_of_an_inpaint_unet_reads_nine_channels_and_says_so(tmp_path, layout):
    nine = replace(TINY, in_channels=9)
    net = weights(nine) if layout == "original" else to_diffusers(weights(nine), nine)
    path = saved(tmp_path / "n.safetensors", net)
    loaded = load_controlnet_file(path)
    assert loaded.config == nine
    assert (loaded.config.in_channels, loaded.config.hint_channels) == (9, 3)
    said = "custom ControlNet for latents of 9 channels, an inpaint model's"
    assert loaded.summary().startswith(said)
    assert report(loaded.config).title == said
    with torch.no_grad():
        residuals = loaded.network()(
            torch.randn(1, 9, 8, 8),
            torch.rand(1, 3, 64, 64),
            torch.tensor([9]),
            torch.ones(1, 5, 24),
        )
    assert len(residuals) == nine.blocks


def test_inside_a_training_checkpoint_the_rest_is_ignored_and_logged(tmp_path, caplog):
    caplog.set_level("INFO")
    rest = {
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1),
        "first_stage_model.decoder.conv_in.weight": torch.zeros(1),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.zeros(1),
        "model_ema.decay": torch.zeros(1),
        "alphas_cumprod": torch.zeros(1),
        "sqrt_one_minus_alphas_cumprod": torch.zeros(1),
        "posterior_mean_coef1": torch.zeros(1),
        "global_step": torch.tensor(7),
    }
    path = saved(tmp_path / "n.safetensors", rest | prefixed("control_model.", weights()))
    assert same(load_controlnet_file(path).state_dict, weights())
    assert "ignored 8 tensors" in caplog.text


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_a_difference_file_is_completed_by_the_unet(tmp_path, prefix):
    full = weights(dtype=torch.float16)
    unet = {k: torch.randn(v.shape).half() for k, v in UNet(TINY).state_dict().items()}
    difference = {k: v - unet[k] if k in unet else v for k, v in full.items()}
    marked = prefixed("control_model.", difference) | {"difference": torch.zeros(1)}
    path = saved(tmp_path / "n.safetensors", marked)

    loaded = load_controlnet_file(path, unet_state_dict=prefixed(prefix, unet))
    assert loaded.format == "difference"
    assert loaded.config == TINY
    assert loaded.dtype == torch.float16
    for name, tensor in full.items():
        if name in unet:
            torch.testing.assert_close(loaded.state_dict[name], tensor, rtol=0, atol=0.01)
        else:
            assert torch.equal(loaded.state_dict[name], tensor)
    again = load_controlnet_file(path, unet_state_dict=prefixed(prefix, unet))
    assert same(again.state_dict, loaded.state_dict)
