"""Four steps of LCM in place of twenty of DDIM, on the demo model: adherence, quality and time.

The same edges and the same noise for every way. What distillation gives shows beside the same
sampler on the UNet as it is, and beside as few steps of DDIM.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..demo.distil import lcm_of
from ..demo.world import EVIDENCE_SEED
from ._intervals import Bootstrap
from ._pairs import Spread, interleaved, parsed, save
from ._steering import Experiment, Way, row_of

NAME = "few_steps"
TURNS = 5
TIMED = 8  # pictures per turn
FULL = "DDIM, 20 steps"
FEW = "LCM, 4 steps"
LEAST, MOST = 0.9, 0.25  # of the full sampling: the IoU that few steps keep, the time they take
DISTILLED = {
    FEW: Way("controlled", sampler="lcm", cfg=1.0, steps=4),
    "LCM, 2 steps": Way("controlled", sampler="lcm", cfg=1.0, steps=2),
    "LCM, 1 step": Way("controlled", sampler="lcm", cfg=1.0, steps=1),
}
AS_IT_IS = {
    FULL: Way("controlled", steps=20),
    "DDIM, 4 steps": Way("controlled", steps=4),
    **{f"{name}, not distilled": way for name, way in DISTILLED.items()},
}


class Measurement:
    """The UNet as it is and the distilled one, on the same scenes."""

    def __init__(self, scenes: int, seeds: int) -> None:
        self.seeds = seeds
        self.plain = Experiment(EVIDENCE_SEED, range(scenes))
        self.distilled = Experiment(EVIDENCE_SEED, range(scenes))
        self.distilled.demo = lcm_of(self.distilled.demo)

    @property
    def ways(self) -> dict[str, tuple[Experiment, Way]]:
        """Every way, with the experiment that draws it."""
        plain = {name: (self.plain, way) for name, way in AS_IT_IS.items()}
        return plain | {name: (self.distilled, way) for name, way in DISTILLED.items()}

    def table(self) -> dict[str, Any]:
        """Adherence and quality, printed as they come."""
        bootstrap = Bootstrap(self.seeds, len(self.plain.scenes))
        return {
            name: row_of(name, bootstrap, experiment.outcome(way, self.seeds))
            for name, (experiment, way) in self.ways.items()
        }

    def times(self) -> dict[str, Any]:
        """Seconds per picture as ratios to the full sampling, turn by turn."""

        def drawing(experiment: Experiment, way: Way) -> Callable[[], Tensor]:
            return lambda: experiment.candidate(way, slice(TIMED), 0, experiment.follower(slice(1)))

        runs = {name: drawing(*how) for name, how in self.ways.items()}
        measured = interleaved(runs, TURNS)
        ratios = {}
        for name, seconds in measured.items():
            pairs = zip(seconds, measured[FULL], strict=True)
            spread = Spread.of([mine / full for mine, full in pairs])
            ratios[name] = spread.as_dict()
            print(f"  {name:<30}{spread.median:>6.2f} ({spread.low:.2f} to {spread.high:.2f})")
        return ratios


def main(argv: Sequence[str] = ()) -> int:
    """Measure, print, and write bench/results/few_steps.json; 1 if four steps are not enough."""
    parser = argparse.ArgumentParser(prog="bench few_steps", description=__doc__)
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    options = parsed(parser, argv)
    measurement = Measurement(options.scenes, options.seeds)
    print(f"few_steps: {options.scenes} scenes, {options.seeds} seeds")
    table, times = measurement.table(), measurement.times()
    results = {"scenes": options.scenes, "seeds": options.seeds, "table": table, "times": times}
    print(f"  {save(NAME, results, trial=options.trial)}")
    return missed(table, times)


def missed(table: Mapping[str, Any], times: Mapping[str, Any]) -> int:
    """1 if four steps keep too little or take too long, with a line for each."""
    kept = table[FEW]["foreground_iou"]["value"] / table[FULL]["foreground_iou"]["value"]
    taken = times[FEW]["median"]
    lines = []
    if kept < LEAST:
        lines.append(f"{FEW} keep {kept:.1%} of the IoU, less than {LEAST:.0%}")
    if taken > MOST:
        lines.append(f"{FEW} take {taken:.2f} of the time, more than {MOST:.2f}")
    for line in lines:
        print(f"missed: {line}")
    return 1 if lines else 0
