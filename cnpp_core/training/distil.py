"""Latent consistency distillation: a UNet of few steps out of one of many (arXiv 2310.04378)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.lcm import ORIGINAL_STEPS, consistency_function, lcm_grid
from .batch import Draw, State
from .denoiser import Denoiser


@dataclass(frozen=True, eq=False)
class ConsistencyDistillation:
    """An `Objective` of the trainer (arXiv 2310.04378, algorithm 1, one-stage guided distillation).

    From a noisy latent the teacher takes one step of DDIM with guidance, ``skip`` timesteps long;
    the student has to make the same x0 of where that step began as the target makes of where it
    ended. So from level to level it learns where the teacher's whole sampling leads.

    student: its UNet is what trains. target: with the averaged weights of the student
    (``Trainer.averaged``), or the student itself. teacher: frozen. The three differ in their UNets
    alone; a ControlNet that takes part in all of them is not trained. draw: batches with `empty`,
    which the guidance needs.

    cfg: of the teacher, each batch's drawn from least..most (the paper's w is cfg - 1). The student
    is told nothing of it: like that of LCM-LoRA (arXiv 2311.05556) it stays a UNet that every
    sampler takes, at cfg 1. huber_c: of the pseudo-Huber distance, None for squared differences.
    """

    student: Denoiser
    target: Denoiser
    teacher: Denoiser
    draw: Draw
    cfg: tuple[float, float] = (3.0, 3.0)
    original_steps: int = ORIGINAL_STEPS
    huber_c: float | None = 0.001

    def __post_init__(self) -> None:
        if self.cfg[0] > self.cfg[1]:
            raise ValueError(f"cfg is drawn from {self.cfg}; give the least first, then the most.")

    @property
    def skip(self) -> int:
        """Timesteps between two levels, k of the paper: 20."""
        return len(self.teacher.schedule) // self.original_steps

    def __call__(self, generator: torch.Generator) -> Tensor:
        """The distance of student and target on one batch, a scalar."""
        state, cfg = self._noisy(generator)
        with torch.no_grad():
            wanted = _clean(self.target, self._stepped(state, cfg))
        return self._distance(_clean(self.student, state), wanted)

    def _noisy(self, generator: torch.Generator) -> tuple[State, float]:
        batch = self.draw(generator)
        schedule, x0 = self.teacher.schedule, batch.x0
        grid = torch.tensor(lcm_grid(self.original_steps, len(schedule)))
        t = grid[torch.randint(len(grid), (len(batch),), generator=generator)].to(x0.device)
        least, most = self.cfg
        cfg = least + (most - least) * torch.rand((), generator=generator).item()
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        return State(batch, schedule.q_sample(x0, t, eps), t, eps), cfg

    def _stepped(self, state: State, cfg: float) -> State:
        """Where a step of the teacher leads; the last one leads to timestep 0."""
        guided = self.teacher.predict(state, cfg)
        t = (state.t - self.skip).clamp(min=0)
        x_t = self.teacher.schedule.q_sample(guided.x0, t, guided.noise)
        return State(state.batch, x_t.to(state.x_t), t)

    def _distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        squared = (found - wanted).square()
        if self.huber_c is not None:  # arXiv 2310.14189, section 3.3, for each value
            squared = (squared + self.huber_c**2).sqrt() - self.huber_c
        return squared.mean()


def _clean(denoiser: Denoiser, state: State) -> Tensor:
    """x0 (B, C, H, W), float32, as a consistency model sees it."""
    return consistency_function(state.x_t.float(), state.t, denoiser.predict(state).x0)
