"""HED against the reference with the same random weights, and what the reference can't do."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.softedge import HED, STAGES
from controlnet_pp.annotators.weights import manifest
from controlnet_pp.tests.annotators.aux_oracle import (
    THIN_HED,
    as_pixels,
    as_tensor,
    assert_not_trivial,
    aux,
    photo,
    random_hed,
    reference_hed,
)
from torch.nn.functional import pad

ODD_SIZES = [(481, 641), (333, 700), (700, 333)]


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


# The reference


@pytest.mark.parametrize(
    ("size", "full_width"),
    [
        ((512, 512), True),
        ((448, 640), False),
        pytest.param((448, 640), True, marks=pytest.mark.slow),
    ],
)
def test_map_equals_the_reference_pixel_for_pixel(size, full_width):
    network, picture = random_hed(stages=STAGES if full_width else THIN_HED), photo(*size)
    detector = aux("hed").HEDdetector(reference_hed(network))
    expected = detector(picture, min(size), min(size), output_type="np")[..., 0]
    found = as_pixels(network.annotate(as_tensor(picture)))[0]
    assert_not_trivial(expected)
    assert len(np.unique(expected)) > 200
    assert (found != expected).sum() == 0


@pytest.mark.parametrize("size", [(512, 512), (448, 640), (64, 128)])
def test_safe_map_equals_the_reference_pixel_for_pixel(thin_hed, size):
    picture = photo(*size)
    detector = aux("hed").HEDdetector(reference_hed(thin_hed))
    expected = detector(picture, min(size), min(size), safe=True, output_type="np")[..., 0]
    found = as_pixels(thin_hed.annotate(as_tensor(picture), safe=True))[0]
    assert set(np.unique(expected)) == {0, 127, 255}
    assert (found != expected).sum() == 0


@pytest.mark.parametrize("size", [(64, 64), (37, 51), (16, 100)])
def test_network_equals_the_reference_at_any_size(size):
    network, pixels = random_hed(), noise(2, 3, *size) * 255
    expected = reference_hed(network)(pixels)
    for found, side in zip(network.sides(pixels), expected, strict=True):
        assert torch.equal(found, side)


def test_parameters_are_those_of_the_published_network():
    assert sum(p.numel() for p in HED().parameters()) == 14_716_168


def test_manifest_is_that_of_the_reference_and_of_ours():
    expected = manifest("hed")
    for network in (HED(), aux("hed").ControlNetHED_Apache2()):
        assert {name: tuple(v.shape) for name, v in network.state_dict().items()} == expected
    assert len(expected) == 37


# Any size


@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("way", ["forward", "annotate"])
def test_map_has_the_size_of_the_picture(thin_hed, size, way):
    assert getattr(thin_hed, way)(noise(1, 3, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize("size", ODD_SIZES)
def test_a_row_more_does_not_move_the_map(thin_hed, size):
    # Stretching 30 rows of the coarsest side output over 481 instead of 480 would. Below and right
    # of the compared part, the view of the coarsest scale (196 pixels) reaches beyond the border.
    picture = noise(1, 3, *size)
    height, width = (side // 16 * 16 for side in size)
    whole, cut = thin_hed(picture), thin_hed(picture[..., :height, :width])
    seen = (slice(None, height - 200), slice(None, width - 200))
    torch.testing.assert_close(whole[0, 0][seen], cut[0, 0][seen], rtol=0, atol=1e-5)


def test_padding_repeats_the_border(thin_hed):
    picture = noise(1, 3, 45, 70)
    padded = pad(picture, (0, 10, 0, 3), "replicate")
    assert torch.equal(thin_hed(picture), thin_hed(padded)[..., :45, :70])


@pytest.mark.parametrize("way", ["forward", "annotate"])
def test_tiny_pictures_are_taken(thin_hed, way):
    assert getattr(thin_hed, way)(noise(1, 3, 1, 7)).shape == (1, 1, 1, 7)


@pytest.mark.parametrize("size", [(64, 96), (97, 131)])
def test_batch_of_four_equals_four_singles(thin_hed, size):
    pictures = noise(4, 3, *size)
    singles = torch.cat([thin_hed.annotate(one[None]) for one in pictures])
    assert torch.equal(thin_hed.annotate(pictures), singles)


# The soft map


def test_soft_map_is_what_the_8_bit_map_is_cut_from(thin_hed):
    picture = as_tensor(photo(448, 640))
    difference = thin_hed(picture) - thin_hed.annotate(picture)
    assert difference.min() > -1e-5
    assert difference.max() < 1 / 255 + 1e-5


def test_published_reward_has_no_gradient_and_the_soft_map_has_one(thin_hed):
    # The published preprocessor ends in a cast to 8 bits, and so did the reward that was made of
    # it: nothing of the loss reaches the picture.
    picture = noise(1, 3, 48, 64).requires_grad_()
    published = (thin_hed(picture) * 255).clip(0, 255).to(torch.uint8)
    assert not published.requires_grad
    assert not thin_hed.annotate(picture).requires_grad
    thin_hed(picture).mean().backward()
    assert picture.grad is not None
    assert (picture.grad != 0).float().mean() > 0.9


def test_gradient_is_that_of_finite_differences(thin_hed):
    network, picture = thin_hed.double(), noise(1, 3, 20, 24).double().requires_grad_()
    direction = torch.randn(picture.shape, generator=torch.Generator().manual_seed(2)).double()
    weight = noise(1, 1, 20, 24).double()

    def loss(image: torch.Tensor) -> torch.Tensor:
        return (network(image) * weight).sum()

    (gradient,) = torch.autograd.grad(loss(picture), picture)
    step = 1e-5
    with torch.no_grad():
        ahead, behind = loss(picture + step * direction), loss(picture - step * direction)
    slope = ((ahead - behind) / (2 * step)).item()
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_pictures_have_finite_gradients(thin_hed, value):
    picture = torch.full((1, 3, 37, 50), value, requires_grad=True)
    thin_hed(picture).sum().backward()
    assert picture.grad is not None
    assert picture.grad.isfinite().all()


# Types, empty maps, refusals


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_map_has_the_dtype_of_the_picture(thin_hed, dtype):
    picture = as_tensor(photo(64, 64))
    found = thin_hed.annotate(picture.to(dtype))
    assert found.dtype == dtype
    expected = thin_hed.annotate(picture)
    if dtype != torch.bfloat16:  # which has fewer than 8 bits
        assert torch.equal((found.float() * 255).round(), (expected * 255).round())


def test_weights_in_half_precision_give_about_the_same_map(thin_hed):
    picture = as_tensor(photo(64, 64))
    expected = thin_hed.annotate(picture)
    found = thin_hed.to(torch.bfloat16).annotate(picture)
    assert (found - expected).abs().mean() < 0.03


def test_a_black_map_is_said_once_in_the_log(thin_hed, caplog):
    for number in range(1, 6):
        thin_hed.state_dict()[f"block{number}.projection.bias"].fill_(-1e4)
    with caplog.at_level(logging.INFO):
        edges = thin_hed.annotate(noise(2, 3, 32, 32))
    assert edges.shape == (2, 1, 32, 32)
    assert edges.max() == 0
    assert [r.getMessage() for r in caplog.records] == [
        "Soft Edge (HED): no edge in 2 of 2 pictures (#0, #1), the map is black there"
    ]


@pytest.mark.parametrize("way", ["forward", "annotate"])
def test_wrong_tensors_are_refused_by_name(thin_hed, way):
    with pytest.raises(ValueError, match=r"Soft Edge \(HED\).*\(1, 1, 8, 8\).*RGB"):
        getattr(thin_hed, way)(torch.zeros(1, 1, 8, 8))


def test_nan_is_refused(thin_hed):
    with pytest.raises(ValueError, match="NaN"):
        thin_hed.annotate(torch.full((1, 3, 32, 32), float("nan")))
