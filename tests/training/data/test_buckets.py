"""Sizes that pictures are trained at, and how they are brought to them."""

import itertools

import pytest
import torch
from controlnet_pp.cnpp_core.control.hints import LINES, NEAREST, SMOOTH
from controlnet_pp.cnpp_core.training.data.buckets import (
    bucket_of,
    bucket_sizes,
    cut_off,
    placed,
)


@pytest.mark.parametrize("resolution", [64, 128, 512, 768, 1024])
def test_buckets_have_about_the_area_and_sides_that_every_unet_takes(resolution):
    sizes = bucket_sizes(resolution)
    assert (resolution, resolution) in sizes
    for width, height in sizes:
        assert width % 64 == height % 64 == 0
        assert width * height == pytest.approx(resolution**2, rel=0.07)
        assert max(width, height) <= 2 * min(width, height)
        assert (height, width) in sizes


def test_the_buckets_of_512():
    assert bucket_sizes(512) == [(384, 704), (448, 576), (512, 512), (576, 448), (704, 384)]


@pytest.mark.parametrize("resolution", [0, 32, 500])
def test_a_resolution_that_is_no_multiple_is_named(resolution):
    with pytest.raises(ValueError, match=f"The resolution is {resolution}, expected a multiple"):
        bucket_sizes(resolution)


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((300, 300), (512, 512)),
        ((4000, 3000), (576, 448)),
        ((3000, 4000), (448, 576)),
        ((1920, 1080), (704, 384)),
        ((10, 1000), (384, 704)),
    ],
)
def test_a_picture_goes_where_its_aspect_is_nearest(size, bucket):
    assert bucket_of(size, bucket_sizes(512)) == bucket


def test_what_lies_across_goes_where_it_would_go_upright():
    buckets = bucket_sizes(512)
    for width in range(200, 1000, 7):
        assert bucket_of((width, 500), buckets) == bucket_of((500, width), buckets)[::-1]


def bounds(pixels):
    """First and last row and column that are mostly white."""
    rows, columns = (pixels[0, 0] > 0.5).nonzero().unbind(1)
    return [int(v) for v in (rows.min(), rows.max(), columns.min(), columns.max())]


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        (a, b)
        for a, b in itertools.product([(200, 100), (96, 150), (400, 400)], [(128, 128), (192, 64)])
    ],
)
def test_picture_and_condition_stay_in_register(size, bucket):
    picture = torch.zeros(1, 3, size[1], size[0])
    picture[..., size[1] // 2 - 8 : size[1] // 2 + 4, size[0] // 2 - 16 : size[0] // 2 + 24] = 1
    found = placed(picture, bucket)
    assert found.shape == (1, 3, bucket[1], bucket[0])
    for resampling in (SMOOTH, NEAREST, LINES):
        condition = placed(picture[:, :1], bucket, resampling)
        assert condition.shape == (1, 1, bucket[1], bucket[0])
        misses = [abs(a - b) for a, b in zip(bounds(found), bounds(condition), strict=True)]
        assert max(misses) <= 1


def test_what_overlaps_is_cut_off_evenly():
    picture = torch.arange(256.0).expand(1, 3, 128, 256) / 255
    found = placed(picture, (128, 128))
    assert torch.equal(found, picture[..., 64:192])
    assert cut_off((256, 128), (128, 128)) == (0, 64)
    assert cut_off((64, 256), (128, 128)) == (192, 0)
