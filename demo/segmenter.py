"""The segmenter of the shapes world: what is shape and what is ground.

It is to the demo model what the networks of ``annotators`` are to Stable Diffusion: it finds the
condition in a picture, and is differentiable, so that guidance can follow it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..annotators.annotator import pad_to_multiple

CLASSES = ("ground", "shape")
PALETTE = ((120, 120, 120), (230, 60, 150))  # RGB, 0..255; black would mean no class
WIDTHS = (32, 64, 96)
FINEST = 4  # pixels of the picture, by side, that are one place of the network


class Segmenter(nn.Module):
    """Reads pictures (B, 3, H, W) in 0..1 of any size.

    ``forward`` mixes the colours of the classes by their probability, ``annotate`` gives the colour
    of the likelier one, ``logits`` is for losses. All but ``annotate`` are differentiable.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            _convolutions(inputs, outputs)
            for inputs, outputs in zip((3 * FINEST**2, *WIDTHS[:-1]), WIDTHS, strict=True)
        )
        self.up = nn.ModuleList(
            _convolutions(deep + fine, fine)
            for fine, deep in zip(WIDTHS[-2::-1], WIDTHS[:0:-1], strict=True)
        )
        self.out = nn.Conv2d(WIDTHS[0], len(CLASSES) * FINEST**2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return _colours(self.logits(image).softmax(1))

    @torch.no_grad()
    def annotate(self, image: Tensor) -> Tensor:
        """The condition image (B, 3, H, W) in 0..1, in the colours of PALETTE and no others."""
        return colours_of(self.logits(image).argmax(1)).to(image.dtype)

    def logits(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, 2, H, W), float32."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image * 2 - 1, FINEST * 2 ** (len(WIDTHS) - 1))
        h = F.pixel_unshuffle(padded.to(self.out.weight.dtype), FINEST)
        skips = []
        for i, block in enumerate(self.down):
            h = block(F.max_pool2d(h, 2) if i else h)
            skips.append(h)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            h = block(torch.cat([F.interpolate(h, scale_factor=2.0), skip], 1))
        return F.pixel_shuffle(self.out(h), FINEST).float()[..., :height, :width]


def colours_of(classes: Tensor) -> Tensor:
    """Classes (B, H, W), a mask will do -> condition image (B, 3, H, W) in 0..1."""
    return _colours(F.one_hot(classes.long(), len(CLASSES)).movedim(-1, 1).float())


def _colours(shares: Tensor) -> Tensor:
    palette = torch.tensor(PALETTE, device=shares.device) / 255
    return torch.einsum("bkhw,kc->bchw", shares, palette)


def _convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.SiLU(),
    )
