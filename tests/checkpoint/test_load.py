"""Loading a ControlNet in each of its layouts, and refusing what is something else."""

import re
from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import (
    load_controlnet_file,
    to_diffusers,
)
from controlnet_pp.cnpp_core.network.config import SD15, NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from safetensors.torch import save_file

TINY = NetworkConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(1, 1),
    transformer_depth=(0, 1),
    context_dim=24,
)
UNION = replace(TINY, union_types=8, adm_in_channels=20)


def weights(config=TINY, seed=0, dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    empty = ControlNet(config, device="meta").state_dict()
    return {k: torch.randn(v.shape, generator=generator).to(dtype) for k, v in empty.items()}


def saved(path, tensors):
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(tensor.view(torch.uint8), expected[name].view(torch.uint8))
        for name, tensor in found.items()
    )


LAYOUTS = {
    "original": lambda sd: sd,
    "original, control_model. prefix": lambda sd: prefixed("control_model.", sd),
    "original, module. prefix": lambda sd: prefixed("module.", sd),
    "original, module.control_model. prefix": lambda sd: prefixed("module.control_model.", sd),
    "diffusers": lambda sd: to_diffusers(sd, TINY),
}


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


def refusal(path, **arguments) -> str:
    with pytest.raises(ValueError, match=re.escape(path.name)) as error:
        load_controlnet_file(path, **arguments)
    assert type(error.value) is ValueError  # ComfyUI shows other classes with their module's path
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message  # one sentence
    assert ": " in message  # what it is: what to do
    return message


def test_a_difference_file_without_its_model_or_with_another_is_refused(tmp_path):
    marked = prefixed("control_model.", weights()) | {"difference": torch.zeros(1)}
    path = saved(tmp_path / "n.safetensors", marked)
    assert "connect MODEL" in refusal(path)
    wider = UNet(replace(TINY, context_dim=32)).state_dict()
    message = refusal(path, unet_state_dict=wider)
    assert "24" in message
    assert "32" in message
    assert "connect the MODEL" in refusal(path, unet_state_dict={"double_blocks.0": None})


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_missing_tensors_are_named_and_counted(tmp_path, layout):
    kept = weights()
    del kept["zero_convs.1.0.bias"], kept["middle_block.0.in_layers.0.bias"]
    message = refusal(saved(tmp_path / "n.safetensors", LAYOUTS[layout](kept)))
    total = len(weights())
    assert f"lacks 2 of {total}" in message
    assert "zero_convs.1.0.bias" in message
    assert "download it again" in message


def test_a_missing_tensor_that_decides_the_shape_is_named(tmp_path):
    kept = weights()
    del kept["input_blocks.3.0.in_layers.2.weight"]
    message = refusal(saved(tmp_path / "n.safetensors", kept))
    assert "input_blocks.3.0.in_layers.2.weight" in message
    assert "download it again" in message


def test_one_part_of_a_split_file_is_named_so(tmp_path):
    kept = {k: v for k, v in weights().items() if not k.startswith("middle_block.0.")}
    assert "split" in refusal(saved(tmp_path / "net-00001-of-00002.safetensors", kept))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_unknown_tensor_is_named_and_never_dropped(tmp_path, layout):
    tensors = LAYOUTS[layout](weights())
    first = next(iter(tensors))
    alien = first.partition(".")[0] + ".alien" if "prefix" in layout else "alien"
    tensors[alien] = torch.zeros(1)
    assert "alien" in refusal(saved(tmp_path / "n.safetensors", tensors))


def test_an_unknown_tensor_beside_a_prefixed_network_is_named(tmp_path):
    tensors = prefixed("control_model.", weights()) | {"alien.weight": torch.zeros(1)}
    assert "alien.weight" in refusal(saved(tmp_path / "n.safetensors", tensors))


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path):
    tensors = weights()
    tensors["input_hint_block.4.weight"] = torch.zeros(48, 16, 3, 3)
    message = refusal(saved(tmp_path / "n.safetensors", tensors))
    assert "input_hint_block.4.weight" in message
    assert "(48, 16, 3, 3) instead of (32, 16, 3, 3)" in message


def test_an_integer_tensor_is_refused(tmp_path):
    tensors = weights()
    tensors["time_embed.0.weight"] = tensors["time_embed.0.weight"].to(torch.int8)
    assert "torch.int8" in refusal(saved(tmp_path / "n.safetensors", tensors))


FULL = {
    "model.diffusion_model.input_blocks.0.0.weight": 0,
    "model.diffusion_model.output_blocks.0.0.in_layers.0.weight": 0,
    "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight": 0,
    "first_stage_model.decoder.conv_in.weight": 0,
}
NAMES = {
    "a LoRA": ["lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"],
    "a LoRA ": ["unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"],
    "a LoRA, LyCORIS": ["lora_unet_down_blocks_0_attentions_0_proj_in.hada_w1_a"],
    "a control-LoRA": ["lora_controlnet", "input_blocks.0.0.up", "zero_convs.0.0.weight"],
    "a ControlLLLite": ["lllite_unet_input_blocks_4_1_attn1_to_q.conditioning1.0.weight"],
    "a SparseCtrl": [
        "controlnet_cond_embedding.weight",
        "down_blocks.0.motion_modules.0.proj_in.weight",
    ],
    "a full checkpoint": FULL,
    "a UNet": [
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.output_blocks.0.0.skip.weight",
    ],
    "a VAE": ["encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"],
    "a VAE, TAESD": ["taesd_decoder.1.weight"],
    "a T2I adapter": ["body.0.in_conv.weight", "body.0.body.0.block1.weight"],
    "a T2I adapter, full": ["conv_in.weight", "body.0.block1.weight"],
    "an IP-Adapter": ["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"],
    "a textual inversion embedding": ["emb_params"],
    "a ControlNet for a transformer": [
        "controlnet_blocks.0.weight",
        "double_blocks.0.img_attn.norm.key_norm.scale",
    ],
    "a ControlNet for a transformer, Qwen Fun": [
        "control_blocks.0.after_proj.weight",
        "control_img_in.weight",
    ],
    "a transformer diffusion model": ["double_blocks.0.img_attn.qkv.weight"],
    "quantised": ["scaled_fp8", "input_blocks.0.0.weight", "zero_convs.0.0.weight"],
}
ADVICE = {
    "a LoRA": "models/loras",
    "a control-LoRA": "Load ControlNet Model",
    "a full checkpoint": "models/checkpoints",
    "a UNet": "models/diffusion_models",
    "a VAE": "models/vae",
    "a T2I adapter": "Load ControlNet Model",
    "a textual inversion embedding": "models/embeddings",
    "a ControlNet for a transformer": "Apply ControlNet++",
}


@pytest.mark.parametrize("what", NAMES)
def test_something_else_is_refused_by_its_name_and_sent_where_it_belongs(tmp_path, what):
    path = saved(tmp_path / "n.safetensors", {name: torch.zeros(1) for name in NAMES[what]})
    message = refusal(path)
    kind = what.partition(",")[0].strip()
    assert f"is {kind}" in message
    assert ADVICE.get(kind, "") in message


def test_an_ip_adapter_of_nested_dictionaries(tmp_path):
    nested = {"image_proj": {"proj.weight": torch.zeros(1)}, "ip_adapter": {"1.k": torch.zeros(1)}}
    assert "is an IP-Adapter" in refusal(saved(tmp_path / "n.bin", nested))


def test_anything_else_is_refused_by_some_of_its_names(tmp_path):
    path = saved(tmp_path / "n.safetensors", {f"blob{i}": torch.zeros(1) for i in range(5)})
    assert "blob0, blob1, blob2 and 2 more" in refusal(path)


def build_others():
    diffusers = pytest.importorskip("diffusers", reason="its models have the names of real files")
    transformers = pytest.importorskip("transformers")
    widths = {"block_out_channels": (32, 64), "cross_attention_dim": 8, "attention_head_dim": 8}
    down, up = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
    text = transformers.CLIPTextConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    small = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2}
    flux = small | {
        "num_single_layers": 1,
        "joint_attention_dim": 16,
        "pooled_projection_dim": 8,
        "axes_dims_rope": (2, 2, 4),
    }
    sd3 = small | {"joint_attention_dim": 8, "caption_projection_dim": 16}
    qwen = small | {"joint_attention_dim": 16, "axes_dims_rope": (2, 2, 4)}
    return {
        "a VAE": diffusers.AutoencoderKL,
        "a T2I adapter": lambda: diffusers.T2IAdapter(channels=(32, 64), num_res_blocks=1),
        "a UNet": lambda: diffusers.UNet2DConditionModel(
            down_block_types=down, up_block_types=up, **widths
        ),
        "a text or image encoder": lambda: transformers.CLIPTextModel(text),
        "a ControlNet for a transformer model, Flux": lambda: diffusers.FluxControlNetModel(**flux),
        "a ControlNet for a transformer model, SD3": lambda: diffusers.SD3ControlNetModel(**sd3),
        "a ControlNet for a transformer model, Qwen": lambda: diffusers.QwenImageControlNetModel(
            **qwen
        ),
        "a transformer diffusion model": lambda: diffusers.FluxTransformer2DModel(**flux),
    }


@pytest.mark.parametrize(
    "what",
    [
        "a VAE",
        "a T2I adapter",
        "a UNet",
        "a text or image encoder",
        "a ControlNet for a transformer model, Flux",
        "a ControlNet for a transformer model, SD3",
        "a ControlNet for a transformer model, Qwen",
        "a transformer diffusion model",
    ],
)
def test_models_as_diffusers_saves_them_are_refused_by_their_name(tmp_path, what):
    with torch.device("meta"):
        names = build_others()[what]().state_dict()
    path = saved(tmp_path / "n.safetensors", {name: torch.zeros(1) for name in names})
    assert f"is {what.partition(',')[0]}" in refusal(path)


def test_our_own_unet_is_refused_as_a_unet(tmp_path):
    unet = {name: torch.zeros(1) for name in UNet(SD15, device="meta").state_dict()}
    for prefix in ("", "diffusion_model.", "model.diffusion_model."):
        path = saved(tmp_path / "n.safetensors", prefixed(prefix, unet))
        assert "is a UNet without a ControlNet" in refusal(path)
