"""The half that a UNet and its ControlNet have in common: embeddings, encoder, middle block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import Block, Build, Downsample, ResBlock, SpatialTransformer, timestep_embedding
from .config import NetworkConfig


class Encoder(nn.Module):
    """Timestep and label embedding, ``input_blocks`` and ``middle_block`` of one configuration."""

    def __init__(self, config: NetworkConfig, build: Build) -> None:
        super().__init__()
        self.config = config
        emb_dim = config.time_embed_dim
        self.time_embed = build.embedding(config.model_channels, emb_dim)
        if config.adm_in_channels is not None:
            self.label_emb = nn.Sequential(build.embedding(config.adm_in_channels, emb_dim))

        channels = config.model_channels
        self.input_blocks = nn.ModuleList([Block(build.conv(config.in_channels, channels, 3))])
        depths = iter(config.transformer_depth)
        last_level = len(config.channel_mult) - 1
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks[level]):
                out_channels = mult * config.model_channels
                self.input_blocks.append(
                    res_and_transformer(channels, out_channels, next(depths), config, build)
                )
                channels = out_channels
            if level != last_level:
                self.input_blocks.append(Block(Downsample(channels, build)))

        middle: list[nn.Module] = [ResBlock(channels, emb_dim, channels, build)]
        if config.transformer_depth_middle >= 0:
            middle.append(transformer(channels, config.transformer_depth_middle, config, build))
            middle.append(ResBlock(channels, emb_dim, channels, build))
        self.middle_block = Block(*middle)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.time_embed.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.time_embed.parameters()).device

    def embed(
        self,
        timesteps: Tensor,
        y: Tensor | None,
        dtype: torch.dtype,
        union: Tensor | None = None,
    ) -> Tensor:
        """Embedding (B, 4 * model_channels) of timesteps (B,) and, where used, y (B, adm).

        ``union`` embeds the types of a union ControlNet; it joins before y, an order on which the
        last bits of every published implementation depend.
        """
        emb = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(dtype))
        if union is not None:
            emb = emb + union
        adm = self.config.adm_in_channels
        if adm is None:
            return emb
        if y is None or y.shape[-1] != adm:
            found = "none" if y is None else f"{y.shape[-1]} wide"
            raise ValueError(
                f"This {self.config.family} network needs a pooled text embedding y of width {adm}"
                f", found {found}; use it with a model and text encoder of the same family."
            )
        return emb + self.label_emb(y)


def res_and_transformer(
    channels: int, out_channels: int, depth: int, config: NetworkConfig, build: Build
) -> Block:
    """A ResBlock, followed by a transformer where ``depth`` is not zero."""
    layers: list[nn.Module] = [ResBlock(channels, config.time_embed_dim, out_channels, build)]
    if depth > 0:
        layers.append(transformer(out_channels, depth, config, build))
    return Block(*layers)


def transformer(
    channels: int, depth: int, config: NetworkConfig, build: Build
) -> SpatialTransformer:
    """The spatial transformer of this configuration at a width."""
    return SpatialTransformer(
        channels,
        config.heads(channels),
        depth,
        config.context_dim,
        config.use_linear_in_transformer,
        build,
    )
