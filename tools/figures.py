"""The tables of measured figures in the README, from the files that the measurements wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .marked import table

RESULTS = Path(__file__).resolve().parent.parent / "bench" / "results"

Row = Mapping[str, Any]

WAYS = {
    "no control": "no control",
    "ControlNet": "ControlNet",
    "strength 2": "ControlNet at strength 2",
    "cond rows only": "Control Mode *cond rows only*",
    "+ guidance": "+ Consistency Guidance",
    "+ feedback": "+ Consistency Feedback",
    "+ best of 4": "+ the best of 4 seeds",
    "all together": "guidance, feedback and the best of 4 seeds",
    "autoencoder alone": "the autoencoder alone, as a ceiling",
}
TRAININGS = {
    "ControlNet": "the ControlNet that all begin from",
    "+ plain steps": "+ plain steps",
    "++ as published": "+ the reward of ControlNet++, as published",
    "++ on trajectories": "+ the reward on the sampler's own states",
    "autoencoder alone": "the autoencoder alone, as a ceiling",
}
SIZES = (256, 512)
# Figures of `bench control`, what they are, and the setting of `bench adherence` they go with.
COSTS = (
    ("neutral", "nothing shaped", ""),
    ("cond_rows", "cond rows only", "cond_rows"),
    ("first_four", "first four blocks (over those blocks alone)", ""),
    ("reuse2", "residuals reused for 2 steps, over 20 steps", "reuse2"),
    ("reuse4", "residuals reused for 4 steps, over 20 steps", "reuse4"),
    ("overhead_neutral", "added to the time of the UNet alone, nothing shaped", ""),
    ("overhead_fast", "added to the time of the UNet alone, recommended", "fast"),
)


def figures(results: Path = RESULTS) -> dict[str, str]:
    """Every table, in Markdown, by name. ``results``: the folder that `bench` writes to."""
    found, control, trained = (
        json.loads((results / name).read_text(encoding="utf-8"))
        for name in ("consistency.json", "control.json", "plusplus.json")
    )
    return {
        "steering edges": steering(found["edges"], found["times"]),
        "steering masks": steering(found["masks"]),
        "steering more": steering(found["more"]),
        "control costs": costs(control),
        "reward masks": steering(trained["seg"], ways=TRAININGS),
    }


def steering(rows: Row, times: Row | None = None, ways: Mapping[str, str] | None = None) -> str:
    """A row for each of the ways that was measured; with a column of times, if these are too."""
    head = ["", "foreground IoU", "canny F1", "error removed", "colour error"]
    if times is not None:
        head.append("time")
    lines = []
    for key, title in (ways or WAYS).items():
        if row := rows.get(key):
            cells = [
                title,
                with_interval(row["foreground_iou"], "{:.3f}".format),
                with_interval(row["canny_f1"], "{:.3f}".format),
                with_interval(row["error_removed"], _percent) if "error_removed" in row else "",
                f"{row['colour_error']['value']:.1f}",
            ]
            if times is not None:
                cells.append(with_middle_half(times[key]) if key in times else "")
            lines.append(cells)
    return table(head, lines)


def costs(found: Row) -> str:
    """A row for each way of saving on control: its time, and what it does to adherence."""
    head = ("ours over ComfyUI's own, SD1.5 at full width", *(f"{size} px" for size in SIZES))
    lines = []
    for name, title, setting in COSTS:
        cells = [with_middle_half(found["spread"][f"{name}_{size}"]) for size in SIZES]
        gains = _gains(found["adherence"][setting]["loss"]) if setting else ("", "")
        lines.append((title, *cells, *gains))
    return table((*head, "F1", "IoU"), lines)


def with_interval(figure: Row, text: Callable[[float], str]) -> str:
    """A figure, and where 95 % of its bootstrap lies."""
    value, low, high = (text(figure[name]) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def with_middle_half(ratio: Row) -> str:
    """A median, and the middle half of the pairs; a bare 1 for what the others are compared to."""
    median, (low, high) = ratio["median"], ratio["quartiles"]
    return "1" if low == high == 1 else f"{median:.2f} ({low:.2f} to {high:.2f})"


def _gains(loss: Row) -> tuple[str, ...]:
    """What adherence gained, for F1 and IoU: a loss the other way round."""
    turned = (
        {"value": -one["value"], "low": -one["high"], "high": -one["low"]}
        for one in (loss["f1"], loss["iou"])
    )
    return tuple(with_interval(gain, "{:+.1%}".format) for gain in turned)


def _percent(share: float) -> str:
    return f"{share:.0%}"
