"""From the stages' coarse maps to full-size maps, and to the peaks in them.

What CMU's OpenPose does in its Python port (ControlNet's annotator): maps of an eighth of the
network's size are enlarged twice, smoothed, and every pixel that no neighbour exceeds is a peak.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

STRIDE = 8  # pixels of the network's input for a pixel of its maps
PAD_VALUE = 128  # beside and below the picture; 0 for the network
SIGMA = 3.0
PEAK_THRESHOLD = 0.1


def resized(cv2: ModuleType, pixels: np.ndarray, height: float, width: float) -> np.ndarray:
    """(h, w) or (h, w, 3) at another size: by area if smaller, by Lanczos if larger.

    Which of the two is decided before the sides are cut to whole pixels.
    """
    larger = (height + width) / (pixels.shape[0] + pixels.shape[1]) >= 1
    method = cv2.INTER_LANCZOS4 if larger else cv2.INTER_AREA
    return cv2.resize(pixels, (max(1, int(width)), max(1, int(height))), interpolation=method)


def padded(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) with gray to the right and below, so that both sides are multiples of STRIDE."""
    down, right = (-side % STRIDE for side in pixels.shape[:2])
    return np.pad(pixels, ((0, down), (0, right), (0, 0)), constant_values=PAD_VALUE)


def enlarged(
    cv2: ModuleType, coarse: np.ndarray, inner: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Maps (C, h, w) of a padded picture -> (C, H, W) float64 of the picture alone.

    inner: (height, width) of the picture inside the network's padded input; size: (H, W).
    """
    planes = []
    for plane in coarse:
        fine = resized(cv2, plane, plane.shape[0] * STRIDE, plane.shape[1] * STRIDE)
        planes.append(resized(cv2, fine[: inner[0], : inner[1]], *size))
    return np.stack(planes).astype(np.float64)


def smoothed(cv2: ModuleType, plane: np.ndarray) -> np.ndarray:
    """Gaussian of SIGMA, cut off at 4 sigmas, mirrored at the border; float64."""
    side = 2 * int(4 * SIGMA + 0.5) + 1
    return cv2.GaussianBlur(plane, (side, side), SIGMA, borderType=cv2.BORDER_REFLECT)


def find_peaks(cv2: ModuleType, heat: np.ndarray) -> list[np.ndarray]:
    """For each map of (C, H, W): its peaks (n, 3) as x, y and unsmoothed height, top to bottom."""
    found = []
    for plane in heat:
        smooth = smoothed(cv2, plane)
        around = np.pad(smooth, 1)
        is_peak = (
            (smooth >= around[:-2, 1:-1])
            & (smooth >= around[2:, 1:-1])
            & (smooth >= around[1:-1, :-2])
            & (smooth >= around[1:-1, 2:])
            & (smooth > PEAK_THRESHOLD)
        )
        y, x = np.nonzero(is_peak)
        found.append(np.stack([x, y, plane[y, x]], axis=1))
    return found
