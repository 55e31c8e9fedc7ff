"""Networks of ours behind the host's MODEL, CLIP and VAE, for the demo model.

Only the host's public constructors are used, so that whatever a version adds to these classes is
there. Everything runs in float32: the demo model is small, and CPUs are where it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy import model_base, model_management, model_patcher, sd, sd1_clip, supported_models
from comfy.ldm.models.autoencoder import AutoencoderKL
from torch import Tensor, nn

from ....cnpp_core.network.config import NetworkConfig

Patcher = getattr(model_patcher, "CoreModelPatcher", model_patcher.ModelPatcher)
Tokens = list[list[tuple[int, float]]]  # per prompt: token and weight


def build_model(
    config: NetworkConfig, weights: dict[str, Tensor], *, disable_dynamic: bool = False
) -> model_patcher.ModelPatcher:
    """The host's own UNet of this layout with these weights (original layout), as a MODEL.

    It owns its weights. disable_dynamic: all of them in place at once, as compiling needs them.
    """

    class Layout(supported_models.SD15):
        unet_config: dict[str, Any] = {}  # noqa: RUF012  the host's class has it so
        unet_extra_config: dict[str, Any] = {}  # noqa: RUF012

    layout = Layout(unet_layout(config))
    layout.set_inference_dtype(torch.float32, None)
    offload_device = model_management.unet_offload_device()
    model = model_base.BaseModel(layout, model_type=model_base.ModelType.EPS, device=offload_device)
    model.diffusion_model.load_state_dict({key: w.float() for key, w in weights.items()})
    kind = model_patcher.ModelPatcher if disable_dynamic else Patcher
    return kind(
        model,
        load_device=model_management.get_torch_device(),
        offload_device=offload_device,
    )


def unet_layout(config: NetworkConfig) -> dict[str, Any]:
    """The host's ``unet_config`` of a network of ours."""
    adm = config.adm_in_channels
    return {
        "image_size": 32,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "model_channels": config.model_channels,
        "channel_mult": list(config.channel_mult),
        "num_res_blocks": list(config.num_res_blocks),
        "transformer_depth": list(config.transformer_depth),
        "transformer_depth_middle": config.transformer_depth_middle,
        # The host takes them from the end.
        "transformer_depth_output": list(reversed(config.decoder_depths)),
        "context_dim": config.context_dim,
        "num_heads": -1 if config.head_channels else config.num_heads,
        "num_head_channels": config.head_channels or -1,
        "use_linear_in_transformer": config.use_linear_in_transformer,
        "adm_in_channels": adm,
        "num_classes": None if adm is None else "sequential",
        "use_spatial_transformer": True,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "use_checkpoint": False,
        "legacy": False,
    }


def build_clip(tokenize: Callable[[str], list[int]], encoder: nn.Module) -> sd.CLIP:
    """A CLIP around a text encoder of ours: token ids (B, L) -> context (B, L, width).

    tokenize: a text to the ids of a whole prompt, one per word, always padded to the same number.
    The host's (word:1.2) weights are read; they move a token away from the empty prompt's, as in
    the host.
    """
    target = supported_models.supported_models_base.ClipTarget(
        lambda **_options: PromptTokenizer(tokenize),
        lambda **_options: PromptEncoder(encoder, tokenize("")),
    )
    return sd.CLIP(target, parameters=sum(p.numel() for p in encoder.parameters()))


class PromptTokenizer:
    """What the host's CLIP asks of a tokenizer."""

    def __init__(self, tokenize: Callable[[str], list[int]]) -> None:
        self.tokenize = tokenize
        self.empty = tokenize("")

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **_options: Any
    ) -> dict[str, Any]:
        """{"demo": tokens with their weights}, the ids of the whole prompt in one row."""
        parts = sd1_clip.token_weights(sd1_clip.escape_important(text), 1.0)
        row = [
            (token, weight)
            for part, weight in parts
            for token in self.tokenize(sd1_clip.unescape_important(part))
            if token != self.empty[0]
        ]
        row = [*row, *((pad, 1.0) for pad in self.empty)][: len(self.empty)]
        if return_word_ids:
            row = [(token, weight, 0) for token, weight in row]
        return {"demo": [row]}

    def untokenize(self, pairs: list[tuple[int, float]]) -> list[tuple[tuple[int, float], str]]:
        return [(pair, str(pair[0])) for pair in pairs]

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class PromptEncoder(nn.Module):
    """What the host's CLIP asks of a text encoder."""

    def __init__(self, encoder: nn.Module, empty: list[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.empty = empty
        self.dtypes = {torch.float32}
        self.disable_offload = True  # plain layers: they don't cast weights on the fly

    def encode_token_weights(self, tokens: dict[str, Tokens]) -> tuple[Tensor, Tensor]:
        """(context (1, L, width), pooled (1, width)) on the host's intermediate device."""
        (row,) = tokens["demo"]
        device = next(self.encoder.parameters()).device
        ids = torch.tensor([[token for token, _ in row], self.empty], device=device)
        weights = torch.tensor([weight for _, weight in row], device=device)[:, None]
        context, empty = self.encoder(ids)
        weighted = empty + (context - empty) * weights
        context = torch.where(weights == 1, context, weighted)[None].float()
        context = context.to(model_management.intermediate_device())
        return context, context.mean(dim=1)

    def reset_clip_options(self) -> None:
        pass

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Layers can't be skipped here (CLIP Set Last Layer): there is nothing to set."""

    def load_sd(self, state_dict: dict[str, Tensor]) -> Any:
        return self.encoder.load_state_dict(state_dict, strict=False)


def build_vae(autoencoder: nn.Module) -> sd.VAE:
    """A VAE around an autoencoder of ours: ``encode`` and ``decode`` between -1..1 and latents."""
    # The host's constructor fills in what a version needs for 8x latents of 4 channels, around the
    # smallest autoencoder of its own; that one then gives place to ours.
    tiny = {"double_z": True, "z_channels": 4, "resolution": 8, "in_channels": 3, "out_ch": 3}
    tiny |= {"ch": 32, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    params = {"ddconfig": tiny, "embed_dim": 4}
    weights = AutoencoderKL(**params).state_dict()
    vae = sd.VAE(sd=weights, config={"params": params}, dtype=torch.float32)
    vae.first_stage_model = HostedAutoencoder(autoencoder).eval()
    vae.disable_offload = True  # plain layers: they don't cast weights on the fly
    vae.patcher = model_patcher.ModelPatcher(
        vae.first_stage_model,
        load_device=vae.device,
        offload_device=model_management.vae_offload_device(),
    )
    if hasattr(vae, "size"):
        vae.size = None
        vae.model_size()
    return vae


class HostedAutoencoder(nn.Module):
    """An autoencoder of ours as the host's VAE calls it, with options that differ by version.

    Pictures (B, 3, 8H, 8W) in -1..1 <-> latents (B, 4, H, W).
    """

    autoencoder: Any  # has encode and decode, which nn.Module does not promise

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def encode(self, image: Tensor, **_options: Any) -> Tensor:
        return self.autoencoder.encode(image)

    def decode(self, latent: Tensor, **_options: Any) -> Tensor:
        return self.autoencoder.decode(latent)
