"""The rewards' losses against PyTorch's and torchmetrics' own, one picture at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.losses import cross_entropy, mse, relative_mse


def maps(seed: int, channels: int = 1, batch: int = 3) -> torch.Tensor:
    return torch.rand(batch, channels, 9, 11, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_mse_equals_torch_picture_by_picture(channels):
    a, b = maps(1, channels), maps(2, channels)
    expected = [F.mse_loss(x, y).item() for x, y in zip(a, b, strict=True)]
    assert mse(a, b).tolist() == pytest.approx(expected, abs=1e-6)


def test_mse_inside_a_mask_is_that_of_the_pixels_there():
    a, b = maps(3, 3), maps(4, 3)
    mask = maps(5) > 0.4
    expected = [
        F.mse_loss(x[:, m[0]], y[:, m[0]]).item() for x, y, m in zip(a, b, mask, strict=True)
    ]
    assert mse(a, b, mask).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_mse_of_half_precision_is_computed_in_single(dtype):
    a, b = maps(6).to(dtype), maps(7).to(dtype)
    torch.testing.assert_close(mse(a, b).double(), ((a.double() - b.double()) ** 2).mean((1, 2, 3)))


def test_cross_entropy_equals_torch_picture_by_picture():
    logits = 5 * maps(8, 6) - 2
    target = torch.randint(6, (3, 9, 11), generator=torch.Generator().manual_seed(0))
    target[:, 0] = 255
    found = cross_entropy(logits, target[:, None])
    expected = [
        F.cross_entropy(x[None], y[None], ignore_index=255).item()
        for x, y in zip(logits, target, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)
    assert Condition.SEG.value.reward(logits, target[:, None]).tolist() == found.tolist()


def test_depth_is_compared_relative_to_the_nearest_point():
    a, b = maps(9), maps(10)
    expected = mse(a / a.amax((1, 2, 3), keepdim=True), b / b.amax((1, 2, 3), keepdim=True))
    torch.testing.assert_close(relative_mse(7 * a, b), expected)


PLAIN = ("CANNY", "SOFTEDGE", "LINEART", "MLSD", "SCRIBBLE", "TILE")


@pytest.mark.parametrize("name", PLAIN)
def test_the_published_reward_of_maps_is_the_mean_square(name):
    assert torch.equal(Condition[name].value.reward(maps(1), maps(2)), mse(maps(1), maps(2)))


def test_losses_are_differentiable():
    a, b = maps(14).double().requires_grad_(), maps(15).double()
    mask = maps(16) > 0.5
    assert torch.autograd.gradcheck(lambda x: mse(x, b, mask), (a,))
    assert torch.autograd.gradcheck(lambda x: relative_mse(x, b), (a,))
