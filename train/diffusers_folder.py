"""A model from a folder in diffusers' layout: its UNet is ours, the rest diffusers' own classes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..cnpp_core.checkpoint import read_tensors
from ..cnpp_core.diffusion.schedule import NoiseSchedule
from ..cnpp_core.network.unet import UNet
from ..cnpp_core.training.denoiser import PredictionType
from .models import Model, named_encoders, unet_of_checkpoint, unet_of_diffusers

PREDICTIONS = {"epsilon": PredictionType.EPS, "v_prediction": PredictionType.V}
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
INDEX = ".safetensors.index.json"
SECOND = "text_encoder_2"  # of SDXL


def folder_model(folder: Path, unet: Path | None, device: torch.device, named: bool) -> Model:
    """The model of a folder, whose UNet a checkpoint file may take the place of.

    named: its encoders get names, which a cache needs. Raises ValueError for a folder that is
    none, for a model that is not trained here, and where a package is missing.
    """
    if folder.is_file():
        raise ValueError(
            f"{folder} is a file, which has text encoder and autoencoder in a layout of its own: "
            f"give a folder in diffusers' layout as model, and this file as unet."
        )
    if not (folder / "model_index.json").is_file():
        raise ValueError(
            f"{folder} has no model_index.json: a folder in diffusers' layout is expected, with "
            "unet, vae, text_encoder, tokenizer and scheduler in it; or demo."
        )
    network = _unet(folder / "unet") if unet is None else unet_of_checkpoint(unet)
    schedule, prediction = _schedule(folder)
    vae: Any = _load("diffusers", "AutoencoderKL", folder / "vae")
    vae = vae.to(device).eval().requires_grad_(False)
    texts = _Texts.of(folder, device)
    if texts.width != network.config.context_dim:
        raise ValueError(
            f"The text encoders of {folder} give {texts.width} numbers a token, the UNet reads "
            f"{network.config.context_dim}: they belong to different models."
        )
    scale = float(vae.config.scaling_factor)

    @torch.no_grad()
    def latents_of(pictures: Tensor) -> Tensor:
        return vae.encode(pictures.to(device) * 2 - 1).latent_dist.mode() * scale

    def decode(latents: Tensor) -> Tensor:
        # SDXL's overflows in float16; the others take half the memory with it.
        half = torch.is_autocast_enabled(device.type) and not texts.pooled
        with torch.autocast(device.type, enabled=half):
            return vae.decode(latents.float()).sample.float()

    return Model(
        name=(folder if unet is None else unet).name,
        unet=network.to(device),
        schedule=schedule,
        prediction_type=prediction,
        encoders=named_encoders(latents_of, texts, [vae], texts.networks, named),
        encoding=texts.networks,
        decode=decode,
        decoding=vae,
        latent_scale=scale,
        sizes=texts.pooled,
    )


def tiny_decoder(path: Path, latent_scale: float, device: torch.device) -> _Tiny:
    """The decoder of TAESD from its file, in the names of its authors or of diffusers.

    Raises ValueError for another file.
    """
    kind = _class("diffusers", "AutoencoderTiny")
    network = kind().decoder
    state = {
        name.removeprefix("taesd_decoder.").removeprefix("decoder."): tensor
        for name, tensor in read_tensors(path).items()
        if not name.startswith(("encoder.", "taesd_encoder."))
    }
    if not any(name.startswith("layers.") for name in state):
        # Its authors count the clamp in front as a layer.
        state = {_one_less(name): tensor for name, tensor in state.items()}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path} is no decoder of TAESD ({' '.join(str(error).split())[:200]}): give "
            "taesd_decoder.safetensors, or taesdxl_decoder.safetensors for SDXL."
        ) from error
    return _Tiny(network.to(device).eval().requires_grad_(False), latent_scale)


class _Tiny(nn.Module):
    """Latents as the autoencoder takes them -> pictures in -1..1."""

    def __init__(self, decoder: nn.Module, latent_scale: float) -> None:
        super().__init__()
        self.decoder = decoder
        self.latent_scale = latent_scale

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(latents * self.latent_scale)


class _Texts:
    """Captions to context and, of SDXL, the pooled text that its y begins with.

    One text encoder gives its last layer (SD1.5, and SD2.x, whose second last it is already); two
    their second last ones side by side (arXiv 2307.01952, section 2.1).
    """

    def __init__(self, pairs: Sequence[tuple[Any, Any]], device: torch.device) -> None:
        self.pairs = pairs
        self.device = device
        self.networks = [network for _, network in pairs]
        self.pooled = len(pairs) > 1
        self.width = sum(network.config.hidden_size for network in self.networks)

    @classmethod
    def of(cls, folder: Path, device: torch.device) -> _Texts:
        """Those of a folder."""
        names = [("tokenizer", "text_encoder", "CLIPTextModel")]
        if (folder / SECOND).is_dir():
            names.append(("tokenizer_2", SECOND, "CLIPTextModelWithProjection"))
        pairs = []
        for tokenizer, encoder, kind in names:
            network = _load("transformers", kind, folder / encoder).to(device)
            words = _load("transformers", "CLIPTokenizer", folder / tokenizer)
            pairs.append((words, network.eval().requires_grad_(False)))
        return cls(pairs, device)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        contexts, y = [], None
        for tokenizer, network in self.pairs:
            tokens = tokenizer(
                list(captions),
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids.to(next(network.parameters()).device)
            out = network(tokens, output_hidden_states=self.pooled)
            contexts.append(out.hidden_states[-2] if self.pooled else out.last_hidden_state)
            y = out.text_embeds if self.pooled and hasattr(out, "text_embeds") else y
        return torch.cat(contexts, -1), y


def _unet(folder: Path) -> UNet:
    """From its file, or from the parts that an index names."""
    files = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    for index in sorted(folder.glob(f"*{INDEX}")) if not files else []:
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        state: dict[str, Tensor] = {}
        for name in sorted(set(parts)):
            state |= load_file(folder / name)
        return _checked(unet_of_diffusers(state, f"{folder}"), folder)
    if not files:
        raise ValueError(f"{folder} has no {WEIGHTS[0]}: download the whole folder.")
    return _checked(unet_of_diffusers(read_tensors(files[0]), f"{files[0]}"), folder)


def _checked(unet: UNet, folder: Path) -> UNet:
    """ValueError if its attention has other heads than the published models, as no shape tells."""
    settings = _json(folder / "config.json")
    heads = settings.get("num_attention_heads") or settings.get("attention_head_dim", 8)
    levels = len(unet.config.channel_mult)
    found = heads if isinstance(heads, list) else [heads] * levels
    widths = [mult * unet.config.model_channels for mult in unet.config.channel_mult]
    ours = [unet.config.heads(width) for width in widths]
    if found != ours:
        raise ValueError(
            f"{folder} has {found} attention heads by level, a model of these sizes {ours}: it is "
            "none of the models that are trained here (SD1.5, SD2.x, SDXL)."
        )
    return unet


def _schedule(folder: Path) -> tuple[NoiseSchedule, PredictionType]:
    settings = _json(folder / "scheduler" / "scheduler_config.json")
    kind, prediction = settings.get("beta_schedule"), settings.get("prediction_type", "epsilon")
    if kind != "scaled_linear" or prediction not in PREDICTIONS:
        raise ValueError(
            f"{folder} has the schedule {kind} and predicts {prediction}; expected scaled_linear "
            f"and one of {', '.join(PREDICTIONS)}, as SD1.5, SD2.x and SDXL have it."
        )
    schedule = NoiseSchedule.scaled_linear(
        settings.get("num_train_timesteps", 1000), settings["beta_start"], settings["beta_end"]
    )
    return schedule, PREDICTIONS[prediction]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def _load(package: str, name: str, folder: Path) -> Any:
    """A part of the folder by its class; nothing is fetched."""
    if not folder.is_dir():
        raise ValueError(f"{folder.parent} has no {folder.name}: download the whole folder.")
    try:
        return _class(package, name).from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} can't be loaded as {name}: {reason}") from error


def _class(package: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(package), name)
    except ImportError as error:
        raise ValueError(
            f"A model in diffusers' layout needs the package {package} ({error}): install it with "
            "pip install diffusers transformers."
        ) from error


def _one_less(name: str) -> str:
    number, _, rest = name.partition(".")
    return f"layers.{int(number) - 1}.{rest}" if number.isdecimal() else name
