"""Maps that are known, of every kind, and the check of one against another."""

from __future__ import annotations

import numpy as np
import torch
from controlnet_pp.annotators.ade20k import to_colours
from controlnet_pp.annotators.kinds import ADE20K
from controlnet_pp.annotators.normal import normal_image
from controlnet_pp.annotators.openpose import Keypoint, Person, Pose, draw_poses
from controlnet_pp.annotators.tile import tile_resample
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.check import CheckResult, check_consistency
from skimage import data
from torch.nn.functional import interpolate

SIZE = 192


def photo(name: str = "astronaut") -> torch.Tensor:
    pixels = getattr(data, name)()
    pixels = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels[..., :3]
    square = pixels[: min(pixels.shape[:2]), : min(pixels.shape[:2])]
    whole = torch.from_numpy(square.copy()).movedim(-1, 0)[None].float() / 255
    return interpolate(whole, (SIZE, SIZE), mode="area")


def soft_lines(shift: int = 0) -> torch.Tensor:
    """Soft white curves on black, (1, 1, SIZE, SIZE)."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    radius = ((x - 90 - shift) ** 2 + (y - 100) ** 2).float().sqrt()
    return (1 - ((radius - 60).abs() / 5)).clamp(0, 1)[None, None]


def slope(turn: float = 0.0) -> torch.Tensor:
    """Depth of a tilted plane with a ball before it, 8-bit values."""
    y, x = torch.meshgrid(torch.linspace(0, 1, SIZE), torch.linspace(0, 1, SIZE), indexing="ij")
    ball = (0.09 - (x - 0.5) ** 2 - (y - 0.5) ** 2).clamp(min=0).sqrt()
    depth = 0.5 * ((1 - turn) * y + turn * x) + ball
    return ((depth / depth.max() * 255).floor() / 255)[None, None]


def normal_map(turn: float = 0.0) -> torch.Tensor:
    return normal_image(slope(turn), background=0.0, strength=500)


def regions(*numbers: int) -> torch.Tensor:
    """Vertical stripes of these classes of ADE20K, as colours."""
    classes = torch.tensor(numbers).repeat_interleave(SIZE // len(numbers))
    return to_colours(classes.expand(1, SIZE, -1))


def person(x: float, y: float, size: float = 60.0) -> Person:
    """Someone standing, all joints visible."""
    places = (
        *((0, -1), (0, -0.7)),
        *((-0.3, -0.7), (-0.45, -0.4), (-0.5, -0.1)),
        *((0.3, -0.7), (0.45, -0.4), (0.5, -0.1)),
        *((-0.2, 0), (-0.22, 0.5), (-0.25, 1)),
        *((0.2, 0), (0.22, 0.5), (0.25, 1)),
        *((-0.12, -1.1), (0.12, -1.1), (-0.25, -1.05), (0.25, -1.05)),
    )
    return Person(tuple(Keypoint(x + size * dx, y + size * dy) for dx, dy in places))


def pose(*people: Person) -> torch.Tensor:
    return draw_poses([Pose(people, SIZE, SIZE)])


def coarse() -> torch.Tensor:
    """A photograph without its detail."""
    return tile_resample(photo())


SOUND = {
    Condition.CANNY: (soft_lines() > 0.8).float(),
    Condition.SOFTEDGE: soft_lines(),
    Condition.LINEART: soft_lines(),
    Condition.MLSD: (soft_lines() > 0.8).float(),
    Condition.SCRIBBLE: (soft_lines() > 0.1).float(),
    Condition.POSE: pose(person(90, 100)),
    Condition.DEPTH: slope(),
    Condition.NORMAL: normal_map(),
    Condition.SEG: regions(2, 4, 12),
    Condition.TILE: coarse(),
}
OTHER = {
    Condition.CANNY: (soft_lines(20) > 0.8).float(),
    Condition.SOFTEDGE: soft_lines(20),
    Condition.LINEART: soft_lines(20),
    Condition.MLSD: (soft_lines(20) > 0.8).float(),
    Condition.SCRIBBLE: (soft_lines(20) > 0.1).float(),
    Condition.POSE: pose(person(130, 100)),
    Condition.DEPTH: slope(1.0),
    Condition.NORMAL: normal_map(1.0),
    Condition.SEG: regions(2, 4, 13),
    Condition.TILE: coarse().flip(-1),
}


def check(
    kind: Condition, condition: torch.Tensor, recovered: torch.Tensor, tolerance=0, **options
) -> CheckResult:
    measure = kind.measure(tolerance, ADE20K)
    image = torch.zeros(len(recovered), 3, *recovered.shape[-2:])
    return check_consistency(image, condition, lambda _: recovered, measure, **options)
