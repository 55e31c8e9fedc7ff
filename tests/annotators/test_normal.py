"""Normals of planes and spheres, whose answer is known, and of noise, as OpenCV computes it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from controlnet_pp.annotators.depth import DPTHybrid
from controlnet_pp.annotators.normal import annotate_normal, normal_image, normals, soft_normal
from torch import Tensor

FLAT = (127 / 255, 127 / 255, 1.0)  # facing the camera, truncated to 8 bits


def grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return y.double(), x.double()


def as_maps(depth: Tensor) -> Tensor:
    return depth[None, None]


@pytest.mark.parametrize(("right", "down"), [(0.0, 0.0), (1.0, 0.0), (0.0, -2.0), (0.3, 0.7)])
def test_plane_has_the_same_normal_everywhere_inside(right, down):
    y, x = grid(20, 30)
    # Sobel weighs a slope by 8.
    expected = torch.tensor([8 * right, 8 * down, 2 * math.pi], dtype=torch.float64)
    expected /= expected.norm()
    found = normals(as_maps(right * x + down * y), background=0)[0, :, 1:-1, 1:-1]
    torch.testing.assert_close(found, expected.view(3, 1, 1).expand(3, 18, 28), rtol=0, atol=1e-12)


def test_sphere_has_the_normals_of_its_slope():
    y, x = grid(101, 101)
    squared = 60.0**2 - (x - 50) ** 2 - (y - 50) ** 2
    depth = squared.clamp(min=0).sqrt()
    inside = (x - 50) ** 2 + (y - 50) ** 2 < 30**2
    slope = torch.stack([-(x - 50) / depth, -(y - 50) / depth]) * 8
    expected = torch.cat([slope, torch.full_like(slope[:1], 2 * math.pi)])
    expected /= expected.norm(dim=0)
    found = normals(as_maps(depth), background=0)[0]
    assert (found - expected).abs()[:, inside].max() < 2e-3


def test_red_is_left_green_is_up_and_blue_is_the_camera():
    y, x = grid(41, 41)
    ball = (400 - (x - 20) ** 2 - (y - 20) ** 2).clamp(min=0).sqrt()
    colours = normal_image(as_maps(ball), background=0)[0]
    left, right, top, bottom = ((20, 8), (20, 32), (8, 20), (32, 20))
    assert colours[0][left] > 0.7 > 0.3 > colours[0][right]
    assert colours[1][top] > 0.7 > 0.3 > colours[1][bottom]
    assert colours[2][20, 20] == 1


@pytest.mark.parametrize("background", [0.0, 0.4])
def test_noise_gives_opencvs_normals_in_every_8_bit_step(background):
    depth = torch.rand(370, 520, generator=torch.Generator().manual_seed(0)) * 37 + 100
    raw = depth.numpy()
    x, y = cv2.Sobel(raw, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(raw, cv2.CV_32F, 0, 1, ksize=3)
    far = (raw - raw.min()) / (raw.max() - raw.min()) < background
    x[far] = y[far] = 0
    vectors = np.stack([x, y, np.full_like(x, 2 * math.pi)], axis=2)
    vectors /= np.sqrt((vectors**2).sum(axis=2, keepdims=True))
    expected = (vectors * 127.5 + 127.5).clip(0, 255).astype(np.uint8)
    found = (normal_image(as_maps(depth), background)[0] * 255).round().movedim(0, -1).numpy()
    assert far.any() == (background > 0)
    assert np.array_equal(found, expected)


def test_far_things_face_the_camera():
    depth = torch.linspace(0, 10, 40).expand(1, 1, 30, 40)
    colours = normal_image(depth, background=0.4)
    assert torch.equal(colours[0, :, 5, 5], torch.tensor(FLAT))
    assert colours[0, 0, 5, 35] > 0.6


def test_flat_depth_faces_the_camera_everywhere():
    colours = normal_image(torch.full((2, 1, 8, 9), 3.0))
    assert torch.equal(colours, torch.tensor(FLAT).view(1, 3, 1, 1).expand(2, 3, 8, 9))


def test_strength_is_the_same_as_steeper_depth():
    depth = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(1)).double()
    found = normals(depth, strength=100)
    torch.testing.assert_close(found, normals(depth * 100), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [(480, 641), (700, 333), (2, 2)])
def test_any_size_is_kept_and_vectors_have_length_one(size):
    depth = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(2)) * 9
    vectors = normals(depth)
    assert vectors.shape == (1, 3, *size)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(1, *size))


def test_batch_of_four_equals_four_singles():
    depth = torch.rand(4, 1, 20, 24, generator=torch.Generator().manual_seed(3))
    depth *= torch.tensor([1.0, 5.0, 20.0, 100.0]).view(4, 1, 1, 1)
    singles = torch.cat([normal_image(one[None]) for one in depth])
    assert torch.equal(normal_image(depth), singles)


def test_gradient_is_that_of_finite_differences():
    depth = torch.rand(1, 1, 5, 6, generator=torch.Generator().manual_seed(4)).double()
    depth.requires_grad_()
    assert torch.autograd.gradcheck(lambda d: normals(d, background=0), (depth,))


class Ball(DPTHybrid):
    """Depth in place of the network's: as bright as the picture is, ten times."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.scale = torch.nn.Parameter(torch.tensor(10.0))

    def inverse_depth(self, x: Tensor) -> Tensor:
        return (x.mean(1, keepdim=True) * 0.5 + 0.5) * self.scale


def test_picture_goes_through_the_depth_network_in_8_bits_to_its_normals():
    network = Ball()
    image = torch.rand(2, 3, 40, 64, generator=torch.Generator().manual_seed(5))
    rounded = (image * 255).round() / 255
    with torch.no_grad():
        expected = normal_image(network.depth(rounded), 0.2)
    assert torch.equal(annotate_normal(network, image, 0.2), expected)


def test_soft_normals_send_finite_gradients_to_the_picture():
    image = torch.rand(1, 3, 40, 64, generator=torch.Generator().manual_seed(6)).requires_grad_()
    soft = soft_normal(Ball(), image, background=0)
    assert soft.shape == (1, 3, 40, 64)
    assert soft.min() >= 0
    assert soft.max() <= 1
    soft.square().mean().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert (image.grad != 0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("shape", "background", "words"),
    [
        ((1, 3, 8, 8), 0.4, r"\(1, 3, 8, 8\).*one channel"),
        ((1, 1, 1, 8), 0.4, "at least 2"),
        ((1, 1, 8, 8), 1.5, "background is 1.5"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(shape, background, words):
    with pytest.raises(ValueError, match=words):
        normals(torch.zeros(shape), background)
