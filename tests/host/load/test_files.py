"""Every kind of file gives the control that the host's own loader makes of the same weights."""

from __future__ import annotations

import types

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY, TINY_XL, picture, prompt, randomise
from safetensors.torch import load_file, save_file


def load(host, path, dtype="auto", model=None):
    extra = {} if model is None else {"model": model}
    return host.call("CNPP_LoadControlNet", control_net_name=path.name, dtype=dtype, **extra)


def sample(host, layout, control, node="CNPP_Apply"):
    applied = host.call(
        node,
        positive=prompt(layout, 1),
        negative=prompt(layout, 2),
        control_net=control,
        image=picture(),
        strength=0.8,
        start_percent=0.0,
        end_percent=1.0,
    )
    return host.sample(host.model(layout), *applied)


def sample_host(host, layout, control):
    return sample(host, layout, control, "ControlNetApplyAdvanced")


def weights(host, layout):
    return host.network(layout).state_dict()


@pytest.mark.parametrize("layout", [TINY, TINY_XL], ids=["two levels", "sdxl"])
def test_a_diffusers_file_gives_what_the_host_makes_of_the_original(host, layout):
    original = weights(host, layout)
    checkpoint = host.pack("cnpp_core.checkpoint")
    path = host.controlnets / f"diffusers_{len(layout['channel_mult'])}.safetensors"
    save_file(checkpoint.to_diffusers(original, checkpoint.read_config(original)), path)
    control, report = load(host, path)
    _, theirs = host.pair(layout)
    assert "diffusers" in report
    latent = sample(host, layout, control)
    assert (latent - sample_host(host, layout, theirs)).abs().max() == 0.0


def test_a_prefixed_pth_file_gives_the_hosts_result(host):
    path = host.controlnets / "prefixed.pth"
    torch.save({f"control_model.{k}": v for k, v in weights(host, TINY).items()}, path)
    (theirs,) = host.call("ControlNetLoader", control_net_name=path.name)
    control, _ = load(host, path)
    assert (sample(host, TINY, control) - sample_host(host, TINY, theirs)).abs().max() == 0.0


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_files_in_low_precision_give_the_hosts_result(host, stored):
    path = host.controlnets / f"stored_{stored}.safetensors"
    save_file({k: v.to(stored) for k, v in weights(host, TINY).items()}, path)
    (theirs,) = host.call("ControlNetLoader", control_net_name=path.name)
    control, _ = load(host, path)
    assert control.control_model.dtype == theirs.control_model.dtype
    assert control.manual_cast_dtype == theirs.manual_cast_dtype
    assert (sample(host, TINY, control) - sample_host(host, TINY, theirs)).abs().max() == 0.0


@pytest.mark.parametrize(
    ("dtype", "torch_dtype"),
    [
        ("fp32", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
        ("fp8_e4m3fn", torch.float8_e4m3fn),
        ("fp8_e5m2", torch.float8_e5m2),
    ],
)
def test_a_chosen_dtype_gives_the_hosts_result_in_that_dtype(host, dtype, torch_dtype):
    import comfy.controlnet

    path = host.file(TINY, "for_dtypes.safetensors")
    control, report = load(host, path, dtype)
    theirs = comfy.controlnet.load_controlnet(str(path), model_options={"dtype": torch_dtype})
    stored = {p.dtype for p in control.control_model.parameters()}
    assert stored == {torch_dtype}
    assert f"loaded as {dtype.replace('_', ' ')}" in report
    assert (sample(host, TINY, control) - sample_host(host, TINY, theirs)).abs().max() == 0.0


def test_the_dtype_on_a_gpu_is_the_hosts_choice_for_the_layout_of_the_file(host, monkeypatch):
    """On a GPU the host loads fp32 files of the original layout in half precision."""
    loading = host.pack("nodes.host.load.loading")
    asked = []

    def unet_dtype(device=None, model_params=0, supported_dtypes=(torch.bfloat16,), **options):
        asked.append((model_params, tuple(supported_dtypes), options.get("weight_dtype")))
        return supported_dtypes[0]

    monkeypatch.setattr(loading.model_management, "unet_dtype", unet_dtype)
    config = host.pack("cnpp_core.network.config").SD15
    tensors = {"a": torch.zeros(2, dtype=torch.float32)}
    loaded = types.SimpleNamespace(config=config, layout="original", state_dict=tensors)
    assert loading.choose_dtype(loaded) == torch.float16
    assert asked == [(-1, (torch.float16, torch.bfloat16, torch.float32), torch.float32)]
    loaded.layout = "diffusers"
    assert loading.choose_dtype(loaded) == torch.bfloat16  # the device's default


def test_attention_of_sd2_is_in_float32_like_the_hosts(host):
    loading, config = host.pack("nodes.host.load.loading"), host.pack("cnpp_core.network.config")
    for family, precision in (("SD15", None), ("SD21", torch.float32), ("SDXL", None)):
        loaded = types.SimpleNamespace(config=getattr(config, family), layout="original")
        assert loading._attn_precision(loaded) == precision


def test_a_shuffle_file_pools_over_the_picture_like_the_hosts(host):
    path = host.file(TINY, "tiny_shuffle.safetensors")
    (theirs,) = host.call("ControlNetLoader", control_net_name=path.name)
    control, _ = load(host, path)
    _, unpooled = host.pair(TINY)
    latent = sample(host, TINY, control)
    assert (latent - sample_host(host, TINY, theirs)).abs().max() == 0.0
    assert (latent - sample_host(host, TINY, unpooled)).abs().max() > 0.01


def difference_file(host):
    """TINY's control as the distance of its encoder from the model's."""
    unet = host.model(TINY).model.diffusion_model.state_dict()
    own = ("zero_convs.", "input_hint_block.", "middle_block_out.")
    complete = weights(host, TINY)
    stored = {k: v if k.startswith(own) else v - unet[k] for k, v in complete.items()}
    path = host.controlnets / "difference.safetensors"
    tensors = {f"control_model.{k}": v for k, v in stored.items()}
    save_file(tensors | {"difference": torch.zeros(1)}, path)
    return path


def test_a_difference_file_gives_the_hosts_result(host):
    path, model = difference_file(host), host.model(TINY)
    (theirs,) = host.call("DiffControlNetLoader", control_net_name=path.name, model=model)
    control, report = load(host, path, model=model)
    assert "difference" in report
    assert (sample(host, TINY, control) - sample_host(host, TINY, theirs)).abs().max() == 0.0


def test_a_difference_file_without_its_model_is_refused(host):
    with pytest.raises(ValueError, match="connect MODEL"):
        load(host, difference_file(host))


def test_a_file_that_is_no_controlnet_is_refused(host):
    path = host.controlnets / "lora.safetensors"
    save_file({"unet.lora_up.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match=r"lora.safetensors is a LoRA"):
        load(host, path)


# The host's union network is 320 channels wide whatever its layout says.
UNION = TINY | {
    "model_channels": 320,
    "channel_mult": [1],
    "num_res_blocks": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "num_head_channels": 64,
    "num_heads": -1,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 64 + 6 * 256,
}


@pytest.mark.parametrize("kind", ["auto", "depth", "canny/lineart/anime_lineart/mlsd"])
def test_a_union_file_gives_the_hosts_result_for_its_types(host, kind):
    import comfy.controlnet
    from comfy import model_management

    network = randomise(host.network(UNION, union_controlnet_num_control_type=6), seed=1)
    path = host.controlnets / "union.safetensors"
    save_file(network.state_dict(), path)
    control, report = load(host, path)
    device = model_management.get_torch_device()
    theirs = comfy.controlnet.ControlNet(network, load_device=device)
    assert "union, 6 types" in report
    (control,) = host.call("SetUnionControlNetType", control_net=control, type=kind)
    (theirs,) = host.call("SetUnionControlNetType", control_net=theirs, type=kind)
    assert (sample(host, UNION, control) - sample_host(host, UNION, theirs)).abs().max() == 0.0


def test_loading_keeps_no_second_copy_of_the_weights(host):
    path = host.file(TINY, "one_copy.safetensors")
    control, _ = load(host, path)
    stored = load_file(path)
    parameters = dict(control.control_model.named_parameters())
    assert parameters.keys() == stored.keys()
    # Mapped from the file: the parameters lie in one stretch of memory, as they do on the disk.
    addresses = [p.data_ptr() for p in parameters.values()]
    spread = max(addresses) - min(addresses)
    assert spread <= path.stat().st_size
