"""The denoising UNet of Stable Diffusion, with the points where control is injected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .blocks import Attention, Build, Upsample, scaled_dot_product, tell_places
from .config import NetworkConfig
from .encoder import Encoder, res_and_transformer


class Features(NamedTuple):
    """What the decoder starts from; no control has touched it.

    emb (B, 4 * model_channels), h the middle block's output, skips (B, C, H, W) shallow to deep,
    dtype that of the latent.
    """

    emb: Tensor
    h: Tensor
    skips: tuple[Tensor, ...]
    dtype: torch.dtype


class UNet(Encoder):
    """Predicts the noise in a latent; the "locked copy" of the ControlNet paper (figure 3)."""

    def __init__(
        self,
        config: NetworkConfig,
        *,
        operations: Any = nn,
        attention: Attention = scaled_dot_product,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        build = Build(operations, attention, dtype, device)
        super().__init__(config, build)
        skips = list(config.block_channels[:-1])
        channels = skips[-1]
        depths = iter(config.decoder_depths)
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            out_channels = mult * config.model_channels
            for i in range(config.num_res_blocks[level] + 1):
                block = res_and_transformer(
                    channels + skips.pop(), out_channels, next(depths), config, build
                )
                channels = out_channels
                if level and i == config.num_res_blocks[level]:
                    block.append(Upsample(channels, build))
                self.output_blocks.append(block)
        self.out = nn.Sequential(
            build.group_norm(channels), nn.SiLU(), build.conv(channels, config.out_channels, 3)
        )
        tell_places(self)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        residuals: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """The predicted noise eps (B, out_channels, H, W).

        x (B, in_channels, H, W), timesteps (B,), context (B, L, context_dim), y (B, adm).
        ``residuals`` are a ControlNet's, shallow to deep and the middle's last; the middle's is
        added after the middle block, the others to the skip connections. None skips a block.
        Raises ValueError if their number or a shape does not fit.
        """
        return self.decode(self.encode(x, timesteps, context, y), context, residuals)

    def encode(
        self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None
    ) -> Features:
        """The half that no control reaches; several controls of one latent may share it."""
        emb = self.embed(timesteps, y, x.dtype)
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, emb, context)
            skips.append(h)
        return Features(emb, self.middle_block(h, emb, context), tuple(skips), x.dtype)

    def decode(
        self,
        features: Features,
        context: Tensor,
        residuals: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """The predicted noise from the features of `encode`, with residuals as `forward`'s."""
        control: Sequence[Tensor | None] = residuals or [None] * self.config.blocks
        if len(control) != self.config.blocks:
            raise ValueError(
                f"This UNet takes {self.config.blocks} control residuals, found {len(control)}; "
                f"use a ControlNet of the family {self.config.family}."
            )
        *skip_control, middle_control = control

        emb, skips = features.emb, list(features.skips)
        h = inject(features.h, middle_control, "middle")
        for block in self.output_blocks:
            depth = len(skips) - 1
            skip = inject(skips.pop(), skip_control[depth], f"input block {depth}")
            h = torch.cat([h, skip], dim=1)
            h = block(h, emb, context, skips[-1].shape if skips else None)
        return self.out(h.type(features.dtype))


def inject(h: Tensor, residual: Tensor | None, block: str) -> Tensor:
    """h (B, C, H, W) + residual (B or 1, C, H, W), never in place; None adds nothing.

    Raises ValueError where the shapes differ, naming the block.
    """
    if residual is None:
        return h
    if residual.shape[1:] != h.shape[1:] or residual.shape[0] not in (1, h.shape[0]):
        raise ValueError(
            f"The control residual of {block} has shape {tuple(residual.shape)}, the feature it "
            f"is added to {tuple(h.shape)}; ControlNet and model belong to different families."
        )
    return h + residual
