"""Read the configuration of a network off the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..network.config import NetworkConfig

LINEAR_HEAD_CHANNELS = 64
CONV_HEADS = 8
PROJ_IN = ".proj_in.weight"


class MissingTensor(ValueError):  # noqa: N818 - reads as what it says
    """A tensor that every network of this kind has is not there."""


def read_config(state_dict: Mapping[str, Tensor]) -> NetworkConfig:
    """Configuration of a ControlNet or UNet in the original layout, without prefix.

    Only names and shapes are looked at (meta tensors will do), so any width and depth is read.

    Two things no shape tells. The number of attention heads follows the rule of the published
    families: 8 heads where transformers project with convolutions (SD1.5), 64 channels per head
    where they project with linear layers (SD2.x, SDXL) and every width allows it, else 8 heads. A
    ControlNet has no output, so ``out_channels`` is 4 for it, and a UNet's ``hint_channels`` 3.
    A network without any transformer keeps the default ``context_dim``.

    Raises ValueError naming the tensor that does not fit, MissingTensor the one that is missing.
    """
    reader = _Reader(state_dict)
    model_channels, in_channels = reader.shape("input_blocks.0.0.weight")[:2]
    widths, depths = reader.encoder()
    for width in (width for level in widths for width in level):
        if width % model_channels:
            raise ValueError(
                f"A block is {width} channels wide, which is no multiple of the network's "
                f"{model_channels}; this is no Stable Diffusion network."
            )
    uneven = [level for level in widths if len(set(level)) > 1]
    if uneven:
        raise ValueError(f"The blocks of one level are of different widths, {uneven[0]}.")

    linear = reader.linear()
    transformer_widths = reader.transformer_widths()
    by_head_width = linear and all(w % LINEAR_HEAD_CHANNELS == 0 for w in transformer_widths)
    config = NetworkConfig(
        model_channels=model_channels,
        channel_mult=tuple(level[0] // model_channels for level in widths),
        num_res_blocks=tuple(len(level) for level in widths),
        transformer_depth=depths,
        transformer_depth_middle=reader.middle_depth(),
        transformer_depth_output=reader.decoder_depths(),
        context_dim=reader.context_dim(default=NetworkConfig.context_dim),
        adm_in_channels=reader.size("label_emb.0.0.weight", 1),
        num_heads=CONV_HEADS,
        head_channels=LINEAR_HEAD_CHANNELS if by_head_width else None,
        use_linear_in_transformer=linear,
        in_channels=in_channels,
        out_channels=reader.size("out.2.weight", 0) or NetworkConfig.out_channels,
        hint_channels=reader.size("input_hint_block.0.weight", 1) or NetworkConfig.hint_channels,
        union_types=reader.size("task_embedding", 0),
    )
    return _without_redundant_decoder(config)


def _without_redundant_decoder(config: NetworkConfig) -> NetworkConfig:
    """None where the decoder mirrors the encoder, so that equal networks have equal configs."""
    mirrored = replace(config, transformer_depth_output=None)
    return mirrored if mirrored.decoder_depths == config.decoder_depths else config


class _Reader:
    """Looks things up in a state dict; a block is a number such as 4 in ``input_blocks.4.``."""

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        self.tensors = state_dict
        self.depths: dict[str, int] = defaultdict(int)
        pattern = re.compile(r"(.+)\.transformer_blocks\.(\d+)\.")
        for name in state_dict:
            if match := pattern.match(name):
                self.depths[match[1]] = max(self.depths[match[1]], int(match[2]) + 1)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.tensors:
            raise MissingTensor(f"The network has no tensor {name}.")
        return tuple(self.tensors[name].shape)

    def size(self, name: str, dim: int) -> int | None:
        return self.shape(name)[dim] if name in self.tensors else None

    def encoder(self) -> tuple[list[list[int]], tuple[int, ...]]:
        """Widths of the ResBlocks, a list per level, and the transformer depth of each."""
        widths: list[list[int]] = [[]]
        depths = []
        for k in range(1, self._blocks("input_blocks")):
            if f"input_blocks.{k}.0.op.weight" in self.tensors:
                widths.append([])
                continue
            widths[-1].append(self.shape(f"input_blocks.{k}.0.in_layers.2.weight")[0])
            depths.append(self.depths.get(f"input_blocks.{k}.1", 0))
        if not all(widths):
            raise ValueError("A level of the network has no ResBlock.")
        return widths, tuple(depths)

    def middle_depth(self) -> int:
        self.shape("middle_block.0.in_layers.2.weight")
        depth = self.depths.get("middle_block.1", 0)
        if depth == 0 and not any(name.startswith("middle_block.2.") for name in self.tensors):
            return -1
        return depth

    def decoder_depths(self) -> tuple[int, ...] | None:
        blocks = self._blocks("output_blocks")
        if not blocks:
            return None
        return tuple(self.depths.get(f"output_blocks.{k}.1", 0) for k in range(blocks))

    def context_dim(self, default: int) -> int:
        for transformer in self.depths:
            return self.shape(f"{transformer}.transformer_blocks.0.attn2.to_k.weight")[1]
        return default

    def linear(self) -> bool:
        return any(len(t.shape) == 2 for k, t in self.tensors.items() if k.endswith(PROJ_IN))

    def transformer_widths(self) -> set[int]:
        return {t.shape[0] for k, t in self.tensors.items() if k.endswith(PROJ_IN)}

    def _blocks(self, name: str) -> int:
        pattern = re.compile(name + r"\.(\d+)\.")
        numbers = [int(match[1]) for key in self.tensors if (match := pattern.match(key))]
        return max(numbers, default=-1) + 1
