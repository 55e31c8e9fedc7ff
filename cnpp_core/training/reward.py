"""Rewards: the condition is found again in what the denoiser predicts, and has to be the wanted.

Gradients flow through annotator, decoder and the frozen UNet to the ControlNet, which alone learns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..condition import Condition
from ..consistency.agreement.measure import Measure
from ..consistency.losses import Loss
from ..consistency.steering.reward import Reward
from ..diffusion.schedule import LATENT_SCALE
from .denoiser import Prediction


@dataclass(frozen=True, eq=False)
class RewardModel:
    """An annotator at the end of a decoder, and the loss of its kind of condition.

    decode: latents as the autoencoder takes them (B, C, H, W) -> pictures (B, 3, 8H, 8W) in -1..1.
    annotate: as `Reward`'s, differentiable; on its own pictures' range of 0..1, whatever it
    normalises them to. latent_scale: the model's latents are the autoencoder's times this.
    """

    decode: Callable[[Tensor], Tensor]
    annotate: Callable[[Tensor], Tensor]
    loss: Loss
    measure: Measure
    latent_scale: float = LATENT_SCALE

    @classmethod
    def of(
        cls,
        kind: Condition,
        decode: Callable[[Tensor], Tensor],
        annotate: Callable[[Tensor], Tensor],
        measure: Measure | None = None,
    ) -> RewardModel:
        """With the loss that ControlNet++ trains this kind with.

        measure: of a kind whose colours stand for classes, the one that knows them.
        """
        return cls(decode, annotate, kind.value.reward, measure or kind.measure())

    def losses(self, prediction: Prediction, rows: Tensor) -> Tensor:
        """Of some rows, (B,) bool, per picture: (n,). Only those are decoded.

        A picture whose condition says nothing counts 0. Raises ValueError if the gradient does not
        come through the annotator.
        """
        batch = prediction.state.batch
        wanted = batch.wanted
        if wanted is None:
            if batch.hint is None:
                raise ValueError("A reward needs hints or wanted maps to compare with, found none.")
            wanted, _ = self.measure.read(batch.hint[rows])
        else:
            wanted = wanted[rows]
        latents = prediction.x0[rows] / self.latent_scale
        pictures = (self.decode(latents) / 2 + 0.5).clamp(0, 1)
        losses = Reward(self.annotate, self.loss, self.measure, wanted).losses(pictures)
        if pictures.requires_grad and not losses.requires_grad:
            raise ValueError(
                "The annotator of this reward gives no gradient: somewhere it counts in whole "
                "numbers, as by a cast to 8 bits, or without autograd. Give it the soft map."
            )
        stated = self.measure.stated(wanted)
        if stated is None:
            return losses
        return torch.where(stated.flatten(1).any(1).to(losses.device), losses, 0)


@dataclass(frozen=True, eq=False)
class EfficientReward:
    """The reward of ControlNet++, for the steps whose one-step x0 is a picture already.

        sum(m r) / (sum(m) + 1e-10), m = (t <= most_t)

    arXiv 2404.07987, section 3.3, and its published code. Its lambda is the weight of the term in
    the recipe: 0.5 for segmentations and line art, 1 for canny, depth and HED. Of pictures with
    more noise nothing is decoded.
    """

    model: RewardModel
    most_t: int = 200

    def __call__(self, prediction: Prediction) -> Tensor:
        rows = prediction.state.t <= self.most_t
        if not rows.any():
            return prediction.predicted.flatten()[:0].float().sum()
        return self.model.losses(prediction, rows).sum() / (rows.sum() + 1e-10)


@dataclass(frozen=True, eq=False)
class TrajectoryReward:
    """A reward for the states that a sampler comes through (`trajectories`), at all its steps.

        mean(r / max(sigma, least_sigma))

    Noise on a true x0 still shows the true layout, and with little noise leaves little to learn; a
    sampler's own states have its own mistakes in them. The gradient of the reward in the prediction
    grows with sigma, hence the weight. It is not the reward of the paper.
    """

    model: RewardModel
    least_sigma: float = 0.3

    def __call__(self, prediction: Prediction) -> Tensor:
        t = prediction.state.t
        losses = self.model.losses(prediction, torch.ones_like(t, dtype=torch.bool))
        sigmas = prediction.denoiser.schedule.sigmas.to(losses)[t]
        return (losses / sigmas.clamp(min=self.least_sigma)).mean()
