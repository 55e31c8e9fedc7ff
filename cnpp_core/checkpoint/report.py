"""Count what a network costs: parameters, tensors, bytes, and multiply-accumulates (MACs).

MACs are those of convolutions, linear layers and attention, found by running the network on the
meta device, where every operation has its shapes and none is computed. Normalisation, activation
and addition are not counted, as in the papers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..network.config import NetworkConfig
from ..network.controlnet import ControlNet
from ..network.unet import UNet

CONTEXT_TOKENS = 77  # CLIP's
INPAINT_CHANNELS = 9  # latent, mask, masked latent
LATENT_SCALE = 8  # picture pixels per latent pixel
BYTES = {"fp32": 4, "fp16": 2, "fp8": 1}

Groups = Mapping[str, Iterable[str]]  # row of the report -> the modules it sums


@dataclass(frozen=True)
class BlockCost:
    """What one block of a ControlNet costs: a row of the report."""

    name: str
    output_shape: tuple[int, ...]  # of the row's last module; () if it gave no tensor
    parameters: int
    macs: int


@dataclass(frozen=True)
class NetworkReport:
    """What a network is and what one evaluation costs."""

    title: str  # "SD1.5 ControlNet"
    family: str
    residuals: int  # how many blocks a ControlNet controls; 0 for other networks
    parameters: int
    tensors: int
    macs: int
    example: str  # what the MACs were counted for: "512 x 512, batch 1"
    blocks: tuple[BlockCost, ...]

    @property
    def bytes_as(self) -> dict[str, int]:
        """Size of the weights in bytes, per storage type."""
        return _bytes_as(self.parameters)

    def text(self, blocks: bool = True) -> str:
        """A table for people; without its rows per block it is four lines."""
        lines = [
            *_heading(self.title, self.residuals, self.parameters, self.tensors),
            f"{self.macs / 1e9:,.2f} GMAC at {self.example}",
        ]
        if blocks:
            lines += ["", f"{'block':<12}{'output':<22}{'parameters':>13}{'GMAC':>10}"]
            lines += [
                f"{b.name:<12}{' x '.join(map(str, b.output_shape)):<22}"
                f"{b.parameters:>13,}{b.macs / 1e9:>10.2f}"
                for b in self.blocks
            ]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers, strings and lists, ready for JSON."""
        return {**asdict(self), "bytes": self.bytes_as}


def weights_text(config: NetworkConfig, weights: Mapping[str, Tensor]) -> str:
    """What a ControlNet's weights are, in three lines: all that is known without running it."""
    parameters = sum(weight.numel() for weight in weights.values())
    title = network_title(config, "ControlNet")
    return "\n".join(_heading(title, config.blocks, parameters, len(weights)))


def network_title(config: NetworkConfig, kind: str) -> str:
    """ "SD1.5 ControlNet", and what latents it reads if they are not the usual ones."""
    usual = config.in_channels == NetworkConfig.in_channels
    inpaint = ", an inpaint model's" if config.in_channels == INPAINT_CHANNELS else ""
    latents = "" if usual else f" for latents of {config.in_channels} channels{inpaint}"
    return f"{config.family} {kind}{latents}"


def _heading(title: str, residuals: int, parameters: int, tensors: int) -> list[str]:
    sizes = (f"{n / 1e6:,.1f} MB as {name}" for name, n in _bytes_as(parameters).items())
    return [
        title + (f", {residuals} blocks" if residuals else ""),
        f"{parameters:,} parameters in {tensors} tensors",
        ", ".join(sizes),
    ]


def _bytes_as(parameters: int) -> dict[str, int]:
    return {name: size * parameters for name, size in BYTES.items()}


@lru_cache(maxsize=32)
def report(
    config: NetworkConfig,
    *,
    kind: str = "ControlNet",
    width: int | None = None,
    height: int | None = None,
    batch: int = 1,
) -> NetworkReport:
    """Report on a "ControlNet" or "UNet" at a picture size in pixels (multiples of 8).

    The default size is the family's: 1024 for SDXL, else 512.
    """
    side = 1024 if config.family == "SDXL" else 512
    width, height = width or side, height or side
    if width % LATENT_SCALE or height % LATENT_SCALE or batch < 1:
        raise ValueError(
            f"A picture of {width} x {height} in batches of {batch} was asked for; width and "
            f"height must be multiples of {LATENT_SCALE}, the batch at least 1."
        )
    if kind not in _NETWORKS:
        raise ValueError(f"A report on a {kind} was asked for; known are {', '.join(_NETWORKS)}.")
    network = _NETWORKS[kind](config, device="meta")
    size = (height // LATENT_SCALE, width // LATENT_SCALE)
    example: dict[str, Any] = {
        "x": torch.empty(batch, config.in_channels, *size, device="meta"),
        "timesteps": torch.empty(batch, device="meta"),
        "context": torch.empty(batch, CONTEXT_TOKENS, config.context_dim, device="meta"),
    }
    if config.adm_in_channels is not None:
        example["y"] = torch.empty(batch, config.adm_in_channels, device="meta")
    if kind == "ControlNet":
        example["hint"] = torch.empty(batch, config.hint_channels, height, width, device="meta")
        if config.union_types is not None:
            example["control_type"] = (0,)
    return report_module(
        network,
        example,
        title=network_title(config, kind),
        example_text=f"{width} x {height}, batch {batch}",
        family=config.family,
        residuals=config.blocks if kind == "ControlNet" else 0,
        groups=_groups(network),
    )


def report_module(
    module: nn.Module,
    inputs: Mapping[str, Any],
    *,
    title: str,
    example_text: str,
    family: str = "",
    residuals: int = 0,
    groups: Groups | None = None,
) -> NetworkReport:
    """Report on any module, called with ``inputs`` by keyword; tensors are taken as shapes only.

    The module may be on any device and is neither moved nor changed. ``groups`` names the rows and
    the modules each one sums; by default a row for every direct child.
    """
    groups = {row: tuple(names) for row, names in (groups or _children(module)).items()}
    macs, shapes, total = _run_on_meta(module, inputs)
    modules = dict(module.named_modules())
    blocks = tuple(
        BlockCost(
            name=row,
            output_shape=shapes.get(names[-1], ()),
            parameters=sum(_parameters(modules[name]) for name in names),
            macs=sum(macs.get(name, 0) for name in names),
        )
        for row, names in groups.items()
    )
    return NetworkReport(
        title=title,
        family=family,
        residuals=residuals,
        parameters=_parameters(module),
        tensors=len(module.state_dict()),
        macs=total,
        example=example_text,
        blocks=blocks,
    )


def _run_on_meta(
    module: nn.Module, inputs: Mapping[str, Any]
) -> tuple[dict[str, int], dict[str, tuple[int, ...]], int]:
    """MACs and output shape by module name, and the MACs of the whole."""
    shapes: dict[str, tuple[int, ...]] = {}

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, (list, tuple)) and output else output
            if isinstance(first, Tensor):
                shapes[name] = tuple(first.shape)

        return hook

    hooks = [child.register_forward_hook(remember(name)) for name, child in module.named_modules()]
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            torch.func.functional_call(module, _to_meta(state), (), _to_meta(inputs))
    finally:
        for hook in hooks:
            hook.remove()
    root = type(module).__name__
    counts = {
        name.removeprefix(root).removeprefix("."): sum(by_operation.values()) // 2
        for name, by_operation in counter.get_flop_counts().items()
    }
    return counts, shapes, counter.get_total_flops() // 2


def _to_meta(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in values.items()}


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _children(module: nn.Module) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name, _ in module.named_children()}


def _groups(network: ControlNet | UNet) -> dict[str, tuple[str, ...]]:
    """The rows of a ControlNet (each block with its zero convolution) or of a UNet."""
    present = {name for name, _ in network.named_modules()}

    def group(*names: str) -> tuple[str, ...]:
        return tuple(name for name in names if name in present)

    rows = {
        "embedding": group("time_embed", "label_emb", "control_add_embedding"),
        "hint": group("transformer_layes", "spatial_ch_projs", "input_hint_block"),
    }
    for i in range(len(network.input_blocks)):
        rows[f"input {i}"] = group(f"input_blocks.{i}", f"zero_convs.{i}")
    rows["middle"] = group("middle_block", "middle_block_out")
    if isinstance(network, UNet):
        rows |= {f"output {i}": (f"output_blocks.{i}",) for i in range(len(network.output_blocks))}
        rows["out"] = ("out",)
    return {row: names for row, names in rows.items() if names}


_NETWORKS = {"ControlNet": ControlNet, "UNet": UNet}
