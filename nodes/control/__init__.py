"""Menu group "control": put a control into conditioning, and say how it acts."""

from __future__ import annotations

from . import apply, energy, scales, shape, speed

NODES = [*apply.NODES, *scales.NODES, *shape.NODES, *speed.NODES, *energy.NODES]
