"""How far a figure could be off: it was measured on some scenes and from some noise only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DRAWS = 10_000
COVERED = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure, and where 95 % of its bootstrap lies."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"

    def as_dict(self) -> dict[str, float]:
        """Plain numbers for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


class Bootstrap:
    """Means over scenes and seeds, and over what other draws of both would have been.

    Every figure sees the same draws, so figures of two ways are compared in pairs. Scenes and seeds
    are drawn apart, with replacement (the pigeonhole bootstrap, arXiv 0712.1111).
    """

    def __init__(self, seeds: int, scenes: int, draws: int = DRAWS) -> None:
        generator = torch.Generator().manual_seed(0)
        self._seeds = _shares(seeds, draws, generator)
        self._scenes = _shares(scenes, draws, generator)

    def means(self, values: Tensor) -> Tensor:
        """values (seeds or 1, scenes) -> (1 + draws,): the mean as measured, then in each draw."""
        values = values.double().expand(self._seeds.shape[1], -1)
        drawn = torch.einsum("ds,sc,dc->d", self._seeds, values, self._scenes)
        return torch.cat([values.mean()[None], drawn])


def interval(figures: Tensor) -> Interval:
    """Of a figure computed from `Bootstrap.means`, (1 + draws,)."""
    outside = (1 - COVERED) / 2
    low, high = figures[1:].quantile(torch.tensor([outside, 1 - outside]).to(figures)).tolist()
    return Interval(figures[0].item(), low, high)


def _shares(count: int, draws: int, generator: torch.Generator) -> Tensor:
    """(draws, count): how often each of ``count`` things is drawn, as shares of all."""
    chosen = torch.randint(count, (draws, count), generator=generator)
    hits = torch.zeros(draws, count, dtype=torch.float64)
    return hits.scatter_add_(1, chosen, torch.ones_like(hits)) / count
