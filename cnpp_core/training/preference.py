"""Condition Preference Optimization: follow the winning hint rather than the losing one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..network.controlnet import ControlNet
from .denoiser import Prediction


@dataclass(frozen=True, eq=False)
class Preference:
    """How far a picture's latent is not denoised better with its own hint than with a losing one.

    With d the error with the winning hint minus that with the losing one, d_ref the same of a
    frozen reference, usually what the training began from, and m the margin

        (1 - s) sigmoid(beta/2 (d - d_ref)) max(m + d, 0)
            + s sigmoid(beta/2 (d_ref - d)) max(m - d, 0)

    mean over rows with t > 0; the sigmoids are weights, without gradient. arXiv 2511.04753 and its
    published code (margin 5e-3 for canny, 1e-2 for HED), which takes 0.05 of the diffusion loss
    beside it, over noise of its own: here both share the state and the winning forward. All four
    predictions share the encoder of the UNet, and neither decoder nor annotator is needed.
    """

    reference: ControlNet
    margin: float = 1e-2
    beta: float = 5000.0
    smoothing: float = 0.1

    def __call__(self, prediction: Prediction) -> Tensor:
        winning, losing = self._hints(prediction)
        gap = prediction.errors - prediction.again(losing).errors
        with torch.no_grad():
            won, lost = (prediction.again(hint, self.reference) for hint in (winning, losing))
            lead = 0.5 * self.beta * (gap - (won.errors - lost.errors))
        towards = lead.sigmoid() * (self.margin + gap).clamp(min=0)
        away = (-lead).sigmoid() * (self.margin - gap).clamp(min=0)
        losses = (1 - self.smoothing) * towards + self.smoothing * away
        counted = (prediction.state.t > 0).to(losses)
        return (losses * counted).sum() / counted.sum().clamp(min=1)

    def _hints(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        batch = prediction.state.batch
        if batch.hint is None or batch.losing_hint is None:
            raise ValueError(
                "A preference needs a winning and a losing hint for every picture (`hint` and "
                "`losing_hint` of the batch), found only one of them or none."
            )
        if any(parameter.requires_grad for parameter in prediction.denoiser.unet.parameters()):
            raise ValueError(
                "A preference compares with a reference on the same UNet, which trains here; "
                "choose the mode SD locked."
            )
        return batch.hint, batch.losing_hint
