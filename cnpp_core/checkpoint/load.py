"""From a file to a ControlNet that is known to be complete: read, identify, convert, check."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..network.config import NetworkConfig
from ..network.controlnet import ControlNet
from .formats import (
    DIFFUSERS,
    OTHER_PACK,
    FoundControlNet,
    find_controlnet,
    split_part,
)
from .keys import from_diffusers
from .read import read_metadata, read_tensors
from .report import network_title
from .shapes import MissingTensor, find_config
from .trained import Training
from .words import DOWNLOAD_AGAIN, WHOLE, refusal, shown, some

log = logging.getLogger(__name__)

STORAGE = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8 e4m3fn",
    torch.float8_e5m2: "fp8 e5m2",
}
PROMAX_TYPES = 8
# Who lacks one of these or more than a tenth has one part of a split file, not a bad download.
PARTS, PART = ("time_embed.", "zero_convs.", "middle_block.", "middle_block_out."), 0.1
# The parts a ControlNet has and its UNet has not: a difference file stores them in full.
HINT_BLOCK = "input_hint_block."
OWN_PARTS = (
    "zero_convs.",
    HINT_BLOCK,
    "middle_block_out.",
    "task_embedding",
    "transformer_layes.",
    "spatial_ch_projs.",
    "control_add_embedding.",
)
UNET_PREFIXES = ("", "diffusion_model.", "model.diffusion_model.")


@dataclass(frozen=True)
class LoadedControl:
    """A complete ControlNet as it was stored."""

    state_dict: dict[str, Tensor] = field(repr=False)  # original layout, no prefix, as stored
    config: NetworkConfig
    layout: str  # of the file's tensor names: ORIGINAL or DIFFUSERS
    format: str  # to be read: "original", "diffusers", "difference", "union, 8 types (ProMax)", ...
    dtype: torch.dtype  # the one that holds most bytes
    bytes_by_dtype: dict[torch.dtype, int]
    training: Training | None = None  # how it was made, of files that this pack has saved

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.state_dict.values())

    def summary(self) -> str:
        """What was loaded: family, blocks, parameters, layout of the file, storage, training."""
        stored = ", ".join(
            f"{size / 1e6:,.1f} MB as {STORAGE[dtype]}"
            for dtype, size in self.bytes_by_dtype.items()
        )
        return (
            f"{network_title(self.config, 'ControlNet')}, {self.config.blocks} blocks\n"
            f"{self.parameters:,} parameters in {len(self.state_dict)} tensors\n"
            f"format: {self.format}\nstored: {stored}"
            + (f"\n{self.training.text()}" if self.training else "")
        )

    def network(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> ControlNet:
        """The network with these weights, which are shared unless dtype or device changes them."""
        net = ControlNet(self.config, device="meta")
        net.load_state_dict(self.state_dict, assign=True)
        return net.to(device=device, dtype=dtype)


def load_controlnet_file(
    path: str | os.PathLike[str], *, unet_state_dict: Mapping[str, Tensor] | None = None
) -> LoadedControl:
    """Load a ControlNet for SD1.5, SD2.x, SDXL or any custom width, in whatever layout it has.

    ``unet_state_dict`` (original layout, with or without its "diffusion_model." prefix) is needed
    for files that store only the difference to a UNet. Raises ValueError, one
    sentence that names what the file is and what to do; no other exception for any file.
    """
    name = Path(path).name
    found = find_controlnet(read_tensors(path), name)
    if found.ignored:
        ignored = some(found.ignored)
        log.info("%s: ignored %d tensors: %s", shown(name), len(found.ignored), ignored)
    state_dict = found.state_dict
    try:
        if found.layout == DIFFUSERS:
            state_dict = from_diffusers(state_dict)
        config = find_config(state_dict)
    except MissingTensor as error:
        there = [any(name.startswith(part) for name in state_dict) for part in PARTS]
        reason, part = str(error).rstrip("."), any(there) and not all(there)
        raise _incomplete(name, reason, part) from error
    except ValueError as error:
        what = f"is no ControlNet of a known kind ({str(error).rstrip('.')})"
        raise refusal(name, what, OTHER_PACK) from error
    if found.difference:
        state_dict = _add_unet(state_dict, unet_state_dict, name)
    _check_complete(state_dict, ControlNet(config, device="meta"), name)
    by_dtype = bytes_by_dtype(state_dict)
    return LoadedControl(
        state_dict=state_dict,
        config=config,
        layout=found.layout,
        format=_format(found, config),
        dtype=max(by_dtype, key=lambda dtype: by_dtype[dtype]),
        bytes_by_dtype=by_dtype,
        training=Training.of(read_metadata(path)),
    )


def bytes_by_dtype(state_dict: Mapping[str, Tensor]) -> dict[torch.dtype, int]:
    """Bytes that the tensors are stored in, per dtype, the largest first."""
    count: Counter[torch.dtype] = Counter()
    for tensor in state_dict.values():
        count[tensor.dtype] += tensor.numel() * tensor.element_size()
    return dict(count.most_common())


def _check_complete(state_dict: Mapping[str, Tensor], network: ControlNet, name: str) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    missing = [key for key in expected if key not in state_dict]
    if missing and missing == [key for key in expected if key.startswith(HINT_BLOCK)]:
        what = f"is a ControlNet without {HINT_BLOCK}*, which reads latents as a CtrLoRA does"
        raise refusal(name, what, OTHER_PACK)
    if missing:
        reason = f"it lacks {len(missing)} of {len(expected)}, {some(missing)}"
        raise _incomplete(name, reason, part=len(missing) > PART * len(expected))
    unknown = [key for key in state_dict if key not in expected]
    if unknown:
        what = f"is a ControlNet with {len(unknown)} tensors that nothing here uses"
        raise refusal(name, f"{what} ({some(unknown)})", OTHER_PACK)
    for key, tensor in state_dict.items():
        if tuple(tensor.shape) != expected[key]:
            found = f"{shown(tuple(tensor.shape))} instead of {expected[key]}"
            what = f"is no ControlNet of a known kind (its tensor {key} has the shape {found})"
            raise refusal(name, what, OTHER_PACK)
        if tensor.dtype not in STORAGE:
            what = f"is a ControlNet stored in a way unknown here ({key} as {tensor.dtype})"
            raise refusal(name, what, f"get it as one of {', '.join(STORAGE.values())}")


def _incomplete(name: str, reason: str, part: bool = False) -> ValueError:
    if number := split_part(name):
        return refusal(name, f"is part {number} of a split file ({reason})", WHOLE)
    if part:
        return refusal(name, f"is a part of a ControlNet, as split files have ({reason})", WHOLE)
    return refusal(name, f"is a ControlNet with tensors missing ({reason})", DOWNLOAD_AGAIN)


def _add_unet(
    difference: Mapping[str, Tensor], unet_state_dict: Mapping[str, Tensor] | None, name: str
) -> dict[str, Tensor]:
    """The ControlNet whose encoder is stored as its distance from this UNet's, in stored dtypes."""
    if unet_state_dict is None:
        advice = "connect MODEL (the one it was made from) to Load ControlNet++"
        raise refusal(name, "is a ControlNet stored as the difference to a model", advice)
    first = "input_blocks.0.0.weight"
    prefix = next((p for p in UNET_PREFIXES if p + first in unet_state_dict), "")
    complete = {}
    for key, delta in difference.items():
        if key.startswith(OWN_PARTS):
            complete[key] = delta
            continue
        base = unet_state_dict.get(prefix + key)
        if base is None or base.shape != delta.shape:
            found = "lacks it" if base is None else f"has {tuple(base.shape)}"
            sizes = f"{shown(key)} has the shape {tuple(delta.shape)}, the connected MODEL {found}"
            what = f"is the difference to another kind of model ({sizes})"
            raise refusal(name, what, "connect the MODEL it was made from")
        total = delta.float() + base.detach().to(device=delta.device, dtype=torch.float32)
        complete[key] = total.to(delta.dtype)
    return complete


def _format(found: FoundControlNet, config: NetworkConfig) -> str:
    if found.difference:
        return "difference"
    if config.union_types is not None:
        promax = " (ProMax)" if config.union_types == PROMAX_TYPES else ""
        layout = "" if found.layout == DIFFUSERS else ", original layout"
        return f"union, {config.union_types} types{promax}{layout}"
    return found.layout + (f", {found.prefix} prefix" if found.prefix else "")
