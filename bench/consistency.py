"""What steering by consistency gives, on the demo model: adherence, time and quality of each way.

Every way draws pictures for the same scenes from the same noise; see `_steering`. In the tables
`edges` and `masks` all that steers knows exactly the condition image that the ControlNet gets. In
`more` it knows the mask, while the ControlNet gets edges: what a reward can add that has other
knowledge. Settings are chosen by `curves`, on scenes that the tables do not have.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..cnpp_core.consistency.steering.feedback import FeedbackSettings
from ..cnpp_core.consistency.steering.guidance import GuidanceSettings
from ..cnpp_core.consistency.steering.window import SteeringWindow
from ..cnpp_core.control.rows import CONTROL_MODES
from ..cnpp_core.control.shape import ControlShape
from ..demo.model import WEIGHTS, load_part
from ..demo.segmenter import Segmenter
from ..demo.stage import SCENES
from ..demo.train import train_segmenter
from ..demo.world import EVIDENCE_SEED, TUNING_SEED
from ._intervals import Bootstrap
from ._pairs import Spread, interleaved, merge, parsed
from ._steering import STEPS, Experiment, Outcome, Way, error_removed, row_of

NAME = "consistency"
TURNS = 3
TIMED = 8  # pictures per turn
MOST_TIME = 1.25  # of the ControlNet alone, for guidance

GUIDANCE = GuidanceSettings()
EVERY = GUIDANCE.window.every
FEEDBACK = FeedbackSettings(window=SteeringWindow(every=2))

CONTROL = Way("ControlNet")
GUIDED = Way("+ guidance", guidance=GUIDANCE)
TOGETHER = Way("all together", guidance=GUIDANCE, feedback=FEEDBACK, candidates=4)
WAYS = (
    Way("no control", controlled=False),
    CONTROL,
    Way("strength 2", strength=2.0),
    Way("cond rows only", shape=ControlShape(rows=CONTROL_MODES["cond rows only"])),
    GUIDED,
    Way("+ feedback", feedback=FEEDBACK),
    Way("+ best of 4", candidates=4),
    TOGETHER,
)
CEILING = "autoencoder alone"
SHARES = (2, 4, 10)  # of the training that poorer segmenters get


class Measurement:
    """One run of this module: on how many scenes, from how many seeds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.scenes, self.few, self.seeds = options.scenes, options.few, options.seeds

    def edges(self) -> dict[str, Any]:
        """Every way, all knowing the edges that the ControlNet gets."""
        return self._table(Experiment(EVIDENCE_SEED, range(self.scenes)), WAYS)

    def masks(self) -> dict[str, Any]:
        """Every way, all knowing the mask that the ControlNet gets."""
        experiment = Experiment(EVIDENCE_SEED, range(self.scenes), "seg", "seg")
        return self._table(experiment, WAYS)

    def more(self) -> dict[str, Any]:
        """The ControlNet gets edges, while guidance knows the mask that is scored."""
        experiment = Experiment(EVIDENCE_SEED, range(self.scenes), "canny", "seg")
        return self._table(experiment, (CONTROL, GUIDED))

    def times(self) -> dict[str, Any]:
        """Seconds per picture of every way, as ratios to the ControlNet alone, turn by turn."""
        experiment = Experiment(EVIDENCE_SEED, range(TIMED))

        def drawing(way: Way) -> Callable[[], Tensor]:
            return lambda: experiment.best(way, 0)

        measured = interleaved({way.name: drawing(way) for way in WAYS}, TURNS)
        ratios: dict[str, Any] = {"scenes": TIMED}
        for name, seconds in measured.items():
            pairs = zip(seconds, measured[CONTROL.name], strict=True)
            spread = Spread.of([a / b for a, b in pairs])
            ratios[name] = spread.as_dict()
            print(f"  {name:<18}{spread.median:>6.2f} ({spread.low:.2f} to {spread.high:.2f})")
        return ratios

    def curves(self) -> dict[str, Any]:
        """Adherence against each setting, on the scenes that settings are chosen by."""
        results: dict[str, Any] = {"scenes": self.few}
        for condition in ("canny", "seg"):
            print(f"  {condition}")
            scenes = range(self.few)
            experiment = Experiment(TUNING_SEED, scenes, condition, condition)
            results[condition] = _curves(experiment)
        return results

    def segmenters(self) -> dict[str, Any]:
        """What guidance by segmenters of several qualities does, for masks."""
        results: dict[str, Any] = {"scenes": self.few}
        scenes = Experiment(EVIDENCE_SEED, range(self.few), "seg", "seg")
        results[CONTROL.name] = {"foreground_iou": scenes.outcome(CONTROL).iou.mean().item()}
        qualities = {"shipped": scenes.segmenter}
        qualities |= {f"1/{part}": briefly_trained(part) for part in SHARES}
        for name, segmenter in qualities.items():
            scenes.segmenter = segmenter
            found = scenes.outcome(GUIDED).iou.mean().item()
            results[name] = scenes.segmenter_quality() | {"foreground_iou": found}
            numbers = ", ".join(f"{key} {value:.4f}" for key, value in results[name].items())
            print(f"  segmenter {name}: {numbers}", flush=True)
        return results

    def _table(self, experiment: Experiment, ways: Iterable[Way]) -> dict[str, Any]:
        """Every way on all scenes, printed as it comes and as plain numbers."""
        bootstrap = Bootstrap(self.seeds, self.scenes)
        ceiling, before = experiment.ceiling(), None
        rows: dict[str, Any] = {"scenes": self.scenes, "seeds": self.seeds}
        print(f"  {'':<18}{'IoU':<27}{'F1':<27}{'colours':<22}{'s':>6}")
        for way in ways:
            outcome = experiment.outcome(way, self.seeds)
            rows[way.name] = row_of(way.name, bootstrap, outcome)
            if way == CONTROL:
                before = outcome
            elif before is not None:
                removed = error_removed(bootstrap, outcome, before, ceiling)
                rows[way.name]["error_removed"] = removed.as_dict()
                print(f"  {'':<18}removes {removed:.0%}", flush=True)
        rows[CEILING] = row_of(CEILING, bootstrap, ceiling)
        return rows


def _curves(experiment: Experiment) -> dict[str, Any]:
    """Adherence against the strength of control, and against each setting of what steers."""
    windows = [(0.0, 1.0), (0.4, 1.0), (0.8, 1.0), (0.0, 0.9), (0.0, 0.5)]
    lines: dict[str, dict[str, Way]] = {
        "control strength": {
            f"{value:g}": replace(CONTROL, strength=value)
            for value in (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
        },
        "guidance strength": {
            f"{value:g}": _guided(strength=value) for value in (0.25, 0.5, 1.0, 2.0, 4.0)
        },
        "guidance bound": {f"{value:g}": _guided(bound=value) for value in (0.1, 0.2, 0.4, 0.8)},
        "guidance window": {
            f"{start:g}-{end:g}": _guided(window=SteeringWindow(start, end, EVERY))
            for start, end in windows
        },
        "guidance every": {
            f"{every}": _guided(window=replace(GUIDANCE.window, every=every))
            for every in (1, 2, 3, 4)
        },
        "feedback gain": {
            f"{gain:g}": replace(CONTROL, feedback=replace(FEEDBACK, gain=gain))
            for gain in (0.2, 0.4, 0.8, 1.6)
        },
    }
    results: dict[str, Any] = {}
    known: dict[Way, Outcome] = {}
    for line, ways in lines.items():
        print(f"  {line}")
        results[line] = {}
        for title, way in ways.items():
            known[way] = outcome = known[way] if way in known else experiment.outcome(way)
            bootstrap = Bootstrap(1, outcome.iou.shape[1])
            results[line][title] = row_of(f"  {title}", bootstrap, outcome)
    return results


def _guided(**changes: Any) -> Way:
    return replace(GUIDED, guidance=replace(GUIDANCE, **changes))


def briefly_trained(part: int) -> Segmenter:
    """A segmenter from this part of the pictures and of the steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(WEIGHTS / "autoencoder.safetensors", folder)
        train_segmenter(folder, scenes=SCENES // part, speed_up=part)
        return load_part("segmenter", Segmenter(), folder)


PARTS = ("edges", "masks", "more", "times", "curves", "segmenters")


def main(argv: Sequence[str] = ()) -> int:
    """Measure the named parts, print them, and write them to bench/results/consistency.json.

    Returns 1 where guidance takes too long, or where a way of steering may not help at all.
    """
    parser = argparse.ArgumentParser(prog="bench consistency", description=__doc__)
    parser.add_argument("--scenes", type=int, default=96, help="of the tables")
    parser.add_argument("--seeds", type=int, default=3, help="of the tables")
    parser.add_argument("--few", type=int, default=32, help="scenes of curves and segmenters")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts")
    options = parsed(parser, argv, "only")
    measurement = Measurement(options)
    settings = {"steps": STEPS, "guidance": str(GUIDANCE), "feedback": str(FEEDBACK)}
    results: dict[str, Any] = {}
    for name in options.only:
        print(f"{name}: {STEPS} steps", flush=True)
        results[name] = getattr(measurement, name)()
        file = merge(NAME, settings | {name: results[name]}, trial=options.trial)
        print(f"  {file}", flush=True)
    return missed(results)


def missed(results: dict[str, Any]) -> int:
    """1 if something that was measured is not what steering promises, with a line for each."""
    lines = []
    for table in ("edges", "masks"):
        for way in (GUIDED, TOGETHER):
            row = results.get(table, {}).get(way.name)
            if row and row["error_removed"]["low"] <= 0:
                lines.append(f"{table}: {way.name} may remove nothing of the error")
    times = results.get("times")
    if times and times[GUIDED.name]["median"] > MOST_TIME:
        lines.append(f"guidance takes {times[GUIDED.name]['median']:.2f} of the time")
    for line in lines:
        print(f"missed: {line}")
    return 1 if lines else 0
