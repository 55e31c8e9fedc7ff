"""Annotators as they travel through a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....annotators.kinds import KINDS, Ways
from ....annotators.resize import pixel_perfect, short_side_size, to_short_side
from .networks import allow_gradients, in_chunks, opened


@dataclass(frozen=True)
class Size:
    """The `resolution` of a node: a short side in pixels, 0 for the picture's own.

    With a target, the picture to be made, it is the short side at which the condition needs no
    scaling any more ("pixel perfect"), whatever `resolution` says.
    """

    resolution: int = 0
    target_width: int = 0
    target_height: int = 0

    def short_side(self, image: Tensor) -> int:
        """The short side for pictures (B, C, H, W), 0 to leave them alone."""
        if bool(self.target_width) != bool(self.target_height):
            raise ValueError(
                f"target_width is {self.target_width} and target_height {self.target_height}: set "
                "both to the size of the picture to be made, or both to 0 to use resolution."
            )
        if not self.target_width:
            return self.resolution
        height, width = image.shape[-2:]
        return pixel_perfect(height, width, self.target_height, self.target_width)


@dataclass(frozen=True)
class NodeAnnotator:
    """What an ANNOTATOR output carries: a node's annotator with all of the node's settings.

    condition: a key of `annotators.kinds.KINDS`. patchers: the networks it runs, as models of the
    host.
    """

    condition: str
    ways: Ways
    patchers: tuple[ModelPatcher, ...] = ()
    size: Size = Size()

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 to the condition (B, 1 or 3, H', W'), as the node gives it."""
        return torch.cat(self.run(self.ways.find, image))

    def run(self, function: Callable[[Tensor], Any], image: Tensor) -> list[Any]:
        """What `function` gives for pictures (B, 3, H, W) in 0..1, at the size of the node.

        One result for the whole batch, or one for each part of it that fits into memory.
        """
        image = to_short_side(image, self.size.short_side(image))
        return in_chunks(function, image, self.patchers)

    @property
    def title(self) -> str:
        """What to call it in messages."""
        return self.ways.title or self.condition

    def soft(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 to `Ways.soft`; differentiable, outside of inference mode.

        The models must be in memory already.
        """
        return self._through(self.ways.soft, image)

    def guidance_map(self, image: Tensor) -> Tensor:
        """As `soft`, to `Ways.guiding` where there is such a map."""
        return self._through(self.ways.guiding or self.ways.soft, image)

    def _through(self, function: Callable[[Tensor], Tensor] | None, image: Tensor) -> Tensor:
        if function is None:
            raise ValueError(
                f"The annotator for {self.title} has no differentiable map. "
                "Connect one that has: Canny, Soft Edge (HED), Line Art, M-LSD Lines, Depth "
                "(MiDaS), Normal ..."
            )
        short_side = self.size.short_side(image)
        if short_side not in (0, min(image.shape[-2:])):
            height, width = short_side_size(image.shape[-2], image.shape[-1], short_side)
            image = F.interpolate(image, size=(height, width), mode="bilinear", antialias=True)
        for patcher in self.patchers:
            allow_gradients(patcher.model)
        if self.patchers:
            image = image.to(self.patchers[0].load_device)
        return function(image)


def annotator_of(
    condition: str,
    method: str = "",
    size: Size = Size(),
    *,
    download: bool = False,
    folder: str = "",
    **settings: Any,
) -> NodeAnnotator:
    """The annotator of a row of `annotators.kinds.KINDS`, its networks as models of the host.

    method: its name or label, the default one if empty. folder: name of one in models/annotators
    to use instead of the published file. settings: as the method has them. Raises
    FileNotFoundError, which says how to get a file, unless `download` fetches it.
    """
    found = KINDS[condition].method(method)
    patchers = tuple(opened(network, download, folder) for network in found.networks)
    ways = found.ways(*(patcher.model for patcher in patchers), **settings)
    return NodeAnnotator(condition, ways, patchers, size)
