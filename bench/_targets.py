"""What the figures of `bench control` are aimed at, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._intervals import Interval
from ._processes import THEIRS
from .adherence import ALLOWED

TARGETS = {
    "neutral": 1.02,
    "cond_rows": 0.55,
    "first_four": 1.05,
    "reuse2": 0.55,
    "reuse4": 0.35,
    "overhead_fast": 0.10,
    "adherence_loss_fast": ALLOWED,
    "load_time": 1.05,
    "load_memory": 1.05,
}
# Which setting of `adherence` a figure goes with.
PRICES = {"cond_rows": "cond_rows", "reuse2": "reuse2", "reuse4": "reuse4", "overhead_fast": "fast"}


def summary(results: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The table of all figures, and the names of those beyond their target."""
    lines = [f"{'figure':<28}{'ratio':>8}{'middle half':>18}{'target':>9}  adherence lost"]
    missed = []
    spread = results.get("spread", {})
    prices = results.get("adherence", {})
    for name, value in results.items():
        if not isinstance(value, float):
            continue
        kind = next((known for known in TARGETS if name.startswith(known)), name)
        target = TARGETS.get(kind)
        low, high = spread.get(name, {}).get("quartiles", (None, None))
        half = "" if low is None else f"{low:.3f} to {high:.3f}"
        loss = prices.get(PRICES.get(kind, ""), {}).get("loss")
        price = "" if loss is None else _price(loss)
        goal = "" if target is None else f"{target:.2f}"
        if target is not None and value > target:
            missed.append(name)
            goal += " !"
        lines.append(f"{name:<28}{value:>8.3f}{half:>18}{goal:>9}  {price}".rstrip())
    for size, found in results.get("memory", {}).items():
        lines.append(
            f"memory of calls at {size}: {found['ratio']:.2f} of ComfyUI's {found[THEIRS]:.0f} MB, "
            f"the fast setting {found['ratio_fast']:.2f}"
        )
    return lines, missed


def _price(loss: Mapping[str, Mapping[str, float]]) -> str:
    f1, iou = (Interval(**loss[name]) for name in ("f1", "iou"))
    return f"F1 {f1:.1%}, IoU {iou:.1%}"
