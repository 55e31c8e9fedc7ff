"""The one judge of the shapes world: does a picture follow its condition, and is it still clean?

It knows the scenes, and nothing of what drew a picture or steered it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..annotators.canny import canny_cnpp
from ..cnpp_core.consistency.check import check_consistency
from .autoencoder import Autoencoder
from .conditions import EDGES, condition_of
from .world import COLOURS, Batch, foreground_mask, mask_iou


@dataclass(frozen=True, eq=False)
class Judgement:
    """How well pictures follow their conditions; f1, iou and colour_error (B,), float32.

    f1: of a picture's Canny edges with those of the condition, as ``EDGES`` compares them; 0..1.
    iou: of the mask that the picture's colours give with the true one; 0..1, NaN without a truth.
    colour_error: see `colour_error`; it rises where adherence is bought with ruined pictures.
    difference: edges kept, lost and invented, (B, 3, S, S) in 0..1, as ``EDGES.legend`` says.
    """

    f1: Tensor
    iou: Tensor
    colour_error: Tensor
    difference: Tensor


class Judge:
    """Judges pictures drawn for the scenes of a batch by what is true of these scenes.

    An empty mask says that nobody knows the true one, as for a picture that somebody brought.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.edges = condition_of("canny", batch.images, batch.masks)  # (B, 3, S, S)

    def judge(self, images: Tensor) -> Judgement:
        """What pictures (B, 3, S, S) in 0..1 are worth, one for each scene of the batch."""
        check = check_consistency(images, self.edges, canny_cnpp, EDGES)
        f1 = torch.tensor(check.per_image)
        return Judgement(f1, self._iou(images), colour_error(images), check.difference)

    @torch.no_grad()
    def ceiling(self, autoencoder: Autoencoder) -> Judgement:
        """The scenes themselves through the autoencoder: more can't be reached."""
        decoded = autoencoder.decode(autoencoder.encode(self.batch.images * 2 - 1))
        return self.judge((decoded / 2 + 0.5).clamp(0, 1))

    def _iou(self, images: Tensor) -> Tensor:
        known = self.batch.masks.flatten(1).any(1).nonzero().flatten()
        captions = [self.batch.captions[i] for i in known.tolist()]
        iou = torch.full((len(images),), math.nan)
        iou[known] = mask_iou(foreground_mask(images[known], captions), self.batch.masks[known])
        return iou


def colour_error(images: Tensor) -> Tensor:
    """Mean distance of the pixels from the nearest colour of the world.

    (B, 3, H, W) in 0..1 -> (B,), Euclidean in RGB, in levels of 255. Outlines are mixtures, so
    that a clean picture is not at 0.
    """
    nearest = torch.full_like(images[:, 0], math.inf)
    for colour in COLOURS.values():
        away = images * 255 - images.new_tensor(colour).view(1, 3, 1, 1)
        nearest = torch.minimum(nearest, away.square().sum(1))
    return nearest.sqrt().mean((1, 2))
