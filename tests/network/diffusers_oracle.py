"""diffusers' ControlNetModel and UNet2DConditionModel with the weights of our networks."""

from __future__ import annotations

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
)

TIME_IDS = (512.0, 640.0, 0.0, 8.0, 512.0, 512.0)


def settings(config) -> dict:
    """diffusers' constructor arguments for a network of our configuration."""
    widths = tuple(m * config.model_channels for m in config.channel_mult)
    ends = [sum(config.num_res_blocks[: i + 1]) - 1 for i in range(len(widths))]
    depths = [config.transformer_depth[end] for end in ends]
    out = {
        "block_out_channels": widths,
        "layers_per_block": config.num_res_blocks[0],
        "cross_attention_dim": config.context_dim,
        "down_block_types": tuple("CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths),
        "attention_head_dim": tuple(config.heads(width) for width in widths),
        "transformer_layers_per_block": tuple(max(d, 1) for d in depths),
        "use_linear_projection": config.use_linear_in_transformer,
    }
    if config.adm_in_channels is not None:
        out["addition_embed_type"] = "text_time"
        out["addition_time_embed_dim"] = config.adm_in_channels // 12
        out["projection_class_embeddings_input_dim"] = config.adm_in_channels
    return out


def controlnet(net) -> ControlNetModel:
    """diffusers' ControlNetModel holding the weights of our ControlNet."""
    arguments = settings(net.config)
    state_dict = convert_controlnet_checkpoint(net.state_dict(), arguments)
    if net.config.adm_in_channels is not None:
        state_dict |= _label_embedding(net)
    with torch.device("meta"):
        oracle = ControlNetModel(**arguments)
    oracle.load_state_dict(state_dict, strict=True, assign=True)
    return oracle.eval()


def unet(net) -> UNet2DConditionModel:
    """diffusers' UNet2DConditionModel holding the weights of our UNet."""
    arguments = settings(net.config)
    arguments["up_block_types"] = tuple(
        "CrossAttnUpBlock2D" if "CrossAttn" in name else "UpBlock2D"
        for name in reversed(arguments["down_block_types"])
    )
    prefix = "model.diffusion_model."
    checkpoint = {prefix + key: value for key, value in net.state_dict().items()}
    state_dict = convert_ldm_unet_checkpoint(
        checkpoint, {"class_embed_type": None, "addition_embed_type": None} | arguments
    )
    if net.config.adm_in_channels is not None:
        state_dict |= _label_embedding(net)
    with torch.device("meta"):
        oracle = UNet2DConditionModel(**arguments)
    oracle.load_state_dict(state_dict, strict=True, assign=True)
    return oracle.eval()


def label_inputs(config, batch: int) -> tuple[torch.Tensor | None, dict | None]:
    """y as our networks take it, and the same information as diffusers takes it."""
    if config.adm_in_channels is None:
        return None, None
    dim = config.adm_in_channels // 12
    generator = torch.Generator().manual_seed(5)
    pooled = torch.randn(batch, config.adm_in_channels - 6 * dim, generator=generator)
    time_ids = torch.tensor([TIME_IDS] * batch)
    frequencies = 10000.0 ** (-torch.arange(dim // 2) / (dim // 2))
    angles = time_ids[..., None] * frequencies
    sinusoids = torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)
    y = torch.cat([pooled, sinusoids], dim=1)
    return y, {"text_embeds": pooled, "time_ids": time_ids}


def _label_embedding(net) -> dict[str, torch.Tensor]:
    return {
        f"add_embedding.linear_{i + 1}.{kind}": net.state_dict()[f"label_emb.0.{2 * i}.{kind}"]
        for i in (0, 1)
        for kind in ("weight", "bias")
    }
