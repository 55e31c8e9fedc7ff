"""A hint of any size at the size that the network reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .masks import Area

CROP, PAD, STRETCH = "crop", "pad", "stretch"
FITS = (CROP, PAD, STRETCH)
NEAREST, SMOOTH, LINES = "nearest", "smooth", "keep lines"
RESAMPLINGS = (NEAREST, SMOOTH, LINES)


@dataclass(frozen=True)
class HintFit:
    """How a hint of another size or aspect is brought to the picture.

    fit: CROP cuts off what overlaps, evenly on both sides; PAD shows the whole hint and leaves the
    rest black; STRETCH changes the aspect. resampling: NEAREST copies pixels (thin lines get holes
    when the hint shrinks), SMOOTH averages, LINES keeps the brightest pixel, so that bright lines
    on black survive. by_area: an area of the picture sees its own part of the hint. The defaults
    are what ComfyUI does by itself.
    """

    fit: str = CROP
    resampling: str = NEAREST
    by_area: bool = False

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ValueError(f"No fit '{self.fit}'; there are {', '.join(FITS)}.")
        if self.resampling not in RESAMPLINGS:
            raise ValueError(
                f"No resampling '{self.resampling}'; there are {', '.join(RESAMPLINGS)}."
            )

    @property
    def is_default(self) -> bool:
        return self == HintFit()

    def place(
        self,
        hint: Tensor,
        size: tuple[int, int],
        full: tuple[int, int] | None = None,
        area: Area | None = None,
    ) -> Tensor:
        """The hint (B, C, H, W) at ``size`` (height, width) in hint pixels.

        full, area: latent size of the whole picture, and the part of it whose size ``size`` is.
        """
        if self.by_area and full is not None and area is not None:
            height, width, y, x = area
            scale_y, scale_x = size[0] // height, size[1] // width
            whole = self._fitted(hint, (full[0] * scale_y, full[1] * scale_x))
            top, left = y * scale_y, x * scale_x
            return whole[..., top : top + size[0], left : left + size[1]]
        return self._fitted(hint, size)

    def _fitted(self, hint: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = hint.shape[-2:]
        # Width over height of the hint and of the picture, as products so that equal is equal.
        wider = width * size[0] - height * size[1]
        if self.fit == STRETCH:
            return _resize(hint, size, self.resampling)
        if self.fit == CROP:
            aspect = (width / height) / (size[1] / size[0])
            left = round((width - width / aspect) / 2) if wider > 0 else 0
            top = round((height - height * aspect) / 2) if wider < 0 else 0
            left, top = min(left, (width - 1) // 2), min(top, (height - 1) // 2)
            cut = hint[..., top : height - top, left : width - left]
            return _resize(cut, size, self.resampling)
        inner_h = size[0] if wider < 0 else max(1, round(height * size[1] / width))
        inner_w = size[1] if wider > 0 else max(1, round(width * size[0] / height))
        inner = _resize(hint, (inner_h, inner_w), self.resampling)
        top, left = (size[0] - inner_h) // 2, (size[1] - inner_w) // 2
        rest = (left, size[1] - inner_w - left, top, size[0] - inner_h - top)
        return F.pad(inner, rest)


def _resize(hint: Tensor, size: tuple[int, int], resampling: str) -> Tensor:
    if tuple(hint.shape[-2:]) == size:
        return hint
    if resampling == NEAREST:
        return F.interpolate(hint, size=size, mode="nearest-exact")
    # Shrink first, along the axes that shrink; the others grow afterwards.
    smaller = (min(hint.shape[-2], size[0]), min(hint.shape[-1], size[1]))
    if resampling == LINES:
        hint = F.adaptive_max_pool2d(hint, smaller)
        return F.interpolate(hint, size=size, mode="nearest-exact")
    hint = F.interpolate(hint, size=smaller, mode="area")
    if smaller == size:
        return hint
    larger = F.interpolate(hint, size=size, mode="bicubic", align_corners=False)
    # Cubics overshoot. Hints for inpainting hold -1, so each channel keeps a range of its own.
    low, high = hint.amin((-2, -1), keepdim=True), hint.amax((-2, -1), keepdim=True)
    return larger.clamp(low, high)
