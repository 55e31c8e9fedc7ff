"""Tiles: what is left of a picture, against OpenCV's own averages and Gaussians."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from controlnet_pp.annotators.tile import soft_blur, soft_tile, tile_blur, tile_resample
from skimage import data


def photo() -> torch.Tensor:
    return torch.from_numpy(data.astronaut()[:256, :320].copy()).movedim(-1, 0)[None].float() / 255


def test_resampling_is_the_mean_of_cells_enlarged():
    picture = photo()
    pixels = picture[0].movedim(0, -1).numpy()
    small = cv2.resize(pixels, (40, 32), interpolation=cv2.INTER_AREA)
    expected = cv2.resize(small, (320, 256), interpolation=cv2.INTER_LINEAR)
    found = tile_resample(picture, 8)[0].movedim(0, -1).numpy()
    np.testing.assert_allclose(found, expected, atol=0.5 / 255 + 1e-5)


def test_blurring_is_a_gaussian():
    picture = photo()
    pixels = picture[0].movedim(0, -1).numpy()
    border = cv2.BORDER_REPLICATE
    expected = cv2.GaussianBlur(pixels, (0, 0), 9.0, borderType=border)
    found = tile_blur(picture, 9.0)[0].movedim(0, -1).numpy()
    np.testing.assert_allclose(found, expected, atol=1.5 / 255)


def test_rate_1_keeps_every_pixel():
    assert torch.equal(tile_resample(photo(), 1), photo())


@pytest.mark.parametrize("annotate", [tile_resample, tile_blur])
@pytest.mark.parametrize("size", [(1, 1), (5, 3), (37, 64)])
def test_any_size_is_kept_and_values_are_8_bit(annotate, size):
    picture = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).half()
    found = annotate(picture)
    assert found.shape == picture.shape
    assert found.dtype == picture.dtype
    assert (found.float() * 255 - (found.float() * 255).round()).abs().max() < 0.1


@pytest.mark.parametrize("soft", [soft_tile, soft_blur])
def test_the_soft_map_is_differentiable_and_rounds_to_the_condition(soft):
    picture = photo().requires_grad_()
    hard = {soft_tile: tile_resample, soft_blur: tile_blur}[soft](picture.detach())
    found = soft(picture)
    assert (found - hard).abs().max() <= 0.5 / 255 + 1e-6
    (gradient,) = torch.autograd.grad(found.sum(), picture)
    assert gradient.mean().item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("annotate", "amount", "words"),
    [(tile_resample, 0.5, "rate 0.5; it needs 1 to 64"), (tile_blur, 0.0, "sigma 0; it needs")],
)
def test_amounts_out_of_range_are_refused(annotate, amount, words):
    with pytest.raises(ValueError, match=words):
        annotate(photo(), amount)
