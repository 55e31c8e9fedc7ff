"""Separate scales for the rows that carry the prompt (cond) and those that don't (uncond).

Classifier-free guidance computes uncond + cfg * (cond - uncond). Control in both rows steers the
picture, and guidance leaves it as it is; control in the cond rows alone is part of the difference,
so guidance multiplies it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .scales import BlockScales, ScalePreset, ScaleProduct, Scales

COND, UNCOND = "cond", "uncond"
_FULL = ScalePreset("uniform")
_SOFT = ScalePreset("guess mode")
_MUTE = ScalePreset("uniform", 0.0)


@dataclass(frozen=True)
class RowScales:
    """What the residuals of each kind of row are multiplied with, beside the control's scales."""

    cond: Scales = _FULL
    uncond: Scales = _FULL

    @property
    def is_neutral(self) -> bool:
        return self == RowScales()

    def resolve(self, side: str, blocks: int, percent: float = 0.0) -> BlockScales:
        """Scales of the rows of one side, COND or UNCOND."""
        return (self.cond if side == COND else self.uncond).resolve(blocks, percent)

    def times(self, cond: Scales | None, uncond: Scales | None) -> RowScales:
        """Further scales on each side; None leaves that side alone."""
        return RowScales(_times(self.cond, cond), _times(self.uncond, uncond))


# The three modes of the webui extension; the last one is the original's guess mode with a prompt.
CONTROL_MODES = {
    "balanced": RowScales(),
    "prompt is more important": RowScales(_SOFT, _SOFT),
    "control is more important": RowScales(_SOFT, _MUTE),
    "cond rows only": RowScales(uncond=_MUTE),
}


def _times(scales: Scales, further: Scales | None) -> Scales:
    return scales if further is None else ScaleProduct((scales, further))
