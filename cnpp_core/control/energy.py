"""Residual energy: how large what a control adds is beside the feature that it is added to.

For one image, one block and one call of the model it is the norm of the scaled residual over the
norm of the feature, |r| / |h|; 0.1 means that a tenth of the feature's size is added. A table
holds its mean over the images and the calls of every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import COND, UNCOND
from .timing import Timing


@dataclass(frozen=True)
class Feature:
    """What is remembered of a feature map before a residual is added to it in place.

    norms (rows,): Euclidean norm of each row, in float32 on the feature's device.
    """

    norms: Tensor
    shape: torch.Size

    @classmethod
    def of(cls, feature: Tensor) -> Feature:
        """feature (rows, C, H, W) of any float type."""
        return cls(_row_norms(feature), feature.shape)

    def energy(self, residual: Tensor | None) -> Tensor:
        """|residual| / |feature| of each row (rows,); infinite where either is not finite.

        0 for no residual, and for one that does not fit the feature: the host leaves it out.
        """
        if residual is None or not self._takes(residual):
            return torch.zeros_like(self.norms)
        tiny = torch.finfo(torch.float32).tiny  # a feature of nothing but zeros
        ratio = _row_norms(residual.expand(self.shape)) / self.norms.clamp_min(tiny)
        return ratio.nan_to_num(nan=torch.inf, posinf=torch.inf)

    def _takes(self, residual: Tensor) -> bool:
        try:
            return torch.broadcast_shapes(self.shape, residual.shape) == self.shape
        except RuntimeError:
            return False


def _row_norms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), dtype=torch.float32)


@dataclass(frozen=True)
class CallEnergy:
    """One call of the model, on its device: energies (rows, blocks), sigma (), a side per row."""

    energies: Tensor
    sigma: Tensor
    sides: tuple[str, ...]


@dataclass(frozen=True)
class EnergyTable:
    """The energies of one sampling.

    blocks: their names. sides: COND and, where it was sampled, UNCOND -> (blocks, steps) float32 on
    the CPU; NaN for a step at which the model was not called. sigmas: where each step starts.
    """

    blocks: tuple[str, ...]
    sides: Mapping[str, Tensor]
    sigmas: tuple[float, ...]

    @classmethod
    def gather(
        cls,
        calls: Sequence[CallEnergy],
        blocks: Mapping[str, int],
        planned: Sequence[float] | None,
    ) -> EnergyTable:
        """The table of a run; one transfer per device.

        blocks: name -> column of the calls' energies. planned: the sampler's sigmas, the last one
        being where it ends; None if it keeps no plan, then every sigma is a step.
        """
        energies, sigmas = _transferred(calls)
        if planned is None:
            planned = [*sorted(set(sigmas), reverse=True), 0.0]
        steps = max(len(planned) - 1, 1)
        columns = list(blocks.values())
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        for call, rows, sigma in zip(calls, energies, sigmas, strict=True):
            step = min(Timing.step(sigma, planned), steps - 1)
            for side, row in zip(call.sides, rows, strict=True):
                total = sums.setdefault(side, torch.zeros(len(columns), steps))
                total[:, step] += row[columns]
                counts.setdefault(side, torch.zeros(steps))[step] += 1
        # 0 / 0 is NaN: nothing was measured there.
        order = [side for side in (COND, UNCOND) if side in sums]
        table = {side: sums[side] / counts[side] for side in order}
        return cls(tuple(blocks), table, tuple(planned[:steps]))

    @property
    def steps(self) -> int:
        return len(self.sigmas)

    @property
    def shown(self) -> tuple[str, Tensor]:
        """The side that the picture shows, cond if it was sampled, and its (blocks, steps)."""
        return next(iter(self.sides.items()))

    @property
    def is_silent(self) -> bool:
        """True if no control has added anything anywhere."""
        return not any((values > 0).any() for values in self.sides.values())

    def means(self, side: str) -> Tensor:
        """Mean of each block over the steps at which the model was called (blocks,)."""
        return self.sides[side].nanmean(dim=1)

    def hottest(self, side: str) -> tuple[int, int]:
        """(block, step) of the largest number."""
        flat = int(self.sides[side].nan_to_num(nan=-1.0, posinf=torch.inf).argmax())
        return flat // self.steps, flat % self.steps

    def summary(self) -> str:
        """A heading, then a line per block: means over the steps of cond, and of uncond."""
        lines = [f"|residual| / |feature|, mean over {self.steps} steps ({', '.join(self.sides)})"]
        if self.is_silent:
            lines.append(SILENT)
        means = [self.means(side) for side in self.sides]
        width = max(map(len, self.blocks))
        for name, *values in zip(self.blocks, *means, strict=True):
            lines.append(f"{name:<{width}}  {'  '.join(number(v) for v in values)}")
        return "\n".join(lines)

    def text(self) -> str:
        """The summary, then for each side a line per step and a column per block."""
        parts = [self.summary()]
        width = max(7, *(len(name) + 2 for name in self.blocks))
        head = f"{'step':<5}{'sigma':>9}" + "".join(f"{name:>{width}}" for name in self.blocks)
        for side, values in self.sides.items():
            lines = [f"{side}, step by step", head]
            for i, sigma in enumerate(self.sigmas):
                cells = "".join(f"{number(v):>{width}}" for v in values[:, i])
                lines.append(f"{i + 1:<5}{sigma:>9.4g}{cells}")
            parts.append("\n".join(lines))
        return "\n\n".join(parts)


SILENT = (
    "No control reached the UNet. Is Apply ControlNet++ connected to positive and negative of the "
    "sampler, with a strength and scales that are not 0?"
)


def number(value: float | Tensor) -> str:
    """A scalar as text, three digits at most: 0, 0.012, 0.31, 4.2, 130; "-" for NaN."""
    value = float(value)
    if value != value:
        return "-"
    if value == 0 or value == float("inf"):
        return f"{value:.0f}"
    if value < 0.0005:
        return f"{value:.0e}".replace("e-0", "e-")
    digits = 3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def _transferred(calls: Sequence[CallEnergy]) -> tuple[list[Tensor], list[float]]:
    """Energies and sigma of each call, on the CPU."""
    packed: dict[torch.device, list[Tensor]] = {}
    for call in calls:
        sigma = call.sigma.to(call.energies).expand(len(call.sides), 1)
        rows = torch.cat([call.energies, sigma], dim=1)
        packed.setdefault(rows.device, []).append(rows)
    arrived = {device: iter(_split(rows)) for device, rows in packed.items()}
    both = [next(arrived[call.energies.device]) for call in calls]
    return [rows[:, :-1] for rows in both], [float(rows[0, -1]) for rows in both]


def _split(rows: Sequence[Tensor]) -> Iterable[Tensor]:
    return torch.cat(list(rows)).cpu().split([len(part) for part in rows])
