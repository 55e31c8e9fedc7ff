"""The model that a ControlNet is trained for, and the ControlNet that a training begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..cnpp_core.checkpoint import from_diffusers, load_controlnet_file, read_config, read_tensors
from ..cnpp_core.checkpoint.load import UNET_PREFIXES
from ..cnpp_core.diffusion.schedule import LATENT_SCALE, NoiseSchedule
from ..cnpp_core.network.config import NetworkConfig
from ..cnpp_core.network.controlnet import ControlNet
from ..cnpp_core.network.unet import UNet
from ..cnpp_core.training.data.cache import fingerprint
from ..cnpp_core.training.data.draw import Encoders
from ..cnpp_core.training.denoiser import PredictionType
from ..cnpp_core.training.initialise import begin_controlnet
from ..demo.model import load_demo
from ..demo.text import tokenize

DEMO = "demo"
HINT_CHANNELS = 3


@dataclass(frozen=True, eq=False)
class Model:
    """Everything that a training takes of a model, on the device that trains.

    name: what the ControlNet's file says that it began from. encoders: of pictures and captions;
    encoding: the networks in them. decode: latents as the autoencoder takes them (B, C, H, W) ->
    pictures (B, 3, 8H, 8W) in -1..1, differentiable; decoding: the network in it. sizes: y tells
    sizes of pictures, as SDXL has it.
    """

    name: str
    unet: UNet
    schedule: NoiseSchedule
    prediction_type: PredictionType
    encoders: Encoders
    encoding: Sequence[nn.Module]
    decode: Callable[[Tensor], Tensor]
    decoding: nn.Module
    latent_scale: float = LATENT_SCALE
    sizes: bool = False


def demo_model(device: torch.device, named: bool) -> Model:
    """The model of the shapes world. named: its encoders get names, which a cache needs."""
    demo = load_demo()
    autoencoder, text = demo.autoencoder.to(device), demo.text_encoder.to(device)

    @torch.no_grad()
    def latents_of(pictures: Tensor) -> Tensor:
        return autoencoder.encode(pictures.to(device) * 2 - 1) * LATENT_SCALE

    @torch.no_grad()
    def context_of(captions: Sequence[str]) -> tuple[Tensor, None]:
        return text(torch.tensor([tokenize(caption) for caption in captions], device=device)), None

    return Model(
        name=DEMO,
        unet=demo.unet.to(device),
        schedule=NoiseSchedule.scaled_linear(),
        prediction_type=PredictionType.EPS,
        encoders=named_encoders(latents_of, context_of, [autoencoder], [text], named),
        encoding=[text],
        decode=autoencoder.decode,
        decoding=autoencoder,
    )


def named_encoders(
    image: Callable[[Tensor], Tensor],
    text: Callable[[Sequence[str]], tuple[Tensor, Tensor | None]],
    of_image: Sequence[nn.Module],
    of_text: Sequence[nn.Module],
    named: bool,
) -> Encoders:
    """Both, and if asked for names that change with the weights of these networks."""
    if not named:
        return Encoders(image, text)
    return Encoders(image, text, fingerprint(*of_image), fingerprint(*of_text))


def unet_of_checkpoint(path: Path) -> UNet:
    """The UNet in a checkpoint file of SD1.5, SD2.x or SDXL, or in a file of its own, frozen.

    Raises ValueError for a file that has none.
    """
    tensors = read_tensors(path)
    for prefix in reversed(UNET_PREFIXES):  # the longest first
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if "out.2.weight" in state:
            return _built(state, f"{path}")
    raise ValueError(
        f"{path} has no UNet in the layout of the original checkpoints (model.diffusion_model.*): "
        "give the checkpoint of SD1.5, SD2.x or SDXL, or a folder in diffusers' layout as model."
    )


def unet_of_diffusers(state_dict: Mapping[str, Tensor], name: str) -> UNet:
    """The UNet of diffusers' tensors, frozen; ValueError for another kind of network."""
    try:
        original = from_diffusers(state_dict)
    except ValueError as error:
        raise ValueError(f"{name} is no UNet of Stable Diffusion: {error}") from error
    return _built(original, name)


def begin(
    source: Path | None, unet: UNet, device: torch.device, as_it_is: bool = False
) -> tuple[ControlNet, str]:
    """A ControlNet to train for a UNet, on the device, and a sentence on what is new in it.

    Begins from the UNet, or from a file. ValueError for one that belongs to another model, or,
    as_it_is, that reads other hints than pictures.
    """
    if source is None:
        return begin_controlnet(unet)
    network = load_controlnet_file(source, unet_state_dict=unet.state_dict()).network()
    ours, theirs = _shape(unet.config), _shape(network.config)
    if ours != theirs:
        named = network.config.family, unet.config.family
        sizes = ", ".join(
            f"{name} {theirs[name]} against {ours[name]}"
            for name in ours
            if ours[name] != theirs[name]
        )
        raise ValueError(
            f"{source} is a ControlNet for {named[0]}, the model is {named[1]} ({sizes}): choose "
            "one that was made for this model."
        )
    if as_it_is and network.config.hint_channels != HINT_CHANNELS:
        raise ValueError(
            f"{source} reads hints of {network.config.hint_channels} channels, conditions have "
            f"{HINT_CHANNELS}: choose one that reads pictures, or train it first."
        )
    return begin_controlnet(network.to(device), HINT_CHANNELS)


def _shape(config: NetworkConfig) -> dict[str, object]:
    """What UNet and ControlNet have in common."""
    return {
        "channels": config.block_channels,
        "context": config.context_dim,
        "y": config.adm_in_channels,
        "latents": config.in_channels,
    }


def _built(state: Mapping[str, Tensor], name: str) -> UNet:
    try:
        unet = UNet(read_config(state), device="meta")
        unet.load_state_dict(dict(state), assign=True)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{name} is no UNet of Stable Diffusion: {reason}") from error
    return unet.eval().requires_grad_(False)
