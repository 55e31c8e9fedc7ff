"""How strongly each block of a ControlNet speaks: one number per residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Scales(Protocol):
    """Anything that gives one scale per block of a network, at a moment of the sampling.

    blocks: how many residuals the network gives; percent: 0 at the first step, 1 at the end.
    """

    def resolve(self, blocks: int, percent: float = 0.0) -> BlockScales: ...


@dataclass(frozen=True)
class BlockScales:
    """One factor per residual, shallow to deep, the middle block's last."""

    values: tuple[float, ...]

    def resolve(self, blocks: int, percent: float = 0.0) -> BlockScales:
        """Itself; ValueError naming both lengths if the network has another number of blocks."""
        if len(self.values) != blocks:
            raise ValueError(
                f"These block scales hold {len(self.values)} numbers, the ControlNet has {blocks} "
                "blocks (SD1.5 and SD2.x 13, SDXL 10); connect the Block Scales node of its "
                "family, or Block Scale Preset, which fits every network."
            )
        return self

    @property
    def is_neutral(self) -> bool:
        return all(value == 1.0 for value in self.values)

    @property
    def asked(self) -> frozenset[int]:
        """The blocks whose residual is wanted at all."""
        return frozenset(i for i, value in enumerate(self.values) if value != 0.0)

    def times(self, other: BlockScales) -> BlockScales:
        """Block by block, the product of two lists for the same network."""
        return BlockScales(tuple(a * b for a, b in zip(self.values, other.values, strict=True)))

    def towards(self, other: BlockScales, weight: float) -> BlockScales:
        """The mixture of itself (weight 0) and ``other`` (weight 1)."""
        pairs = zip(self.values, other.values, strict=True)
        return BlockScales(tuple(a + weight * (b - a) for a, b in pairs))


def uniform(blocks: int) -> tuple[float, ...]:
    """1 for every block: the control as it was trained."""
    return (1.0,) * blocks


def guess_mode(blocks: int) -> tuple[float, ...]:
    """0.825^(12-i) of the original guess mode; other depths walk the same curve end to end.

    So SDXL's ten blocks also run from 0.825^12 = 0.099 to 1, neither cut off nor shifted.
    """
    last = max(blocks - 1, 1)
    return (*(0.825 ** (12.0 * (1.0 - i / last)) for i in range(blocks - 1)), 1.0)


def mid_only(blocks: int) -> tuple[float, ...]:
    """The middle block alone (`only_mid_control` of the original)."""
    return (0.0,) * (blocks - 1) + (1.0,)


def structure(blocks: int) -> tuple[float, ...]:
    """The deeper half and the middle block: layout and large forms."""
    return tuple(float(i >= blocks // 2) for i in range(blocks))


def detail(blocks: int) -> tuple[float, ...]:
    """The shallow half: fine lines and texture."""
    return tuple(float(i < blocks // 2) for i in range(blocks))


_CURVES: dict[str, Callable[[int], tuple[float, ...]]] = {
    "uniform": uniform,
    "guess mode": guess_mode,
    "mid only": mid_only,
    "structure": structure,
    "detail": detail,
}
PRESETS = tuple(_CURVES)


@dataclass(frozen=True)
class ScalePreset:
    """A named curve over the blocks times ``strength``, for a network of any depth."""

    name: str
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in _CURVES:
            raise ValueError(f"No preset '{self.name}'; there are {', '.join(PRESETS)}.")

    def resolve(self, blocks: int, percent: float = 0.0) -> BlockScales:
        return BlockScales(tuple(self.strength * value for value in _CURVES[self.name](blocks)))


@dataclass(frozen=True)
class ScaleProduct:
    """Several scales at once: their product, block by block."""

    factors: tuple[Scales, ...]

    def resolve(self, blocks: int, percent: float = 0.0) -> BlockScales:
        product = BlockScales(uniform(blocks))
        for factor in self.factors:
            product = product.times(factor.resolve(blocks, percent))
        return product


def product(scales: Scales | None, further: Scales | None) -> Scales | None:
    """Both at once; None stands for scales that change nothing."""
    if scales is None or further is None:
        return scales if further is None else further
    return ScaleProduct((scales, further))
