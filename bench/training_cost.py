"""What training costs at SD1.5's true size, one thread, batch 1, float32, random weights.

step: a step of ours beside the same of diffusers, and what it was planned to take. reward: one
picture's reward after one step, as ControlNet++ is trained, beside the gradient through several
sampling steps; on SD1.5 and on the demo model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from statistics import linear_regression, median
from typing import Any

import torch

from ._pairs import Spread, merge, parsed
from ._training import DEMO, DIFFUSERS, LOCKED, ONE_STEP, OURS, SD15, measured

PARTS = ("step", "reward")
STEPS = 3  # in a process, the first of which is not timed
SAMPLING = {DEMO: (2, 4, 8), SD15: (2, 4)}  # steps that the gradient passes through
TURNS = {DEMO: 5, SD15: 1}
MOST_TIME, MOST_MEMORY = 1.05, 1.01  # of diffusers' step
MOST_MISS = 0.15  # of the peak, by the plan
# arXiv 2404.07987, section 3.3: GB of one step, and of the 50 that a picture is sampled in.
PUBLISHED, PICTURE = (6.8, 340.0), 50


def main(argv: Sequence[str] = ()) -> int:
    """Measure, print, and write bench/results/training_cost.json; 1 if a step misses its aim."""
    parser = argparse.ArgumentParser(prog="bench training_cost", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", type=int, default=256, help="side of SD1.5's picture in pixels")
    parser.add_argument("--channels", type=int, default=320, help="SD1.5's width; less for a trial")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each way to train")
    options = parsed(parser, argv, "only")
    torch.set_num_threads(1)  # as the processes that measure
    missed = []
    if "step" in options.only:
        steps = steps_of_all(options)
        missed = say_steps(steps)
        merge("training_cost", {"step": steps}, trial=options.trial)
    if "reward" in options.only:
        for model in SAMPLING:
            found = {model: rewarded(model, options)}
            merge("training_cost", {"reward": found}, trial=options.trial, inside=["reward"])
    for miss in missed:
        print(f"  beyond the aim: {miss}")
    return 1 if missed else 0


def steps_of_all(options: argparse.Namespace) -> dict[str, Any]:
    """The numbers of every way to train, each round beginning with the next one."""
    ways, found = [DIFFUSERS, *OURS], {}
    for turn in range(options.rounds):
        for who in ways[turn:] + ways[:turn]:
            new = measured("step", who, options.size, options.channels, STEPS)
            seconds = [*found.get(who, {}).get("seconds", ()), *new["seconds"]]
            found[who] = {**new, "seconds": seconds}
    return {who: {**found[who], "time": Spread.of(found[who]["seconds"]).as_dict()} for who in ways}


def say_steps(steps: Mapping[str, Any]) -> list[str]:
    """Print a line for each way, with ratios to diffusers'; what is beyond an aim."""
    theirs, missed = steps[DIFFUSERS], []
    print("a training step")
    for who, found in steps.items():
        time = found["time"]["median"] / theirs["time"]["median"]
        memory = found["peak"] / theirs["peak"]
        low, high = found["time"]["quartiles"]
        print(
            f"  {who:<24}{found['time']['median']:>7.2f} s ({low:.2f} to {high:.2f}), peak "
            f"{found['peak'] / 1024:.2f} GB"
        )
        if who == DIFFUSERS:
            continue
        miss = found["planned"] / found["peak"] - 1
        print(
            f"    time x{time:.2f}, memory x{memory:.3f} of theirs; planned {miss:+.1%}; a batch "
            f"with its gradients {found['batch']:,.0f} MB"
        )
        if who == LOCKED and time > MOST_TIME:
            missed.append(f"{who} takes {time:.2f} of the time")
        if who == LOCKED and memory > MOST_MEMORY:
            missed.append(f"{who} takes {memory:.3f} of the memory")
        if abs(miss) > MOST_MISS:
            missed.append(f"{who} was planned {miss:+.0%}")
    return missed


def rewarded(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Print and return the numbers of one step and of several, and the line through the latter."""
    print(f"a reward on {model}, batch 1")
    size = (options.size, options.channels, TURNS[model])
    rows = {
        str(steps): measured("reward", model, steps, *size)
        for steps in (ONE_STEP, *SAMPLING[model])
    }
    for steps, row in rows.items():
        what = f"through {steps} steps" if int(steps) else "after one step"
        seconds = median(row["seconds"])
        print(
            f"  {what:<24}{seconds:>7.2f} s, {row['working']:>8,.0f} MB beside weights and AdamW's "
            f"moments, {row['planned']:>8,.0f} MB with them"
        )
    one = rows[str(ONE_STEP)]
    line = linear_regression(
        SAMPLING[model], [rows[str(steps)]["working"] for steps in SAMPLING[model]]
    )
    whole = line.intercept + PICTURE * line.slope
    print(
        f"  a line through these: {line.slope:,.1f} MB a step, so {whole / 1024:.1f} GB for "
        f"{PICTURE}, {whole / one['working']:.0f} times those after one step (the paper: "
        f"{PUBLISHED[1]:.0f} GB, {PUBLISHED[1] / PUBLISHED[0]:.0f} times its {PUBLISHED[0]} GB)"
    )
    return {"rows": rows, "mb_a_step": line.slope, f"mb_of_{PICTURE}": whole}
