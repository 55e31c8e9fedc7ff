"""What steering by consistency gives, on the demo model: adherence, time and quality of each way.

Every way draws pictures for the same held-out conditions from the same noise; see `_steering`.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..cnpp_core.consistency.steering.feedback import FeedbackSettings
from ..cnpp_core.consistency.steering.guidance import GuidanceSettings
from ..cnpp_core.consistency.steering.window import SteeringWindow
from ..demo.model import WEIGHTS, load_part
from ..demo.segmenter import Segmenter
from ..demo.train import SCENES, train_segmenter
from ._pairs import Spread, interleaved, merge
from ._steering import STEPS, Experiment, Outcome, Way

TURNS = 3
TIMED = 8  # pictures per turn
# What is aimed at: shares of the remaining error, and time.
LEAST_BY_GUIDANCE, LEAST_TOGETHER, MOST_TIME = 0.45, 0.65, 1.25

GUIDANCE = GuidanceSettings()
EVERY = GUIDANCE.window.every
FEEDBACK = FeedbackSettings(window=SteeringWindow(every=2))

CONTROL = Way("ControlNet")
GUIDED = Way("+ guidance", guidance=GUIDANCE)
TOGETHER = Way("all together", guidance=GUIDANCE, feedback=FEEDBACK, candidates=4)
WAYS = (
    Way("no control", controlled=False),
    CONTROL,
    GUIDED,
    Way("+ feedback", feedback=FEEDBACK),
    Way("+ best of 4", candidates=4),
    TOGETHER,
)


def table(experiment: Experiment) -> dict[str, Any]:
    """Every way on all conditions, printed as it comes and as plain numbers."""
    ceiling = experiment.ceiling()
    outcomes: dict[str, Outcome] = {}
    rows: dict[str, Any] = {"autoencoder alone": ceiling.as_dict()}
    print(f"  {'':<18}{'IoU':>8}{'F1':>8}{'colours':>9}{'removed':>9}{'s':>8}")
    for way in WAYS:
        outcome = outcomes[way.name] = experiment.outcome(way)
        rows[way.name] = outcome.as_dict()
        removed = math.nan
        if CONTROL.name in outcomes and way != CONTROL:
            removed = rows[way.name]["error_removed"] = outcome.removed(
                outcomes[CONTROL.name], ceiling
            )
        _show(way.name, outcome, removed)
    _show("autoencoder alone", ceiling, math.nan)
    return rows


def times(experiment: Experiment) -> dict[str, Any]:
    """Seconds per picture of every way, as ratios to the ControlNet alone, turn by turn."""

    def drawing(way: Way) -> Callable[[], Tensor]:
        return lambda: experiment.best(way, 0)

    measured = interleaved({way.name: drawing(way) for way in WAYS}, TURNS)
    ratios = {}
    for name, seconds in measured.items():
        pairs = zip(seconds, measured[CONTROL.name], strict=True)
        spread = Spread.of([a / b for a, b in pairs])
        ratios[name] = spread.as_dict()
        print(f"  {name:<18}{spread.median:>6.2f} ({spread.low:.2f} to {spread.high:.2f})")
    return ratios


def curves(experiment: Experiment) -> dict[str, Any]:
    """Adherence against the strength of control, and against strength and window of guidance."""
    windows = [(0.0, 1.0), (0.4, 1.0), (0.8, 1.0), (0.0, 0.9), (0.0, 0.5)]
    lines: dict[str, list[tuple[str, Way]]] = {
        "control strength": [
            (f"{value:g}", replace(CONTROL, strength=value)) for value in (0.25, 0.5, 1.0, 1.5, 2.0)
        ],
        "guidance strength": [
            (f"{value:g}", _guided(strength=value)) for value in (0.25, 0.5, 1.0, 2.0, 4.0)
        ],
        "guidance bound": [(f"{value:g}", _guided(bound=value)) for value in (0.1, 0.2, 0.4, 0.8)],
        "guidance window": [
            (f"{start:g}-{end:g}", _guided(window=SteeringWindow(start, end, EVERY)))
            for start, end in windows
        ],
        "guidance every": [
            (f"{every}", _guided(window=replace(GUIDANCE.window, every=every)))
            for every in (1, 2, 3, 4)
        ],
    }
    results: dict[str, Any] = {}
    known: dict[Way, Outcome] = {}
    for line, ways in lines.items():
        print(f"  {line}")
        for title, way in ways:
            known[way] = outcome = known[way] if way in known else experiment.outcome(way)
            results.setdefault(line, {})[title] = outcome.as_dict()
            _show(f"  {title}", outcome, math.nan)
    return results


def edges(experiment: Experiment) -> dict[str, Any]:
    """Guidance by the very edges that the ControlNet gets, without a learned annotator."""
    ceiling, before = experiment.ceiling(), experiment.outcome(CONTROL)
    _show(CONTROL.name, before, math.nan)
    results: dict[str, Any] = {CONTROL.name: before.as_dict()}
    late = SteeringWindow(0.4, 1.0, EVERY)
    changes = {
        "the defaults": {},
        "bound 0.1": {"bound": 0.1},
        "bound 0.2": {"bound": 0.2},
        "strength 0.5": {"strength": 0.5},
        "strength 2": {"strength": 2.0},
        "from 0.4": {"window": late},
        "every step": {"window": replace(GUIDANCE.window, every=1)},
    }
    for title, change in changes.items():
        outcome = experiment.outcome(replace(_guided(**change), by_edges=True))
        removed = outcome.removed(before, ceiling)
        results[title] = outcome.as_dict() | {"error_removed": removed}
        _show(title, outcome, removed)
    return results


def reward(experiment: Experiment) -> dict[str, Any]:
    """How good the segmenter is, and what guidance by a badly trained one does."""
    results = {"shipped": experiment.reward_quality()}
    before = experiment.outcome(CONTROL)
    results["shipped"]["foreground_iou"] = float(experiment.outcome(GUIDED).judged.iou.mean())
    with tempfile.TemporaryDirectory() as folder:
        train_poor_segmenter(Path(folder))
        poor = Experiment(len(experiment.hints), load_part("segmenter", Segmenter(), Path(folder)))
    results["poor"] = poor.reward_quality()
    results["poor"]["foreground_iou"] = float(poor.outcome(GUIDED).judged.iou.mean())
    results["none"] = {"foreground_iou": float(before.judged.iou.mean())}
    for name, numbers in results.items():
        print(f"  {name}: " + ", ".join(f"{key} {value:.4f}" for key, value in numbers.items()))
    return results


def train_poor_segmenter(folder: Path) -> None:
    """A segmenter from a hundredth of the pictures and of the steps."""
    (folder / "autoencoder.safetensors").write_bytes(
        (WEIGHTS / "autoencoder.safetensors").read_bytes()
    )
    train_segmenter(folder, scenes=SCENES // 100, speed_up=100)


PARTS: dict[str, Callable[[Experiment], dict[str, Any]]] = {
    "table": table,
    "times": times,
    "curves": curves,
    "edges": edges,
    "reward": reward,
}


def main(argv: Sequence[str] = ()) -> int:
    """Measure the named parts, print them, and write them to bench/results/consistency.json.

    Returns 1 where a target of steering is missed.
    """
    parser = argparse.ArgumentParser(prog="bench consistency", description=__doc__)
    parser.add_argument("--count", type=int, default=128, help="held-out conditions")
    parser.add_argument("--few", type=int, default=32, help="conditions of the rest")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts")
    options = parser.parse_args(argv)
    results: dict[str, Any] = {"steps": STEPS, "guidance": str(GUIDANCE), "feedback": str(FEEDBACK)}
    for name in options.only:
        count = {"table": options.count, "times": TIMED}.get(name, options.few)
        print(f"{name}: {count} held-out conditions, {STEPS} steps", flush=True)
        results[name] = {"conditions": count, **PARTS[name](Experiment(count))}
        print(f"  {merge('consistency', results)}", flush=True)
    return missed(results)


def missed(results: dict[str, Any]) -> int:
    """1 if a target that was measured is missed, with a line for each."""
    rows, ratios = results.get("table", {}), results.get("times", {})
    lines = []
    for name, least in ((GUIDED.name, LEAST_BY_GUIDANCE), (TOGETHER.name, LEAST_TOGETHER)):
        share = rows[name]["error_removed"] if rows else 1.0
        if share < least:
            lines.append(
                f"{name} removes {share:.0%} of the remaining error, less than {least:.0%}"
            )
    if ratios and ratios[GUIDED.name]["median"] > MOST_TIME:
        lines.append(f"guidance takes {ratios[GUIDED.name]['median']:.2f} of the time")
    for line in lines:
        print(f"missed: {line}")
    return 1 if lines else 0


def _guided(**changes: Any) -> Way:
    return replace(GUIDED, guidance=replace(GUIDANCE, **changes))


def _show(name: str, outcome: Outcome, removed: float) -> None:
    share = "" if math.isnan(removed) else f"{removed:.0%}"
    judged = outcome.judged
    print(
        f"  {name:<18}{judged.iou.mean():>8.4f}{judged.f1.mean():>8.4f}"
        f"{judged.colour_error.mean():>9.2f}{share:>9}{outcome.seconds:>8.1f}",
        flush=True,
    )
