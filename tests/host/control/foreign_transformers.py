"""Controls of transformers, each the host's own class around tiny random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from controlnet_pp.tests.host.harness import Host, randomise
from torch import Tensor

FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 16,
    "context_in_dim": 24,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 3,
    "depth_single_blocks": 4,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
MMDIT = {
    "in_channels": 16,
    "patch_size": 2,
    "depth": 4,
    "input_size": None,
    "num_patches": 64 * 64,
    "pos_embed_max_size": 64,
    "adm_in_channels": 16,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 24, "out_features": 256},
    },
}
QWEN = {
    "image_model": "qwen_image",
    "num_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": (8, 12, 12),
}


def flux_xlabs(host: Host) -> Any:
    """Two of the double blocks, by turns at the model's; reads pixels."""
    return _wrapped(_flux_network(depth=2, singles=0), latents=None)


def flux_instantx(host: Host) -> Any:
    """Two double and two single blocks, each at neighbouring places; union; reads latents."""
    from comfy.latent_formats import Flux

    network = _flux_network(depth=2, singles=2, latent_input=True, num_union_modes=3)
    return _wrapped(network, latents=Flux())


def flux_inpaint(host: Host) -> Any:
    """Reads a mask beside the latent, as AliMama's."""
    from comfy.latent_formats import Flux

    network = _flux_network(depth=2, singles=0, latent_input=True, control_latent_channels=17)
    return _wrapped(network, latents=Flux(), concat_mask=True)


def _flux_network(depth: int, singles: int, **options: Any) -> torch.nn.Module:
    from comfy.ldm.flux.controlnet import ControlNetFlux
    from comfy.ops import disable_weight_init

    layout = flux_layout() | {"depth": depth, "depth_single_blocks": singles}
    options = {"control_latent_channels": 16 if options.get("latent_input") else None} | options
    network = ControlNetFlux(
        **options, dtype=torch.float32, operations=disable_weight_init, **layout
    )
    network.main_model_double, network.main_model_single = 3, 4
    return randomise(network, 6)


def flux_layout() -> dict[str, Any]:
    """FLUX in the words that this version of the host knows."""
    from comfy.ldm.flux.model import FluxParams

    known = {field.name for field in dataclasses.fields(FluxParams)} | {"image_model"}
    return {key: value for key, value in FLUX.items() if key in known}


def sd3_controlnet(host: Host) -> Any:
    """One block of its own for two blocks of the model."""
    from comfy.cldm.mmdit import ControlNet
    from comfy.latent_formats import SD3
    from comfy.ops import disable_weight_init

    network = ControlNet(num_blocks=2, dtype=torch.float32, operations=disable_weight_init, **MMDIT)
    return _wrapped(randomise(network, 7), latents=SD3(), extra_conds=["y"])


def sd35_controlnet(host: Host) -> Any:
    from comfy.cldm.dit_embedder import ControlNetEmbedder
    from comfy.controlnet import ControlNetSD35
    from comfy.latent_formats import SD3
    from comfy.ops import disable_weight_init

    network = ControlNetEmbedder(
        img_size=None,
        patch_size=2,
        in_chans=16,
        attention_head_dim=64,
        num_attention_heads=4,
        adm_in_channels=16,
        num_layers=2,
        main_model_double=4,
        double_y_emb=False,
        device=None,
        dtype=torch.float32,
        operations=disable_weight_init,
    )
    return _wrapped(
        randomise(network, 8),
        latents=SD3(),
        extra_conds=["y"],
        kind=ControlNetSD35,
        preprocess_image=_turned,
    )


def _turned(image: Tensor) -> Tensor:
    return 1.0 - image


def qwen_instantx(host: Host) -> Any:
    from comfy.latent_formats import Wan21
    from comfy.ldm.qwen_image.controlnet import QwenImageControlNetModel
    from comfy.ops import disable_weight_init

    network = QwenImageControlNetModel(
        dtype=torch.float32, operations=disable_weight_init, **QWEN | {"num_layers": 2}
    )
    network.main_model_double = 4
    return _wrapped(randomise(network, 9), latents=Wan21(), extra_conds=[])


def qwen_fun(host: Host) -> Any:
    """Speaks at two of the model's four blocks."""
    from comfy.controlnet import QwenFunControlNet
    from comfy.latent_formats import Wan21
    from comfy.ldm.qwen_image.controlnet import QwenImageFunControlNetModel
    from comfy.ops import disable_weight_init

    network = QwenImageFunControlNetModel(
        inner_dim=64,
        num_attention_heads=2,
        attention_head_dim=32,
        num_control_blocks=2,
        main_model_double=4,
        injection_layers=(0, 2),
        dtype=torch.float32,
        operations=disable_weight_init,
    )
    network = randomise(network, 10)
    return _wrapped(network, latents=Wan21(), extra_conds=[], kind=QwenFunControlNet)


def _wrapped(network: Any, *, latents: Any, kind: Any = None, **options: Any) -> Any:
    from comfy import model_management
    from comfy.controlnet import ControlNet

    return (kind or ControlNet)(
        network,
        compression_ratio=8 if latents is None else 1,
        latent_format=latents,
        load_device=model_management.get_torch_device(),
        **{"extra_conds": ["y", "guidance"]} | options,
    )


def transformer(family: str, layout: Callable[[], dict[str, Any]]) -> Callable[[Host], Any]:
    """A MODEL of a family of transformers, in this layout."""

    def make() -> Any:
        from comfy import model_base, model_management, model_patcher, supported_models

        config = getattr(supported_models, family)(layout())
        config.set_inference_dtype(torch.float32, None)
        base = getattr(model_base, family)(config, device="cpu")
        randomise(base.diffusion_model, seed=0)
        return model_patcher.ModelPatcher(
            base,
            load_device=model_management.get_torch_device(),
            offload_device=model_management.unet_offload_device(),
        )

    return lambda host: host.once(("transformer", family), make)


FLUX_MODEL = transformer("Flux", flux_layout)
MMDIT_MODEL = transformer("SD3", lambda: dict(MMDIT))
QWEN_MODEL = transformer("QwenImage", lambda: dict(QWEN))
