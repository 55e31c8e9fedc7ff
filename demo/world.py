"""The shapes world: captioned pictures of coloured shapes with exact masks, from a seed.

A caption says what is in the picture ("red circle on a blue ground") and never where it is, so
only a control image can fix position, size and rotation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from ..annotators.opencv import load_cv2

SIZE = 128
# Worlds of scenes, disjoint from each other.
TRAIN_SEED = 1
HELD_OUT_SEED = 2  # what people see: the examples of the demonstration and of Demo Model
TUNING_SEED = 3  # settings are chosen by these
EVIDENCE_SEED = 4  # published figures come from these, and nothing is chosen by them

# RGB, 0..255. The luma values are spread out so that most pairs have a visible edge in grey.
COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (25, 25, 25),
    "blue": (20, 35, 130),
    "purple": (120, 40, 150),
    "red": (225, 50, 45),
    "green": (50, 170, 80),
    "orange": (245, 140, 40),
    "cyan": (80, 205, 230),
    "pink": (250, 175, 205),
    "yellow": (250, 225, 60),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
WORDS = ("on", "a", "an", "and", "ground", *COLOURS, *SHAPES)

# A step of 56 grey levels is a Sobel response of 224 at its weakest orientation: above the usual
# upper Canny threshold of 200.
MIN_CONTRAST = 56.0
# 5 x 5 samples per pixel: an odd number, so no pixel is exactly half covered.
OVERSAMPLING = 5


@dataclass(frozen=True)
class Shape:
    """One shape; lengths as fractions of the picture's side, the angle in radians."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Shapes never overlap and lie inside the picture."""

    shapes: tuple[Shape, ...]
    ground: str

    @property
    def caption(self) -> str:
        named = " and ".join(f"{shape.colour} {shape.kind}" for shape in self.shapes)
        article = "an" if self.ground[0] in "aeiou" else "a"
        return f"{named} on {article} {self.ground} ground"


@dataclass(frozen=True)
class Batch:
    """images (B, 3, S, S) float 0..1; masks (B, 1, S, S) bool, True on a shape; captions."""

    images: Tensor
    masks: Tensor
    captions: tuple[str, ...]


def luma(colour: str) -> float:
    """ITU-R BT.601 luma of a palette colour, 0..255."""
    red, green, blue = COLOURS[colour]
    return 0.299 * red + 0.587 * green + 0.114 * blue


# (shape colour, ground colour) pairs whose outline a Canny detector sees.
PAIRS = tuple(
    pair for pair in permutations(COLOURS, 2) if abs(luma(pair[0]) - luma(pair[1])) >= MIN_CONTRAST
)


def sample_scene(seed: int, index: int) -> Scene:
    """The scene number `index` of the world `seed`; a pure function of both."""
    rng = np.random.default_rng([seed, index])
    ground = PAIRS[rng.integers(len(PAIRS))][1]
    colours = [shape for shape, other in PAIRS if other == ground]
    if rng.random() < 0.7:
        return Scene((_sample_shape(rng, colours, 0.17, 0.36, None),), ground)
    first = _sample_shape(rng, colours, 0.14, 0.22, None)
    colours = [colour for colour in colours if _distinct(first.colour, colour, ground)]
    return Scene((first, _sample_shape(rng, colours, 0.14, 0.22, first)), ground)


def render(scene: Scene, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene with antialiased outlines: picture (S, S, 3) uint8 RGB, mask (S, S) bool."""
    picture = np.full((size, size, 3), COLOURS[scene.ground], np.float32)
    mask = np.zeros((size, size), bool)
    for shape in scene.shapes:
        coverage = _coverage(shape, size)
        colour = np.array(COLOURS[shape.colour], np.float32)
        picture += coverage[..., None] * (colour - picture)
        mask |= coverage > 0.5
    return np.rint(picture).astype(np.uint8), mask


def load_batch(seed: int, indices: Iterable[int], size: int = SIZE) -> Batch:
    """Scenes `indices` of the world `seed` as tensors."""
    scenes = [sample_scene(seed, index) for index in indices]
    pictures, masks = zip(*(render(scene, size) for scene in scenes), strict=True)
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return Batch(
        images.contiguous(),
        torch.from_numpy(np.stack(masks))[:, None],
        tuple(scene.caption for scene in scenes),
    )


def caption_colours(caption: str) -> tuple[tuple[str, ...], str]:
    """Shape colours and ground colour that a caption names.

    Raises:
        ValueError: the caption has no "... on a <colour> ground" with palette colours.
    """
    match = re.fullmatch(r"(.+) on an? (\w+) ground", caption.strip())
    shapes = tuple(word for word in match[1].split() if word in COLOURS) if match else ()
    if not match or not shapes or match[2] not in COLOURS:
        raise ValueError(
            f"Caption {caption!r} does not name its colours: expected a caption such as "
            f"'red circle on a blue ground' with colours out of {', '.join(COLOURS)}."
        )
    return shapes, match[2]


def foreground_mask(images: Tensor, captions: Sequence[str]) -> Tensor:
    """Read the mask back from pictures: pixels nearer to a shape's colour than to the ground's.

    images (B, 3, H, W) in 0..1 -> (B, 1, H, W) bool. Pixels are only compared with the colours
    that their caption names, so wrong colours count as errors.
    """
    if len(images) != len(captions):
        raise ValueError(f"Found {len(images)} images and {len(captions)} captions: give one each.")
    masks = []
    for image, caption in zip(images, captions, strict=True):
        shapes, ground = caption_colours(caption)
        palette = torch.tensor([COLOURS[name] for name in (ground, *shapes)]).to(image) / 255
        distance = (image[None] - palette[:, :, None, None]).square().sum(1)
        masks.append(distance.argmin(0, keepdim=True) > 0)
    return torch.stack(masks)


def mask_iou(prediction: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of boolean masks (B, 1, H, W) -> (B,); 1 where both are empty."""
    both = (prediction & target).flatten(1).sum(1).float()
    either = (prediction | target).flatten(1).sum(1).float()
    return torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))


def _distinct(first: str, second: str, ground: str) -> bool:
    """Whether no outline pixel of one shape, a mixture with the ground, looks like the other.

    A mixture with share a < 1/2 of d1 = first - ground is nearer to the ground than to the second
    colour if 2a d1.d2 < |d2|^2; the same the other way round.
    """
    d1, d2 = (np.subtract(COLOURS[colour], COLOURS[ground]) for colour in (first, second))
    return bool(d1 @ d2 <= min(d1 @ d1, d2 @ d2))


def _sample_shape(
    rng: np.random.Generator, colours: list[str], low: float, high: float, other: Shape | None
) -> Shape:
    """A shape inside the picture that keeps a gap to `other`."""
    kind, colour = SHAPES[rng.integers(len(SHAPES))], colours[rng.integers(len(colours))]
    while True:  # a smaller radius may be needed beside a large shape in the centre
        radius = float(rng.uniform(low, high))
        x, y = (float(value) for value in rng.uniform(radius + 0.02, 0.98 - radius, 2))
        if other is None or np.hypot(x - other.x, y - other.y) > radius + other.radius + 0.04:
            return Shape(kind, colour, x, y, radius, float(rng.uniform(-np.pi, np.pi)))


def _coverage(shape: Shape, size: int) -> np.ndarray:
    """Share of every pixel that the shape covers, (S, S) float32 in 0..1."""
    side, shift = size * OVERSAMPLING, 4
    canvas = np.zeros((side, side), np.uint8)
    turn = np.array(
        [
            [np.cos(shape.angle), -np.sin(shape.angle)],
            [np.sin(shape.angle), np.cos(shape.angle)],
        ]
    )
    points = _OUTLINES[shape.kind] @ turn.T * shape.radius + (shape.x, shape.y)
    fixed = np.rint((points * side - 0.5) * (1 << shift)).astype(np.int32)
    # With n samples per pixel of value n the average over a pixel counts the samples, exactly.
    samples = OVERSAMPLING**2
    cv2 = load_cv2()
    cv2.fillPoly(canvas, [fixed], samples, shift=shift)
    counts = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    return counts.astype(np.float32) / samples


def _regular(corners: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _star() -> np.ndarray:
    points = _regular(10)
    points[1::2] *= 0.45
    return points


def _cross() -> np.ndarray:
    arm, end = 0.32, 0.94
    quarter = np.array([[arm, end], [arm, arm], [end, arm]])
    corners = [quarter]
    for _ in range(3):
        corners.append(corners[-1] @ np.array([[0, -1], [1, 0]]))
    return np.concatenate(corners)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    points = np.stack([x, y - (y.max() + y.min()) / 2], 1)
    return points / np.linalg.norm(points, axis=1).max()


# Corners in the unit circle, at angle 0.
_OUTLINES: dict[str, np.ndarray] = {
    "circle": _regular(96),
    "square": _regular(4),
    "triangle": _regular(3),
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
}
