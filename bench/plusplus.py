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

from ..cnpp_core.network.controlnet import ControlNet
from ..demo.conditions import CONDITIONS
from ..demo.model import WEIGHTS, DemoModel, load_demo, load_segmenter
from ..demo.pairs import Pairs
from ..demo.plusplus import Further, on_trajectories, plain_steps, published
from ..demo.world import EVIDENCE_SEED
from ._intervals import Bootstrap, interval
from ._pairs import merge, parsed
from ._steering import Experiment, Outcome, Way, error_removed, row_of

NAME = "plusplus"
FOLDER = Path("out") / "plusplus"
FIGURES = ("iou", "f1", "colour_error")
BASE, MORE = "ControlNet", "+ plain steps"
PAPER, OWN = "++ as published", "++ on trajectories"
CEILING = "autoencoder alone"
LEAST = 0.15  # of the error that more plain steps leave, removed for one of the conditions


def arms(kind: str) -> dict[str, Further | None]:
    """The ways of the table: how each trains the shipped ControlNet on, None for not at all."""
    return {BASE: None, MORE: plain_steps(), PAPER: published(kind), OWN: on_trajectories(kind)}


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

    def outcome(self, further: Further | None, seeds: int) -> Outcome:
        """Of the networks that were trained from so many seeds; seconds are those of a training.

        Pictures are drawn with the seed of their network.
        """
        runs = [self._run(further, seed) for seed in range(seeds)]
        iou, f1, colours = (torch.tensor([run[name] for run in runs]) for name in FIGURES)
        return Outcome(iou, f1, colours, sum(run["seconds"] for run in runs) / seeds)

    def _run(self, further: Further | None, seed: int) -> dict[str, Any]:
        """One training, judged; read where it was done before."""
        name = f"{self.kind}-{'none' if further is None else further.key}-{seed}"
        file = self.folder / f"{name}-of-{self.scenes}.json"
        if file.is_file():
            return json.loads(file.read_text(encoding="utf-8"))
        demo, seconds = load_demo(condition=self.kind), 0.0
        if further is not None:
            began = process_time()
            demo = replace(demo, controlnet=self._trained(demo, further, seed))
            seconds = process_time() - began
        self.experiment.demo = demo
        judged = self.experiment.judge.judge(self.experiment.draw(Way(name), seed))
        run = {key: getattr(judged, key).tolist() for key in FIGURES} | {"seconds": seconds}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(run), encoding="utf-8")
        part.replace(file)
        return run

    def _trained(self, demo: DemoModel, further: Further, seed: int) -> ControlNet:
        further = replace(further, training=replace(further.training, seed=seed))
        session, objective = further.start(demo, self.pairs, load_segmenter())
        session.run(objective)
        return session.trained().controlnet


class Measurement:
    """One run of this module: on how many scenes, from how many seeds, kept in which folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.scenes, self.seeds, self.folder = options.scenes, options.seeds, options.folder

    def seg(self) -> dict[str, Any]:
        """For masks, where the paper gains most."""
        return self._table("seg", arms("seg"), self.seeds)

    def canny(self) -> dict[str, Any]:
        """For edges."""
        return self._table("canny", arms("canny"), self.seeds)

    def _table(self, kind: str, ways: Mapping[str, Further | None], seeds: int) -> dict[str, Any]:
        """Every way, printed as it comes, with what it leaves of the error of more plain steps."""
        runs, bootstrap = Runs(kind, self.scenes, self.folder), Bootstrap(seeds, self.scenes)
        ceiling = runs.experiment.ceiling()
        rows: dict[str, Any] = {"scenes": self.scenes, "seeds": seeds}
        print(f"  {'':<18}{'IoU':<27}{'F1':<27}{'colours':<22}{'s':>6}")
        plain = runs.outcome(ways[MORE], seeds)
        for name, further in ways.items():
            outcome = runs.outcome(further, seeds)
            row = rows[name] = row_of(name, bootstrap, outcome)
            row["seconds"] = outcome.seconds
            if further is None or name == MORE:
                continue
            removed = error_removed(bootstrap, outcome, plain, ceiling)
            colours = interval(
                bootstrap.means(outcome.colour_error) - bootstrap.means(plain.colour_error)
            )
            row |= {"error_removed": removed.as_dict(), "colours_worse": colours.as_dict()}
            print(f"  {'':<18}removes {removed:.0%}, colours {colours:+.2f}", flush=True)
        rows[CEILING] = row_of(CEILING, bootstrap, ceiling)
        return rows


PARTS = ("seg", "canny")


def main(argv: Sequence[str] = ()) -> int:
    """Measure the named parts, print them, and write them to bench/results/plusplus.json.

    Returns 1 where the claim does not hold.
    """
    parser = argparse.ArgumentParser(prog="bench plusplus", description=__doc__)
    parser.add_argument("--scenes", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for what is done so far")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts")
    options = parsed(parser, argv, "only", "folder")
    measurement, results = Measurement(options), {}
    for name in options.only:
        print(f"{name}: {options.scenes} scenes, {options.seeds} seeds", flush=True)
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
