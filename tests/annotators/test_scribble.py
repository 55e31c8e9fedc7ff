"""Scribbles against the reference, scipy, and drawings whose strokes are known."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
import torch
from controlnet_pp.annotators.scribble import scribble_drawing, scribble_hed, scribble_xdog
from controlnet_pp.tests.annotators.aux_oracle import (
    THIN_HED,
    as_pixels,
    as_tensor,
    assert_not_trivial,
    assert_same_map,
    aux,
    photo,
    random_hed,
    reference_hed,
)
from scipy import ndimage

ODD_SIZES = [(481, 641), (333, 700), (700, 333)]


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


# From soft edges; that the network at full width equals the reference is in test_softedge.py


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("size", [(512, 512), (448, 640), (64, 128)])
def test_scribble_of_soft_edges_equals_the_reference_pixel_for_pixel(size, seed):
    network, picture = random_hed(seed, THIN_HED), photo(*size)
    detector = aux("hed").HEDdetector(reference_hed(network))
    expected = detector(picture, min(size), min(size), scribble=True, output_type="np")[..., 0]
    found = as_pixels(scribble_hed(network, as_tensor(picture)))[0]
    assert_not_trivial(expected)
    assert (found != expected).sum() == 0


@pytest.mark.parametrize("size", ODD_SIZES)
def test_scribble_of_soft_edges_has_the_size_of_the_picture(thin_hed, size):
    assert scribble_hed(thin_hed, noise(1, 3, *size)).shape == (1, 1, *size)


def test_scribble_of_a_batch_of_four_equals_four_singles(thin_hed):
    pictures = torch.nn.functional.interpolate(noise(4, 3, 25, 33), (97, 131), mode="bicubic")
    pictures = pictures.clamp(0, 1)
    singles = torch.cat([scribble_hed(thin_hed, one[None]) for one in pictures])
    assert 0.02 < singles.mean() < 0.98
    differing = (scribble_hed(thin_hed, pictures) != singles).float().mean()
    assert differing < 1e-3


def test_a_straight_soft_edge_becomes_one_straight_stroke(thin_hed, monkeypatch):
    # 255 at the middle, 16 less per row. Thinning looks for maxima in four directions, and a
    # straight edge is one along itself: it keeps all that is above 127 once blurred, 7 rows either
    # way. The second Gaussian widens this by the 6.4 rows in which 255 * Phi(-x / 3) is above 4.
    edges = torch.zeros(1, 1, 96, 80, dtype=torch.uint8)
    ramp = 255 - 16 * (torch.arange(96) - 48).abs()
    edges[:] = ramp.clamp(0).to(torch.uint8)[:, None]
    monkeypatch.setattr(thin_hed, "soft_edges", lambda image: edges)
    strokes = scribble_hed(thin_hed, noise(1, 3, 96, 80))[0, 0]
    rows = strokes.bool().all(1).nonzero().flatten().tolist()
    assert rows == list(range(48 - 13, 48 + 13 + 1))
    assert strokes.sum() == 27 * 80


# From a drawing


def test_drawing_with_dark_strokes_gives_white_strokes():
    drawing = np.full((50, 60, 3), 230, np.uint8)
    cv2.line(drawing, (5, 7), (50, 40), (20, 20, 20), 3)
    strokes = as_pixels(scribble_drawing(as_tensor(drawing)))[0]
    assert np.array_equal(strokes > 0, drawing[..., 0] == 20)
    assert set(np.unique(strokes)) == {0, 255}


@pytest.mark.parametrize(("value", "is_stroke"), [(126, True), (127, False), (128, False)])
def test_one_dark_channel_below_the_threshold_makes_a_stroke(value, is_stroke):
    drawing = np.full((4, 4, 3), 255, np.uint8)
    drawing[1, 2, 1] = value
    assert bool(scribble_drawing(as_tensor(drawing))[0, 0, 1, 2]) is is_stroke


def test_threshold_of_the_drawing_can_be_chosen():
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    assert scribble_drawing(as_tensor(ramp), threshold=40).sum() == 40


# XDoG


def difference_of_gaussians(picture: np.ndarray) -> np.ndarray:
    """min over channels of (sigma 5) - (sigma 0.5), by scipy in double precision.

    OpenCV cuts both kernels at 4 sigma and mirrors the picture at its borders without repeating
    the border pixel.
    """
    x = picture.astype(np.float64)
    fine, coarse = (
        ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="mirror", radius=(radius, radius, 0))
        for sigma, radius in ((0.5, 2), (5, 20))
    )
    return (coarse - fine).min(axis=2)


@pytest.mark.parametrize("threshold", [1, 32, 64])
@pytest.mark.parametrize("size", [(512, 512), (448, 640), (481, 641)])
def test_xdog_equals_scipy(size, threshold):
    picture = photo(*size)
    found = as_pixels(scribble_xdog(as_tensor(picture), threshold))[0] > 0
    difference = difference_of_gaussians(picture)
    doubled = 2 * np.ceil(difference.clip(0, 255))  # 255 less what is cut to whole numbers
    expected = doubled % 256 > threshold
    assert_not_trivial(found * 255)
    # Only where single precision can't tell on which side of a whole number it is.
    unsure = np.abs(difference - difference.round()) < 1e-4
    assert not (found != expected)[~unsure].any()
    assert unsure.mean() < 0.02  # flat ground for the most part


def test_xdog_wraps_around_as_the_published_8_bit_arithmetic_does():
    # One black pixel on white: the difference is 255 * (g(0.5) - g(5)) there, g the middle of the
    # Gaussian: 156.1, cut to 157, doubled 314, in 8 bits 58. Threshold 64 misses it, 32 does not.
    dot = np.full((41, 41, 3), 255, np.uint8)
    dot[20, 20] = 0
    middle = difference_of_gaussians(dot)[20, 20]
    assert 2 * np.ceil(middle) % 256 == 58
    assert scribble_xdog(as_tensor(dot), 32)[0, 0, 20, 20] == 1
    assert scribble_xdog(as_tensor(dot), 64)[0, 0, 20, 20] == 0


def test_xdog_finds_dark_lines_and_no_light_ones():
    picture = np.full((60, 60, 3), 128, np.uint8)
    picture[:, 15] = 60
    picture[:, 45] = 200
    strokes = scribble_xdog(as_tensor(picture))[0, 0]
    assert strokes[:, 15].all()
    assert not strokes[:, 45].any()


# All of them


@pytest.mark.parametrize("annotate", [scribble_drawing, scribble_xdog])
@pytest.mark.parametrize("size", ODD_SIZES)
def test_map_has_the_size_of_the_picture(annotate, size):
    assert annotate(noise(1, 3, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize("annotate", [scribble_drawing, scribble_xdog])
def test_batch_of_four_equals_four_singles(annotate):
    pictures = noise(4, 3, 97, 131)
    singles = torch.cat([annotate(one[None]) for one in pictures])
    assert torch.equal(annotate(pictures), singles)


@pytest.mark.parametrize("annotate", [scribble_drawing, scribble_xdog])
def test_map_has_the_dtype_of_the_picture(annotate):
    picture = as_tensor(photo(64, 64))
    found = annotate(picture.half())
    assert found.dtype == torch.float16
    assert_same_map(found.float(), annotate(picture))


@pytest.mark.parametrize("annotate", [scribble_drawing, scribble_xdog])
def test_a_white_page_gives_a_black_map_and_a_log_line(annotate, caplog):
    with caplog.at_level(logging.INFO):
        strokes = annotate(torch.ones(2, 3, 20, 30))
    assert strokes.shape == (2, 1, 20, 30)
    assert not strokes.any()
    assert [r.getMessage() for r in caplog.records] == [
        "Scribble: no stroke in 2 of 2 pictures (#0, #1), the map is black there"
    ]


@pytest.mark.parametrize("annotate", [scribble_drawing, scribble_xdog])
@pytest.mark.parametrize("threshold", [-1, 256])
def test_wrong_thresholds_are_refused(annotate, threshold):
    with pytest.raises(ValueError, match=rf"threshold {threshold}.*0 to 255"):
        annotate(noise(1, 3, 8, 8), threshold)


@pytest.mark.parametrize("annotate", [scribble_drawing, scribble_xdog])
def test_wrong_tensors_are_refused(annotate):
    with pytest.raises(ValueError, match=r"Scribble.*\(3, 8, 8\)"):
        annotate(torch.zeros(3, 8, 8))
