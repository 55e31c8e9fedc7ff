"""From captions to pictures in plain PyTorch: the core's counterpart of a ComfyUI graph.

Same noise, schedules and arithmetic as KSampler with one of the ``SAMPLERS``, so both draw the same
picture from the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..cnpp_core.consistency.steering.feedback import Feedback
from ..cnpp_core.consistency.steering.guidance import GuidanceSettings, corrected
from ..cnpp_core.control.partial import HintCache, partial_network
from ..cnpp_core.control.residuals import ControlResiduals
from ..cnpp_core.control.rows import COND, UNCOND
from ..cnpp_core.control.runner import Chunk, ControlRunner, Request
from ..cnpp_core.control.shape import ControlShape
from ..cnpp_core.diffusion.ddim import ddim_timesteps, sample_ddim, with_cfg
from ..cnpp_core.diffusion.lcm import lcm_timesteps, sample_lcm
from ..cnpp_core.diffusion.schedule import LATENT_SCALE, NoiseSchedule
from .autoencoder import DOWNSCALE
from .conditions import Follower
from .model import DemoModel
from .text import tokenize
from .world import SIZE

# As KSampler names them: timesteps of so many steps, and what samples along them. The first two go
# with its scheduler `ddim_uniform`, lcm with `simple` and ModelSamplingDiscrete `lcm`.
SAMPLERS: dict[str, tuple[Callable[[int], list[int]], Callable[..., Tensor]]] = {
    "ddim": (ddim_timesteps, sample_ddim),
    "euler_ancestral": (ddim_timesteps, partial(sample_ddim, eta=1.0)),
    "lcm": (lcm_timesteps, sample_lcm),
}


@dataclass(frozen=True, eq=False)
class Steering:
    """Towards what ``follower`` wants, by the one-step x0.

    guidance moves x0 itself, feedback the strength of the control.
    """

    follower: Follower
    guidance: GuidanceSettings | None = None
    feedback: Feedback | None = None


@torch.no_grad()
def generate(
    demo: DemoModel,
    captions: Sequence[str],
    *,
    seed: int,
    steps: int = 20,
    cfg: float = 3.0,
    sampler: str = "ddim",
    hints: Tensor | None = None,
    shape: ControlShape | None = None,
    strength: float = 1.0,
    size: int = SIZE,
    steering: Steering | None = None,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Pictures (B, 3, size, size) in 0..1, one per caption.

    hints (B, 3, H, W) in 0..1 go through the ControlNet; without them it does not run. shape
    says how it acts by block, time, row and place, and whether residuals are reused; strength
    multiplies all of it. ``on_step(i, latents)`` is called after each sampling step. sampler is one
    of SAMPLERS; lcm wants a UNet that was distilled for it (`demo/distil.py`) and cfg 1.
    """
    tokens = torch.tensor([tokenize(caption) for caption in captions])
    cond = demo.text_encoder(tokens)
    uncond = demo.text_encoder(torch.tensor([tokenize("")])).expand_as(cond)
    side = size // DOWNSCALE
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(
        len(captions), demo.unet.config.in_channels, side, side, generator=generator
    )
    sides = (COND,) if cfg == 1 else (COND, UNCOND)
    timesteps_of, sample = SAMPLERS[sampler]
    timesteps = timesteps_of(steps)
    shape = shape or ControlShape()
    control = None
    if hints is not None:
        control = _control(demo, shape.hint.place(hints, (size, size)), shape, timesteps, sides)

    def model(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        if control is None:
            return demo.unet(x, t, context)
        residuals = control(x, t, context).times(strength)
        if steering and steering.feedback and steering.feedback.factors:
            residuals = residuals.times_rows(steering.feedback.factors * len(sides))
        return demo.unet(x, t, context, residuals=residuals.blocks)

    def decode(latents: Tensor) -> Tensor:
        return demo.autoencoder.decode(latents / LATENT_SCALE) / 2 + 0.5

    def steer(by: Steering, step: int, x0: Tensor) -> Tensor:
        percent = _percent(timesteps[step])
        if by.feedback and by.feedback.settings.window.acts(percent, step):
            by.feedback.look(step, percent, by.follower.scores(decode(x0).clamp(0, 1)))
        if by.guidance and by.guidance.window.acts(percent, step):
            losses = by.follower.losses
            x0 = corrected(x0, lambda point: losses(decode(point)), by.guidance).x0
        return x0

    latents = sample(
        with_cfg(model, cond, uncond, cfg),
        noise,
        NoiseSchedule.scaled_linear(),
        timesteps,
        on_step,
        partial(steer, steering) if steering else None,
        generator=torch.Generator().manual_seed(seed + 1),  # as the host, for new noise
    )
    return decode(latents).clamp(0, 1)


def _control(
    demo: DemoModel,
    hints: Tensor,
    shape: ControlShape,
    timesteps: Sequence[int],
    sides: Sequence[str],
) -> Callable[[Tensor, Tensor, Tensor], ControlResiduals]:
    """The control of one sampling: (x, t, context) of the rows of all sides to their residuals."""
    runner = ControlRunner(shape, demo.controlnet.config.blocks)
    chunks = tuple(Chunk(i, side, side) for i, side in enumerate(sides))
    all_hints, cache = torch.cat([hints] * len(sides)), HintCache()

    def control(x: Tensor, t: Tensor, context: Tensor) -> ControlResiduals:
        request = Request(x, chunks)

        def evaluate(wanted: Sequence[Chunk], asked: frozenset[int] | None) -> ControlResiduals:
            def select(rows: Tensor) -> Tensor:
                return rows if len(wanted) == len(sides) else request.rows(rows, wanted[0])

            network = partial_network(demo.controlnet, asked, cache)
            inputs = [select(rows) for rows in (x, all_hints, t, context)]
            return ControlResiduals(network(*inputs))

        now = int(t[0])
        return runner.residuals(request, lambda: _percent(now), timesteps.index(now), evaluate)

    return control


def _percent(timestep: int) -> float:
    return 1 - timestep / 999
