"""Our ControlNet beside that of diffusers, with the same weights and inputs, on the CPU.

Both have SD1.5's topology at a fifth of its width, so that the measurement takes a minute.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ControlNetModel
from torch import Tensor

from ..cnpp_core.checkpoint import to_diffusers
from ..cnpp_core.network.config import NetworkConfig
from ..cnpp_core.network.controlnet import ControlNet
from ._pairs import compare, save

CONFIG = NetworkConfig(model_channels=64)
BATCH = 2  # cond and uncond
LATENT = 64  # a 512 pixel picture


@torch.inference_mode()
def main(argv: Sequence[str] = ()) -> int:
    """Measure, print one line, and write bench/results/network.json."""
    torch.manual_seed(0)
    ours = ControlNet(CONFIG).eval()
    for parameter in ours.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.02)
    theirs = as_diffusers(ours)

    x = torch.randn(BATCH, CONFIG.in_channels, LATENT, LATENT)
    hint = torch.rand(BATCH, CONFIG.hint_channels, 8 * LATENT, 8 * LATENT)
    timesteps = torch.full((BATCH,), 500)
    context = torch.randn(BATCH, 77, CONFIG.context_dim)

    def run_ours() -> list[Tensor]:
        return ours(x, hint, timesteps, context)

    def run_theirs() -> list[Tensor]:
        down, middle = theirs(x, timesteps, context, controlnet_cond=hint, return_dict=False)
        return [*down, middle]

    difference = largest_difference(run_ours(), run_theirs())
    result = compare(run_ours, run_theirs)
    print(f"ControlNet forward beside diffusers: {result.text()}")
    print(f"  largest relative difference of the residuals: {difference:.1e}")
    file = save("network", {"controlnet": result.as_dict() | {"difference": difference}})
    print(f"  {file}")
    return 0 if difference < 1e-4 else 1


def as_diffusers(net: ControlNet) -> ControlNetModel:
    """diffusers' network with the weights of ours."""
    config = net.config
    theirs = ControlNetModel(
        block_out_channels=tuple(m * config.model_channels for m in config.channel_mult),
        cross_attention_dim=config.context_dim,
        attention_head_dim=config.num_heads,
    )
    theirs.load_state_dict(to_diffusers(net.state_dict(), config))
    return theirs.eval()


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest max-abs difference of a residual (B, C, H, W), over its largest value."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
