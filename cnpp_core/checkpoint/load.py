"""From a file to a ControlNet that is known to be complete: read, identify, convert, check."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..network.config import NetworkConfig
from ..network.controlnet import ControlNet
from .formats import DIFFUSERS, ORIGINAL, Found, NotAControlNet, find_controlnet, some
from .keys import from_diffusers
from .read import DOWNLOAD_AGAIN, read_tensors
from .shapes import MissingTensor, read_config

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
# The parts a ControlNet has and its UNet has not: a difference file stores them in full.
OWN_PARTS = (
    "zero_convs.",
    "input_hint_block.",
    "middle_block_out.",
    "task_embedding",
    "transformer_layes.",
    "spatial_ch_projs.",
    "control_add_embedding.",
)
OTHER_PACK = "use the node pack that it was made for"
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

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.state_dict.values())

    def summary(self) -> str:
        """What was loaded: family, blocks, parameters, layout of the file, storage."""
        stored = ", ".join(
            f"{size / 1e6:,.1f} MB as {STORAGE[dtype]}"
            for dtype, size in self.bytes_by_dtype.items()
        )
        return (
            f"{self.config.family} ControlNet, {self.config.blocks} blocks\n"
            f"{self.parameters:,} parameters in {len(self.state_dict)} tensors\n"
            f"format: {self.format}\nstored: {stored}"
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
    for files that store only the difference to a UNet. Raises CheckpointError (a ValueError), one
    sentence that names what the file is and what to do: UnreadableFile or NotAControlNet.
    """
    name = Path(path).name
    found = find_controlnet(read_tensors(path), name)
    if found.ignored:
        log.info("%s: ignored %d tensors: %s", name, len(found.ignored), some(found.ignored))
    try:
        original = found.layout == ORIGINAL
        state_dict = found.state_dict if original else from_diffusers(found.state_dict)
        config = read_config(state_dict)
    except MissingTensor as error:
        raise _incomplete(name, str(error).rstrip(".")) from error
    except ValueError as error:
        reason = str(error).rstrip(".")
        raise NotAControlNet(
            f"{name} is no ControlNet of a known kind ({reason}): {OTHER_PACK}."
        ) from error
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
    )


def bytes_by_dtype(state_dict: Mapping[str, Tensor]) -> dict[torch.dtype, int]:
    """Bytes of storage per dtype, the largest first."""
    count: Counter[torch.dtype] = Counter()
    for tensor in state_dict.values():
        count[tensor.dtype] += tensor.numel() * tensor.element_size()
    return dict(count.most_common())


def _check_complete(state_dict: Mapping[str, Tensor], network: ControlNet, name: str) -> None:
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    missing = [key for key in expected if key not in state_dict]
    if missing:
        raise _incomplete(name, f"it lacks {len(missing)} of {len(expected)}, {some(missing)}")
    unknown = [key for key in state_dict if key not in expected]
    if unknown:
        raise NotAControlNet(
            f"{name} is a ControlNet with {len(unknown)} tensors that nothing here uses "
            f"({some(unknown)}): {OTHER_PACK}."
        )
    for key, tensor in state_dict.items():
        if tuple(tensor.shape) != expected[key]:
            raise NotAControlNet(
                f"{name} is no ControlNet of a known kind (its tensor {key} has the shape "
                f"{tuple(tensor.shape)} instead of {expected[key]}): {OTHER_PACK}."
            )
        if tensor.dtype not in STORAGE:
            raise NotAControlNet(
                f"{name} is a ControlNet stored in a way unknown here ({key} as {tensor.dtype}): "
                f"get it as one of {', '.join(STORAGE.values())}."
            )


def _incomplete(name: str, reason: str) -> NotAControlNet:
    split = re.search(r"-\d{5}-of-\d{5}\.", name)
    advice = "it is one part of a split file, get the whole" if split else DOWNLOAD_AGAIN
    return NotAControlNet(f"{name} is a ControlNet with tensors missing ({reason}): {advice}.")


def _add_unet(
    difference: Mapping[str, Tensor], unet_state_dict: Mapping[str, Tensor] | None, name: str
) -> dict[str, Tensor]:
    """The ControlNet whose encoder is stored as its distance from this UNet's, in stored dtypes."""
    if unet_state_dict is None:
        raise NotAControlNet(
            f"{name} is a ControlNet stored as the difference to a model: connect MODEL (the one "
            "it was made from) to Load ControlNet++."
        )
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
            raise NotAControlNet(
                f"{name} is the difference to another kind of model ({key} has the shape "
                f"{tuple(delta.shape)}, the connected MODEL {found}): connect the MODEL it was "
                "made from."
            )
        total = delta.float() + base.detach().to(device=delta.device, dtype=torch.float32)
        complete[key] = total.to(delta.dtype)
    return complete


def _format(found: Found, config: NetworkConfig) -> str:
    if found.difference:
        return "difference"
    if config.union_types is not None:
        promax = " (ProMax)" if config.union_types == PROMAX_TYPES else ""
        layout = "" if found.layout == DIFFUSERS else ", original layout"
        return f"union, {config.union_types} types{promax}{layout}"
    return found.layout + (f", {found.prefix} prefix" if found.prefix else "")
