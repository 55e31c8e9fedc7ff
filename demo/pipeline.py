"""From captions to pictures in plain PyTorch: the core's counterpart of a ComfyUI graph.

Same noise, schedule and arithmetic as KSampler with sampler `ddim` and scheduler `ddim_uniform`,
so both draw the same picture from the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..cnpp_core.control.residuals import ControlResiduals
from ..cnpp_core.control.scales import ScalePreset, Scales
from ..cnpp_core.diffusion.ddim import ddim_timesteps, guided, sample_ddim
from ..cnpp_core.diffusion.schedule import LATENT_SCALE, NoiseSchedule
from .autoencoder import DOWNSCALE
from .model import DemoModel
from .text import tokenize
from .world import SIZE


@torch.no_grad()
def generate(
    demo: DemoModel,
    captions: Sequence[str],
    *,
    seed: int,
    steps: int = 20,
    cfg: float = 3.0,
    hints: Tensor | None = None,
    scales: Scales | None = None,
    strength: float = 1.0,
    size: int = SIZE,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Pictures (B, 3, size, size) in 0..1, one per caption.

    hints (B, 3, size, size) in 0..1 go through the ControlNet, for prompt and empty prompt alike;
    without them it does not run. scales shape its residuals block by block, strength all of them.
    ``on_step(i, latents)`` is called after each sampling step.
    """
    tokens = torch.tensor([tokenize(caption) for caption in captions])
    cond = demo.text_encoder(tokens)
    uncond = demo.text_encoder(torch.tensor([tokenize("")])).expand_as(cond)
    side = size // DOWNSCALE
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(
        len(captions), demo.unet.config.in_channels, side, side, generator=generator
    )
    both_hints = None if hints is None else torch.cat([hints, hints])
    block_scales = (scales or ScalePreset("uniform")).resolve(demo.controlnet.config.blocks)

    def model(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        if both_hints is None:
            return demo.unet(x, t, context)
        residuals = ControlResiduals(demo.controlnet(x, both_hints, t, context))
        shaped = residuals.scaled(block_scales).times(strength)
        return demo.unet(x, t, context, residuals=shaped.blocks)

    latents = sample_ddim(
        guided(model, cond, uncond, cfg),
        noise,
        NoiseSchedule.scaled_linear(),
        ddim_timesteps(steps),
        on_step,
    )
    return (demo.autoencoder.decode(latents / LATENT_SCALE) / 2 + 0.5).clamp(0, 1)
