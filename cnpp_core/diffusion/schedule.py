"""The noise schedule of Stable Diffusion, and what follows from it in one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LATENT_SCALE = 0.18215  # SD1.5, SD2.x: the model's latents are the autoencoder's times this


@dataclass(frozen=True)
class NoiseSchedule:
    """alphas_cumprod (T,), float32, falling: how much of x0 is left at each timestep 0..T-1."""

    alphas_cumprod: Tensor

    @classmethod
    def scaled_linear(
        cls, timesteps: int = 1000, start: float = 0.00085, end: float = 0.012
    ) -> NoiseSchedule:
        """Betas linear in their square root, as every Stable Diffusion before 3 was trained."""
        betas = torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1.0 - betas, dim=0).float())

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def sigmas(self) -> Tensor:
        """Noise against signal, sqrt((1 - alpha_bar) / alpha_bar), per timestep, (T,)."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def q_sample(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t of x0 and noise eps (B, C, H, W) at steps t (B,); arXiv 2006.11239, equation 4."""
        alpha_bar = self._at(t, x0)
        return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps

    def predict_x0(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The one-step estimate of x0 from x_t and predicted noise (B, C, H, W) at t (B,).

        arXiv 2404.07987, equation 8.
        """
        alpha_bar = self._at(t, x_t)
        return (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()

    def eps_of(self, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """The noise that makes x_t of x0 (B, C, H, W) at t (B,): what `predict_x0` inverts."""
        alpha_bar = self._at(t, x_t)
        return (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()

    def _at(self, t: Tensor, like: Tensor) -> Tensor:
        values = self.alphas_cumprod.to(device=like.device)[t.to(like.device)]
        return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
