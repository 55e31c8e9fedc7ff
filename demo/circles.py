"""Circles on grounds in fill50k's layout: the smallest set to see a ControlNet learn with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..annotators.opencv import load_cv2
from ..dataset.fill50k import write_listing
from .world import PAIRS, SIZE, Scene, Shape, render

SMALLEST, LARGEST = 0.08, 0.4  # radius, as a part of the side


def sample_circle(seed: int, index: int) -> Scene:
    """The circle number ``index`` of the world ``seed``; a pure function of both."""
    rng = np.random.default_rng([seed, index])
    colour, ground = PAIRS[rng.integers(len(PAIRS))]
    radius = float(rng.uniform(SMALLEST, LARGEST))
    x, y = (float(value) for value in rng.uniform(radius, 1 - radius, 2))
    return Scene((Shape("circle", colour, x, y, radius, 0.0),), ground)


def outline(mask: np.ndarray) -> np.ndarray:
    """White on black, (S, S, 3) uint8: pixels of the mask (S, S) that touch what is outside it."""
    cv2 = load_cv2()
    inside = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
    edge = mask & (inside == 0)
    return np.repeat(edge[..., None] * np.uint8(255), 3, axis=-1)


def write_circles(folder: Path, count: int, seed: int = 0, size: int = SIZE) -> None:
    """Write ``count`` circles of ``size`` pixels; ValueError for numbers that make no picture.

    `target/` has the pictures, `source/` their outlines, `prompt.json` the colours.
    """
    if count < 1 or size < 16:
        raise ValueError(f"{count} circles of {size} pixels: give at least 1, of 16 pixels.")
    digits = max(5, len(str(count)))
    for name in ("source", "target"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    entries = []
    for index in range(count):
        scene = sample_circle(seed, index)
        picture, mask = render(scene, size)
        source, target = (f"{place}/{index:0{digits}}.png" for place in ("source", "target"))
        Image.fromarray(picture).save(folder / target)
        Image.fromarray(outline(mask)).save(folder / source)
        entries.append((source, target, scene.caption))
    write_listing(folder, entries)


def main(argv: Sequence[str] = ()) -> int:
    """`demo circles`: write the set."""
    parser = argparse.ArgumentParser(
        prog="demo circles",
        description="Write filled circles, their outlines and prompts in the layout of fill50k.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--count", type=int, default=1000, help="how many")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the pictures in pixels")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other circles")
    options = parser.parse_args(argv)
    write_circles(options.out, options.count, options.seed, options.size)
    print(f"{options.count} circles: {options.out}")
    return 0
