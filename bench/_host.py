"""A ComfyUI for measurements: its control and ours with the same random weights, on the CPU.

ComfyUI's modules, and ours that stand on them, exist under ComfyUI's own Python only, and not
before `start`; so they are looked up by name when they are needed.
"""

from __future__ import annotations

import copy
import importlib
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..cnpp_core.control.shape import ControlShape
from ..cnpp_core.network.config import NetworkConfig
from ..cnpp_core.network.controlnet import ControlNet

BATCH = 2  # cond and uncond
TOKENS = 77
SAMPLER, SCHEDULER = "euler", "normal"

Call = Callable[[], Any]


def comfy_host() -> Any:
    """tests/comfy_host.py, which finds a ComfyUI."""
    return ours("tests.comfy_host")


def why_not() -> str | None:
    """Why nothing can be measured inside ComfyUI here, in one sentence; None if it can."""
    return comfy_host().why_not("bench")


def start() -> str:
    """Make ComfyUI importable, on the CPU; returns its version."""
    root: Path = comfy_host().find_host()
    if str(root) not in sys.path:
        if logging.getLogger().level == logging.INFO:
            logging.disable(logging.INFO)  # what the host says of every model is of no use here
        comfy_host().start()
    return comfy_host().host_version(root)


def theirs(name: str) -> Any:
    """A module of ComfyUI, e.g. `comfy.controlnet`, or of what it brings along."""
    return importlib.import_module(name)


def free_gigabytes() -> float:
    """Memory that is available."""
    return theirs("psutil").virtual_memory().available / 2**30


def ours(name: str) -> Any:
    """A module of this checkout by its name from the root, e.g. `nodes.host.control`."""
    return importlib.import_module(f"..{name}", __package__)


def random_weights(config: NetworkConfig, dtype: torch.dtype, seed: int = 1) -> dict[str, Tensor]:
    """A ControlNet's state dict in the original layout."""
    network = ControlNet(config, dtype=dtype, device="meta").to_empty(device="cpu")
    return randomise(network, seed).state_dict()


def randomise(module: nn.Module, seed: int) -> Any:
    """Fill every parameter from a seed, sound in size and none zero, so that none is idle."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()), generator=generator)
            else:
                centre = 1.0 if name.endswith("weight") else 0.0
                parameter.normal_(centre, 0.1, generator=generator)
    return module.eval().requires_grad_(False)


@dataclass(frozen=True)
class Workbench:
    """ComfyUI's UNet and ControlNet, and what ours is built from; one copy of all weights.

    model: ComfyUI's ModelPatcher of the UNet. control: our control without any shape. network:
    ComfyUI's own ControlNet module, which `their_control` puts into ComfyUI's own control.
    """

    config: NetworkConfig
    model: Any
    control: Any
    network: nn.Module

    @classmethod
    def build(
        cls, config: NetworkConfig, dtype: torch.dtype = torch.float32, *, unet: bool = True
    ) -> Workbench:
        """Everything with random weights of that dtype, computed in what ComfyUI makes of it.

        unet: False leaves the UNet without weights, where it is not called.
        """
        weights = random_weights(config, dtype)
        control = ours("nodes.host.load.loading").build_control(config, weights, dtype=dtype)
        layout = ours("nodes.host.load.models").unet_layout(config)
        del layout["out_channels"]
        ops = theirs("comfy.ops").pick_operations(dtype, control.manual_cast_dtype)
        network = theirs("comfy.cldm.cldm").ControlNet(
            **layout, hint_channels=config.hint_channels, dtype=dtype, device="meta", operations=ops
        )
        network.load_state_dict(weights, assign=True)
        model = _random_unet(config, dtype, control.manual_cast_dtype, empty=not unet)
        return cls(config, model, control, network.eval().requires_grad_(False))

    def their_control(self, network: nn.Module | None = None) -> Any:
        """ComfyUI's own control around its own network, or around another one."""
        return theirs("comfy.controlnet").ControlNet(
            network or self.network,
            load_device=self.control.load_device,
            manual_cast_dtype=self.control.manual_cast_dtype,
        )

    def our_control(self, shape: ControlShape) -> Any:
        """A control of ours with a shape; without one, ComfyUI's own around our network."""
        if shape == ControlShape():
            return self.control.copy()
        return ours("nodes.host.control.control").ControlNetPlusPlus(self.control.copy(), shape)


def _random_unet(
    config: NetworkConfig, dtype: torch.dtype, cast: torch.dtype | None, *, empty: bool
) -> Any:
    base, families = theirs("comfy.model_base"), theirs("comfy.supported_models")
    management = theirs("comfy.model_management")
    pooled = config.adm_in_channels is not None
    layout = (families.SDXL if pooled else families.SD15)(
        ours("nodes.host.load.models").unet_layout(config)
    )
    layout.set_inference_dtype(dtype, cast)
    kind = base.SDXL if pooled else base.BaseModel
    model = kind(layout, model_type=base.ModelType.EPS, device="meta" if empty else "cpu")
    if not empty:
        randomise(model.diffusion_model, seed=2)
    return theirs("comfy.model_patcher").ModelPatcher(
        model,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )


class Requests:
    """What a sampler asks of controls and of the UNet, at one size of the picture."""

    def __init__(self, bench: Workbench, size: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(3)
        config = bench.config
        self.bench = bench
        self.base = bench.model.model
        self.hint = torch.rand(1, config.hint_channels, size, size, generator=generator)
        self.x = torch.randn(BATCH, config.in_channels, size // 8, size // 8, generator=generator)
        self.context = torch.randn(BATCH, TOKENS, config.context_dim, generator=generator)
        width = config.adm_in_channels
        self.y = None if width is None else torch.randn(BATCH, width, generator=generator)
        samplers = theirs("comfy.samplers")
        sampling = self.base.model_sampling
        self.sigmas: Tensor = samplers.calculate_sigmas(sampling, SCHEDULER, steps)
        self.prompts = [object() for _ in range(BATCH)]

    def started(self, control: Any) -> Any:
        """The control at the beginning of a sampling, with the hint."""
        control.set_cond_hint(self.hint, 1.0, (0.0, 1.0))
        control.pre_run(self.base, self.base.model_sampling.percent_to_sigma)
        return control

    def residuals(self, control: Any, step: int = 0) -> dict[str, list[Tensor | None]]:
        """What a control answers at a step."""
        cond: dict[str, Any] = {"c_crossattn": self.context}
        if self.y is not None:
            cond["y"] = self.y
        options = self._options(step)
        return control.get_control(self._noised(step), options["sigmas"], cond, BATCH, options)

    def unet(self, step: int = 0) -> Tensor:
        """The UNet alone."""
        options = self._options(step)
        cond = {} if self.y is None else {"y": self.y}
        return self.base.apply_model(
            self._noised(step),
            options["sigmas"],
            c_crossattn=self.context,
            transformer_options=options,
            **cond,
        )

    def embed(self) -> Tensor:
        """ComfyUI's embedding of the hint, which ours does once in a sampling."""
        block: Any = self.bench.network.input_hint_block
        dtype = self.bench.control.manual_cast_dtype or block[0].weight.dtype
        return block(self.hint.to(dtype).expand(BATCH, -1, -1, -1), None, None)

    def adding(self) -> Call:
        """What the UNet does with residuals: a sum for every block."""
        answered = self.residuals(self.started(self.bench.their_control()))
        residuals = [r for r in (*answered["output"], *answered["middle"]) if r is not None]
        features = [torch.zeros_like(r) for r in residuals]

        def add() -> None:
            for feature, residual in zip(features, residuals, strict=True):
                feature += residual

        return add

    def _noised(self, step: int) -> Tensor:
        return self.x * (1 + self.sigmas[step] ** 2).sqrt()

    def _options(self, step: int) -> dict[str, Any]:
        return {
            "cond_or_uncond": [0, 1],
            "uuids": self.prompts,
            "sigmas": self.sigmas[step].expand(BATCH),
            "sample_sigmas": self.sigmas,
        }


def truncated(network: nn.Module, depth: int) -> nn.Module:
    """ComfyUI's ControlNet with its first blocks only, and nothing where the middle block was."""
    short = copy.copy(network)
    short._modules = dict(network._modules)
    blocks: Any = network.input_blocks
    zero_convs: Any = network.zero_convs
    short.input_blocks, short.zero_convs = blocks[:depth], zero_convs[:depth]
    short.middle_block = short.middle_block_out = Passage()
    return short


class Passage(nn.Module):
    """Hands on what comes in."""

    def forward(self, h: Tensor, *_others: Any) -> Tensor:
        return h


@dataclass(frozen=True)
class Counted:
    """How often a sampling evaluates its ControlNet, with how many rows each time."""

    steps: int
    rows: tuple[int, ...]

    @property
    def fresh(self) -> int:
        return len(self.rows)

    @property
    def reused(self) -> int:
        return self.steps - self.fresh


def count_evaluations(bench: Workbench, shape: ControlShape, steps: int, side: int) -> Counted:
    """A whole sampling by ComfyUI's own sampler, with latents (1, C, side, side), counted."""
    seen: list[int] = []
    network = bench.control.control_model
    handle = network.time_embed.register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0].shape[0])
    )
    try:
        _sample(bench, bench.our_control(shape), steps, side)
    finally:
        handle.remove()
    return Counted(steps, tuple(seen))


def _sample(bench: Workbench, control: Any, steps: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)

    def prompt() -> list[Sequence[Any]]:
        context = torch.randn(1, TOKENS, bench.config.context_dim, generator=generator)
        return [[context, {}]]

    picture = torch.rand(1, 8 * side, 8 * side, 3, generator=generator)
    positive, negative = ours("nodes.host.control.apply").apply_control(
        prompt(), prompt(), control, picture, 1.0, (0.0, 1.0)
    )
    noise = torch.randn(1, bench.config.in_channels, side, side, generator=generator)
    return theirs("comfy.sample").sample(
        bench.model,
        noise,
        steps,
        7.0,
        SAMPLER,
        SCHEDULER,
        positive,
        negative,
        torch.zeros_like(noise),
        denoise=1.0,
        disable_pbar=True,
        seed=0,
    )
