"""The autoencoder of the shapes world: pictures to latents an eighth of their size, and back.

Nearly all of its work is done at that small size, so that a decode costs little even on a CPU and
even when a gradient runs back through it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cnpp_core.diffusion.schedule import LATENT_SCALE

WIDTH = 128
FINE_WIDTH = 48
DOWNSCALE = 8


class ResidualBlock(nn.Module):
    """x (B, width, H, W) + two 3x3 convolutions of SiLU; the identity before training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Autoencoder(nn.Module):
    """Pictures (B, 3, 8H, 8W) in -1..1 <-> latents (B, 4, H, W) of standard deviation 1 / 0.18215.

    That scale is Stable Diffusion's, so that the latents of the diffusion model (ours times
    LATENT_SCALE) have unit variance; ``normalise`` sets it after training, channel by channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(DOWNSCALE),
            nn.Conv2d(3 * DOWNSCALE**2, WIDTH, 3, padding=1),
            ResidualBlock(WIDTH),
            ResidualBlock(WIDTH),
            nn.SiLU(),
            nn.Conv2d(WIDTH, 4, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(4, WIDTH, 3, padding=1),
            ResidualBlock(WIDTH),
            ResidualBlock(WIDTH),
            ResidualBlock(WIDTH),
            nn.SiLU(),
            nn.Conv2d(WIDTH, 4 * FINE_WIDTH, 1),
            nn.PixelShuffle(2),
            ResidualBlock(FINE_WIDTH),
            nn.SiLU(),
            nn.Conv2d(FINE_WIDTH, 3 * 4**2, 3, padding=1),
            nn.PixelShuffle(4),
        )
        self.register_buffer("mean", torch.zeros(1, 4, 1, 1))
        self.register_buffer("std", torch.ones(1, 4, 1, 1))

    def encode(self, image: Tensor) -> Tensor:
        """Pictures (B, 3, 8H, 8W) in -1..1 -> latents (B, 4, H, W)."""
        return (self.encoder(image) - self.mean) / (self.std * LATENT_SCALE)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (B, 4, H, W) -> pictures (B, 3, 8H, 8W), about -1..1, not clipped."""
        return self.decoder(latent * (self.std * LATENT_SCALE) + self.mean)

    @torch.no_grad()
    def normalise(self, images: Tensor) -> None:
        """Give the latents of pictures (B, 3, 8H, 8W) in -1..1 mean 0 and deviation 1 / 0.18215."""
        std, mean = torch.std_mean(self.encoder(images), dim=(0, 2, 3), keepdim=True)
        self.mean.copy_(mean)
        self.std.copy_(std)


def reconstruction_loss(decoded: Tensor, image: Tensor) -> Tensor:
    """L1 and L2 of the pixels and L1 of their differences, which keeps outlines in their place.

    Both (B, 3, H, W) in -1..1.
    """
    error = decoded.float() - image
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + error.square().mean() + edges
