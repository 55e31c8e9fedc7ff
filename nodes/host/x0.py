"""From the x0 of a sampling step to its picture, with or without a way back for gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .annotators import allow_gradients


class X0Decoder:
    """Decodes the x0 of a sampling with a VAE of the host; a tiny one (TAESD) will do.

    The VAE must be in memory together with the models that sample: see `load`.
    """

    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def pictures(self, x0: Tensor, model: Any) -> Tensor:
        """x0 (B, C, H, W) in the units of `model` -> (B, 3, h, w) in 0..1, float32; no graph."""
        with torch.no_grad():
            return self._decode(x0, model)

    def differentiable(self, x0: Tensor, model: Any) -> Tensor:
        """The same inside autograd; call it with inference mode off and gradients on."""
        allow_gradients(self.vae.first_stage_model)
        return self._decode(x0, model)

    def _decode(self, x0: Tensor, model: Any) -> Tensor:
        latents = model.process_latent_out(x0).to(self.vae.device, self.vae.vae_dtype)
        decoded = self.vae.first_stage_model.decode(latents).float()
        # Out of place: the host's own mapping writes into the decoder's result. A copy of it tells
        # which mapping this VAE has, without its clamp, which would stop gradients.
        return decoded / 2 + 0.5
