"""Line art against the reference with the same random weights, fine and coarse, and odd sizes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.kinds import weight_keys
from controlnet_pp.annotators.lineart import LineArt
from controlnet_pp.annotators.weights import manifest
from controlnet_pp.tests.annotators.aux_oracle import (
    as_pixels,
    as_tensor,
    assert_not_trivial,
    assert_same_map,
    aux,
    photo,
    randomise,
    twin,
)
from torch.nn.functional import pad

ODD_SIZES = [(481, 641), (333, 700), (700, 333)]


def random_lineart(seed: int = 0) -> LineArt:
    return randomise(LineArt(), seed)


def reference(network: LineArt) -> torch.nn.Module:
    return twin(network, aux("lineart").Generator(3, 1, 3))


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


# The reference


@pytest.mark.parametrize(("size", "coarse"), [((512, 512), False), ((448, 640), True)])
def test_map_equals_the_reference_pixel_for_pixel(size, coarse):
    fine_network, coarse_network = random_lineart(0), random_lineart(1)
    detector = aux("lineart").LineartDetector(reference(fine_network), reference(coarse_network))
    picture = photo(*size)
    expected = detector(picture, coarse, min(size), min(size), output_type="np")[..., 0]
    network = coarse_network if coarse else fine_network
    found = as_pixels(network.annotate(as_tensor(picture)))[0]
    assert_not_trivial(expected)
    assert len(np.unique(expected)) > 200
    assert (found != expected).sum() == 0


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (8, 100)])
def test_network_equals_the_reference_at_any_size(size):
    network, picture = random_lineart(), noise(2, 3, *size)
    assert torch.equal(network.generator(picture), reference(network)(picture))


def test_parameters_are_those_of_the_published_network():
    assert sum(p.numel() for p in LineArt().parameters()) == 4_290_945


@pytest.mark.parametrize("key", weight_keys(LineArt))
def test_manifest_is_that_of_the_reference_and_of_ours(key):
    for network in (LineArt(), aux("lineart").Generator(3, 1, 3)):
        assert {n: tuple(v.shape) for n, v in network.state_dict().items()} == manifest(key)
    assert len(manifest(key)) == 24


# Any size


@pytest.mark.parametrize("size", [*ODD_SIZES, (1, 1), (2, 30)])
@pytest.mark.parametrize("way", ["forward", "annotate"])
def test_map_has_the_size_of_the_picture(thin_lineart, size, way):
    assert getattr(thin_lineart, way)(noise(1, 3, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize("size", [(45, 70), (47, 97)])
def test_padding_repeats_the_border(thin_lineart, size):
    picture = noise(1, 3, *size)
    down, right = (-side % 4 for side in size)
    padded = thin_lineart(pad(picture, (0, right, 0, down), "replicate"))
    assert torch.equal(thin_lineart(picture), padded[..., : size[0], : size[1]])


@pytest.mark.parametrize("size", ODD_SIZES)
def test_a_row_more_does_not_move_the_map(thin_lineart, size):
    # Lines of noise: moved by one pixel they would have nothing to do with one another. What
    # remains is the normalisation, which sees a row more, and the border of the cut picture.
    picture = noise(1, 3, *size)
    height, width = (side // 4 * 4 - 4 for side in size)
    whole = thin_lineart(picture)[..., :height, :width]
    cut = thin_lineart(picture[..., :height, :width])
    moved = (whole - cut.roll(1, -1)).abs().mean()
    border = 24  # as far as the network sees
    kept = (whole - cut).abs()[..., : height - border, : width - border]
    assert kept.mean() < 0.01 * moved
    assert kept.max() < 0.05


def test_batch_of_four_equals_four_singles(thin_lineart):
    pictures = noise(4, 3, 97, 131)
    singles = torch.cat([thin_lineart.annotate(one[None]) for one in pictures])
    assert torch.equal(thin_lineart.annotate(pictures), singles)


# The soft map


def test_soft_map_is_what_the_8_bit_map_is_cut_from(thin_lineart):
    # Drawn black on white, cut to 8 bits, then inverted: so the cut goes up.
    picture = as_tensor(photo(448, 640))
    difference = thin_lineart.annotate(picture) - thin_lineart(picture)
    assert difference.min() > -1e-5
    assert difference.max() < 1 / 255 + 1e-5


def test_gradient_reaches_nearly_every_pixel_and_is_finite(thin_lineart):
    picture = noise(1, 3, 37, 50).requires_grad_()
    thin_lineart(picture).square().mean().backward()
    assert picture.grad is not None
    assert picture.grad.isfinite().all()
    assert (picture.grad != 0).float().mean() > 0.9
    assert not thin_lineart.annotate(picture).requires_grad


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_pictures_have_finite_gradients(thin_lineart, value):
    picture = torch.full((1, 3, 37, 50), value, requires_grad=True)
    thin_lineart(picture).sum().backward()
    assert picture.grad is not None
    assert picture.grad.isfinite().all()


# Types, empty maps, refusals


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_map_has_the_dtype_of_the_picture(thin_lineart, dtype):
    picture = as_tensor(photo(64, 64))
    found = thin_lineart.annotate(picture.to(dtype))
    assert found.dtype == dtype
    assert_same_map((found.float() * 255).round() / 255, thin_lineart.annotate(picture))


def test_a_black_map_is_said_once_in_the_log(thin_lineart, caplog):
    thin_lineart.state_dict()["model4.1.bias"].fill_(1e4)
    with caplog.at_level(logging.INFO):
        lines = thin_lineart.annotate(noise(2, 3, 32, 32))
    assert lines.shape == (2, 1, 32, 32)
    assert lines.max() == 0
    assert [r.getMessage() for r in caplog.records] == [
        "Line Art: no line in 2 of 2 pictures (#0, #1), the map is black there"
    ]


@pytest.mark.parametrize("way", ["forward", "annotate"])
def test_wrong_tensors_are_refused_by_name(thin_lineart, way):
    with pytest.raises(ValueError, match=r"Line Art.*\(1, 4, 8, 8\).*RGB"):
        getattr(thin_lineart, way)(torch.zeros(1, 4, 8, 8))


def test_values_on_another_scale_are_refused(thin_lineart):
    with pytest.raises(ValueError, match=r"to 255.*0\.\.1"):
        thin_lineart.annotate(torch.full((1, 3, 32, 32), 255.0))
