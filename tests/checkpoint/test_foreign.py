"""Formats of other packs, from manifests of their tensors: what they are called and sent to.

Names and shapes follow the code that goes with each format, see `cnpp_core.checkpoint.foreign`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import load_controlnet_file
from controlnet_pp.tests.checkpoint.files import Tensors, prefixed, saved, weights

RANK = 4
WIDTHS = (8, 16, 32, 32)  # of the four levels of SD1.5, a fortieth each


def zeros(manifest: Iterator[tuple[str, tuple[int, ...]]]) -> Tensors:
    return {name: torch.zeros(shape) for name, shape in manifest}


def ctrlora_base() -> Tensors:
    """A ControlNet without its hint block, where each linear layer has a LoRA."""
    kept = {k: v for k, v in weights().items() if not k.startswith("input_hint_block.")}
    loras = {}
    for name, weight in kept.items():
        if weight.ndim == 2 and name.endswith(".weight"):
            layer = name.removesuffix("weight") + "lora_layer"
            loras[f"{layer}.down.weight"] = torch.zeros(RANK, weight.shape[1])
            loras[f"{layer}.up.weight"] = torch.zeros(weight.shape[0], RANK)
    return prefixed("control_model.", kept | loras)


def ctrlora_lora() -> Tensors:
    """What of a base is trained for one condition: LoRAs, zero convolutions, norms."""
    parts = ("lora_layer", "zero_convs", "middle_block_out", "norm")
    return {k: v for k, v in ctrlora_base().items() if any(part in k for part in parts)}


def conv(name: str, inputs: int, outputs: int, kernel: int) -> Iterator[tuple[str, tuple]]:
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    yield f"{name}.bias", (outputs,)


def resnet(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple]]:
    for part, channels in (("norm1", inputs), ("norm2", outputs)):
        yield from ((f"{name}.{part}.{kind}", (channels,)) for kind in ("weight", "bias"))
    yield from conv(f"{name}.conv1", inputs, outputs, 3)
    yield from conv(f"{name}.conv2", outputs, outputs, 3)
    yield f"{name}.time_emb_proj.weight", (outputs, 4 * WIDTHS[0])
    yield f"{name}.time_emb_proj.bias", (outputs,)
    if inputs != outputs:
        yield from conv(f"{name}.conv_shortcut", inputs, outputs, 1)


def brushnet() -> Iterator[tuple[str, tuple]]:
    """A UNet of ResBlocks alone, with a zero convolution behind every one, up as well as down."""
    first, deepest, last = WIDTHS[0], WIDTHS[-1], len(WIDTHS) - 1
    yield from conv("conv_in_condition", 4 + 5, first, 3)
    for i, inputs in ((1, first), (2, 4 * first)):
        yield f"time_embedding.linear_{i}.weight", (4 * first, inputs)
        yield f"time_embedding.linear_{i}.bias", (4 * first,)
    skips = [first]
    for level, width in enumerate(WIDTHS):
        for i in range(2):
            yield from resnet(f"down_blocks.{level}.resnets.{i}", skips[-1], width)
            skips.append(width)
        if level != last:
            yield from conv(f"down_blocks.{level}.downsamplers.0.conv", width, width, 3)
            skips.append(width)
    for i, width in enumerate(skips):
        yield from conv(f"brushnet_down_blocks.{i}", width, width, 1)
    for i in range(2):
        yield from resnet(f"mid_block.resnets.{i}", deepest, deepest)
    yield from conv("brushnet_mid_block", deepest, deepest, 1)
    before, ups = deepest, []
    for level, width in enumerate(reversed(WIDTHS)):
        for i in range(3):
            yield from resnet(f"up_blocks.{level}.resnets.{i}", before + skips.pop(), width)
            before = width
            ups.append(width)
        if level != last:
            yield from conv(f"up_blocks.{level}.upsamplers.0.conv", width, width, 3)
            ups.append(width)
    for i, width in enumerate(ups):
        yield from conv(f"brushnet_up_blocks.{i}", width, width, 1)


def controlnet_xs() -> Iterator[tuple[str, tuple]]:
    """The marks of a network that hands features to its UNet and takes some back."""
    control, base = 8, WIDTHS[0]
    yield from conv("input_hint_block.0", 3, 16, 3)
    yield from conv("control_model.input_blocks.0.0", 4, control, 3)
    yield from conv("enc_zero_convs_in.0.0", base, base, 1)
    yield from conv("enc_zero_convs_out.0.0", control, base, 1)
    yield from conv("middle_block_out.0", control, base, 1)
    yield from conv("dec_zero_convs_out.0.0", control, base, 1)
    yield "scale_list", (3,)


def of_diffusers(name: str) -> Tensors:
    diffusers = pytest.importorskip("diffusers", reason="its models have the names of real files")
    widths = {"block_out_channels": (32, 64), "cross_attention_dim": 8}
    models = {
        "XS": lambda: diffusers.ControlNetXSAdapter(
            base_block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            **widths,
        ),
        "Sparse": lambda: diffusers.SparseControlNetModel(
            down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), **widths
        ),
    }
    with torch.device("meta"):
        state_dict = models[name]().state_dict()
    return {key: torch.zeros(tensor.shape) for key, tensor in state_dict.items()}


FOREIGN = {
    "CtrLoRA's base": (ctrlora_base, "a CtrLoRA", "Load CtrLoRA Model of ComfyUI-Advanced"),
    "CtrLoRA's LoRA": (ctrlora_lora, "a CtrLoRA", "Load CtrLoRA Model of ComfyUI-Advanced"),
    "BrushNet": (lambda: zeros(brushnet()), "a BrushNet", "ComfyUI-BrushNet"),
    "XS": (lambda: zeros(controlnet_xs()), "a ControlNet-XS", "diffusers"),
    "XS, sgm": (lambda: prefixed("model.", zeros(controlnet_xs())), "a ControlNet-XS", "diffusers"),
    "XS, ldm": (
        lambda: prefixed("control_model.", zeros(controlnet_xs())),
        "a ControlNet-XS",
        "diffusers",
    ),
    "XS, diffusers": (lambda: of_diffusers("XS"), "a ControlNet-XS", "diffusers"),
    "SparseCtrl": (lambda: of_diffusers("Sparse"), "a SparseCtrl", "ComfyUI-Advanced"),
    "SparseCtrl, wrapped": (
        lambda: prefixed("module.", of_diffusers("Sparse")),
        "a SparseCtrl",
        "ComfyUI-Advanced",
    ),
}


def refused(path) -> str:
    with pytest.raises(ValueError, match=r"^n\.") as error:
        load_controlnet_file(path)
    return str(error.value)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_format_of_another_pack_is_named_with_the_pack_that_loads_it(tmp_path, name, suffix):
    make, what, pack = FOREIGN[name]
    message = refused(saved(tmp_path / f"n{suffix}", make()))
    assert f"is {what}" in message
    assert pack in message
    assert "download" not in message


def test_the_manifest_of_brushnet_has_the_tensors_that_its_node_pack_counts():
    names = zeros(brushnet())
    counts = [sum(f"brushnet_{part}_block" in name for name in names) for part in ("down", "mid")]
    ups = sum("brushnet_up_block" in name for name in names)
    assert (*counts, ups, len(names)) == (24, 2, 30, 322)


def test_a_controlnet_without_hint_block_is_not_called_damaged(tmp_path):
    kept = {k: v for k, v in weights().items() if not k.startswith("input_hint_block.")}
    message = refused(saved(tmp_path / "n.safetensors", kept))
    assert "reads latents" in message
    assert "download" not in message


def test_a_part_of_a_hint_block_is_missing_in_a_damaged_file(tmp_path):
    kept = weights()
    del kept["input_hint_block.0.bias"]
    assert "download it again" in refused(saved(tmp_path / "n.safetensors", kept))
