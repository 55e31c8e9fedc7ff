"""Which family a control, a conditioning or a model belongs to, and whether they fit.

A ControlNet of the wrong family otherwise fails inside the sampler with a matrix size, or loses
its control in silence. Conditioning is known when the control is applied, the model only when the
run begins: two checks, both naming both sides.
"""

from __future__ import annotations

from typing import Any

from comfy import controlnet as host
from torch import Tensor

from ....cnpp_core.checkpoint.shapes import read_config
from ....cnpp_core.control.partial import controlnet_in
from ....cnpp_core.network.config import SD15, SD21, SDXL, NetworkConfig

FAMILY_OF_WIDTH = {
    768: "SD1.5",
    1024: "SD2.x",
    1280: "SDXL refiner",
    2048: "SDXL",
    4096: "a T5-based model such as Flux or SD3",
}


def config_of(control: Any) -> NetworkConfig | None:
    """The layout of a ControlNet with weights of its own; None for a control of another kind."""
    network = getattr(control, "control_model", None)
    known = getattr(network, "config", None)  # a wrapper's, too: torch.compile's hands it on
    if isinstance(known, NetworkConfig):
        return known
    inside = controlnet_in(network)
    if inside is None or isinstance(control, host.ControlLora):
        return None
    return read_config(inside.state_dict())


INPAINTING = 9  # channels that such a UNet reads: latent, mask, and latent of the masked picture


def require_conditioning(context_dim: int, control: str, conditioning: Any, name: str) -> None:
    """ValueError if a prompt in ``conditioning`` is not as wide as the control's context.

    conditioning: the host's list of [tensor (B, L, width), options]; ``name`` is the input's name.
    """
    for prompt, options in conditioning:
        # A second text encoder for the ControlNet alone (the host's conditioning option).
        prompt = options.get("cross_attn_controlnet", prompt)
        if prompt is None or prompt.ndim < 3:
            continue
        width = prompt.shape[-1]
        if width != context_dim:
            raise ValueError(
                f"Apply ControlNet++: control_net is {control}, which reads prompts of width "
                f"{context_dim}, but '{name}' comes from {family_of_width(width)} (width {width}). "
                f"Load a ControlNet made for {family_of_width(width)} in Load ControlNet++, or "
                "encode the prompt with the text encoder of the ControlNet's family."
            )


def require_model(config: NetworkConfig, model: Any) -> None:
    """ValueError if the host's BaseModel ``model`` can't take the residuals of this network."""
    unet = model.model_config.unet_config
    if "model_channels" not in unet or "channel_mult" not in unet:
        raise ValueError(
            f"The ControlNet is {describe(config)}, but the model is "
            f"{type(model.model_config).__name__}, which is no Stable Diffusion UNet. Load a "
            "ControlNet made for this model, or another model."
        )
    theirs = (block_channels(unet), unet.get("context_dim"))
    fits = theirs == (config.block_channels, config.context_dim)
    adm = unet.get("adm_in_channels")
    if fits and config.adm_in_channels in (None, adm):
        return
    detail = ""
    if fits:
        detail = f" (pooled text width {config.adm_in_channels} against {adm})"
    elif theirs[1] == config.context_dim:
        detail = f" (block widths {_widths(config.block_channels)} against {_widths(theirs[0])})"
    raise ValueError(
        f"The ControlNet is {describe(config)}, but the model is {describe_unet(unet)}{detail}. "
        "Load a ControlNet of the model's family in Load ControlNet++, or another checkpoint."
    )


def require_inputs(
    config: NetworkConfig,
    x: Tensor,
    hint: Tensor,
    context: Tensor | None,
    y: Tensor | None,
    types: int,
) -> None:
    """ValueError if a network can't read what a model of another family hands it.

    x (B, C, H, W): the latents; hint: one, or one for each of so many union types; context
    (B, L, width): the prompt; y (B, width): the pooled text of SDXL.
    """
    width = None if context is None else context.shape[-1]
    pooled = None if y is None else y.shape[-1]
    found = None
    if width is not None and width != config.context_dim:
        found = f"prompts of {family_of_width(width)} (width {width})"
    elif x.shape[1] != config.in_channels:
        found = f"latents of {x.shape[1]} channels, which must be {config.in_channels}"
        if config.in_channels == INPAINTING:
            found += " (it was copied from a UNet for inpainting; controls get the latent alone)"
    elif config.adm_in_channels is not None and pooled != config.adm_in_channels:
        wanted = f"which must be {config.adm_in_channels} wide"
        found = f"no pooled text, {wanted}" if y is None else f"pooled text of {pooled}, {wanted}"
    if found is not None:
        raise ValueError(
            f"The ControlNet is {describe(config)}, but the model gives it {found}. Load a "
            "ControlNet of the model's family in Load ControlNet++, or another checkpoint."
        )
    channels = config.hint_channels
    if hint.shape[1] not in (channels, channels * types):
        raise ValueError(
            f"The control image has {hint.shape[1]} channels, the ControlNet reads {channels}. "
            "Connect a picture of as many channels to the node that applies it."
        )


def unet_block_layout(model: Any) -> tuple[tuple[int, int], ...] | None:
    """(channels, downscale) of every injection point of the host's BaseModel; None for no UNet."""
    unet = model.model_config.unet_config
    return _layout(unet) if "model_channels" in unet and "channel_mult" in unet else None


def describe(config: NetworkConfig) -> str:
    """ "SDXL (context width 2048)", or a custom network by its widths."""
    return _describe(config.family, config.model_channels, config.context_dim)


def describe_unet(unet: dict[str, Any]) -> str:
    """The same for the host's ``unet_config``."""
    width, context_dim = unet["model_channels"], unet.get("context_dim")
    family = "custom"
    for known in (SD15, SD21, SDXL):
        if (known.block_channels, known.context_dim) == (block_channels(unet), context_dim):
            family = known.family
    return _describe(family, width, context_dim)


def family_of_width(width: int) -> str:
    """The family whose prompts are this wide, as people call it."""
    return FAMILY_OF_WIDTH.get(width, "another family")


def block_channels(unet: dict[str, Any]) -> tuple[int, ...]:
    """Channels of every injection point of the host's ``unet_config``, middle last."""
    return tuple(channels for channels, _ in _layout(unet))


def _layout(unet: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    mults, blocks = tuple(unet["channel_mult"]), unet["num_res_blocks"]
    blocks = (blocks,) * len(mults) if isinstance(blocks, int) else tuple(blocks)
    config = NetworkConfig(
        model_channels=unet["model_channels"],
        channel_mult=mults,
        num_res_blocks=blocks,
        transformer_depth=(0,) * sum(blocks),  # attention does not change the layout
    )
    return config.block_layout


def context_width(control: Any) -> int | None:
    """Prompt width that a host control of Stable Diffusion type reads; None if it can't be told."""
    network = controlnet_in(getattr(control, "control_model", None))
    if network is None:
        return None
    for name, parameter in network.named_parameters():
        if name.endswith("attn2.to_k.weight"):
            return parameter.shape[1]
    return None


def _describe(family: str, model_channels: int, context_dim: int | None) -> str:
    if family == "custom":
        return f"a custom network of {model_channels} channels with context width {context_dim}"
    return f"{family} (context width {context_dim})"


def _widths(channels: tuple[int, ...]) -> str:
    return " ".join(str(c) for c in channels)
