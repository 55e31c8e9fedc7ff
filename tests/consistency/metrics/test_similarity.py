"""SSIM and MS-SSIM against torchmetrics, scikit-image and kornia."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlnet_pp.cnpp_core.consistency.metrics import BETAS, betas_that_fit, ms_ssim, ssim
from kornia.metrics import ssim as kornia_ssim
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure as torchmetrics_ms_ssim,
)
from torchmetrics.functional.image import (
    structural_similarity_index_measure as torchmetrics_ssim,
)


def pictures(size, channels=1, batch=2, seed=0, noise=0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth random pictures, and the same with noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, channels, 6, 7, generator=generator)
    x = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    y = x + noise * torch.randn(x.shape, generator=generator)
    return x, y.clamp(0, 1)


@pytest.mark.parametrize("size", [(11, 11), (33, 61), (128, 96)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
def test_ssim_equals_torchmetrics(size, channels, noise):
    x, y = pictures(size, channels, noise=noise)
    expected = torchmetrics_ssim(x, y, data_range=1.0, reduction="none")
    torch.testing.assert_close(ssim(x, y), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_equals_scikit_image(data_range):
    x, y = pictures((48, 37))
    x, y = x * data_range, y * data_range
    expected = [
        structural_similarity(
            a[0].double().numpy(),
            b[0].double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=data_range,
        )
        for a, b in zip(x, y, strict=True)
    ]
    away_from_border = torch.zeros(1, 1, 48, 37)
    away_from_border[..., 5:-5, 5:-5] = 1
    found = ssim(x, y, away_from_border, data_range).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_ssim_inside_a_mask_is_the_mean_of_kornias_map_there():
    x, y = pictures((40, 52), noise=0.3)
    mask = torch.zeros(2, 1, 40, 52)
    mask[0, :, 8:20, 10:40], mask[1, :, 25:30, 7:45] = 1, 1
    maps = kornia_ssim(x, y, window_size=11, padding="same")
    expected = (maps * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    torch.testing.assert_close(ssim(x, y, mask), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(176, 176), (176, 240), (192, 177)])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5])
def test_ms_ssim_equals_torchmetrics_with_the_published_settings(size, noise):
    x, y = pictures(size, noise=noise)
    expected = torchmetrics_ms_ssim(
        x,
        y,
        data_range=1.0,
        gaussian_kernel=True,
        kernel_size=11,
        sigma=1.5,
        betas=BETAS,
        normalize="relu",
        reduction="none",
    )
    torch.testing.assert_close(ms_ssim(x, y), expected, rtol=0, atol=1e-5)


def test_ms_ssim_of_a_negative_picture_is_zero_as_in_torchmetrics():
    x, _ = pictures((176, 176), noise=0)
    expected = torchmetrics_ms_ssim(x, 1 - x, data_range=1.0, normalize="relu", reduction="none")
    torch.testing.assert_close(ms_ssim(x, 1 - x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_in_float32_or_better(dtype):
    x, y = (p.to(dtype) for p in pictures((64, 64)))
    expected = torchmetrics_ssim(x.double(), y.double(), data_range=1.0, reduction="none")
    found = ssim(x, y)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_a_full_mask_changes_nothing():
    x, y = pictures((176, 176))
    full = torch.ones(1, 1, 176, 176)
    torch.testing.assert_close(ms_ssim(x, y, full), ms_ssim(x, y))
    torch.testing.assert_close(ssim(x, y, full), ssim(x, y))


def test_differences_outside_the_mask_and_its_windows_do_not_count():
    x, _ = pictures((192, 192), noise=0)
    y = x.clone()
    y[..., :40] = 0
    mask = torch.zeros(1, 1, 192, 192)
    mask[..., 140:] = 1
    assert ssim(x, y, mask) == pytest.approx([1, 1])
    assert (ms_ssim(x, y, mask) > ms_ssim(x, y) + 0.02).all()


def test_gradients_agree_with_finite_differences():
    x, y = (p[:, :, :12, :13].double() for p in pictures((20, 20)))
    assert torch.autograd.gradcheck(ssim, (x.requires_grad_(), y))


def test_the_gradient_of_ms_ssim_is_finite_where_a_scale_is_negative():
    x, _ = pictures((176, 176), noise=0)
    x.requires_grad_()
    ms_ssim(x, 1 - x.detach()).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_small_pictures_get_as_many_scales_as_fit():
    assert betas_that_fit(176, 300) == BETAS
    assert len(betas_that_fit(175, 300)) == 4
    assert len(betas_that_fit(40, 30)) == 2
    assert sum(betas_that_fit(40, 30)) == pytest.approx(1)
    x, y = pictures((30, 40))
    assert torch.isfinite(ms_ssim(x, y, betas=betas_that_fit(30, 40))).all()


def test_too_small_a_picture_is_refused_with_its_size():
    x = torch.zeros(1, 1, 175, 200)
    with pytest.raises(ValueError, match=r"200x175.*176"):
        ms_ssim(x, x)
