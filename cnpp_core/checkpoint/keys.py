"""Rename the tensors of a UNet or ControlNet between the original and the diffusers layout.

Nothing is listed by hand but the names of the parts: where each block lies follows from the number
of ResBlocks per level. The original layout counts ``input_blocks`` straight through, a downsampler
being a block of its own; diffusers counts levels (``down_blocks``), with ``resnets``,
``attentions`` and a ``downsamplers`` inside each. No value is touched, so a round trip is exact.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..network.config import NetworkConfig
from .shapes import count_in_a_row
from .words import some

RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
EMBEDDINGS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
}
UNET_OUTPUT = {"out.0": "conv_norm_out", "out.2": "conv_out"}
# SD2.x unCLIP puts its image embedding under another name, the original layout does not.
CLASS_EMBEDDING = {f"class_embedding.linear_{i}": f"add_embedding.linear_{i}" for i in (1, 2)}
HINT_CONVS = 8


@dataclass(frozen=True)
class BlockStructure:
    """What decides where a block lies: its level, and whether a transformer stands before it."""

    res_blocks: tuple[int, ...]  # per level, from the picture inwards
    middle_resnets: int
    decoder_attention: tuple[bool, ...]  # per ResBlock in the order of output_blocks

    @classmethod
    def of(cls, config: NetworkConfig) -> BlockStructure:
        return cls(
            res_blocks=config.num_res_blocks,
            middle_resnets=2 if config.transformer_depth_middle >= 0 else 1,
            decoder_attention=tuple(depth > 0 for depth in config.decoder_depths),
        )

    @classmethod
    def of_diffusers(cls, names: Mapping[str, Tensor]) -> BlockStructure:
        """Read off diffusers tensor names; the decoder's part is empty for a ControlNet."""
        counts = _counts(names)
        levels, up_levels = range(counts["down_blocks"]), range(counts["up_blocks"])
        return cls(
            res_blocks=tuple(counts[f"down_blocks.{n}.resnets"] for n in levels),
            middle_resnets=counts["mid_block.resnets"],
            decoder_attention=tuple(
                f"up_blocks.{n}.attentions.{i}.norm.weight" in names
                for n in up_levels
                for i in range(counts[f"up_blocks.{n}.resnets"])
            ),
        )


def to_diffusers(state_dict: Mapping[str, Tensor], config: NetworkConfig) -> dict[str, Tensor]:
    """The same tensors under their diffusers names; ValueError for a name the layout lacks."""
    return _rename(state_dict, dict(_module_names(BlockStructure.of(config))), "original")


def from_diffusers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under their original names; ValueError for a name the layout lacks."""
    unified = {_unify(name): tensor for name, tensor in state_dict.items()}
    names = _module_names(BlockStructure.of_diffusers(unified))
    return _rename(unified, {theirs: ours for ours, theirs in names}, "diffusers")


def _unify(name: str) -> str:
    module, _, tensor = name.rpartition(".")
    name = f"{CLASS_EMBEDDING.get(module, module)}.{tensor}" if module else name
    # torch's MultiheadAttention keeps its projection as a parameter, not as a layer
    return name.replace(".attn.in_proj_", ".attn.in_proj.")


def _module_names(layout: BlockStructure) -> Iterator[tuple[str, str]]:
    """(original, diffusers) name of every module; of a transformer the insides are named alike."""
    yield from EMBEDDINGS.items()
    last = len(layout.res_blocks) - 1

    k = 1
    for level, resnets in enumerate(layout.res_blocks):
        for i in range(resnets):
            yield from _resnet(f"input_blocks.{k}.0", f"down_blocks.{level}.resnets.{i}")
            yield f"input_blocks.{k}.1", f"down_blocks.{level}.attentions.{i}"
            k += 1
        if level != last:
            yield f"input_blocks.{k}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            k += 1

    for i in range(layout.middle_resnets):
        yield from _resnet(f"middle_block.{2 * i}", f"mid_block.resnets.{i}")
    yield "middle_block.1", "mid_block.attentions.0"

    k = 0
    attention = iter(layout.decoder_attention)
    for level, resnets in enumerate(reversed(layout.res_blocks)):
        for i in range(resnets + 1):
            yield from _resnet(f"output_blocks.{k}.0", f"up_blocks.{level}.resnets.{i}")
            if next(attention, False):
                yield f"output_blocks.{k}.1", f"up_blocks.{level}.attentions.{i}"
                upsampler = 2
            else:
                upsampler = 1
            if i == resnets and level != last:
                yield f"output_blocks.{k}.{upsampler}.conv", f"up_blocks.{level}.upsamplers.0.conv"
            k += 1
    yield from UNET_OUTPUT.items()

    for i in range(sum(layout.res_blocks) + len(layout.res_blocks)):
        yield f"zero_convs.{i}.0", f"controlnet_down_blocks.{i}"
    yield "middle_block_out.0", "controlnet_mid_block"
    hint = "controlnet_cond_embedding"
    for i in range(HINT_CONVS):
        part = {0: "conv_in", HINT_CONVS - 1: "conv_out"}.get(i, f"blocks.{i - 1}")
        yield f"input_hint_block.{2 * i}", f"{hint}.{part}"
    for name in ("transformer_layes", "spatial_ch_projs", "control_add_embedding"):
        yield name, name


def _resnet(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for our_part, their_part in RESNET.items():
        yield f"{ours}.{our_part}", f"{theirs}.{their_part}"


def _rename(
    state_dict: Mapping[str, Tensor], modules: dict[str, str], layout: str
) -> dict[str, Tensor]:
    renamed, unknown = {}, []
    for name, tensor in state_dict.items():
        # A name is a module's and a rest ("weight", or a whole path inside a transformer).
        module = name
        while module and module not in modules:
            module = module.rpartition(".")[0]
        if module:
            renamed[modules[module] + name[len(module) :]] = tensor
        elif name == "task_embedding":
            renamed[name] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{len(unknown)} tensor names are no part of the {layout} layout: {some(unknown)}."
        )
    if layout == "original":
        return {k.replace(".attn.in_proj.", ".attn.in_proj_"): v for k, v in renamed.items()}
    return renamed


_NUMBERED = re.compile(
    r"(?:(down_blocks|up_blocks)\.([0-9]{1,9})(?:\.resnets\.([0-9]{1,9}))?"
    r"|mid_block\.resnets\.([0-9]{1,9}))\."
)


def _counts(names: Mapping[str, Tensor]) -> Counter[str]:
    """How many levels there are, and how many ResBlocks in each, by what stands before them."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in names:
        if match := _NUMBERED.match(name):
            part, level, resnet, middle = match.groups()
            if middle is not None:
                numbers["mid_block.resnets"].add(int(middle))
                continue
            numbers[part].add(int(level))
            if resnet is not None:
                numbers[f"{part}.{int(level)}.resnets"].add(int(resnet))
    return Counter({part: count_in_a_row(found, part) for part, found in numbers.items()})
