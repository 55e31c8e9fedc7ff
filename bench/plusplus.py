"""The claim of ControlNet++ at the scale of the demo: what a reward makes of a trained ControlNet.

A ControlNet for masks and one for edges are trained on in several ways, each from several seeds:
by plain steps that take as much computing as the dearest way with a reward, by the published recipe
(arXiv 2404.07987), and by the one on the sampler's own states. The reward knows the condition image
that the ControlNet gets, and nothing else. All are judged on scenes that no setting was chosen by.

A training takes minutes. What is done lies in a folder, and the command goes on from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import process_time
from typing import Any

import torch

from ..demo.conditions import CONDITIONS
from ..demo.model import WEIGHTS, load_demo, load_segmenter
from ..demo.pairs import Pairs
from ..demo.plusplus import Further, on_trajectories, plain_steps, published
from ..demo.segmenter import Segmenter
from ..demo.world import EVIDENCE_SEED
from ._intervals import Bootstrap, interval
from ._pairs import merge, parsed
from ._steering import Experiment, Outcome, Way, error_removed, row_of
from .consistency import SHARES, briefly_trained

NAME = "plusplus"
FOLDER = Path("out") / "plusplus"
FIGURES = ("iou", "f1", "colour_error")
BASE, MORE = "ControlNet", "+ plain steps"
PAPER, OWN = "++ as published", "++ on trajectories"
CEILING = "autoencoder alone"
LEAST = 0.15  # of the error that more plain steps leave, removed for one of the conditions


@dataclass(frozen=True)
class Trial:
    """A way to train the shipped ControlNet on, or not at all.

    weak: the reward is by a segmenter from that part of its training.
    """

    further: Further | None = None
    weak: int = 1

    @property
    def key(self) -> str:
        """Another one for other settings."""
        weak = "" if self.weak == 1 else f"-by-{self.weak}th"
        return f"{self.further.key if self.further else 'none'}{weak}"

    @property
    def segmenter(self) -> Segmenter:
        """What the reward of masks is by."""
        return load_segmenter() if self.weak == 1 else briefly_trained(self.weak)


def claim(kind: str) -> dict[str, Trial]:
    """The ways of the table."""
    return {
        BASE: Trial(),
        MORE: Trial(plain_steps()),
        PAPER: Trial(published(kind)),
        OWN: Trial(on_trajectories(kind)),
    }


def ablations() -> dict[str, Trial]:
    """What makes the difference, for masks."""
    own = on_trajectories("seg")
    noised = {f"published, t up to {t}": published("seg", most_t=t) for t in (50, 400, 999)}
    weights = {f"published, weight {w:g}": published("seg", weight=w) for w in (0.1, 2.0)}
    return {
        BASE: Trial(),
        MORE: Trial(plain_steps()),
        PAPER: Trial(published("seg")),
        **{name: Trial(further) for name, further in (noised | weights).items()},
        "published, t up to 999, weight 2": Trial(published("seg", most_t=999, weight=2.0)),
        OWN: Trial(own),
        "++ at cfg 1": Trial(own.sampled(cfg=1.0)),
        "++ from noisy states only": Trial(own.sampled(least_t=300)),
        "++ without the diffusion loss": Trial(on_trajectories("seg", diffusion=0.0)),
        **{f"++ by a segmenter of 1/{part}": Trial(own, part) for part in SHARES},
    }


@dataclass
class Runs:
    """Trainings for one condition and what their pictures are worth, kept in ``folder``."""

    kind: str
    scenes: int
    folder: Path

    @cached_property
    def pairs(self) -> Pairs:
        return Pairs.of(self.kind, WEIGHTS)

    @cached_property
    def experiment(self) -> Experiment:
        return Experiment(EVIDENCE_SEED, range(self.scenes), self.kind, self.kind)

    def outcome(self, trial: Trial, seeds: int) -> Outcome:
        """Of the networks that were trained from so many seeds; seconds are those of a training.

        Pictures are drawn with the seed of their network.
        """
        runs = [self._run(trial, seed) for seed in range(seeds)]
        iou, f1, colours = (torch.tensor([run[name] for run in runs]) for name in FIGURES)
        return Outcome(iou, f1, colours, sum(run["seconds"] for run in runs) / seeds)

    def _run(self, trial: Trial, seed: int) -> dict[str, Any]:
        """One training, judged; read where it was done before."""
        name = f"{self.kind}-{trial.key}-{seed}"
        file = self.folder / f"{name}-of-{self.scenes}.json"
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))
        demo, seconds = load_demo(condition=self.kind), 0.0
        if trial.further is not None:
            further, segmenter, pairs = trial.further.of_seed(seed), trial.segmenter, self.pairs
            began = process_time()
            session, objective = further.start(demo, pairs, segmenter)
            session.run(objective)
            demo = replace(demo, controlnet=session.trained().controlnet)
            seconds = process_time() - began
        self.experiment.demo = demo
        judged = self.experiment.judge.judge(self.experiment.draw(Way(name), seed))
        run = {key: getattr(judged, key).tolist() for key in FIGURES} | {"seconds": seconds}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(run), encoding="utf-8")
        part.replace(file)
        return run


class Measurement:
    """One run of this module: on how many scenes, from how many seeds, kept in which folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.scenes, self.seeds, self.few = options.scenes, options.seeds, options.few
        self.folder = options.folder

    def seg(self) -> dict[str, Any]:
        """For masks, where the paper gains most."""
        return self._table("seg", claim("seg"), self.scenes, self.seeds)

    def canny(self) -> dict[str, Any]:
        """For edges."""
        return self._table("canny", claim("canny"), self.scenes, self.seeds)

    def ablations(self) -> dict[str, Any]:
        """What makes the difference, on fewer scenes and from one seed."""
        return self._table("seg", ablations(), self.few, 1)

    def _table(
        self, kind: str, trials: Mapping[str, Trial], scenes: int, seeds: int
    ) -> dict[str, Any]:
        """Every way, printed as it comes, with what it leaves of the error of more plain steps."""
        runs, bootstrap = Runs(kind, scenes, self.folder), Bootstrap(seeds, scenes)
        ceiling = runs.experiment.ceiling()
        rows: dict[str, Any] = {"scenes": scenes, "seeds": seeds}
        print(f"  {'':<18}{'IoU':<27}{'F1':<27}{'colours':<22}{'s':>6}")
        plain = runs.outcome(trials[MORE], seeds)
        for name, trial in trials.items():
            outcome = runs.outcome(trial, seeds)
            row = rows[name] = row_of(name, bootstrap, outcome)
            row["seconds"] = outcome.seconds
            if name in (BASE, MORE):
                continue
            removed = error_removed(bootstrap, outcome, plain, ceiling)
            colours = interval(
                bootstrap.means(outcome.colour_error) - bootstrap.means(plain.colour_error)
            )
            row |= {"error_removed": removed.as_dict(), "colours_worse": colours.as_dict()}
            print(f"  {'':<18}removes {removed:.0%}, colours {colours:+.2f}", flush=True)
        rows[CEILING] = row_of(CEILING, bootstrap, ceiling)
        return rows


PARTS = ("seg", "canny", "ablations")


def main(argv: Sequence[str] = ()) -> int:
    """Measure the named parts, print them, and write them to bench/results/plusplus.json.

    Returns 1 where the claim does not hold.
    """
    parser = argparse.ArgumentParser(prog="bench plusplus", description=__doc__)
    parser.add_argument("--scenes", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--few", type=int, default=96, help="scenes of the ablations")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for what is done so far")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts")
    options = parsed(parser, argv, "only", "folder")
    measurement, results = Measurement(options), {}
    for name in options.only:
        print(name, flush=True)
        results[name] = getattr(measurement, name)()
        print(f"  {merge(NAME, {name: results[name]}, trial=options.trial)}", flush=True)
    return missed(results)


def missed(results: Mapping[str, Any]) -> int:
    """1 if something that was measured is not what is claimed, with a line for each."""
    tables = {kind: results[kind] for kind in CONDITIONS if kind in results}
    lines = []
    for kind, rows in tables.items():
        if rows[OWN]["error_removed"]["low"] <= 0:
            lines.append(f"{kind}: the reward may remove nothing of the error")
        if rows[OWN]["colours_worse"]["low"] > 0:
            lines.append(f"{kind}: the reward makes colours worse")
        if rows[MORE]["seconds"] < max(rows[PAPER]["seconds"], rows[OWN]["seconds"]):
            lines.append(f"{kind}: the plain steps took less computing than a reward did")
    if tables and max(rows[OWN]["error_removed"]["value"] for rows in tables.values()) < LEAST:
        lines.append(f"nowhere {LEAST:.0%} of the error is removed")
    for line in lines:
        print(f"missed: {line}")
    return 1 if lines else 0
