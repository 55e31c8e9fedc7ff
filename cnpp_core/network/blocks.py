"""The parts that a Stable Diffusion UNet and its ControlNet are built of.

Attribute names follow the original checkpoints, so that a state dict of this code is a state dict
of the released files. Every layer comes from an ``operations`` namespace (``torch.nn`` or a host's
own, which may cast or offload weights), and attention is a function handed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class Place(NamedTuple):
    """Where in a network attention happens.

    layer: name of the transformer block in the checkpoint, "input_blocks.1.1.transformer_blocks.0".
    cross: over the prompt; otherwise over the features themselves.
    """

    layer: str = ""
    cross: bool = False


# Multi-head attention of q (B, N, C) over k and v (B, M, C), with the number of heads, at a place.
Attention = Callable[[Tensor, Tensor, Tensor, int, Place], Tensor]


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, heads: int, place: Place) -> Tensor:
    """PyTorch's own, the same at every place; gives (B, N, C)."""
    q, k, v = (rearrange(t, "b n (h c) -> b h n c", h=heads) for t in (q, k, v))
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b h n c -> b n (h c)")


@dataclass(frozen=True)
class Build:
    """What layers are made with: the namespace they come from, the attention, dtype and device."""

    operations: Any = nn
    attention: Attention = scaled_dot_product
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None

    @property
    def _where(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "device": self.device}

    def linear(self, inputs: int, outputs: int, bias: bool = True) -> nn.Module:
        return self.operations.Linear(inputs, outputs, bias=bias, **self._where)

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
        return self.operations.Conv2d(
            inputs, outputs, kernel, stride=stride, padding=kernel // 2, **self._where
        )

    def group_norm(self, channels: int, eps: float = 1e-5) -> nn.Module:
        return self.operations.GroupNorm(32, channels, eps=eps, **self._where)

    def layer_norm(self, channels: int) -> nn.Module:
        return self.operations.LayerNorm(channels, **self._where)

    def parameter(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(shape, **self._where))

    def zero_conv(self, channels: int) -> Block:
        """A 1x1 convolution whose weight and bias start at zero (ControlNet, section 3.1)."""
        conv = self.conv(channels, channels, 1)
        for parameter in conv.parameters():
            nn.init.zeros_(parameter)
        return Block(conv)

    def embedding(self, inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(self.linear(inputs, outputs), nn.SiLU(), self.linear(outputs, outputs))


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding (N, dim) of timesteps (N,), cosines first; float32."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * steps / half)[None]
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))


class Block(nn.Sequential):
    """Layers in a row, each given what it needs beside the features.

    x (B, C, H, W) -> (B, C', H', W'), with emb (B, emb_channels), context (B, L, context_dim) and,
    to grow to, the size of a skip connection.
    """

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        emb: Tensor | None = None,
        context: Tensor | None = None,
        size: torch.Size | None = None,
    ) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            elif isinstance(layer, Upsample):
                x = layer(x, size)
            else:
                x = layer(x)
        return x


class ResBlock(nn.Module):
    """Two convolutions around a skip connection; the timestep embedding is added in between."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int, build: Build) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            build.group_norm(channels), nn.SiLU(), build.conv(channels, out_channels, 3)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), build.linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            build.group_norm(out_channels),
            nn.SiLU(),
            nn.Dropout(0.0),  # holds the place that the keys of the released files count with
            build.conv(out_channels, out_channels, 3),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else build.conv(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (B, C, H, W), emb (B, emb_channels) -> (B, out_channels, H, W)."""
        h = self.in_layers(x)
        h = h + self.emb_layers(emb).type(h.dtype)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    """(B, C, H, W) -> (B, C, H / 2, W / 2) by a strided convolution; odd sides round up."""

    def __init__(self, channels: int, build: Build) -> None:
        super().__init__()
        self.op = build.conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """(B, C, H, W) at the size of the skip connection that comes next (or doubled), convolved."""

    def __init__(self, channels: int, build: Build) -> None:
        super().__init__()
        self.conv = build.conv(channels, channels, 3)

    def forward(self, x: Tensor, size: torch.Size | None = None) -> Tensor:
        target = (2 * x.shape[2], 2 * x.shape[3]) if size is None else tuple(size[-2:])
        return self.conv(F.interpolate(x, size=target, mode="nearest"))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, with cross-attention to the prompt."""

    def __init__(
        self,
        channels: int,
        heads: int,
        depth: int,
        context_dim: int,
        use_linear: bool,
        build: Build,
    ) -> None:
        super().__init__()
        self.use_linear = use_linear
        self.norm = build.group_norm(channels, eps=1e-6)
        self.proj_in = _projection(channels, use_linear, build)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context_dim, build) for _ in range(depth)
        )
        self.proj_out = _projection(channels, use_linear, build)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, C, H, W), context (B, L, context_dim) -> (B, C, H, W)."""
        height = x.shape[2]
        h = self.norm(x)
        if not self.use_linear:
            h = self.proj_in(h)
        h = rearrange(h, "b c h w -> b (h w) c").contiguous()
        if self.use_linear:
            h = self.proj_in(h)
        for block in self.transformer_blocks:
            h = block(h, context)
        if self.use_linear:
            h = self.proj_out(h)
        h = rearrange(h, "b (h w) c -> b c h w", h=height).contiguous()
        if not self.use_linear:
            h = self.proj_out(h)
        return h + x


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and a gated feed-forward layer, each with a skip.

    x (B, N, channels), context (B, L, context_dim) -> (B, N, channels).
    """

    def __init__(self, channels: int, heads: int, context_dim: int, build: Build) -> None:
        super().__init__()
        self.attn1 = CrossAttention(channels, channels, heads, build)
        self.ff = FeedForward(channels, build)
        self.attn2 = CrossAttention(channels, context_dim, heads, build)
        self.norm1 = build.layer_norm(channels)
        self.norm2 = build.layer_norm(channels)
        self.norm3 = build.layer_norm(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        n = self.norm1(x)
        x = x + self.attn1(n, n)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class CrossAttention(nn.Module):
    """Attention of x (B, N, channels) over a context (B, M, context_dim)."""

    def __init__(self, channels: int, context_dim: int, heads: int, build: Build) -> None:
        super().__init__()
        self.heads = heads
        self.attention = build.attention
        self.place = Place()
        self.to_q = build.linear(channels, channels, bias=False)
        self.to_k = build.linear(context_dim, channels, bias=False)
        self.to_v = build.linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(build.linear(channels, channels), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return self.to_out(self.attention(q, k, v, self.heads, self.place))


def tell_places(network: nn.Module) -> None:
    """Tell every attention in a finished network where it is."""
    for name, module in network.named_modules():
        if isinstance(module, CrossAttention):
            layer, _, attention = name.rpartition(".")
            module.place = Place(layer, cross=attention == "attn2")


class FeedForward(nn.Module):
    """(B, N, channels) by a hidden layer of four times the width, gated by a GELU.

    GEGLU of arXiv 2002.05202.
    """

    def __init__(self, channels: int, build: Build) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(channels, 4 * channels, build),
            nn.Dropout(0.0),
            build.linear(4 * channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class GEGLU(nn.Module):
    """(..., inputs) -> (..., outputs): x * gelu(gate), both halves of one linear layer."""

    def __init__(self, inputs: int, outputs: int, build: Build) -> None:
        super().__init__()
        self.proj = build.linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


def _projection(channels: int, use_linear: bool, build: Build) -> nn.Module:
    return build.linear(channels, channels) if use_linear else build.conv(channels, channels, 1)
