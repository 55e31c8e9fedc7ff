"""Canny edges in the two definitions that released checkpoints were trained with.

`canny_cv2` is the preprocessor of ControlNet and ControlNet 1.1. `canny_cnpp` is the one of
ControlNet++ (arXiv 2404.07987, training and evaluation alike). The two disagree on which pixels are
edges, so each checkpoint wants its own. `canny_magnitude` is the differentiable part of the second,
`canny_strength` what of it can pull at edges that are not there yet.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .annotator import check_image, check_values, forwards, from_8_bit, to_8_bit
from .opencv import load_cv2

GRAY_WEIGHTS = (0.299, 0.587, 0.114)
BLUR_RADIUS = 2
# Keeps the square root differentiable where the picture is flat.
EPS = 1e-6
# Steps (dy, dx) to the neighbour ahead for gradients along 0, 45, 90 and 135 degrees (y down), and
# whether a pixel may tie with that neighbour: of two equal pixels across a horizontal or vertical
# step the left (upper) one stays, while diagonal neighbours are two lines apart and both give way.
NMS_AXES = ((0, 1, True), (1, 1, False), (1, 0, True), (1, -1, False))
HYSTERESIS_STEPS_PER_CHECK = 8


def canny_cv2(image: Tensor, low: float = 100, high: float = 200) -> Tensor:
    """Edges of `cv2.Canny` on 8-bit RGB, unblurred: OpenCV's own result, bit for bit.

    image: (B, 3, H, W) float, RGB in 0..1; rounded (not truncated) to 8 bits, clipped outside 0..1.
    low, high: hysteresis thresholds on the L1 Sobel gradient of 0..255 values, usually 100 and 200.
    Returns (B, 1, H, W) of 0 and 1 in the image's dtype and on its device.
    """
    check_image(image, "Canny")
    check_values(image, "Canny")
    if not 0 <= low <= high:
        raise ValueError(threshold_message("cv2", "0 <= low <= high, e.g. 100 and 200", low, high))
    cv2 = load_cv2()
    edges = [
        torch.from_numpy(cv2.Canny(row, low, high))
        for part in forwards(image)
        for row in to_8_bit(part).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    ]
    return from_8_bit(torch.stack(edges)[:, None], like=image)


def canny_cnpp(
    image: Tensor, low: float = 0.1, high: float = 0.2, *, drop_ties: bool = False
) -> Tensor:
    """Edges of ControlNet++: gray, 5x5 Gaussian (sigma 1), Sobel, thinning, hysteresis.

    Equals `kornia.filters.canny(image, low, high)[1]` of kornia 0.9 pixel for pixel. `drop_ties`
    gives the thinning of kornia up to 0.8 (the published evaluation pins 0.7.0): it loses both
    pixels of a tie, which breaks lines in clean graphics and changes next to none in photographs.

    image: (B, 3, H, W) float, RGB in 0..1, sides of at least 3 pixels.
    low, high: thresholds on the Sobel magnitude of 0..1 values, each in 0..1; strict comparisons.
    Returns (B, 1, H, W) of 0 and 1 in the image's dtype and on its device.
    """
    check_image(image, "Canny")
    check_values(image, "Canny")
    if not 0 <= low <= high <= 1:
        expected = "0 <= low <= high <= 1, e.g. 0.1 and 0.2"
        raise ValueError(threshold_message("ControlNet++", expected, low, high))
    with torch.no_grad():
        magnitude = _thinned_magnitude(image, drop_ties)
        return _hysteresis(magnitude > low, magnitude > high).to(image.dtype)


def canny_magnitude(image: Tensor, *, drop_ties: bool = False) -> Tensor:
    """Sobel magnitude on edge ridges, 0 elsewhere: `canny_cnpp` before its thresholds.

    Differentiable in the image, with finite gradients on flat pictures too; the choice of the
    ridge itself is not differentiated. This is the map that the ControlNet++ reward compares.

    image: (B, 3, H, W) float, RGB in 0..1 (not checked: a decoder may overshoot).
    Returns (B, 1, H, W) in the image's dtype, at least 0; a unit step reaches about 2.6.
    """
    check_image(image, "Canny")
    return _thinned_magnitude(image, drop_ties).to(image.dtype)


def canny_strength(image: Tensor, high: float = 0.2) -> Tensor:
    """How surely `canny_cnpp` would find an edge here if it did not thin: min(gradient / high, 1).

    An edge is some pixels wide in this map. Differentiable everywhere but in what is sure already:
    off the ridges, where `canny_magnitude` is 0, a faint edge can still be made stronger.

    image: (B, 3, H, W) float, RGB in 0..1 (not checked: a decoder may overshoot).
    Returns (B, 1, H, W) in 0..1, in float32 or better.
    """
    check_image(image, "Canny")
    if not 0 < high <= 1:
        raise ValueError(f"Canny strength got high {high:g}; it needs more than 0 and at most 1.")
    gradient = _gradient(image)
    return (gradient.square().sum(1, keepdim=True).add(EPS).sqrt() / high).clamp(max=1)


def _thinned_magnitude(image: Tensor, drop_ties: bool) -> Tensor:
    """(B, 3, H, W) -> (B, 1, H, W), in float32 or better."""
    gradient = _gradient(image)
    # One pixel of no gradient all around, so that the border has neighbours to compare with.
    padded = F.pad(gradient, (1, 1, 1, 1)).square().sum(1, keepdim=True).add(EPS).sqrt()
    magnitude = padded[..., 1:-1, 1:-1]
    ridge = _ridge(gradient.detach(), padded.detach(), drop_ties)
    return magnitude * ridge


def _gradient(image: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 2, H, W): Sobel of the blurred gray, in float32 or better."""
    if min(image.shape[-2:]) < BLUR_RADIUS + 1:
        raise ValueError(
            f"The picture is {image.shape[-1]}x{image.shape[-2]} pixels (width x height); Canny in "
            f"ControlNet++ mode needs sides of at least {BLUR_RADIUS + 1}. Give a larger picture."
        )
    if image.dtype in (torch.float16, torch.bfloat16):
        image = image.float()
    with torch.autocast(image.device.type, enabled=False), _full_precision_convolutions():
        return _sobel(_blur(_gray(image)))


def _gray(image: Tensor) -> Tensor:
    red, green, blue = image.split(1, dim=1)
    weights = image.new_tensor(GRAY_WEIGHTS)
    # addcmul in this order rounds like the reference; ties between pixels depend on the last bit.
    gray = red * weights[0]
    gray = torch.addcmul(gray, green, weights[1])
    return torch.addcmul(gray, blue, weights[2])


def _blur(gray: Tensor) -> Tensor:
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=gray.dtype, device=gray.device)
    taps = torch.exp(-offsets.square() / 2)
    taps = taps / taps.sum()
    gray = F.conv2d(
        F.pad(gray, (BLUR_RADIUS, BLUR_RADIUS, 0, 0), "reflect"), taps.view(1, 1, 1, -1)
    )
    return F.conv2d(
        F.pad(gray, (0, 0, BLUR_RADIUS, BLUR_RADIUS), "reflect"), taps.view(1, 1, -1, 1)
    )


def _sobel(gray: Tensor) -> Tensor:
    """(B, 1, H, W) -> (B, 2, H, W): derivatives along x and y, not normalised."""
    along_x = gray.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack([along_x, along_x.T])[:, None]
    return F.conv2d(F.pad(gray, (1, 1, 1, 1), "replicate"), kernels)


def _ridge(gradient: Tensor, padded: Tensor, drop_ties: bool) -> Tensor:
    """Pixels that beat both neighbours along their gradient, rounded to 45 degrees."""
    dx, dy = gradient.split(1, dim=1)
    axis = (torch.atan2(dy, dx) * (4 / math.pi)).round().long() % 4
    height, width = gradient.shape[-2:]

    def shifted(y: int, x: int) -> Tensor:
        return padded[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    magnitude = shifted(0, 0)
    ridge = torch.zeros_like(magnitude, dtype=torch.bool)
    for index, (y, x, may_tie) in enumerate(NMS_AXES):
        ahead, behind = shifted(y, x), shifted(-y, -x)
        beats_ahead = magnitude >= ahead if may_tie and not drop_ties else magnitude > ahead
        ridge |= (axis == index) & beats_ahead & (magnitude > behind)
    return ridge


def _hysteresis(weak: Tensor, strong: Tensor) -> Tensor:
    """Strong pixels, and the weak ones that an 8-connected weak path joins to them; bool."""
    # Shifted ORs of bytes: pooling over floats takes fifty times as long on a CPU.
    padded = F.pad(strong, (1, 1, 1, 1))
    reached = padded[..., 1:-1, 1:-1]
    while True:
        before = reached.sum()
        # Looking at the result stalls a GPU, so several steps go between two looks.
        for _ in range(HYSTERESIS_STEPS_PER_CHECK):
            rows = padded[..., 1:-1, :] | padded[..., :-2, :] | padded[..., 2:, :]
            reached.copy_((rows[..., 1:-1] | rows[..., :-2] | rows[..., 2:]) & weak)
        if torch.equal(reached.sum(), before):
            return reached


def _full_precision_convolutions():
    """TF32 convolutions would move edges on GPUs that have them."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )


def threshold_message(mode: str, expected: str, low: float, high: float) -> str:
    """What is wrong with two thresholds, in the unit that they were given in."""
    return (
        f"Canny in {mode} mode got thresholds low {low:g} and high {high:g}; it needs {expected}."
    )
