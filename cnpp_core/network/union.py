"""What a union ControlNet adds: one network that is told which kind of condition it reads.

xinsir's "ControlNet++" / ProMax for SDXL. Each hint's mean feature becomes a token together with
the embedding of its type; a small transformer turns it into a per-channel shift of that hint's
features. In the published code the transformer's attention runs along the batch axis, so that
tokens of several conditions never see each other: here every token is processed alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import Build, timestep_embedding

UNION_TYPES = (
    "openpose",
    "depth",
    "hed/pidi/scribble/ted",
    "canny/lineart/anime_lineart/mlsd",
    "normal",
    "segment",
    "tile",
    "repaint",
)
TYPE_EMBEDDING_DIM = 256


def require_types(control_type: Sequence[int], known: int) -> None:
    """ValueError naming the first type that a network with ``known`` types does not have."""
    for index in control_type:
        if not 0 <= index < known:
            name = UNION_TYPES[index] if 0 <= index < len(UNION_TYPES) else "unknown"
            raise ValueError(
                f"Union type {index} ({name}) was asked for, this ControlNet knows "
                f"{', '.join(UNION_TYPES[:known])}; choose one of those, or load the ProMax file "
                "for tile and repaint."
            )


class TypeEmbedding(nn.Module):
    """Embeds which of the ``types`` are present; added to the timestep embedding."""

    def __init__(self, types: int, emb_dim: int, build: Build) -> None:
        super().__init__()
        self.types = types
        self.linear_1 = build.linear(TYPE_EMBEDDING_DIM * types, emb_dim)
        self.linear_2 = build.linear(emb_dim, emb_dim)

    def forward(self, control_type: Sequence[int], like: Tensor) -> Tensor:
        """(1, emb_dim), in the dtype and on the device of ``like``."""
        present = torch.zeros(self.types, device=like.device)
        present[list(control_type)] = 1.0
        embedding = timestep_embedding(present, TYPE_EMBEDDING_DIM).to(like.dtype).reshape(1, -1)
        return self.linear_2(nn.functional.silu(self.linear_1(embedding)))


class TokenLayer(nn.Module):
    """A transformer layer over single tokens (N, 1, C): attention over one token is its value."""

    def __init__(self, channels: int, build: Build) -> None:
        super().__init__()
        self.attn = nn.ModuleDict(
            {
                "in_proj": build.linear(channels, 3 * channels),
                "out_proj": build.linear(channels, channels),
            }
        )
        self.ln_1 = build.layer_norm(channels)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=build.linear(channels, 4 * channels),
                gelu=QuickGELU(),
                c_proj=build.linear(4 * channels, channels),
            )
        )
        self.ln_2 = build.layer_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        value = self.attn["in_proj"](self.ln_1(x)).chunk(3, dim=-1)[-1]
        x = x + self.attn["out_proj"](value)
        return x + self.mlp(self.ln_2(x))


class QuickGELU(nn.Module):
    """GELU by a sigmoid, of any shape (...): x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)
