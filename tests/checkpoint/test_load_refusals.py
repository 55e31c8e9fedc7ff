"""What is no ControlNet file, or not all of one, is refused in words that name what was found."""

import re
from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import (
    load_controlnet_file,
)
from controlnet_pp.cnpp_core.network.config import SD15
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.tests.checkpoint.files import LAYOUTS, TINY, prefixed, saved, weights


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


def half_of_a_diffusers_file(number):
    """As huggingface_hub splits a state dict: tensors in their order until a file is full."""
    diffusers = pytest.importorskip("diffusers", reason="its state dict has the order of files")
    with torch.device("meta"):
        net = diffusers.ControlNetModel(
            block_out_channels=(32, 64, 64, 64), cross_attention_dim=8, attention_head_dim=8
        )
    whole = {name: torch.zeros(tensor.shape) for name, tensor in net.state_dict().items()}
    names = list(whole)
    half = len(names) // 2
    return {name: whole[name] for name in (names[:half], names[half:])[number - 1]}


@pytest.mark.parametrize("name", ["net-0000{}-of-00002.safetensors", "renamed{}.safetensors"])
@pytest.mark.parametrize("number", [1, 2])
def test_either_half_of_a_split_file_is_named_so(tmp_path, name, number):
    half = half_of_a_diffusers_file(number)
    message = refusal(saved(tmp_path / name.format(number), half))
    assert "get the ControlNet as one file" in message
    assert ("of a split file" if "-of-" in name else "as split files have") in message


def test_a_few_missing_tensors_are_no_split_file(tmp_path):
    kept = {k: v for k, v in weights().items() if not k.startswith("middle_block.0.norm")}
    del kept["zero_convs.1.0.bias"]
    assert "split" not in refusal(saved(tmp_path / "n.safetensors", kept))
    assert "part 1 of 2 of a split" in refusal(saved(tmp_path / "n-1-of-00002.safetensors", kept))


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
