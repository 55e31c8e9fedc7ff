"""All that may be said about a control beside its network, its hint and its strength."""

from __future__ import annotations

from dataclasses import dataclass, field

from .hints import HintFit
from .masks import BlockMasks
from .reuse import ReusePolicy
from .rows import RowScales
from .scales import BlockScales, Scales
from .schedule import marks_of


@dataclass(frozen=True)
class ControlSpeed:
    """What may be saved on a control. The defaults change nothing in the result.

    lazy: compute only when the UNet asks. overlap: on CUDA, compute beside the UNet's encoder.
    channels_last: activations in that memory layout. compiled: the network through torch.compile.
    """

    reuse: ReusePolicy = ReusePolicy()  # noqa: RUF009  frozen
    lazy: bool = False
    overlap: bool = False
    channels_last: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class ControlShape:
    """How a control acts by block, time, row and place. Immutable, so copies share it.

    feedback: names of the loops that move its strength while a picture is sampled. What they say
    belongs to the sampling and is never kept here.
    """

    scales: Scales | None = None
    rows: RowScales = field(default_factory=RowScales)
    masks: BlockMasks = field(default_factory=BlockMasks)
    hint: HintFit = field(default_factory=HintFit)
    speed: ControlSpeed = field(default_factory=ControlSpeed)
    feedback: tuple[str, ...] = ()

    @property
    def is_neutral(self) -> bool:
        """True if residuals pass as the network gives them."""
        return self.scales is None and self.rows.is_neutral and not self.masks.layers

    @property
    def marks(self) -> frozenset[float]:
        """Percents of the sampling where scales have a key frame."""
        parts = (self.scales, self.rows.cond, self.rows.uncond)
        return frozenset[float]().union(*map(marks_of, parts))

    @property
    def reads_marks(self) -> bool:
        """True if it matters which side a prompt is on, or whether it has an area."""
        return not self.rows.is_neutral or bool(self.masks.layers) or self.hint.by_area

    def of_rows(self, side: str, blocks: int, percent: float) -> BlockScales:
        """The scales of one side's rows; blocks that a mask silences everywhere have scale 0."""
        scales = self.rows.resolve(side, blocks, percent)
        if self.scales is not None:
            scales = self.scales.resolve(blocks, percent).times(scales)
        muted = self.masks.muted(blocks) if self.masks.layers else frozenset()
        if not muted:
            return scales
        return BlockScales(tuple(0.0 if i in muted else v for i, v in enumerate(scales.values)))

    def require_blocks(self, blocks: int) -> None:
        """ValueError for scales or masks that are meant for a network of other depth."""
        if self.scales is not None:
            self.scales.resolve(blocks)
        self.rows.resolve("cond", blocks)
        self.rows.resolve("uncond", blocks)
        self.masks.require_blocks(blocks)
