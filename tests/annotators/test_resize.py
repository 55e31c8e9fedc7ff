"""`resolution` is the short side; aspect, values and batches survive."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.annotators.resize import pixel_perfect, short_side_size, to_short_side
from torch.nn.functional import avg_pool2d


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((480, 640), 240, (240, 320)),
        ((640, 480), 240, (320, 240)),
        ((333, 700), 512, (512, 1076)),
        ((481, 641), 512, (512, 682)),
        ((50, 50), 64, (64, 64)),
        ((1, 7), 3, (3, 21)),
    ],
)
def test_short_side_gets_the_resolution_and_the_long_side_the_aspect(size, resolution, expected):
    assert to_short_side(noise(1, 3, *size), resolution).shape[-2:] == expected


@pytest.mark.parametrize("resolution", [0, 20])
def test_zero_or_the_own_size_returns_the_picture_itself(resolution):
    image = noise(2, 3, 20, 30)
    assert to_short_side(image, resolution) is image


def test_half_size_is_the_mean_of_two_by_two_pixels():
    image = noise(2, 3, 40, 60)
    expected = avg_pool2d(image, 2)
    torch.testing.assert_close(to_short_side(image, 20), expected, rtol=0, atol=1e-6)


def test_reduction_by_a_fraction_keeps_the_mean():
    image = noise(1, 3, 90, 120)
    assert to_short_side(image, 40).mean().item() == pytest.approx(image.mean().item(), abs=1e-4)


def test_enlarging_a_ramp_gives_the_ramp():
    ramp = torch.linspace(0.1, 0.9, 32).expand(1, 3, 32, 32)
    centres = (torch.arange(96) + 0.5) / 3 - 0.5
    expected = 0.1 + 0.8 * centres / 31
    found = to_short_side(ramp, 96)[0, 0, 48]
    torch.testing.assert_close(found[15:-15], expected[15:-15], rtol=0, atol=1e-3)


def test_enlarging_stays_between_0_and_1():
    checks = ((torch.arange(16)[:, None] + torch.arange(16)) % 2).float().expand(1, 3, 16, 16)
    enlarged = to_short_side(checks, 50)
    assert enlarged.min() >= 0
    assert enlarged.max() <= 1


@pytest.mark.parametrize("resolution", [10, 40])
def test_batch_equals_singles_with_any_number_of_channels(resolution):
    image = noise(3, 5, 20, 30)
    singles = torch.cat([to_short_side(one[None], resolution) for one in image])
    assert torch.equal(to_short_side(image, resolution), singles)


def test_half_precision_stays_half_precision():
    assert to_short_side(noise(1, 3, 20, 20).half(), 10).dtype == torch.float16


@pytest.mark.parametrize(
    ("image", "resolution", "words"),
    [
        (torch.zeros(1, 3, 8, 8), -1, "-1"),
        (torch.zeros(1, 3, 0, 8), 4, r"\(1, 3, 0, 8\)"),
        (torch.zeros(3, 8, 8), 4, r"\(3, 8, 8\)"),
    ],
)
def test_wrong_input_is_refused_with_what_was_found(image, resolution, words):
    with pytest.raises(ValueError, match=words):
        to_short_side(image, resolution)


# Pixel perfect


@pytest.mark.parametrize(
    ("picture", "target", "expected"),
    [
        ((512, 512), (768, 512), 768),  # a square that fills a portrait is as high as it
        ((480, 640), (480, 640), 480),
        ((640, 480), (1024, 1024), 1024),
        ((3000, 4000), (512, 512), 512),
        ((333, 700), (512, 512), 512),
        ((700, 333), (512, 896), 896),
        ((1080, 1920), (512, 1024), 576),
    ],
)
def test_pixel_perfect_covers_the_target_and_no_more(picture, target, expected):
    resolution = pixel_perfect(*picture, *target)
    assert resolution == expected
    size = short_side_size(*picture, resolution)
    # As large as the target along one side, not smaller along the other.
    excess = [side - wanted for side, wanted in zip(size, target, strict=True)]
    assert min(excess) == 0


@pytest.mark.parametrize("side", range(4))
def test_pixel_perfect_refuses_empty_sides(side):
    sides = [512, 640, 480, 480]
    sides[side] = 0
    with pytest.raises(ValueError, match="at least 1"):
        pixel_perfect(*sides)
