"""Structural similarity, at one scale (Wang 2004) and at five (Wang 2003)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import as_pair, inside, masked_mean

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the scales, fine to coarse
SIGMA = 1.5
RADIUS = 5  # an 11x11 window
K1, K2 = 0.01, 0.03


def ssim(
    prediction: Tensor, target: Tensor, mask: Tensor | None = None, data_range: float = 1.0
) -> Tensor:
    """Mean SSIM per picture, (B,): Gaussian windows of 11x11, the border mirrored.

        SSIM = (2 mx my + c1) / (mx^2 + my^2 + c1) * (2 sxy + c2) / (sx^2 + sy^2 + c2)

    with means m, variances s^2 and covariance sxy in a window, c1 = (0.01 data_range)^2 and
    c2 = (0.03 data_range)^2 (Wang 2004).

    prediction: (B, C, H, W), sides of at least 11; target: batch B or 1. With a mask, the mean over
    windows whose centre is inside; NaN if there is none. Differentiable in both. Equals
    torchmetrics' (and scikit-image's, which leaves out a border of 5 pixels).

    >>> picture = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    >>> ssim(picture, picture), ssim(picture / 2, picture)
    (tensor([1.]), tensor([0.6822]))
    """
    prediction, target = as_pair(prediction, target, "a picture")
    _check_size(prediction, 1)
    full, _ = _maps(prediction, target, data_range)
    return masked_mean(full, inside(mask, prediction))


def ms_ssim(
    prediction: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    data_range: float = 1.0,
    betas: tuple[float, ...] = BETAS,
) -> Tensor:
    """Multi-scale SSIM per picture, (B,): the product of what each scale gives to the power beta.

        MS-SSIM = SSIM_M^beta_M * product over the finer scales j of cs_j^beta_j

    cs is the second factor of `ssim`, each scale half the size of the one before (Wang 2003).
    prediction: (B, C, H, W); target: batch B or 1; mask: (B or 1, 1, H, W).

    Contrast and structure at every scale, away from the border; luminance at the coarsest, border
    mirrored; negative means count as 0: torchmetrics with `normalize="relu"`, which is what
    ControlNet++ is measured with. Sides must be at least 11 * 2^(scales - 1), which is 176 for the
    usual five; see `betas_that_fit`. A mask is shrunk with the picture; at scales where it lies in
    the border, mirrored windows count. Differentiable in both.

    >>> picture = torch.linspace(0, 1, 176).expand(1, 1, 176, 176)
    >>> ms_ssim(picture, picture), ms_ssim(picture / 2, picture)
    (tensor([1.]), tensor([0.8519]))
    """
    prediction, target = as_pair(prediction, target, "a picture")
    _check_size(prediction, len(betas))
    allowed = inside(mask, prediction)
    weights = None if allowed is None else allowed.to(prediction.dtype)
    product = torch.ones_like(prediction[:, 0, 0, 0])
    for scale, beta in enumerate(betas):
        full, structure = _maps(prediction, target, data_range)
        if scale == len(betas) - 1:
            value = masked_mean(full, weights)
        else:
            value = _away_from_border(structure, weights)
        product = product * _power(value, beta)
        prediction, target = F.avg_pool2d(prediction, 2), F.avg_pool2d(target, 2)
        weights = None if weights is None else F.avg_pool2d(weights, 2)
    return product


def betas_that_fit(height: int, width: int) -> tuple[float, ...]:
    """BETAS, or as many of them as a small picture has room for, with their sum kept at 1.

        n = the largest with min(height, width) >= 11 * 2^(n - 1); beta_j / sum of the first n

    >>> [round(beta, 4) for beta in betas_that_fit(64, 48)]
    [0.0711, 0.453, 0.476]
    """
    count = len(BETAS)
    while count > 1 and min(height, width) < _smallest(count):
        count -= 1
    if count == len(BETAS):
        return BETAS
    return tuple(beta / sum(BETAS[:count]) for beta in BETAS[:count])


def _maps(x: Tensor, y: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """SSIM at every pixel, and its contrast-structure part."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    moments = _blur(torch.cat([x, y, x * x, y * y, x * y], dim=1))
    mean_x, mean_y, xx, yy, xy = moments.chunk(5, dim=1)
    # A variance can come out below 0 by rounding only.
    var_x, var_y = (xx - mean_x**2).clamp(min=0), (yy - mean_y**2).clamp(min=0)
    structure = (2 * (xy - mean_x * mean_y) + c2) / (var_x + var_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * structure, structure


def _blur(x: Tensor) -> Tensor:
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=x.dtype, device=x.device)
    taps = torch.exp(-((offsets / SIGMA) ** 2) / 2)
    taps = taps / taps.sum()
    planes = F.pad(x, (RADIUS,) * 4, "reflect").flatten(0, 1)[:, None]
    rows = F.conv2d(planes, taps.view(1, 1, -1, 1))
    return F.conv2d(rows, taps.view(1, 1, 1, -1)).view(x.shape)


def _away_from_border(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean per picture over windows that lie in it wholly; over all, where the mask has no such."""
    middle = (..., slice(RADIUS, -RADIUS), slice(RADIUS, -RADIUS))
    if weights is None:
        return masked_mean(values[middle], None)
    found = masked_mean(values[middle], weights[middle])
    return torch.where(found.isnan(), masked_mean(values, weights), found)


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent, 0 where base is not above 0; there the gradient is 0 and not infinite."""
    positive = base > 0
    power = torch.where(positive, base, 1) ** exponent
    return torch.where(base.isnan(), base, torch.where(positive, power, 0))


def _smallest(scales: int) -> int:
    return (2 * RADIUS + 1) * 2 ** (scales - 1)


def _check_size(x: Tensor, scales: int) -> None:
    if min(x.shape[-2:]) < _smallest(scales):
        raise ValueError(
            f"The pictures are {x.shape[-1]}x{x.shape[-2]} (width x height); similarity at "
            f"{scales} scale(s) needs sides of at least {_smallest(scales)}."
        )
