"""Scribbles three ways: from a drawing, from soft edges (HED), and by extended differences (XDoG).

All are white strokes on black, every pixel 0 or 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .annotator import check_image, check_values, from_8_bit, note_black, to_8_bit
from .opencv import load_cv2
from .softedge import HED

TITLE = "Scribble"
STROKE_SIGMA = 3.0  # of both Gaussians that make a stroke of an edge
EDGE_THRESHOLD = 127
STROKE_THRESHOLD = 4
XDOG_SIGMAS = (0.5, 5.0)


@torch.no_grad()
def scribble_hed(network: HED, image: Tensor) -> Tensor:
    """Soft edges, thinned and drawn again with a thick pen: ControlNet 1.1's "fake scribble".

    Returns (B, 1, H, W). For a gradient take the network's own forward: it is the map that is
    thinned here, and thinning has none.
    """
    edges = network.soft_edges(image)[:, 0].numpy()
    strokes = torch.from_numpy(np.stack([_strokes(one) for one in edges]))[:, None]
    note_black(strokes, TITLE, "edge")
    return from_8_bit(strokes, like=image)


def scribble_drawing(image: Tensor, threshold: int = 127) -> Tensor:
    """A drawing with dark strokes on light ground -> white strokes on black, (B, 1, H, W).

    A pixel is stroke if its darkest channel is below `threshold` (of 255).
    """
    check_image(image, TITLE)
    check_values(image, TITLE)
    _check_threshold(threshold, 127)
    strokes = (to_8_bit(image).amin(1, keepdim=True) < threshold).to(torch.uint8) * 255
    note_black(strokes, TITLE, "stroke")
    return from_8_bit(strokes, like=image)


def scribble_xdog(image: Tensor, threshold: int = 32) -> Tensor:
    """Strokes where a picture is darker than its surroundings in every channel, (B, 1, H, W).

    Differences of Gaussians (sigma 0.5 and 5) in the 8-bit arithmetic of the webui preprocessor,
    which wraps around: of twice the difference only the remainder by 256 meets the threshold.
    threshold: of 255; lower finds more, usually 1 to 64.
    """
    check_image(image, TITLE)
    check_values(image, TITLE)
    _check_threshold(threshold, 32)
    cv2 = load_cv2()
    strokes = []
    for picture in to_8_bit(image).float().movedim(1, -1).contiguous().cpu().numpy():
        fine, coarse = (cv2.GaussianBlur(picture, (0, 0), sigma) for sigma in XDOG_SIGMAS)
        ground = (255 - (coarse - fine).min(axis=2)).clip(0, 255).astype(np.uint8)
        doubled = 2 * (255 - ground)  # still uint8
        strokes.append(np.where(doubled > threshold, 255, 0).astype(np.uint8))
    found = torch.from_numpy(np.stack(strokes))[:, None]
    note_black(found, TITLE, "stroke")
    return from_8_bit(found, like=image)


def _strokes(edges: np.ndarray) -> np.ndarray:
    """uint8 (H, W) soft edges -> uint8 strokes, 0 and 255."""
    cv2 = load_cv2()
    blurred = cv2.GaussianBlur(edges.astype(np.float32), (0, 0), STROKE_SIGMA)
    ridge = np.zeros(edges.shape, dtype=bool)
    for line in _lines_of_three():
        ridge |= cv2.dilate(blurred, kernel=line) == blurred
    thin = np.where(ridge & (blurred > EDGE_THRESHOLD), 255, 0).astype(np.uint8)
    thick = cv2.GaussianBlur(thin, (0, 0), STROKE_SIGMA)
    return np.where(thick > STROKE_THRESHOLD, 255, 0).astype(np.uint8)


def _lines_of_three() -> list[np.ndarray]:
    """3x3 kernels with a line across, down and along both diagonals."""
    diagonal = np.eye(3, dtype=np.uint8)
    across = np.zeros((3, 3), dtype=np.uint8)
    across[1] = 1
    return [across, np.ascontiguousarray(across.T), diagonal, np.ascontiguousarray(diagonal[::-1])]


def _check_threshold(threshold: int, usual: int) -> None:
    if not 0 <= threshold <= 255:
        raise ValueError(f"{TITLE} got threshold {threshold}; it needs 0 to 255, usually {usual}.")
