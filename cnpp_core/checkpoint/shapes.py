"""Read the configuration of a network off the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor

from ..network.config import NetworkConfig
from .words import shown

LINEAR_HEAD_CHANNELS = 64
CONV_HEADS = 8
PROJ_IN = ".proj_in.weight"
GROUPS = 32  # of every normalisation, which must divide every width
# Far above every published network, so that no file makes us build for minutes.
MOST_CHANNELS, MOST_BLOCKS = 65536, 512
_TRANSFORMER = re.compile(
    r"((?:input_blocks\.[0-9]+|middle_block|output_blocks\.[0-9]+)\.1)"
    r"\.transformer_blocks\.([0-9]{1,9})\."
)


class MissingTensor(ValueError):  # noqa: N818 - for the loader alone, users see a ValueError
    """A tensor that every network of this kind has is not there."""


def count_in_a_row(numbers: Collection[int], what: str) -> int:
    """How many blocks ``what`` has that are numbered so; MissingTensor if one is left out.

    Without it one tensor of block 999999999 would be a network of a milliard blocks.
    """
    found = set(numbers)
    for number in range(len(found)):
        if number not in found:
            raise MissingTensor(f"The network has {what}.{max(found)} but no {what}.{number}.")
    return len(found)


def read_config(state_dict: Mapping[str, Tensor]) -> NetworkConfig:
    """Configuration of a ControlNet or UNet in the original layout, without prefix.

    Only names and shapes are looked at (meta tensors will do), so any width and depth is read.

    Two things no shape tells. The number of attention heads follows the rule of the published
    families: 8 heads where transformers project with convolutions (SD1.5), 64 channels per head
    where they project with linear layers (SD2.x, SDXL) and every width allows it, else 8 heads. A
    ControlNet has no output, so ``out_channels`` is 4 for it, and a UNet's ``hint_channels`` 3.
    A network without any transformer keeps the default ``context_dim``.

    Raises ValueError naming the tensor that does not fit or is missing.
    """
    try:
        return find_config(state_dict)
    except MissingTensor as error:
        raise ValueError(str(error)) from error


def find_config(state_dict: Mapping[str, Tensor]) -> NetworkConfig:
    """As read_config, but raises MissingTensor for a tensor that is missing."""
    reader = _Reader(state_dict)
    model_channels, in_channels = reader.shape("input_blocks.0.0.weight", 4)[:2]
    if model_channels % GROUPS:
        raise ValueError(
            f"The network is {model_channels} channels wide, which must be a multiple of {GROUPS}."
        )
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
    decoder_depths = reader.decoder_depths()
    blocks = sum(len(level) for level in widths)
    blocks += sum(depths) + sum(decoder_depths or ()) + max(reader.middle_depth(), 0)
    if blocks > MOST_BLOCKS:
        raise ValueError(f"The network has {blocks} blocks, at most {MOST_BLOCKS} are read.")
    config = NetworkConfig(
        model_channels=model_channels,
        channel_mult=tuple(level[0] // model_channels for level in widths),
        num_res_blocks=tuple(len(level) for level in widths),
        transformer_depth=depths,
        transformer_depth_middle=reader.middle_depth(),
        transformer_depth_output=decoder_depths,
        context_dim=reader.context_dim(default=NetworkConfig.context_dim),
        adm_in_channels=reader.size("label_emb.0.0.weight", 1, 2),
        num_heads=CONV_HEADS,
        head_channels=LINEAR_HEAD_CHANNELS if by_head_width else None,
        use_linear_in_transformer=linear,
        in_channels=in_channels,
        out_channels=reader.size("out.2.weight", 0, 4) or NetworkConfig.out_channels,
        hint_channels=reader.size("input_hint_block.0.weight", 1, 4) or NetworkConfig.hint_channels,
        union_types=reader.size("task_embedding", 0, 2),
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
        numbers: dict[str, set[int]] = defaultdict(set)
        for name in state_dict:
            if match := _TRANSFORMER.match(name):
                numbers[match[1]].add(int(match[2]))
        self.depths = {
            transformer: count_in_a_row(found, f"{transformer}.transformer_blocks")
            for transformer, found in numbers.items()
        }

    def shape(self, name: str, *dimensions: int) -> tuple[int, ...]:
        """Shape of a tensor that has to be there, with one of these numbers of dimensions."""
        if name not in self.tensors:
            raise MissingTensor(f"The network has no tensor {shown(name)}.")
        shape = tuple(self.tensors[name].shape)
        if len(shape) not in dimensions or not all(1 <= size <= MOST_CHANNELS for size in shape):
            expected = " or ".join(map(str, dimensions))
            raise ValueError(
                f"The tensor {shown(name)} has the shape {shown(shape)}; it must have {expected} "
                f"dimensions of 1 to {MOST_CHANNELS}."
            )
        return shape

    def size(self, name: str, dim: int, dimensions: int) -> int | None:
        return self.shape(name, dimensions)[dim] if name in self.tensors else None

    def encoder(self) -> tuple[list[list[int]], tuple[int, ...]]:
        """Widths of the ResBlocks, a list per level, and the transformer depth of each."""
        widths: list[list[int]] = [[]]
        depths = []
        for k in range(1, self._blocks("input_blocks")):
            if f"input_blocks.{k}.0.op.weight" in self.tensors:
                widths.append([])
                continue
            widths[-1].append(self.shape(f"input_blocks.{k}.0.in_layers.2.weight", 4)[0])
            depths.append(self.depths.get(f"input_blocks.{k}.1", 0))
        if not all(widths):
            raise ValueError("A level of the network has no ResBlock.")
        return widths, tuple(depths)

    def middle_depth(self) -> int:
        self.shape("middle_block.0.in_layers.2.weight", 4)
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
            return self.shape(f"{transformer}.transformer_blocks.0.attn2.to_k.weight", 2)[1]
        return default

    def linear(self) -> bool:
        return any(len(shape) == 2 for shape in self._proj_in())

    def transformer_widths(self) -> set[int]:
        return {shape[0] for shape in self._proj_in()}

    def _proj_in(self) -> list[tuple[int, ...]]:
        return [self.shape(name, 2, 4) for name in self.tensors if name.endswith(PROJ_IN)]

    def _blocks(self, name: str) -> int:
        pattern = re.compile(name + r"\.([0-9]{1,9})\.")
        return count_in_a_row(
            [int(match[1]) for key in self.tensors if (match := pattern.match(key))], name
        )
