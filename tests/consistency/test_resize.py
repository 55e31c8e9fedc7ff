"""Line maps at another size: nothing lost, nothing thickened, nothing torn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlnet_pp.cnpp_core.consistency.resize import resize_lines, resize_nearest, same_aspect
from scipy import ndimage
from skimage.draw import circle_perimeter, line


def sparse(*size: int, density: float = 0.05) -> torch.Tensor:
    return torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0)) < density


@pytest.mark.parametrize("size", [(15, 20), (31, 29), (7, 40), (40, 7), (1, 1)])
def test_smaller_marks_exactly_the_pixels_that_hold_a_set_centre(size):
    pixels = sparse(40, 40)
    expected = np.zeros(size, bool)
    for y, x in zip(*np.nonzero(pixels[0, 0].numpy()), strict=True):
        expected[int((y + 0.5) * size[0] / 40), int((x + 0.5) * size[1] / 40)] = True
    assert np.array_equal(resize_lines(pixels, *size)[0, 0].numpy(), expected)


@pytest.mark.parametrize("size", [96, 75, 50, 23])
def test_connected_lines_stay_connected_and_thin_when_they_shrink(size):
    pixels = np.zeros((128, 128), bool)
    pixels[circle_perimeter(64, 64, 50)] = True
    pixels[line(5, 3, 30, 10)] = True
    small = resize_lines(torch.from_numpy(pixels)[None, None], size, size)[0, 0].numpy()
    assert ndimage.label(small, np.ones((3, 3)))[1] == 2
    assert small.sum() <= 1.5 * pixels.sum() * size / 128


@pytest.mark.parametrize("size", [96, 75, 50, 23])
def test_a_line_along_an_axis_stays_one_pixel_wide_when_it_shrinks(size):
    pixels = torch.zeros(1, 1, 128, 128, dtype=torch.bool)
    pixels[:, :, 77] = True
    small = resize_lines(pixels, size, size)
    assert small.sum() == size
    assert small.any(-1).sum() == 1


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_larger_by_a_whole_factor_repeats_pixels_and_comes_back(factor):
    pixels = sparse(13, 17)
    large = resize_lines(pixels, 13 * factor, 17 * factor)
    assert torch.equal(large, pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3))
    assert torch.equal(resize_lines(large, 13, 17), pixels)


@pytest.mark.parametrize("size", [(20, 30), (5, 7), (11, 40)])
def test_nearest_equals_torch_nearest_exact(size):
    values = torch.rand(2, 3, 11, 13)
    expected = torch.nn.functional.interpolate(values, size=size, mode="nearest-exact")
    assert torch.equal(resize_nearest(values, *size), expected)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ((512, 512), (1024, 1024), True),
        ((512, 768), (512, 768), True),
        ((333, 700), (512, 1076), True),
        ((512, 715), (64, 89), True),
        ((512, 715), (512, 712), False),
        ((512, 768), (768, 512), False),
    ],
)
def test_same_aspect_allows_a_pixel_of_rounding(a, b, same):
    assert same_aspect(a, b) is same
