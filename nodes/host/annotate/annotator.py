"""Annotators as they travel through a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....annotators.ade20k import CLASSES, PALETTE
from ....annotators.resize import pixel_perfect, short_side_size, to_short_side
from ....cnpp_core.consistency.agreement.labels import Colour
from .networks import allow_gradients, in_chunks, load


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

    condition: a name of `cnpp_core.condition.Condition` in lower case.
    find: pictures (B, 3, H, W) in 0..1 to the condition (B, 1 or 3, H, W) in 0..1.
    differentiable: the same to the map whose gradient reaches the picture; None if there is none.
    patchers: the models it runs, in memory.
    rewarded: like `differentiable`, to what a loss is taken on where that is another map: logits.
    guiding: to what guidance follows where that is again another; see `reward.guidance_loss`.
    palette, names, palette_name: for seg, colour (0..255) and word of each class, and whose.
    title: its name for messages, where the condition's is not enough.
    """

    condition: str
    find: Callable[[Tensor], Tensor]
    differentiable: Callable[[Tensor], Tensor] | None = None
    patchers: tuple[ModelPatcher, ...] = ()
    size: Size = Size()
    rewarded: Callable[[Tensor], Tensor] | None = None
    palette: Sequence[Colour] = PALETTE[1:]
    names: Sequence[str] = CLASSES
    palette_name: str = "ADE20K"
    guiding: Callable[[Tensor], Tensor] | None = None
    title: str = ""

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 to the condition (B, 1 or 3, H', W'), as the node gives it."""
        return torch.cat(self.run(self.find, image))

    def run(self, function: Callable[[Tensor], Any], image: Tensor) -> list[Any]:
        """What `function` gives for the batch, or for each part of it, at the size of the node."""
        image = to_short_side(image, self.size.short_side(image))
        return in_chunks(function, image, self.patchers)

    def soft(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 to the map before any rounding, differentiable in the picture.

        For gradients call it outside of inference mode, on a batch that fits into memory.
        """
        return self._through(self.differentiable, image)

    def reward_map(self, image: Tensor) -> Tensor:
        """Like `soft`, to the map that `metrics.reward_loss` compares: for seg the logits."""
        return self._through(self.rewarded or self.differentiable, image)

    @property
    def can_guide(self) -> bool:
        """Whether it has a differentiable map."""
        return self.differentiable is not None

    def guidance_map(self, image: Tensor) -> Tensor:
        """Like `reward_map`, to what guidance follows. The models must be in memory already."""
        function = self.guiding or self.rewarded or self.differentiable
        return self._through(function, image, loaded=True)

    def _through(
        self,
        function: Callable[[Tensor], Tensor] | None,
        image: Tensor,
        loaded: bool = False,
    ) -> Tensor:
        if function is None:
            raise ValueError(
                f"The annotator for {self.title or self.condition} has no differentiable map. "
                "Connect one that has: Canny, Soft Edge (HED), Line Art, M-LSD Lines, Depth "
                "(MiDaS), Normal ..."
            )
        short_side = self.size.short_side(image)
        if short_side not in (0, min(image.shape[-2:])):
            height, width = short_side_size(image.shape[-2], image.shape[-1], short_side)
            image = F.interpolate(image, size=(height, width), mode="bilinear", antialias=True)
        if not loaded:
            load(self.patchers, image)
        for patcher in self.patchers:
            allow_gradients(patcher.model)
        if self.patchers:
            image = image.to(self.patchers[0].load_device)
        return function(image)
