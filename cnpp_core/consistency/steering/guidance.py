"""Consistency guidance: the one-step x0 moved to where its picture follows the condition better.

The gradient goes through the decoder and the annotator and stops at x0, so a step costs neither a
second pass of the UNet nor its memory (arXiv 2311.16424 argues why that suffices).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .window import SteeringWindow


@dataclass(frozen=True)
class GuidanceSettings:
    """How strongly x0 is moved, and when.

    strength: 1 goes as far as would bring the loss to 0 if it fell evenly. bound: the largest root
    mean square of a correction, in the units of the model's latents, whose own is about 1.
    """

    strength: float = 1.0
    bound: float = 0.4
    window: SteeringWindow = field(default_factory=lambda: SteeringWindow(every=3))

    def __post_init__(self) -> None:
        for name in ("strength", "bound"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Guidance with {name} {value:g}; it must be 0 or more.")


class Correction(NamedTuple):
    """x0 as corrected (B, C, H, W), and the loss of each picture before (B,)."""

    x0: Tensor
    losses: Tensor


def corrected(
    x0: Tensor, losses: Callable[[Tensor], Tensor], settings: GuidanceSettings
) -> Correction:
    """One step down the gradient of ``losses``, a differentiable function of x0 to (B,).

    The length is Polyak's (strength * loss / |gradient|), so it shrinks as the loss does; what is
    beyond the bound is cut. Pictures whose gradient is zero or not finite stay as they are. Works
    in float32 and under inference mode; x0 keeps its dtype.
    """
    with torch.inference_mode(False), torch.enable_grad():
        point = x0.detach().clone().float().requires_grad_()
        values = losses(point)
        (gradient,) = torch.autograd.grad(values.sum(), point)
    values = values.detach()
    squares = gradient.square().flatten(1).sum(1)
    length = settings.strength * values / squares.sqrt()  # of the whole step
    length = length.clamp(max=settings.bound * math.sqrt(gradient[0].numel()))
    factor = torch.where(squares > 0, length / squares.sqrt(), 0).nan_to_num(0, 0, 0)
    step = gradient.nan_to_num(0, 0, 0) * factor.view(-1, *[1] * (x0.ndim - 1))
    return Correction((x0.float() - step).to(x0.dtype), values)
