"""The demonstration: one picture through the whole cycle, and the same measured on many.

Picture -> condition -> samples without control, with a ControlNet, with a ControlNet++, guided on
top, with two scale settings -> condition of the samples -> how much of the first came back.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..cnpp_core.consistency.steering.guidance import GuidanceSettings
from ..cnpp_core.control.scales import ScalePreset
from ..cnpp_core.control.shape import ControlShape
from ..pictures import files
from ..pictures.canvas import Canvas, to_8_bit
from ..pictures.comparison_sheet import ComparisonSheet, SheetRow
from ..pictures.contact_sheet import Cell
from .conditions import EDGES, TOLERANCE, Follower
from .judge import Judge, Judgement
from .model import PLAIN, PLUSPLUS, TRAININGS, WEIGHTS, DemoModel, load_demo
from .pipeline import Steering, generate
from .world import HELD_OUT_SEED, SIZE, Batch, load_batch

LEAST_GAIN = 2.0  # with control, edge F1 must be at least this many times that without
CHUNK = 11  # pictures per batch
SHOWN = (4, 1, 13)  # held-out pictures on the sheet, the first with its edges


@dataclass(frozen=True)
class Setting:
    """One way to sample: without control, or with a ControlNet in some shape, or guided on top."""

    name: str
    remark: str
    shape: ControlShape | None
    guided: bool = False
    training: str = PLAIN


SETTINGS = (
    Setting("no control", "the prompt alone", None),
    Setting("ControlNet", "every block, 1.0", ControlShape()),
    Setting("ControlNet++", "trained on by reward", ControlShape(), training=PLUSPLUS),
    Setting("++ guided", "and guidance", ControlShape(), guided=True, training=PLUSPLUS),
    Setting("structure", "deep blocks only", ControlShape(ScalePreset("structure"))),
    Setting("detail", "shallow blocks only", ControlShape(ScalePreset("detail"))),
)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a setting gave: pictures (B, 3, S, S) in 0..1 and how well they follow."""

    setting: Setting
    images: Tensor
    judged: Judgement
    seconds: float


def main(argv: Sequence[str] = ()) -> int:
    """`demo`: run, print the table, write the sheet. Returns 1 if control gains too little."""
    began = time.perf_counter()
    options = _parser().parse_args(argv)
    own = options.image is not None or options.prompt is not None
    if options.image is not None and options.prompt is None:
        raise ValueError("--image needs --prompt, e.g. --prompt 'red star on a white ground'.")
    if options.count < 1 or options.steps < 1:
        raise ValueError(
            f"--count {options.count}, --steps {options.steps}: both must be 1 or more."
        )

    batch = load_batch(HELD_OUT_SEED, range(options.count))
    if own:
        picture = read_picture(options.image) if options.image else batch.images[:1]
        batch = _put_first(picture, options.prompt or batch.captions[0], batch)
    judge = Judge(batch)
    if own and not judge.edges[0].any():
        raise ValueError(f"{options.image}: no edges found; take a picture with clear outlines.")
    demos = {training: load_demo(options.weights, training=training) for training in TRAININGS}
    print(f"demo model loaded, {time.perf_counter() - began:.1f} s; sampling", flush=True)

    outcomes = []
    for setting in SETTINGS:
        outcomes.append(sample(demos[setting.training], setting, judge, options))
        print(
            f"  {setting.name:12} {len(batch.images)} pictures, {outcomes[-1].seconds:.1f} s",
            flush=True,
        )
    seconds = time.perf_counter() - began
    report = summarise(outcomes, options.count, options.steps, options.cfg, options.seed, seconds)
    report["reconstruction"] = _means(judge.ceiling(demos[PLAIN].autoencoder), options.count)
    sheet = draw_sheet(judge, outcomes, report, own)

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "demo.png").write_bytes(sheet.png())
    (options.out / "demo.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\n{table(report)}\n\npicture: {options.out / 'demo.png'}")
    print(f"numbers: {options.out / 'demo.json'}")
    if report["gain"] < LEAST_GAIN:
        print(f"\nFAILED: with control, canny F1 must be {LEAST_GAIN:g} times that without.")
        return 1
    return 0


def sample(demo: DemoModel, setting: Setting, judge: Judge, options: argparse.Namespace) -> Outcome:
    """Draw a picture for every scene that the judge knows.

    Noise depends on the seed and the place in the batch, so all settings start from the same.
    """
    began = time.perf_counter()
    batch = judge.batch
    parts = []
    for start in range(0, len(batch.images), CHUNK):
        part = slice(start, start + CHUNK)
        hints, steering = judge.edges[part], None
        if setting.guided:  # by the very edges that the ControlNet gets
            steering = Steering(Follower.by_edges(hints), GuidanceSettings())
        parts.append(
            generate(
                demo,
                list(batch.captions[part]),
                seed=options.seed + start,
                steps=options.steps,
                cfg=options.cfg,
                hints=None if setting.shape is None else hints,
                shape=setting.shape,
                steering=steering,
            )
        )
    images = torch.cat(parts)
    seconds = time.perf_counter() - began
    return Outcome(setting, images, judge.judge(images), seconds)


def summarise(
    outcomes: Sequence[Outcome], count: int, steps: int, cfg: float, seed: int, seconds: float
) -> dict:
    """Means over the last ``count`` pictures, the held-out ones, ready for JSON."""
    rows = []
    for outcome in outcomes:
        scores = outcome.judged.f1[-count:].tolist()
        rows.append(
            {
                "setting": outcome.setting.name,
                **_means(outcome.judged, count),
                "seconds": round(outcome.seconds, 2),
                "canny_f1_per_picture": [round(score, 4) for score in scores],
            }
        )
    without, control = rows[0]["canny_f1"], rows[1]["canny_f1"]
    return {
        "held_out_conditions": count,
        "tolerance_pixels": TOLERANCE,
        "steps": steps,
        "cfg": cfg,
        "seed": seed,
        "settings": rows,
        "gain": control / max(without, 1e-6),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
    }


def table(report: dict) -> str:
    """The report as a table for people."""
    lines = [
        f"{report['held_out_conditions']} held-out conditions, {report['steps']} steps, "
        f"cfg {report['cfg']:g}, canny F1 within {TOLERANCE} pixel",
        "",
        f"{'setting':<26}{'canny F1':>9}{'foreground IoU':>16}{'seconds':>9}",
    ]
    for row in report["settings"]:
        lines.append(
            f"{row['setting']:<26}{row['canny_f1']:>9.3f}{row['foreground_iou']:>16.3f}"
            f"{row['seconds']:>9.1f}"
        )
    best = report["reconstruction"]
    lines.append(
        f"{'(autoencoder, no sampling)':<26}{best['canny_f1']:>9.3f}{best['foreground_iou']:>16.3f}"
    )
    lines += [
        "",
        f"Control gives {report['gain']:.1f} times the F1 without; "
        f"{report['seconds']:.0f} s in all on {report['threads']} threads.",
    ]
    return "\n".join(lines)


def draw_sheet(judge: Judge, outcomes: Sequence[Outcome], report: dict, own: bool) -> Canvas:
    """Input, condition and every setting side by side, and the edges that came back."""
    batch = judge.batch
    columns: list[Sequence[str]] = [("input",), ("condition", "its Canny edges")]
    columns += [
        (outcome.setting.name, outcome.setting.remark, f"mean F1 {row['canny_f1']:.2f}")
        for outcome, row in zip(outcomes, report["settings"], strict=True)
    ]
    first = 0 if own else min(SHOWN[0], len(batch.images) - 1)
    others = [i + own for i in SHOWN if i + own < len(batch.images) and i + own != first]
    rows = []
    for index in (first, *others):
        cells: list[Cell | None] = [_cell(batch.images[index]), _cell(judge.edges[index])]
        cells += [
            _cell(outcome.images[index], f"F1 {outcome.judged.f1[index]:.2f}")
            for outcome in outcomes
        ]
        rows.append(SheetRow(f'"{batch.captions[index]}"', cells))
        if index == first:
            back = [_cell(outcome.judged.difference[index]) for outcome in outcomes]
            rows.append(
                SheetRow("edges of the samples above, against the condition", [None, None, *back])
            )
    return ComparisonSheet(
        "ControlNet++ demonstration: does the picture follow its condition?",
        [
            "The prompt names shapes and colours, never places: those can only come from the "
            "condition.",
            f"F1 = agreement of the sample's edges with the condition, within {TOLERANCE} pixel; "
            f"means over {report['held_out_conditions']} held-out conditions.",
        ],
        columns,
        rows,
        tuple((f"edge {word}", colour) for word, colour in EDGES.legend),
    ).draw()


def read_picture(path: Path) -> Tensor:
    """A picture file, cropped to a square in the centre: (1, 3, SIZE, SIZE) in 0..1."""
    picture = files.read_picture(path)
    side = min(picture.shape[-2:])
    top, left = ((length - side) // 2 for length in picture.shape[-2:])
    square = to_8_bit(picture[0, :, top : top + side, left : left + side]).movedim(0, -1)
    resized = Image.fromarray(square.numpy()).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).movedim(-1, 0)[None].float() / 255


def _means(judged: Judgement, count: int) -> dict[str, float]:
    """Means over the last ``count`` pictures."""
    return {
        "canny_f1": sum(judged.f1[-count:].tolist()) / count,
        "foreground_iou": judged.iou[-count:].mean().item(),
    }


def _put_first(picture: Tensor, caption: str, batch: Batch) -> Batch:
    empty = torch.zeros_like(batch.masks[:1])
    return Batch(
        torch.cat([picture, batch.images]),
        torch.cat([empty, batch.masks]),
        (caption, *batch.captions),
    )


def _cell(image: Tensor, *notes: str) -> Cell:
    return Cell(to_8_bit(image), notes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo",
        description="The whole cycle on the built-in model: a table, a picture, and both as files.",
    )
    parser.add_argument("--image", type=Path, help="a picture of your own, with --prompt")
    parser.add_argument("--prompt", help="what to draw, e.g. 'red star on a white ground'")
    parser.add_argument("--out", type=Path, default=Path("out") / "demo", help="folder to write to")
    parser.add_argument("--count", type=int, default=32, help="held-out conditions to measure on")
    parser.add_argument("--steps", type=int, default=10, help="DDIM steps")
    parser.add_argument("--cfg", type=float, default=3.0, help="classifier-free guidance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the weights")
    return parser
