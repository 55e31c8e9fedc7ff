"""Controls of other loaders and families, each the host's own class around tiny random weights.

Every kind says how its model reads it, in our own words: `places` gives (list, index) from shallow
to deep, read off the host's models and not off the pack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from harness import TINY, TINY_SD15, TINY_XL, Host, picture, prompt, randomise
from torch import Tensor

# The levels of SD1.5 and of SDXL, as T2I adapters know them, with narrow deep ones.
FOUR_LEVELS = TINY_SD15 | {"channel_mult": [1, 1, 2, 2]}
THREE_LEVELS = TINY_XL | {"channel_mult": [1, 1, 2]}
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


@dataclass(frozen=True)
class Foreign:
    """One kind of control, and a model that takes it."""

    control: Callable[[Host], Any]
    model: Callable[[Host], Any]
    prompts: Callable[[], tuple[list, list]]
    places: tuple[tuple[str, int] | None, ...]
    latent: tuple[int, ...] = (4, 16, 16)
    reads_latents: bool = False

    def latents(self, batch: int = 1) -> Tensor:
        return torch.zeros(batch, *self.latent)


def host_apply(host: Host, kind: Foreign, control: Any, **changes: Any) -> tuple:
    """(positive, negative) through the host's own Apply node."""
    return _apply(host, "ControlNetApplyAdvanced", kind, control, **changes)


def our_apply(host: Host, kind: Foreign, control: Any, **changes: Any) -> tuple:
    """The same through ours."""
    return _apply(host, "CNPP_Apply", kind, control, **changes)


def _apply(host: Host, node: str, kind: Foreign, control: Any, **changes: Any) -> tuple:
    positive, negative = kind.prompts()
    inputs = {
        "positive": positive,
        "negative": negative,
        "control_net": control,
        "image": picture(),
        "strength": 0.5,
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    if kind.reads_latents:
        inputs["vae"] = PoolingVAE(kind.latent)
    return host.call(node, **inputs | changes)


def sampled(host: Host, kind: Foreign, conditioning: tuple, **sampling: Any) -> Tensor:
    sampling = {"latent": kind.latents(), "steps": 2} | sampling
    return host.sample(kind.model(host), *conditioning, **sampling)


def by_hand(conditioning: tuple, kind: Foreign, edit: Callable[..., list]) -> tuple:
    """Conditioning of the host whose residuals, shallow to deep, pass through `edit` at each call.

    edit(blocks, x, t, options) -> blocks
    """
    for control in {
        id(o["control"]): o["control"] for side in conditioning for _, o in side
    }.values():
        control.get_control = _edited(control.get_control, kind.places, edit)
    return conditioning


def _edited(original: Callable[..., Any], places: tuple, edit: Callable[..., list]) -> Any:
    def get_control(x: Tensor, t: Tensor, cond: dict, count: int, options: dict) -> Any:
        lists = original(x, t, cond, count, options)
        if lists is None:
            return None
        lists = {key: list(blocks) for key, blocks in lists.items()}
        blocks = [None if place is None else lists[place[0]][place[1]] for place in places]
        for place, block in zip(places, edit(blocks, x, t, options), strict=True):
            if place is not None:
                lists[place[0]][place[1]] = block
        return lists

    return get_control


class PoolingVAE:
    """Stands for a VAE: latents are means over 8x8 pixels, the three channels in turns."""

    def __init__(self, latent: tuple[int, ...]) -> None:
        self.channels, self.video = latent[0], len(latent) == 4

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, pixels: Tensor) -> Tensor:
        small = F.avg_pool2d(pixels.movedim(-1, 1), 8)
        latent = small[:, [i % 3 for i in range(self.channels)]]
        return latent.unsqueeze(2) if self.video else latent


# UNets


def controlnet(host: Host) -> Any:
    return host.pair(TINY)[1]


def shuffle_controlnet(host: Host) -> Any:
    control = host.pair(TINY)[1].copy()
    control.global_average_pooling = True
    return control


def sdxl_controlnet(host: Host) -> Any:
    return host.pair(TINY_XL)[1]


def control_lora(host: Host) -> Any:
    """Rank 4 on every weight that the UNet has too, whole tensors for the rest."""
    from comfy.controlnet import ControlLora

    unet = host.model(TINY).model.diffusion_model.state_dict()
    weights = {"lora_controlnet": torch.zeros(0)}
    generator = torch.Generator().manual_seed(4)
    for name, value in host.network(TINY, seed=4).state_dict().items():
        if name not in unet:
            weights[name] = value
        elif value.ndim > 1:
            module = name.removesuffix(".weight")
            up = torch.randn(value.shape[0], 4, generator=generator)
            down = torch.randn(4, *value.shape[1:], generator=generator)
            weights[f"{module}.up"] = up / 8
            weights[f"{module}.down"] = down / down[0].numel() ** 0.5
    return ControlLora(weights)


def t2i_light(host: Host) -> Any:
    from comfy.t2i_adapter.adapter import Adapter_light

    return _t2i(Adapter_light(cin=3 * 64, channels=[64, 64, 128, 128], nums_rb=1))


def t2i_full(host: Host) -> Any:
    return _t2i(_adapter(cin=3 * 64, xl=False))


def t2i_sketch(host: Host) -> Any:
    return _t2i(_adapter(cin=64, xl=False))


def t2i_xl(host: Host) -> Any:
    return _t2i(_adapter(cin=3 * 256, xl=True))


def _adapter(cin: int, xl: bool) -> torch.nn.Module:
    from comfy.t2i_adapter.adapter import Adapter

    return Adapter([64, 64, 128, 128], nums_rb=2, cin=cin, ksize=1, sk=True, use_conv=False, xl=xl)


def _t2i(network: torch.nn.Module) -> Any:
    from comfy.controlnet import T2IAdapter

    return T2IAdapter(randomise(network, 5), network.input_channels, 8, "nearest-exact")


# Transformers


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


def unet_prompts(layout: dict[str, Any]) -> Callable[[], tuple[list, list]]:
    return lambda: (prompt(layout, 1), prompt(layout, 2))


def transformer_prompts() -> tuple[list, list]:
    layout = {"context_dim": 24, "adm_in_channels": 16 + 6 * 256}
    return prompt(layout, 1), prompt(layout, 2)


def _in_order(*keys: tuple[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple((key, i) for key, count in keys for i in range(count))


_T2I = (*(("input", 11 - i) for i in range(12)), None)
_FLUX_MODEL = transformer("Flux", flux_layout)
_MMDIT_MODEL = transformer("SD3", lambda: dict(MMDIT))
_QWEN_MODEL = transformer("QwenImage", lambda: dict(QWEN))


def _unet(control: Callable[[Host], Any], layout: dict[str, Any], places: tuple) -> Foreign:
    return Foreign(control, lambda host: host.model(layout), unet_prompts(layout), places)


def _dit(
    control: Callable[[Host], Any],
    model: Callable[[Host], Any],
    *keys: tuple[str, int],
    latent: tuple[int, ...] = (16, 16, 16),
    reads_latents: bool = True,
) -> Foreign:
    return Foreign(control, model, transformer_prompts, _in_order(*keys), latent, reads_latents)


_VIDEO = (16, 1, 16, 16)
UNETS = {
    "controlnet": _unet(controlnet, TINY, _in_order(("output", 4), ("middle", 1))),
    "shuffle": _unet(shuffle_controlnet, TINY, _in_order(("output", 4), ("middle", 1))),
    "sdxl controlnet": _unet(sdxl_controlnet, TINY_XL, _in_order(("output", 9), ("middle", 1))),
    "control-lora": _unet(control_lora, TINY, _in_order(("output", 4), ("middle", 1))),
    "t2i light": _unet(t2i_light, FOUR_LEVELS, _T2I),
    "t2i full": _unet(t2i_full, FOUR_LEVELS, _T2I),
    "t2i sketch": _unet(t2i_sketch, FOUR_LEVELS, _T2I),
    # Ten inputs for nine skips: the deepest is empty, and nobody takes it.
    "t2i xl": _unet(t2i_xl, THREE_LEVELS, (*(("input", 9 - i) for i in range(9)), ("middle", 0))),
}
TRANSFORMERS = {
    "flux xlabs": _dit(flux_xlabs, _FLUX_MODEL, ("input", 3), reads_latents=False),
    "flux instantx": _dit(flux_instantx, _FLUX_MODEL, ("input", 3), ("output", 4)),
    "flux inpaint": _dit(flux_inpaint, _FLUX_MODEL, ("input", 3)),
    "sd3": _dit(sd3_controlnet, _MMDIT_MODEL, ("output", 3)),
    "sd3.5": _dit(sd35_controlnet, _MMDIT_MODEL, ("output", 4)),
    "qwen instantx": _dit(qwen_instantx, _QWEN_MODEL, ("input", 4), latent=_VIDEO),
    "qwen fun": _dit(qwen_fun, _QWEN_MODEL, ("input", 4), latent=_VIDEO),
}
KINDS = UNETS | TRANSFORMERS


def of_host(host: Host, name: str) -> tuple[Foreign, Any]:
    """A kind and one control of it; ImportError where this version of the host lacks its class."""
    kind = KINDS[name]
    return kind, host.once(("foreign", name), lambda: kind.control(host))
