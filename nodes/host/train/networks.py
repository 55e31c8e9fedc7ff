"""MODEL and CONTROL_NET as networks of ours that can learn: clones, outside of inference mode.

Whatever the host does with its own weights, a training neither sees it nor changes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from comfy import controlnet as host
from comfy import lora, model_base, model_sampling
from torch import Tensor

from ....cnpp_core.checkpoint.shapes import read_config
from ....cnpp_core.control.partial import controlnet_in
from ....cnpp_core.diffusion.schedule import NoiseSchedule
from ....cnpp_core.network.config import NetworkConfig
from ....cnpp_core.network.controlnet import ControlNet
from ....cnpp_core.network.unet import UNet
from ....cnpp_core.training.denoiser import Denoiser, PredictionType
from ..control.family import INPAINTING, config_of, describe_unet, require_model

UNET = "diffusion_model."
LATENT_CHANNELS = 4
TIMESTEPS = 1000
PLAIN = "Load an SD1.5, SD2.x or SDXL checkpoint that makes pictures from prompts"


def denoiser_of(
    model: Any, control: Any, device: torch.device | str, dtype: torch.dtype
) -> Denoiser:
    """UNet of the MODEL in this dtype, its LoRAs baked in, and ControlNet in float32.

    Both are clones. Raises ValueError for what can't be trained, or does not fit together.
    """
    require_plain(model)
    prediction, schedule = prediction_of(model)
    config = require_trainable(control)
    require_model(config, model.model)
    with torch.inference_mode(False), torch.no_grad():
        return Denoiser(
            unet_of(model, device, dtype).requires_grad_(False),
            schedule,
            clone_of(control).to(device),
            prediction,
        )


def unet_of(model: Any, device: torch.device | str, dtype: torch.dtype) -> UNet:
    """A clone of the UNet of a MODEL, with what its patches (LoRAs) make of it."""
    require_plain(model)
    weights = dict(_weights(model))
    unet = UNet(_config(model, weights), dtype=dtype, device="meta")
    with torch.inference_mode(False), torch.no_grad():
        unet = unet.to_empty(device=device)
        for name, parameter in unet.state_dict().items():
            parameter.copy_(weights.pop(name))
    return unet.eval()


def encoder_of(model: Any) -> UNet:
    """The UNet of a MODEL to copy from: it shares the host's memory where nothing is patched."""
    require_plain(model)
    weights = dict(_weights(model))
    unet = UNet(_config(model, weights), device="meta").requires_grad_(False)
    unet.load_state_dict(weights, assign=True)
    return unet


def clone_of(control: Any) -> ControlNet:
    """A clone of the network of a CONTROL_NET, in float32 on the CPU."""
    config = require_trainable(control)
    found = controlnet_in(control.control_model)
    assert found is not None
    weights = found.state_dict()
    with torch.inference_mode(False), torch.no_grad():
        net = ControlNet(config, dtype=torch.float32, device="meta").to_empty(device="cpu")
        for name, parameter in net.state_dict().items():
            parameter.copy_(weights[name])
    return net


def require_trainable(control: Any) -> NetworkConfig:
    """The layout of a CONTROL_NET that can be trained; ValueError naming what another one is."""
    kind = type(control).__name__
    instead = "Connect a ControlNet of SD1.5, SD2.x or SDXL that reads one kind of condition."
    if isinstance(control, host.ControlLora):
        raise ValueError(
            "control_net is a control-LoRA, which holds only the difference to a model. " + instead
        )
    config = config_of(control)
    if config is None:
        network = getattr(control, "control_model", None) or getattr(control, "t2i_model", None)
        inside = "" if network is None else f" ({type(network).__name__})"
        raise ValueError(
            f"control_net is a {kind}{inside}, which is no copy of a UNet's encoder and can't be "
            f"trained here. {instead}"
        )
    if config.union_types is not None:
        raise ValueError(
            f"control_net is a union network of {config.union_types} types, which can't be trained "
            f"here. {instead}"
        )
    if config.in_channels != LATENT_CHANNELS:
        raise ValueError(_of_channels("control_net", config.in_channels))
    return config


def require_float32(control: Any) -> None:
    """ValueError for a CONTROL_NET that can't be trained, or not in the weights that it has."""
    require_trainable(control)
    network = controlnet_in(control.control_model)
    dtypes = {p.dtype for p in network.parameters()} if network is not None else set()
    if dtypes - {torch.float32}:
        found = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        raise ValueError(
            f"control_net holds its weights as {found}, whose steps are too coarse to learn in. "
            "Put Initialise ControlNet between: it makes a float32 copy. precision only says what "
            "is computed in."
        )


def require_plain(model: Any) -> None:
    """ValueError for a MODEL that is no UNet of Stable Diffusion as it makes pictures; names it."""
    base = model.model
    unet = getattr(base.model_config, "unet_config", {})
    name = type(base.model_config).__name__
    if type(base) not in (model_base.BaseModel, model_base.SDXL) or "channel_mult" not in unet:
        raise ValueError(
            f"model is {name} ({type(base).__name__}), whose ControlNets can't be trained here. "
            f"{PLAIN}."
        )
    channels = unet.get("in_channels", LATENT_CHANNELS)
    if channels != LATENT_CHANNELS:
        raise ValueError(_of_channels("model", channels))


def prediction_of(model: Any) -> tuple[PredictionType, NoiseSchedule]:
    """What the MODEL predicts, and its noise, by its own sampling; ValueError for other kinds."""
    sampling = model.get_model_object("model_sampling")
    denoised = type(sampling).calculate_denoised
    known = {
        model_sampling.EPS.calculate_denoised: PredictionType.EPS,
        model_sampling.V_PREDICTION.calculate_denoised: PredictionType.V,
    }
    sigmas = getattr(sampling, "sigmas", torch.empty(0))
    discrete = isinstance(sampling, model_sampling.ModelSamplingDiscrete)
    if denoised not in known or not discrete or len(sigmas) != TIMESTEPS:
        kinds = [k.__name__ for k in type(sampling).__mro__ if k.__module__.startswith("comfy")]
        raise ValueError(
            f"model samples by {', '.join(kinds[:3])} with {len(sigmas)} noise levels; a "
            "ControlNet is trained on a model that predicts noise (eps) or velocity (v) at "
            f"{TIMESTEPS}. Take away ModelSampling nodes, or choose another checkpoint."
        )
    with torch.inference_mode(False), torch.no_grad():
        alphas = 1 / (sigmas.detach().double().cpu().square() + 1)
        return known[denoised], NoiseSchedule(alphas.float().clone())


def pooled_with_sizes(model: Any) -> bool:
    """Whether its UNet reads the pooled prompt and sizes, as SDXL does."""
    return isinstance(model.model, model_base.SDXL)


def base_name(model: Any) -> str:
    """The file that a MODEL was loaded from, where the host remembers it, else what it is."""
    _, *more = getattr(model, "cached_patcher_init", None) or (None,)
    for argument in more[0] if more else ():
        if isinstance(argument, str) and Path(argument).suffix:
            return Path(argument).name
    return describe_unet(model.model.model_config.unet_config)


def _of_channels(what: str, channels: int) -> str:
    inpaint = " It is an inpaint model's: latent, mask and masked latent." * (
        channels == INPAINTING
    )
    return (
        f"{what} reads latents of {channels} channels, a ControlNet is trained on "
        f"{LATENT_CHANNELS}.{inpaint} Use the plain model that it was made from; the ControlNet "
        "then works with the inpaint model too."
    )


def _config(model: Any, weights: dict[str, Tensor]) -> NetworkConfig:
    try:
        return read_config(weights)
    except ValueError as error:
        name = type(model.model.model_config).__name__
        raise ValueError(f"The UNet of this {name} can't be rebuilt: {error}") from error


def _weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Name and weight of everything in the UNet; patched ones in float32, made anew."""
    for key, ((weight, convert), *patches) in model.get_key_patches(UNET).items():
        if type(weight.data) is not Tensor or weight.element_size() < 2:
            raise ValueError(
                f"The weights of this model are stored as {weight.dtype} "
                f"({type(weight.data).__name__}), which is too coarse to train on. Load it in "
                "half or full precision."
            )
        if patches:
            whole = convert(weight.to(torch.float32, copy=True), inplace=True)
            weight = lora.calculate_weight(patches, whole, key)
        yield key.removeprefix(UNET), weight
