"""The demo model: which networks it has, and where their weights lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..cnpp_core.network.config import NetworkConfig
from ..cnpp_core.network.controlnet import ControlNet
from ..cnpp_core.network.unet import UNet
from .autoencoder import Autoencoder
from .conditions import CONDITIONS
from .segmenter import Segmenter
from .text import WIDTH, TextEncoder

WEIGHTS = Path(__file__).parent / "weights"
# How its ControlNets were trained, by name, and what their files are called.
TRAININGS = {"ControlNet": "controlnet", "ControlNet++": "controlnetpp"}
PLAIN, PLUSPLUS = TRAININGS
CONTROLNETS = tuple(f"{file}_{kind}" for file in TRAININGS.values() for kind in CONDITIONS)
PARTS = ("autoencoder", "text_encoder", "unet", *CONTROLNETS, "segmenter")
CONFIG = NetworkConfig(
    model_channels=64,
    channel_mult=(1, 2),
    num_res_blocks=(2, 2),
    transformer_depth=(0, 0, 1, 1),  # attention at 16 x 16 is what a CPU would wait for
    context_dim=WIDTH,
)

Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class DemoModel:
    """Everything that draws a picture of the shapes world, in float32 and ready for use."""

    autoencoder: Autoencoder
    text_encoder: TextEncoder
    unet: UNet
    controlnet: ControlNet


def load_demo(folder: Path = WEIGHTS, condition: str = "canny", training: str = PLAIN) -> DemoModel:
    """Load all parts, with the ControlNet for one of CONDITIONS, by one of TRAININGS.

    ValueError naming the file that is missing or damaged.
    """
    return DemoModel(
        autoencoder=load_part("autoencoder", Autoencoder(), folder),
        text_encoder=load_part("text_encoder", TextEncoder(), folder),
        unet=load_part("unet", UNet(CONFIG), folder),
        controlnet=load_part(f"{TRAININGS[training]}_{condition}", ControlNet(CONFIG), folder),
    )


def load_segmenter(folder: Path = WEIGHTS) -> Segmenter:
    """The annotator of the shapes world; ValueError as for `load_demo`."""
    return load_part("segmenter", Segmenter(), folder)


def load_part(name: str, network: Part, folder: Path = WEIGHTS) -> Part:
    """The network with the weights of one part, stored in float16 and used in float32."""
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: check out the whole repository, or train the demo model with "
            "`nox -s demo -- train`."
        )
    try:
        network.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{path} does not hold the weights of the demo's {name} ({str(error).splitlines()[0]})"
            ": check out the repository again, or train with `nox -s demo -- train`."
        ) from error
    return network.eval().requires_grad_(False)


def save_part(name: str, state_dict: Mapping[str, Tensor], folder: Path = WEIGHTS) -> None:
    """Write the weights of one part, tensors of any shape (...), in float16."""
    half = {key: value.to(torch.float16).contiguous() for key, value in state_dict.items()}
    save_file(half, folder / f"{name}.safetensors")
