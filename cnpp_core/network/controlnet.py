"""The ControlNet: a trainable copy of the encoder that reads a hint and answers in residuals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Attention, Block, Build, scaled_dot_product, tell_places
from .config import NetworkConfig
from .encoder import Encoder
from .unet import UNet
from .union import TokenLayer, TypeEmbedding, require_types

HINT_CHANNELS = (16, 16, 32, 32, 96, 96, 256)  # a step down in size wherever the width grows


class ControlNet(Encoder):
    """Encoder copy, hint block and zero convolutions (arXiv 2302.05543, section 3.2)."""

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
        *skip_channels, middle_channels = config.block_channels
        self.zero_convs = nn.ModuleList(build.zero_conv(channels) for channels in skip_channels)
        self.middle_block_out = build.zero_conv(middle_channels)
        self.input_hint_block = _hint_block(config, build)
        if config.union_types is not None:
            width = config.model_channels
            self.task_embedding = build.parameter(config.union_types, width)
            self.transformer_layes = nn.Sequential(TokenLayer(width, build))  # sic, in every file
            self.spatial_ch_projs = build.linear(width, width)
            self.control_add_embedding = TypeEmbedding(
                config.union_types, config.time_embed_dim, build
            )
        tell_places(self)

    @classmethod
    def from_unet(cls, unet: UNet, hint_channels: int = 3) -> ControlNet:
        """A fresh ControlNet of a UNet: its encoder copied, all residuals zero until trained."""
        config = replace(unet.config, hint_channels=hint_channels, transformer_depth_output=None)
        net = cls(config, dtype=unet.dtype, device=unet.device)
        ours, theirs = net.state_dict(), unet.state_dict()
        net.load_state_dict({key: theirs.get(key, value) for key, value in ours.items()})
        return net

    def forward(
        self,
        x: Tensor,
        hint: Tensor | Sequence[Tensor],
        timesteps: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        control_type: Sequence[int] = (),
        control_weights: Sequence[float] | None = None,
    ) -> list[Tensor]:
        """The residuals of every block, shallow to deep and the middle's last.

        x (B, in_channels, H, W), hint (B or 1, hint_channels, 8H, 8W) in 0..1, timesteps (B,),
        context (B, L, context_dim), y (B, adm). For a union network ``control_type`` holds indices
        into ``UNION_TYPES``, ``hint`` as many hints (a bare tensor is one), and
        ``control_weights``, if given, how strongly each of them counts.
        """
        union = None
        if self.config.union_types is not None:
            require_types(control_type, self.config.union_types)
            union = self.control_add_embedding(control_type, like=x)
        emb = self.embed(timesteps, y, x.dtype, union)
        guided_hint = self.embed_hint(hint, control_type, control_weights)

        h, residuals = x, []
        for i, (block, zero_conv) in enumerate(
            zip(self.input_blocks, self.zero_convs, strict=True)
        ):
            h = block(h, emb, context)
            if i == 0:
                h = h + guided_hint
            residuals.append(zero_conv(h))
        h = self.middle_block(h, emb, context)
        residuals.append(self.middle_block_out(h))
        return residuals

    def embed_hint(
        self,
        hint: Tensor | Sequence[Tensor],
        control_type: Sequence[int] = (),
        control_weights: Sequence[float] | None = None,
    ) -> Tensor:
        """Features (B or 1, model_channels, H, W) of one hint, or of one hint per union type.

        In the published union network the features of several types are summed; a weight multiplies
        its type's share.
        """
        hints = [hint] if isinstance(hint, Tensor) else list(hint)
        if self.config.union_types is None or not control_type:
            if len(hints) != 1:
                raise ValueError(f"One hint was expected, found {len(hints)} and no union types.")
            return self.input_hint_block(hints[0])
        if len(hints) != len(control_type):
            raise ValueError(
                f"Each union type needs a hint of its own: found {len(hints)} hints for "
                f"{len(control_type)} types."
            )
        pairs = zip(hints, control_type, strict=True)
        shifted = [self._shift_by_type(self.input_hint_block(h), kind) for h, kind in pairs]
        if control_weights is not None:
            weighted = zip(shifted, control_weights, strict=True)
            shifted = [h if weight == 1.0 else h * weight for h, weight in weighted]
        return sum(shifted[1:], start=shifted[0])

    def _shift_by_type(self, features: Tensor, kind: int) -> Tensor:
        token = features.mean(dim=(2, 3)) + self.task_embedding[kind].to(features)
        shift = self.spatial_ch_projs(self.transformer_layes(token[:, None])[:, 0])
        return features + shift[:, :, None, None]


def _hint_block(config: NetworkConfig, build: Build) -> Block:
    """Eight convolutions with SiLU between, three of them halving the size (section 3.3)."""
    widths = (config.hint_channels, *HINT_CHANNELS)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        first = not layers
        stride = 2 if outputs > inputs and not first else 1
        layers += [build.conv(inputs, outputs, 3, stride), nn.SiLU()]
    return Block(*layers, build.conv(widths[-1], config.model_channels, 3))
