"""Our control inside ComfyUI beside ComfyUI's own, with the same full-width random weights.

Whole `get_control` calls are timed on the CPU, cond and uncond in one batch as the sampler sends
them, in interleaved pairs. What saves over several steps is composed from the times of the single
calls and from how often a 20-step sampling by ComfyUI makes each of them, which is counted. All
figures are ratios, ours over theirs; `overhead` is the time of control over that of the UNet alone.
They go to bench/results/control.json, where figures of earlier runs stay until measured anew.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from ..cnpp_core.control.rows import CONTROL_MODES
from ..cnpp_core.control.scales import BlockScales
from ..cnpp_core.control.shape import ControlShape
from ..cnpp_core.network.config import SD15, SDXL, NetworkConfig
from . import adherence
from ._host import (
    Counted,
    Requests,
    Workbench,
    count_evaluations,
    free_gigabytes,
    random_weights,
    start,
    truncated,
    why_not,
)
from ._pairs import Spread, Times, interleaved, merge, parsed, results_file
from ._processes import FAST, OURS, THEIRS, in_child, read_through, write_file
from ._targets import TARGETS, summary

STEPS = 20
SDXL_NEEDS = 14  # gigabytes: two networks in fp16, and what their layers are cast to
DEPTH = 4  # blocks of `first_four`
NARROW = 32  # model_channels where nothing is timed
NAME = "control"


@dataclass(frozen=True)
class Figure:
    """A ratio of every turn, and what it was made of."""

    values: tuple[float, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {**Spread.of(self.values).as_dict(), **self.details}


class Setup:
    """Everything that is timed at one size of the picture."""

    def __init__(self, bench: Workbench, size: int, pairs: int) -> None:
        self.bench = bench
        self.pairs = pairs
        self.requests = Requests(bench, size, STEPS)

    def our_call(self, shape: ControlShape, step: int = 0) -> Callable[[], Any]:
        """A call of our control in a sampling that has begun."""
        control = self.requests.started(self.bench.our_control(shape))
        return lambda: self.requests.residuals(control, step)

    def their_call(self, depth: int | None = None) -> Callable[[], Any]:
        """A call of ComfyUI's control, whole or with its first blocks only."""
        network = None if depth is None else truncated(self.bench.network, depth)
        control = self.requests.started(self.bench.their_control(network))
        return lambda: self.requests.residuals(control)

    def sparing_calls(self, setting: adherence.Setting) -> dict[str, Callable[[], Any]]:
        """What a sampling with reuse consists of: calls that compute, that do not, and the hint.

        The first steps always compute, so that call can be repeated; a call behind them finds what
        it has left behind itself.
        """
        behind = setting.reuse.fresh_steps
        return {
            "fresh": self.our_call(setting.shape),
            "again": self.our_call(setting.shape, behind),
            "hint": self.requests.embed,
        }

    def pair(self, ours: Callable[[], Any], theirs: Callable[[], Any]) -> Figure:
        times = interleaved({"ours": ours, "theirs": theirs}, self.pairs)
        return Figure(_ratios(times["ours"], times["theirs"]), _seconds(times))


def neutral(setup: Setup) -> dict[str, Figure]:
    """Nothing shaped, nothing saved."""
    return {"neutral": setup.pair(setup.our_call(ControlShape()), setup.their_call())}


def cond_rows(setup: Setup) -> dict[str, Figure]:
    """Control in the cond rows only, which is half of the rows."""
    shape = ControlShape(rows=CONTROL_MODES[adherence.COND_ROWS])
    return {"cond_rows": setup.pair(setup.our_call(shape), setup.their_call())}


def first_four(setup: Setup) -> dict[str, Figure]:
    """The other blocks at scale 0, against a network of ComfyUI's that has no others."""
    scales = [float(block < DEPTH) for block in range(setup.bench.config.blocks)]
    shape = ControlShape(scales=BlockScales(tuple(scales)))
    return {"first_four": setup.pair(setup.our_call(shape), setup.their_call(DEPTH))}


def reuse(setup: Setup) -> dict[str, Figure]:
    """Residuals of an earlier step, over a whole sampling."""
    calls = setup.sparing_calls(adherence.REPORTED["reuse4"])
    times = interleaved({**calls, "theirs": setup.their_call()}, setup.pairs)
    figures = {}
    for name in ("reuse2", "reuse4"):
        counted = count(adherence.REPORTED[name])
        values = composed(counted, times, "theirs")
        figures[name] = Figure(values, {**_seconds(times), **_described(counted)})
    return figures


def overhead(setup: Setup) -> dict[str, Figure]:
    """What control adds to the UNet's time, the sums inside the UNet included."""
    requests, setting = setup.requests, adherence.RECOMMENDED
    runs = {
        "neutral": setup.our_call(ControlShape()),
        **setup.sparing_calls(setting),
        "adding": requests.adding(),
        "unet": requests.unet,
    }
    times = interleaved(runs, setup.pairs)
    adding = _ratios(times["adding"], times["unet"])
    whole = _ratios(times["neutral"], times["unet"])
    counted = count(setting)
    sparing = composed(counted, times, "unet")
    details = {**_seconds(times), **_described(counted), "setting": str(setting)}
    return {
        "overhead_neutral": Figure(_sums(whole, adding), _seconds(times)),
        "overhead_fast": Figure(_sums(sparing, adding), details),
    }


SECTIONS: dict[tuple[str, ...], Callable[[Setup], dict[str, Figure]]] = {
    ("neutral",): neutral,
    ("cond_rows",): cond_rows,
    ("first_four",): first_four,
    ("reuse2", "reuse4"): reuse,
    ("overhead_neutral", "overhead_fast"): overhead,
}


def composed(counted: Counted, times: Times, whole: str) -> tuple[float, ...]:
    """A sampling with `counted` calls over one that makes the call `whole` at each step."""
    turns = zip(times["fresh"], times["again"], times["hint"], times[whole], strict=True)
    return tuple(
        (counted.fresh * fresh + counted.reused * again + hint) / (counted.steps * one)
        for fresh, again, hint, one in turns
    )


def count(setting: adherence.Setting) -> Counted:
    """How often the setting evaluates a ControlNet; as often as in a narrow one."""
    bench = Workbench.build(NetworkConfig(model_channels=NARROW))
    return count_evaluations(bench, setting.shape, STEPS, side=8)


def loading(config: NetworkConfig, pairs: int) -> dict[str, Figure]:
    """Our loader against ComfyUI's, each time in a fresh process.

    The file is read through before each load, so it comes from the page cache in all of them, and
    after each load every page of the weights is looked at. Peaks count pages of the file too.
    """
    found: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "random_sd15_fp16.safetensors"
        write_file(file, random_weights(config, torch.float16))
        for turn in range(pairs):
            for who in (OURS, THEIRS) if turn % 2 == 0 else (THEIRS, OURS):
                read_through(file)
                found[who].append(in_child("load", who, str(file), str(config.model_channels)))
    figures = {}
    for name, number in (("load_time", "seconds"), ("load_memory", "peak")):
        mine = tuple(one[number] for one in found[OURS])
        host = tuple(one[number] for one in found[THEIRS])
        details = {number: {OURS: median(mine), THEIRS: median(host)}, "page cache": "warm"}
        figures[name] = Figure(_ratios(mine, host), details)
    return figures


def memory(config: NetworkConfig, size: int) -> dict[str, float]:
    """How far three calls drive the resident set above the weights, in MB."""
    channels = str(config.model_channels)
    found = {
        who: in_child("call", who, str(size), channels)["peak"] for who in (OURS, FAST, THEIRS)
    }
    return {
        **found,
        "ratio": found[OURS] / found[THEIRS],
        "ratio_fast": found[FAST] / found[THEIRS],
    }


class Measurement:
    """One run of this module: what is to be measured, and where results go."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.config = SDXL if options.sdxl else SD15
        self.dtype = torch.float16 if options.sdxl else torch.float32
        self.pairs = options.pairs
        self.sizes = options.sizes or ([512] if options.sdxl else [256, 512])
        self.scenes, self.seeds = options.scenes, options.seeds
        if options.quick:
            self.config = replace(self.config, model_channels=2 * NARROW)
            self.pairs, self.sizes, self.scenes, self.seeds = 2, [64], 4, 2

    @cached_property
    def bench(self) -> Workbench:
        return Workbench.build(self.config, self.dtype)

    def run(self) -> None:
        """Every section that is asked for, its results written at once."""
        if self.options.sdxl and not self.options.quick and free_gigabytes() < SDXL_NEEDS:
            print(f"SDXL: SKIPPED, {free_gigabytes():.0f} GB of memory are free, not {SDXL_NEEDS}")
            return
        for size in self.sizes:
            suffix = f"sdxl_{size}" if self.options.sdxl else str(size)
            for names, section in SECTIONS.items():
                if self.asks([f"{name}_{suffix}" for name in names]):
                    self._section(suffix, lambda f=section, s=size: f(self.setup(s)))
        self.__dict__.pop("bench", None)  # what follows needs the memory
        if self.options.sdxl:
            return
        for size in self.sizes:
            if self.asks([f"memory_{size}"]):
                self._memory(size)
        if self.asks(["load_time_sd15_fp16", "load_memory_sd15_fp16"]):
            self._section("sd15_fp16", lambda: loading(self.config, self.pairs))
        if self.asks(["adherence_loss_fast_demo"]):
            self._adherence()

    def asks(self, names: Sequence[str]) -> bool:
        """Whether one of these is wanted: all, or those that `--only` begins or names."""
        only = self.options.only
        return not only or any(name.startswith(wanted) for name in names for wanted in only)

    def setup(self, size: int) -> Setup:
        return Setup(self.bench, size, self.pairs)

    def write(self, results: Mapping[str, Any]) -> Path:
        return merge(NAME, results, trial=self.options.trial, inside=("spread", "memory"))

    def _section(self, suffix: str, measure: Callable[[], dict[str, Figure]]) -> None:
        began = perf_counter()
        figures = {f"{name}_{suffix}": figure for name, figure in measure().items()}
        spread = {name: figure.as_dict() for name, figure in figures.items()}
        self.write({name: entry["median"] for name, entry in spread.items()} | {"spread": spread})
        for name, figure in figures.items():
            at = Spread.of(figure.values)
            print(f"{name}: {at.median:.3f}, middle half {at.low:.3f} to {at.high:.3f}")
        print(f"  {perf_counter() - began:.0f} s", flush=True)

    def _memory(self, size: int) -> None:
        found = memory(self.config, size)
        self.write({"memory": {str(size): found}})
        print(
            f"memory_{size}: {found[OURS]:.0f} MB above the weights, the fast setting "
            f"{found[FAST]:.0f} MB, ComfyUI's own {found[THEIRS]:.0f} MB",
            flush=True,
        )

    def _adherence(self) -> None:
        """What the savings cost on the demo model, unless `bench adherence` has just told."""
        file = results_file(NAME, self.options.trial)
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        settings = {name: str(setting) for name, setting in adherence.REPORTED.items()}
        entries = known.get("adherence", {})
        told = {name: entries[name]["setting"] for name in settings if name in entries}
        if told == settings and not self.options.only:
            print("adherence: as measured before")
            return
        with torch.inference_mode(False):
            results = adherence.measure_all(
                list(adherence.REPORTED.values()), self.scenes, self.seeds, _show_adherence
            )
        self.write(adherence.reported(results))


def main(argv: Sequence[str] = ()) -> int:
    """Measure what is asked for, print the table, and write bench/results/control.json.

    Without a ComfyUI says so and measures nothing. Returns 1 if a figure misses its target.
    """
    options = parse(argv)
    reason = why_not()
    if reason is not None:
        print(f"control: SKIPPED, nothing was measured: {reason}")
        return 0
    print(f"control: inside ComfyUI {start()}, {torch.get_num_threads()} threads", flush=True)
    measurement = Measurement(options)
    with torch.inference_mode():
        measurement.run()
    file = measurement.write({"targets": TARGETS, "recommended": str(adherence.RECOMMENDED)})
    lines, missed = summary(json.loads(file.read_text(encoding="utf-8")))
    print("\n".join(["", *lines, "", f"  {file}"]))
    if options.quick:
        return 0  # networks too small to tell anything about time
    if missed:
        print(f"beyond the target: {', '.join(missed)}")
    return 1 if missed else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Arguments of the measurement."""
    parser = argparse.ArgumentParser(
        prog="bench control",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", help="figures by name or its beginning: neutral_512")
    parser.add_argument("--sizes", type=int, nargs="+", help="sides of the picture, times 64")
    parser.add_argument("--pairs", type=int, default=7, help="turns, at least 2")
    parser.add_argument("--scenes", type=int, default=96, help="of the demo model")
    parser.add_argument("--seeds", type=int, default=3, help="of the demo model")
    parser.add_argument("--quick", action="store_true", help="tiny networks: does it all run?")
    parser.add_argument("--sdxl", action="store_true", help="SDXL in fp16 instead, at 512")
    return parsed(parser, argv, "only", "sizes", "sdxl")


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(ours, theirs, strict=True))


def _sums(first: Sequence[float], second: Sequence[float]) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _seconds(times: Times) -> dict[str, Any]:
    return {"seconds": {name: median(seconds) for name, seconds in times.items()}}


def _described(counted: Counted) -> dict[str, Any]:
    return {"steps": counted.steps, "evaluations": counted.fresh, "rows": sum(counted.rows)}


def _show_adherence(
    setting: adherence.Setting, result: adherence.Adherence, seconds: float
) -> None:
    print(
        f"  demo, {setting}: F1 {result.judged.f1.mean():.4f}, "
        f"IoU {result.judged.iou.mean():.4f}, {seconds:.0f} s",
        flush=True,
    )
