"""What a correction of x0 costs at SD1.5's true shapes, beside a sampling step; random weights.

A step is UNet and ControlNet for cond and uncond rows. A correction decodes x0, annotates the
picture and takes the gradient back to x0; a look only decodes and annotates, as feedback does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from ..annotators.softedge import HED
from ..cnpp_core.consistency.losses import mse
from ..cnpp_core.consistency.steering.guidance import GuidanceSettings, corrected
from ..cnpp_core.network.config import SD15
from ..cnpp_core.network.controlnet import ControlNet
from ..cnpp_core.network.unet import UNet
from ._pairs import Spread, interleaved, merge, parsed
from ._processes import MEGABYTE
from ._steering import STEPS
from .consistency import GUIDANCE

STEP = "step"


def main(argv: Sequence[str] = ()) -> int:
    """Measure, print, and write the part `cost` of bench/results/consistency.json."""
    parser = argparse.ArgumentParser(prog="bench steering_cost", description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--turns", type=int, default=3, help="at least 2")
    options = parsed(parser, argv)
    torch.manual_seed(0)
    runs = build(options.size)
    graphs = {name: graph_megabytes(run) for name, run in runs.items()}
    times = interleaved(runs, options.turns)
    looks = looks_per_run()
    results: dict[str, Any] = {"size": options.size, "corrections": looks, "steps": STEPS}
    print(f"{options.size} px, {looks} corrections in {STEPS} steps")
    for name in runs:
        ratio = Spread.of([a / b for a, b in zip(times[name], times[STEP], strict=True)])
        whole = 1 + ratio.median * looks / STEPS
        results[name] = {**ratio.as_dict(), "graph_mb": graphs[name], "sampling": whole}
        print(
            f"  {name:<34}{ratio.median:>6.2f} steps ({ratio.low:.2f} to {ratio.high:.2f}), graph "
            f"{graphs[name]:.0f} MB" + ("" if name == STEP else f"; sampling x{whole:.2f}")
        )
    print(f"  {merge('consistency', {'cost': results}, trial=options.trial)}")
    return 0


def looks_per_run() -> int:
    """How many steps the recommended guidance corrects."""
    percents = [1 - (1 + i * 1000 // STEPS) / 999 for i in range(STEPS)][::-1]
    return sum(GUIDANCE.window.acts(percent, step) for step, percent in enumerate(percents))


def graph_megabytes(run: Callable[[], Any]) -> float:
    """What the graph of a call holds for its way back, beside weights; 0 without a graph."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(held.values()) / MEGABYTE


def build(size: int) -> dict[str, Callable[[], Any]]:
    """A sampling step, and a correction and a look with each of two decoders."""
    unet, controlnet = quiet(UNet(SD15)), quiet(ControlNet(SD15))
    hed = quiet(HED())
    decoders = {"VAE": full_decoder(), "TAESD": tiny_decoder()}
    side = size // 8
    x, t = torch.randn(2, 4, side, side), torch.full((2,), 500)
    context, hint = torch.randn(2, 77, SD15.context_dim), torch.rand(2, 3, size, size)
    x0, wanted = torch.randn(1, 4, side, side), torch.rand(1, 1, size, size)

    @torch.inference_mode()
    def step() -> Tensor:
        residuals = controlnet(x, hint, t, context)
        return unet(x, t, context, residuals=residuals)

    def correction(decode: nn.Module) -> Callable[[], Any]:
        def losses(point: Tensor) -> Tensor:
            return mse(hed(decode(point).clamp(0, 1)), wanted)

        return lambda: corrected(x0, losses, GuidanceSettings())

    def look(decode: nn.Module) -> Callable[[], Any]:
        @torch.inference_mode()
        def run() -> Tensor:
            return hed(decode(x0).clamp(0, 1))

        return run

    runs: dict[str, Callable[[], Any]] = {STEP: step}
    for name, decode in decoders.items():
        runs[f"correction through {name} and HED"] = correction(decode)
        runs[f"look through {name} and HED"] = look(decode)
    return runs


class Decoder(nn.Module):
    """Latents (B, 4, H, W) to pictures (B, 3, 8H, 8W) in about 0..1."""

    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents).sample / 2 + 0.5


def full_decoder() -> nn.Module:
    """Stable Diffusion's own (diffusers' names), its encoder left out of use."""
    widths = (128, 256, 512, 512)
    layout: dict[str, Any] = {
        "block_out_channels": widths,
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }
    return quiet(Decoder(AutoencoderKL(**layout)))


def tiny_decoder() -> nn.Module:
    """TAESD (github.com/madebyollin/taesd)."""
    return quiet(Decoder(AutoencoderTiny()))


def quiet(network: nn.Module) -> nn.Module:
    """In evaluation, no parameter of it trained."""
    return network.eval().requires_grad_(False)
