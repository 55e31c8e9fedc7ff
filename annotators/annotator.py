"""What all annotators share: what they take, what they give, how they treat sizes and 8 bits.

An annotator is a callable on RGB pictures (B, 3, H, W) in 0..1 that returns the condition image,
(B, 1 or 3, H, W) in 0..1. A learned one is a network with two ways through it: `forward` gives a
soft map that is differentiable in the picture, `annotate` what the published preprocessor gives,
its 8-bit steps included.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .weights import load

log = logging.getLogger(__name__)

# Pictures (B, 3, H, W) in 0..1 to maps (B, C, h, w), most of them condition images.
Annotator = Callable[[Tensor], Tensor]
Learned = TypeVar("Learned", bound="LearnedAnnotator")


class LearnedAnnotator(nn.Module, ABC):
    """A network from pictures (B, 3, H, W) in 0..1 to soft maps and to condition images.

    `forward(image)` returns (B, 1 or 3, H, W) in 0..1 with finite gradients to the image;
    `annotate(image)`, of some with options, the condition image. Both take any size, keep it, and
    run in the dtype of the weights and on the device of the image: `forward` the whole batch at
    once, `annotate` as `forwards` has it.
    """

    title: ClassVar[str]  # as the node is called, for messages
    multiple: ClassVar[int] = 1  # sides are edge-padded to this inside, and cropped again

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @abstractmethod
    def annotate(self, image: Tensor) -> Tensor:
        """The condition image (B, 1 or 3, H, W) in 0..1, exactly as the published preprocessor's.

        image: (B, 3, H, W) in 0..1. ValueError for other shapes, types and scales.
        """

    @classmethod
    def open(
        cls: type[Learned],
        path: Path,
        key: str,
        *,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Learned:
        """The network with the weights of `weights.WEIGHTS[key]`, read from a file or folder.

        operations: the namespace that its layers come from. Raises ValueError
        for a file that is damaged or another one.
        """
        network = cls(operations=operations, dtype=dtype, device=device)
        load(network, key, path)
        return network


def forwards(image: Tensor) -> tuple[Tensor, ...]:
    """The batch (B, C, H, W) in the parts that `annotate` runs one after the other.

    All of it is one part, but on a CPU each picture is. There a batch gains nothing, and its maps
    are so large that the allocator fetches every one anew from the system, which clears it page by
    page. Eight pictures of 256 pixels take M-LSD two fifths more time so, HED a tenth.
    """
    return image.split(1 if image.device.type == "cpu" else len(image))


def pad_to_multiple(image: Tensor, multiple: int, at_least: int = 1) -> Tensor:
    """The picture with its last row and column repeated until both sides are multiples.

    image: (B, C, H, W). at_least: smallest side that the network can work with. The result has the
    picture in its upper left corner, so `[..., :H, :W]` crops a map of it to the picture. It is
    contiguous, as the references' inputs are: convolutions round by the order in memory.
    """
    down, right = (
        multiple * math.ceil(max(side, at_least) / multiple) - side for side in image.shape[-2:]
    )
    padded = F.pad(image, (0, right, 0, down), "replicate") if down or right else image
    return padded.contiguous()


def to_8_bit(image: Tensor) -> Tensor:
    """(...) in 0..1 -> uint8 0..255, rounded (not truncated) and clipped; carries no gradient."""
    return _as_uint8((image.detach().float() * 255).round_().clamp_(0, 255))


def to_bytes(values: Tensor) -> Tensor:
    """(...) in 0..255 -> uint8, truncated and clipped."""
    return _as_uint8(values.clamp(0, 255))


def from_8_bit(pixels: Tensor, like: Tensor) -> Tensor:
    """uint8 (...) 0..255 -> 0..1 in the dtype and on the device of `like`."""
    return (pixels.to(like.device).float() / 255).to(like.dtype)


def note_black(maps: Tensor, title: str, what: str) -> None:
    """One log line if some of the maps (B, C, H, W) are black because `what` was not found."""
    black = [index for index, one in enumerate(maps) if not one.any()]
    if black and len(maps) == 1:
        log.info("%s: no %s in the picture, the map is black", title, what)
    elif black:
        log.info(
            "%s: no %s in %d of %d pictures (%s), the map is black there",
            title,
            what,
            len(black),
            len(maps),
            ", ".join(f"#{index}" for index in black),
        )


def check_image(image: Tensor, title: str) -> None:
    """ValueError unless it is a float tensor (B, 3, H, W) with no empty side."""
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(
            f"{title} got a tensor of shape {tuple(image.shape)}; it needs RGB pictures "
            f"(B, 3, H, W). {_advice(image)}"
        )
    if 0 in image.shape:
        raise ValueError(
            f"{title} got an empty picture batch, shape {tuple(image.shape)} (B, 3, H, W). Check "
            "the crop or resize node that feeds its image input."
        )
    if not image.is_floating_point():
        raise ValueError(
            f"{title} got {image.dtype} values; it needs floats in 0..1. Divide 8-bit values by "
            "255."
        )


def _advice(image: Tensor) -> str:
    channels = image.shape[1] if image.ndim == 4 else 1
    if channels == 4:
        return "Remove the alpha channel first (Split Image with Alpha)."
    if channels == 1:
        return "Convert a mask or a grayscale picture to an IMAGE first."
    return "Connect the output of a node that gives pictures."


def check_values(image: Tensor, title: str) -> None:
    """ValueError for pictures (B, ...) with NaN, infinite values, or another scale than 0..1."""
    image = image.detach()
    low, high = image.amin().item(), image.amax().item()  # on a CPU far faster than aminmax
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"{title} got a picture with NaN or infinite values. The node that made it (often a "
            "VAE decode in half precision) failed: run that one in fp32."
        )
    # A decoder may overshoot a little; far outside it is another scale.
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"{title} got values from {low:.3g} to {high:.3g}; it needs a picture in 0..1. Scale "
            "it first: divide 0..255 by 255, map -1..1 by x / 2 + 0.5."
        )


def _as_uint8(values: Tensor) -> Tensor:
    # By way of 16 bits: straight from floats it takes five times as long on a CPU.
    return values.to(torch.int16).to(torch.uint8)
