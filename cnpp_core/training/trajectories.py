"""States that a sampler comes through, with the network as it is while it trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..diffusion.ddim import ddim_timesteps, sample_ddim
from .batch import Draw, State, TrainingBatch
from .denoiser import Denoiser
from .state import below, named


@dataclass(frozen=True)
class TrajectorySettings:
    """How trajectories are sampled and how long they are used.

    Each is sampled for one batch by DDIM in `steps` steps at `cfg`; of these the states with
    least_t <= t <= most_t are kept, `pool` trajectories at a time. After `every` draws the oldest
    is sampled anew.
    """

    steps: int = 10
    cfg: float = 3.0
    least_t: int = 0
    most_t: int = 999
    pool: int = 8
    every: int = 10

    def __post_init__(self) -> None:
        if not any(self.least_t <= t <= self.most_t for t in ddim_timesteps(self.steps)):
            raise ValueError(
                f"None of {self.steps} sampling steps lies in the timesteps {self.least_t} to "
                f"{self.most_t}; keep more of them, or sample in more steps."
            )
        if self.pool < 1 or self.every < 1:
            raise ValueError(
                f"A pool of {self.pool} trajectories, one of them new every {self.every} draws, "
                "was asked for; both must be at least 1."
            )


class Trajectories:
    """A source of `States`: rows of sampled trajectories, each at a step of its own.

    sampler: gives the denoiser to sample with, asked each time, so that it may be one of a
    trainer's averaged weights. What is kept of a trajectory is its latents; its batch, with hints
    and prompts, is drawn again from its seed when it is used. Deterministic by the generator; the
    pool is part of a trainer's checkpoints, so that a resumed training goes on exactly.
    """

    def __init__(
        self, sampler: Callable[[], Denoiser], draw: Draw, settings: TrajectorySettings
    ) -> None:
        self.sampler = sampler
        self.draw = draw
        self.settings = settings
        self._pool: deque[_Trajectory] = deque(maxlen=settings.pool)
        self._draws = 0

    def __call__(self, generator: torch.Generator) -> State:
        while len(self._pool) < self.settings.pool:
            self._pool.append(self._sample(generator))
        if self._draws and self._draws % self.settings.every == 0:
            self._pool.append(self._sample(generator))
        self._draws += 1
        chosen = self._pool[int(torch.randint(len(self._pool), (), generator=generator))]
        batch = self.draw(_seeded(int(chosen.seed)))
        steps = torch.randint(len(chosen.t), (len(batch),), generator=generator)
        x_t = chosen.x_t[steps, torch.arange(len(batch))]
        device = batch.x0.device
        return State(batch, x_t.to(device), chosen.t[steps].to(device))

    def state_dict(self) -> dict[str, Tensor]:
        """What `load_state_dict` needs for the same states to follow."""
        state = {"draws": torch.tensor(self._draws)}
        for i, one in enumerate(self._pool):
            state |= named(f"{i}.", vars(one))
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._draws = int(state["draws"])
        count = sum(name.endswith(".seed") for name in state)
        pool = (_Trajectory(**below(f"{i}.", state)) for i in range(count))
        self._pool = deque(pool, self._pool.maxlen)

    @torch.no_grad()
    def _sample(self, generator: torch.Generator) -> _Trajectory:
        seed = torch.randint(2**62, (), generator=generator)
        own = _seeded(int(seed))
        batch = self.draw(own)
        noise = torch.randn(batch.x0.shape, generator=own).to(batch.x0)
        kept: list[tuple[int, Tensor]] = []
        timesteps = ddim_timesteps(self.settings.steps)
        sample_ddim(self._model(batch, kept), noise, self.sampler().schedule, timesteps)
        t, x_t = zip(*kept, strict=True)
        return _Trajectory(seed, torch.tensor(t), torch.stack(x_t).cpu())

    def _model(
        self, batch: TrainingBatch, kept: list[tuple[int, Tensor]]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """A model of noise for the sampler that keeps the latents which it is asked about."""
        denoiser, settings = self.sampler(), self.settings

        def noise_of(x_t: Tensor, t: Tensor) -> Tensor:
            if settings.least_t <= (step := int(t[0])) <= settings.most_t:
                kept.append((step, x_t))
            return denoiser.predict(State(batch, x_t, t), settings.cfg).noise

        return noise_of


@dataclass(frozen=True, eq=False)
class _Trajectory:
    """x_t (S, B, C, H, W) at the steps t (S,) of a sampling of the batch with this seed ()."""

    seed: Tensor
    t: Tensor
    x_t: Tensor


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
