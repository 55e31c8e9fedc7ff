"""One step of guidance, against losses whose gradient is known."""

from __future__ import annotations

import math

import pytest
import torch
from controlnet_pp.cnpp_core.consistency.steering.guidance import GuidanceSettings, corrected
from controlnet_pp.cnpp_core.consistency.steering.window import SteeringWindow


def pictures(batch=3, seed=0):
    return torch.randn(batch, 4, 5, 6, generator=torch.Generator().manual_seed(seed))


def slope(x):
    """A loss that falls evenly: the mean of all values."""
    return x.flatten(1).mean(1)


def test_strength_1_brings_a_loss_that_falls_evenly_to_zero():
    x0 = pictures().abs()
    found = corrected(x0, slope, GuidanceSettings(1.0, bound=100.0))
    assert torch.allclose(slope(found.x0), torch.zeros(3), atol=1e-6)
    assert torch.allclose(found.losses, slope(x0))
    half = corrected(x0, slope, GuidanceSettings(0.5, bound=100.0))
    assert torch.allclose(slope(half.x0), slope(x0) / 2, atol=1e-6)


def test_the_bound_is_the_largest_root_mean_square_of_a_correction():
    x0 = pictures().abs() + 5
    found = corrected(x0, slope, GuidanceSettings(1.0, bound=0.1))
    change = (found.x0 - x0).square().flatten(1).mean(1).sqrt()
    assert torch.allclose(change, torch.full((3,), 0.1), atol=1e-5)


def test_each_picture_is_corrected_as_if_it_were_alone():
    x0 = pictures()

    def loss(x):
        return (x**2).flatten(1).sum(1)

    settings = GuidanceSettings(0.7, bound=0.05)
    together = corrected(x0, loss, settings).x0
    for row in range(3):
        assert torch.allclose(
            together[row : row + 1], corrected(x0[row : row + 1], loss, settings).x0, atol=1e-6
        )


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_picture_without_a_sound_gradient_stays_and_its_mates_do_not(broken):
    x0 = pictures()
    factors = torch.tensor([1.0, broken, 0.0])
    found = corrected(x0, lambda x: (x**2).flatten(1).mean(1) * factors, GuidanceSettings())
    assert torch.equal(found.x0[1:], x0[1:])
    assert (found.x0[0] - x0[0]).abs().max() > 0
    assert found.x0.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_corrected_in_single_and_comes_back_as_it_was(dtype):
    x0 = pictures().to(dtype)
    seen = []

    def loss(x):
        seen.append(x.dtype)
        return (x**2).flatten(1).mean(1) * 1e-6  # float16 would round its gradient to zero

    found = corrected(x0, loss, GuidanceSettings(1.0, bound=1.0))
    assert seen == [torch.float32]
    assert found.x0.dtype == dtype
    wanted = corrected(x0.float(), loss, GuidanceSettings(1.0, bound=1.0)).x0
    assert torch.equal(found.x0, wanted.to(dtype))
    assert (found.x0 - x0).abs().max() > 0


def test_it_works_under_inference_mode_and_leaves_no_graph():
    with torch.inference_mode():
        x0 = pictures()
        found = corrected(x0, slope, GuidanceSettings())
    assert found.x0.grad_fn is None
    assert found.losses.grad_fn is None
    assert not found.losses.requires_grad
    assert torch.equal(x0, pictures())  # and what came in is as it was


@pytest.mark.parametrize("settings", [{"strength": -1.0}, {"bound": -0.1}, {"strength": math.nan}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        GuidanceSettings(**settings)


def test_a_window_is_a_part_of_the_sampling_and_every_so_many_steps():
    window = SteeringWindow(0.25, 0.75, every=2)
    assert [window.acts(p, s) for p, s in ((0.2, 0), (0.25, 2), (0.5, 3), (0.75, 4), (0.8, 6))] == [
        False,
        True,
        False,
        True,
        False,
    ]
    for wrong in ({"start": 0.6, "end": 0.5}, {"start": -0.1}, {"end": 1.1}, {"every": 0}):
        with pytest.raises(ValueError, match=r"Steering"):
            SteeringWindow(**wrong)
