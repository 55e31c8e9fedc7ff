"""UNet and ControlNet as one denoiser, and what it predicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from ..control.partial import HintCache, partial_network
from ..diffusion.schedule import NoiseSchedule
from ..network.controlnet import ControlNet
from ..network.unet import Features, UNet
from .batch import State


class PredictionType(Enum):
    """What a UNet was trained to predict: the noise, or the velocity of arXiv 2202.00512."""

    EPS = "eps"
    V = "v"


@dataclass(eq=False)
class Denoiser:
    """A UNet with or without a ControlNet, called for one-step predictions.

    The UNet may be of half precision, where the ControlNet learns in float32.

    blocks: of the ControlNet those whose residuals are computed and added, None for all; the mode
    of a training sets it (`modes`).
    """

    unet: UNet
    schedule: NoiseSchedule
    controlnet: ControlNet | None = None
    prediction_type: PredictionType = PredictionType.EPS
    blocks: frozenset[int] | None = None

    def predict(self, state: State, cfg: float = 1.0) -> Prediction:
        """What the networks say of a state; other than at cfg 1, the empty prompt takes part.

        Classifier-free guidance of arXiv 2207.12598, equation 6. Raises ValueError for a batch that
        lacks what this needs.
        """
        inputs = _Inputs.of(state, guided=cfg != 1.0, channels=self.unet.config.in_channels)
        features = self.unet.encode(*inputs.of_dtype(self.unet.dtype))
        predicted = self._decode(features, inputs, cfg, state.batch.hint, self.controlnet)
        return Prediction(self, state, predicted, cfg, inputs, features)

    def _decode(
        self,
        features: Features,
        inputs: _Inputs,
        cfg: float,
        hint: Tensor | None,
        controlnet: ControlNet | None,
    ) -> Tensor:
        residuals = None
        if controlnet is not None:
            residuals = self._residuals(inputs, cfg, hint, controlnet, features.h.dtype)
        out = self.unet.decode(features, inputs.context.to(features.dtype), residuals)
        if cfg == 1.0:
            return out
        cond, empty = out.chunk(2)
        return empty + cfg * (cond - empty)

    def _residuals(
        self,
        inputs: _Inputs,
        cfg: float,
        hint: Tensor | None,
        controlnet: ControlNet,
        dtype: torch.dtype,
    ) -> list[Tensor | None]:
        if hint is None:
            raise ValueError("A ControlNet is trained with a hint for every picture, found none.")
        if cfg != 1.0:
            hint = torch.cat([hint, hint])
        network = controlnet
        if self.blocks is not None:
            network = partial_network(controlnet, self.blocks, HintCache())
        x, t, context, y = inputs.of_dtype(controlnet.dtype)
        residuals = network(x, hint.to(x.dtype), t, context, y)
        # A network that can't be divided, a compiled one, gives all of them.
        wanted = range(len(residuals)) if self.blocks is None else self.blocks
        return [r.to(dtype) if i in wanted else None for i, r in enumerate(residuals)]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a denoiser says of a state: ``predicted`` (B, C, H, W), noise or velocity."""

    denoiser: Denoiser
    state: State
    predicted: Tensor
    _cfg: float
    _inputs: _Inputs
    _features: Features

    def again(self, hint: Tensor, controlnet: ControlNet | None = None) -> Prediction:
        """Of the same state with another hint (B, hint_channels, 8H, 8W), or another ControlNet.

        The encoder of the UNet, which sees neither, is not run again.
        """
        other = self.denoiser.controlnet if controlnet is None else controlnet
        predicted = self.denoiser._decode(self._features, self._inputs, self._cfg, hint, other)
        return replace(self, predicted=predicted)

    @property
    def x0(self) -> Tensor:
        """The one-step estimate of x0 (B, C, H, W), float32 (arXiv 2404.07987, equation 8)."""
        x_t, t, out = self.state.x_t.float(), self.state.t, self.predicted.float()
        schedule = self.denoiser.schedule
        if self.denoiser.prediction_type is PredictionType.EPS:
            return schedule.predict_x0(x_t, t, out)
        # (x_t, v) is (x0, eps) turned by an angle, so that turning back is the same mixture.
        return schedule.q_sample(x_t, t, -out)

    @property
    def noise(self) -> Tensor:
        """The predicted noise (B, C, H, W), float32."""
        if self.denoiser.prediction_type is PredictionType.EPS:
            return self.predicted.float()
        x_t, t = self.state.x_t.float(), self.state.t
        return self.denoiser.schedule.q_sample(self.predicted.float(), t, x_t)

    @property
    def target(self) -> Tensor:
        """What ought to have been predicted; ValueError where the noise is not known."""
        x0, t, eps = self.state.batch.x0, self.state.t, self.state.eps
        if eps is None:
            raise ValueError(
                "The error of a prediction was asked for on states that a sampler made, whose "
                "noise nobody knows; use `noised` states for this loss."
            )
        if self.denoiser.prediction_type is PredictionType.EPS:
            return eps
        return self.denoiser.schedule.q_sample(eps, t, -x0)

    @property
    def errors(self) -> Tensor:
        """Mean squared error of each prediction, (B,)."""
        out, target = self.predicted.float(), self.target.float()
        return F.mse_loss(out, target, reduction="none").flatten(1).mean(1)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What both networks are called with, rows of the empty prompt behind those of the prompts."""

    x: Tensor
    t: Tensor
    context: Tensor
    y: Tensor | None

    @classmethod
    def of(cls, state: State, guided: bool, channels: int) -> _Inputs:
        batch, x, t = state.batch, state.x_t, state.t
        if x.shape[1] != channels:
            raise ValueError(
                f"The latents have {x.shape[1]} channels, the UNet takes {channels}; train with "
                "the plain model that an inpaint model was made from."
            )
        if not guided:
            return cls(x, t, batch.context, batch.y)
        if batch.empty is None or (batch.y is not None and batch.empty_y is None):
            raise ValueError(
                "Other than at cfg 1 the empty prompt takes part, and the batch has none; give it "
                "`empty` (and `empty_y` for SDXL)."
            )
        y = batch.y
        if y is not None and batch.empty_y is not None:
            y = torch.cat([y, batch.empty_y.expand_as(y)])
        context = torch.cat([batch.context, batch.empty.expand_as(batch.context)])
        return cls(torch.cat([x, x]), torch.cat([t, t]), context, y)

    def of_dtype(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        y = None if self.y is None else self.y.to(dtype)
        return self.x.to(dtype), self.t, self.context.to(dtype), y
