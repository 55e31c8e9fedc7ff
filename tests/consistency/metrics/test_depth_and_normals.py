"""Errors of depth and normals against torchmetrics, numpy and known angles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlnet_pp.cnpp_core.consistency.metrics import (
    align,
    angles,
    depth_score,
    normal_score,
    rmse,
)
from torchmetrics.functional.regression import (
    mean_absolute_percentage_error,
    mean_squared_error,
)


def depths(seed=0, size=(19, 27), batch=3, low=0.5, high=10.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = low + (high - low) * torch.rand(batch, 1, *size, generator=generator)
    prediction = target * (1 + 0.3 * torch.randn(target.shape, generator=generator)).abs()
    return prediction.clamp(min=0.01), target


@pytest.mark.parametrize("size", [(1, 1), (19, 27), (64, 64)])
@pytest.mark.parametrize("high", [1.0, 80.0])
def test_rmse_and_abs_rel_equal_torchmetrics(size, high):
    prediction, target = depths(size=size, high=high)
    found = depth_score(prediction, target)
    for index in range(3):
        pair = prediction[index].flatten(), target[index].flatten()
        expected = mean_squared_error(*pair, squared=False)
        torch.testing.assert_close(found.rmse[index], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rmse(prediction, target)[index], expected, rtol=1e-5, atol=1e-5)
        expected = mean_absolute_percentage_error(*pair)
        torch.testing.assert_close(found.abs_rel[index], expected, rtol=1e-5, atol=1e-5)


def reference(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """The formulas of Eigen (2014) in double precision."""
    log = np.log(prediction) - np.log(target)
    ratio = np.maximum(prediction / target, target / prediction)
    return {
        "rmse": np.sqrt(np.mean((prediction - target) ** 2)),
        "mae": np.mean(np.abs(prediction - target)),
        "abs_rel": np.mean(np.abs(prediction - target) / target),
        "sq_rel": np.mean((prediction - target) ** 2 / target),
        "rmse_log": np.sqrt(np.mean(log**2)),
        "log10": np.mean(np.abs(np.log10(prediction) - np.log10(target))),
        "silog": 100 * np.std(log),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
    }


@pytest.mark.parametrize("masked", [False, True])
def test_all_errors_equal_their_formulas(masked):
    prediction, target = depths(seed=3)
    target[:, :, 0] = 0  # not measured
    mask = torch.rand(1, 1, 19, 27, generator=torch.Generator().manual_seed(1)) < 0.5
    found = depth_score(prediction, target, mask if masked else None)
    for index in range(3):
        kept = target[index] > 0
        if masked:
            kept = kept & mask[0]
        expected = reference(*(x[index][kept].double().numpy() for x in (prediction, target)))
        for name, value in expected.items():
            scale = 100 if name == "silog" else 1
            assert getattr(found, name)[index].item() == pytest.approx(
                value, rel=1e-5, abs=1e-5 * scale
            ), name


def test_alignment_equals_numpys_least_squares():
    prediction, target = depths(seed=5)
    mask = torch.rand(1, 1, 19, 27, generator=torch.Generator().manual_seed(2)) < 0.6
    found = align(prediction, target, mask)
    for index in range(3):
        x, y = (v[index][mask[0]].double().numpy() for v in (prediction, target))
        (scale, offset), *_ = np.linalg.lstsq(np.stack([x, np.ones_like(x)], 1), y, rcond=None)
        torch.testing.assert_close(found[index], prediction[index] * scale + offset)


def test_alignment_undoes_any_scale_and_offset():
    _, target = depths(seed=6)
    torch.testing.assert_close(align(3 * target - 7, target), target)
    flat = torch.ones_like(target)
    torch.testing.assert_close(align(flat, target), target.mean((2, 3), keepdim=True) * flat)


def test_an_empty_mask_has_no_error_and_no_gradient():
    prediction, target = depths()
    prediction.requires_grad_()
    found = rmse(prediction, target, torch.zeros(1, 1, 19, 27))
    assert found.isnan().all()
    rmse(prediction, prediction.detach()).sum().backward()
    assert (prediction.grad == 0).all()


def test_rmse_is_differentiable():
    prediction, target = (x[:, :, :4, :5].double() for x in depths())
    assert torch.autograd.gradcheck(rmse, (prediction.requires_grad_(), target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.uint8, torch.float64])
def test_rmse_of_other_dtypes_is_that_of_their_values(dtype):
    prediction, target = (x.mul(20).to(dtype) for x in depths())
    expected = (prediction.double() - target.double()).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(rmse(prediction, target).double(), expected, rtol=1e-5, atol=1e-5)


# Normals


def field(seed: int, size=(9, 13), batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(batch, 3, *size, generator=generator, dtype=torch.float64)
    return vectors / vectors.norm(dim=1, keepdim=True)


def test_angles_equal_the_arc_cosine_in_double_precision():
    a, b = field(1), field(2)
    expected = np.degrees(np.arccos(np.clip((a * b).sum(1).numpy(), -1, 1)))
    np.testing.assert_allclose(angles(a, b)[:, 0].numpy(), expected, atol=1e-9)
    found = angles(a.float(), b.float())[:, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)  # degrees


@pytest.mark.parametrize("degrees", [0.0, 0.01, 11.0, 90.0, 179.99, 180.0])
def test_a_known_rotation_is_measured_as_such(degrees):
    turn = np.radians(degrees)
    a = torch.tensor([0.0, 0.0, 2.0]).view(1, 3, 1, 1).expand(-1, -1, 4, 4)
    b = torch.tensor([np.sin(turn), 0.0, np.cos(turn)]).float().view(1, 3, 1, 1)
    score = normal_score(a, b.expand_as(a))
    assert score.mean.item() == pytest.approx(degrees, abs=2e-4)
    assert score.median.item() == pytest.approx(degrees, abs=2e-4)
    assert score.within_11.item() == float(degrees < 11.25)


def test_mean_median_and_shares_equal_numpy_inside_the_mask():
    a, b = field(3), field(3) + 0.5 * field(4)
    mask = torch.rand(2, 1, 9, 13, generator=torch.Generator().manual_seed(0)) < 0.7
    b[:, :, 0] = 0  # no direction there
    score = normal_score(a, b, mask)
    for index in range(2):
        kept = mask[index, 0] & (b[index].norm(dim=0) > 0)
        one, other = (v[index][:, kept].numpy() for v in (a, b))
        other = other / np.linalg.norm(other, axis=0)
        error = np.sort(np.degrees(np.arccos((one * other).sum(0))))
        assert score.mean[index].item() == pytest.approx(error.mean(), abs=1e-5)
        assert score.median[index].item() == pytest.approx(error[(len(error) - 1) // 2], abs=1e-5)
        assert score.within_22[index].item() == pytest.approx((error < 22.5).mean())
        assert score.within_30[index].item() == pytest.approx((error < 30).mean())


def test_gradients_are_finite_at_equal_and_at_opposite_normals():
    a = field(5).requires_grad_()
    for b in (a.detach(), -a.detach(), torch.zeros_like(a)):
        (gradient,) = torch.autograd.grad(angles(a, b).sum(), a)
        assert torch.isfinite(gradient).all()
    assert torch.autograd.gradcheck(lambda x: normal_score(x, field(6)).mean, (a,))
