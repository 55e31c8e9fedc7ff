"""M-LSD against the reference with the same random weights, and lines that are known."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.mlsd import MLSD, decode_lines
from controlnet_pp.annotators.weights import manifest
from controlnet_pp.tests.annotators.aux_oracle import (
    as_pixels,
    as_tensor,
    assert_same_map,
    aux,
    photo,
    randomise,
    twin,
)
from torch.nn.functional import pad

ODD_SIZES = [(481, 641), (333, 700), (700, 333)]
HEAD = "block23.conv3."


@pytest.fixture(scope="module")
def mlsd() -> MLSD:
    """Random weights whose middles are rare enough and whose ends far enough to look like lines."""
    network = MLSD()
    weights = randomise(network).state_dict()
    with torch.no_grad():
        maps = network.maps(as_tensor(photo(128, 128)) * 255)
    for channels, mean, deviation in ((slice(7, 8), -1, 2), (slice(8, 12), 0, 20)):
        scale = deviation / maps[:, channels].std((0, 2, 3))
        weights[HEAD + "weight"][channels].mul_(scale[:, None, None, None])
        shifted = (weights[HEAD + "bias"][channels] - maps[:, channels].mean((0, 2, 3))) * scale
        weights[HEAD + "bias"][channels] = shifted + mean
    return network


def reference(network: MLSD) -> torch.nn.Module:
    return twin(network, aux("mlsd").MobileV2_MLSD_Large())


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def maps_of(segments: list[tuple[float, ...]], size: tuple[int, int], score: float) -> torch.Tensor:
    """What the network would give for these segments (x1, y1, x2, y2 in pixels of the picture)."""
    maps = torch.zeros(1, 16, size[0] // 2, size[1] // 2)
    maps[:, 7] = -20
    for x1, y1, x2, y2 in segments:
        x, y = round((x1 + x2) / 4), round((y1 + y2) / 4)
        maps[0, 7, y, x] = math.log(score / (1 - score))
        maps[0, 8:12, y, x] = torch.tensor([x1 / 2 - x, y1 / 2 - y, x2 / 2 - x, y2 / 2 - y])
    return maps


SEGMENTS = [(10.0, 20.0, 90.0, 20.0), (31.5, 40.0, 30.0, 117.0), (100.0, 100.0, 140.0, 70.25)]


# The reference


@pytest.mark.parametrize(
    ("size", "score", "distance"),
    [((512, 512), 0.1, 0.1), ((448, 640), 0.1, 0.1), ((192, 256), 0.7, 30.0)],
)
def test_map_equals_the_reference_pixel_for_pixel(mlsd, size, score, distance):
    picture = photo(*size)
    detector = aux("mlsd").MLSDdetector(reference(mlsd))
    expected = detector(picture, score, distance, min(size), min(size), output_type="np")[..., 0]
    found = as_pixels(mlsd.annotate(as_tensor(picture), score, distance))[0]
    assert 0.005 < (expected > 0).mean() < 0.7
    assert (found != expected).sum() == 0


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (16, 112)])
def test_network_equals_the_reference_at_any_size_it_takes(mlsd, size):
    pixels = (noise(2, 3, *size) * 255).round()
    with_ones = torch.cat([pixels, torch.ones(2, 1, *size)], 1)
    assert torch.equal(mlsd.maps(pixels)[:, 7:], reference(mlsd)(with_ones / 127.5 - 1))


def test_parameters_are_those_of_the_published_network():
    assert sum(p.numel() for p in MLSD().parameters()) == 1_533_680


def test_manifest_is_that_of_the_reference_and_of_ours():
    for network in (MLSD(), aux("mlsd").MobileV2_MLSD_Large()):
        assert {n: tuple(v.shape) for n, v in network.state_dict().items()} == manifest("mlsd")
    assert len(manifest("mlsd")) == 362


# Known lines


def test_decoder_gives_the_segments_that_the_maps_were_made_of():
    (lines,) = decode_lines(maps_of(SEGMENTS, (128, 160), 0.9))
    assert sorted(map(tuple, lines.tolist())) == sorted(SEGMENTS)


@pytest.mark.parametrize(("threshold", "count"), [(0.29, 3), (0.31, 0)])
def test_decoder_keeps_what_is_likelier_than_the_score(threshold, count):
    (lines,) = decode_lines(maps_of(SEGMENTS, (128, 160), 0.3), score=threshold)
    assert len(lines) == count


@pytest.mark.parametrize(("threshold", "count"), [(24.9, 3), (25.1, 2), (38.6, 1), (40.1, 0)])
def test_decoder_keeps_what_is_longer_than_the_distance(threshold, count):
    # Half the lengths of the segments: 40, 38.51 and 24.97.
    (lines,) = decode_lines(maps_of(SEGMENTS, (128, 160), 0.9), distance=threshold)
    assert len(lines) == count


def test_decoder_takes_the_best_of_neighbouring_middles():
    maps = maps_of([(10, 20, 90, 20)], (128, 160), 0.9)
    maps[..., 11, 26] = maps[..., 10, 25] + 0.5
    (lines,) = decode_lines(maps)
    assert lines.tolist() == [[13, 23, 93, 23]]


def test_decoder_takes_two_hundred_lines_at_most_and_the_best_first():
    maps = torch.zeros(1, 16, 100, 100)
    maps[:, 7] = -20
    maps[0, 7, 1::4, 1::4] = torch.linspace(2, 4, 625).reshape(25, 25)
    maps[:, 10] = 5
    (lines,) = decode_lines(maps)
    assert len(lines) == 200
    assert lines[0].tolist() == [2 * 97, 2 * 97, 2 * 97 + 10, 2 * 97]


def test_lines_are_drawn_one_pixel_wide_from_end_to_end(mlsd, monkeypatch):
    monkeypatch.setattr(mlsd, "maps", lambda pixels: maps_of(SEGMENTS[:1], (128, 160), 0.9))
    drawn = mlsd.annotate(noise(1, 3, 128, 160))[0, 0]
    assert drawn.sum() == 81
    assert drawn[20, 10:91].all()


def test_ends_are_cut_to_whole_pixels(mlsd, monkeypatch):
    segment = [(10.9, 20.9, 30.9, 20.9)]
    monkeypatch.setattr(mlsd, "maps", lambda pixels: maps_of(segment, (64, 64), 0.9))
    drawn = mlsd.annotate(noise(1, 3, 64, 64))[0, 0]
    assert drawn[20, 10:31].all()
    assert drawn.sum() == 21


def test_lines_that_leave_the_picture_are_clipped(mlsd, monkeypatch):
    segment = [(40.0, 30.0, 1e9, 30.0)]
    maps = maps_of([(40, 30, 44, 30)], (64, 64), 0.9)
    maps[0, 10] = segment[0][2]
    monkeypatch.setattr(mlsd, "maps", lambda pixels: maps)
    drawn = mlsd.annotate(noise(1, 3, 61, 57))[0, 0]
    assert drawn.shape == (61, 57)
    assert drawn[30, 40:].all()
    assert drawn.sum() == 17


def test_no_line_gives_a_black_map_and_a_log_line(caplog):
    network = MLSD()
    weights = randomise(network).state_dict()
    weights[HEAD + "weight"].zero_()
    weights[HEAD + "bias"].fill_(-20)
    with caplog.at_level(logging.INFO):
        drawn = network.annotate(noise(3, 3, 40, 50))
    assert drawn.shape == (3, 1, 40, 50)
    assert not drawn.any()
    assert [r.getMessage() for r in caplog.records] == [
        "M-LSD Lines: no line in 3 of 3 pictures (#0, #1, #2), the map is black there"
    ]


# Any size


@pytest.mark.parametrize(
    ("way", "size"),
    [("forward", ODD_SIZES[0]), *(("annotate", size) for size in (*ODD_SIZES, (1, 1), (17, 40)))],
)
def test_map_has_the_size_of_the_picture(mlsd, way, size):
    with torch.no_grad():
        assert getattr(mlsd, way)(noise(1, 3, *size)).shape == (1, 1, *size)


def test_padding_repeats_the_border(mlsd):
    picture = noise(1, 3, 45, 70)
    padded = pad(picture, (0, 10, 0, 3), "replicate")
    assert torch.equal(mlsd(picture), mlsd(padded)[..., :45, :70])
    assert torch.equal(mlsd.lines(picture)[0], mlsd.lines(padded)[0])


def test_batch_of_four_equals_four_singles(mlsd):
    pictures = noise(4, 3, 97, 131)
    for lines, one in zip(mlsd.lines(pictures), pictures, strict=True):
        (expected,) = mlsd.lines(one[None])
        assert len(expected) > 50
        assert torch.equal(lines, expected)


# The soft map


def test_soft_map_is_the_probability_to_lie_on_a_line(mlsd, monkeypatch):
    maps = torch.full((1, 16, 32, 32), -20.0)
    maps[0, 15, 10] = 20
    monkeypatch.setattr(mlsd, "maps", lambda pixels: maps)
    soft = mlsd(noise(1, 3, 64, 64))[0, 0]
    assert (soft[20:22] > 0.99).all()
    assert (soft[:19] < 0.01).all()
    assert (soft[23:] < 0.01).all()


def test_gradient_reaches_nearly_every_pixel_and_is_finite(mlsd):
    picture = noise(1, 3, 37, 50).requires_grad_()
    mlsd(picture).square().mean().backward()
    assert picture.grad is not None
    assert picture.grad.isfinite().all()
    assert (picture.grad != 0).float().mean() > 0.9
    assert not mlsd.annotate(picture).requires_grad


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_pictures_have_finite_gradients(mlsd, value):
    picture = torch.full((1, 3, 37, 50), value, requires_grad=True)
    mlsd(picture).sum().backward()
    assert picture.grad is not None
    assert picture.grad.isfinite().all()


# Types and refusals


def test_map_has_the_dtype_of_the_picture(mlsd):
    picture = as_tensor(photo(64, 64))
    found = mlsd.annotate(picture.half())
    assert found.dtype == torch.float16
    assert_same_map(found.float(), mlsd.annotate(picture))


def test_weights_in_half_precision_are_taken(mlsd):
    network = MLSD(dtype=torch.bfloat16)
    network.load_state_dict(mlsd.state_dict())
    assert np.isin(as_pixels(network.annotate(noise(1, 3, 64, 64))), (0, 255)).all()


@pytest.mark.parametrize(("score", "distance"), [(1.5, 0.1), (-0.1, 0.1), (0.1, -1)])
def test_wrong_thresholds_are_refused_with_both_values(mlsd, score, distance):
    with pytest.raises(ValueError, match=rf"score {score:g} and distance {distance:g}"):
        mlsd.annotate(noise(1, 3, 32, 32), score, distance)


@pytest.mark.parametrize("way", ["forward", "annotate"])
def test_wrong_tensors_are_refused_by_name(mlsd, way):
    with pytest.raises(ValueError, match=r"M-LSD Lines.*\(3, 8, 8\).*RGB"):
        getattr(mlsd, way)(torch.zeros(3, 8, 8))
