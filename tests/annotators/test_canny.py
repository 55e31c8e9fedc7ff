"""Canny in both definitions against OpenCV, kornia, scipy and arithmetic."""

from __future__ import annotations

import math

import cv2
import kornia
import numpy as np
import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp, canny_cv2, canny_magnitude
from scipy import ndimage
from skimage import data

# kornia keeps one pixel of a tie since 0.9 (which needs Python 3.11), before it dropped both.
KORNIA_DROPS_TIES = tuple(map(int, kornia.__version__.split(".")[:2])) < (0, 9)
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "logo")
SIZES = [(3, 3), (3, 50), (41, 5), (64, 64), (97, 131)]


def photo(name: str) -> np.ndarray:
    return np.ascontiguousarray(getattr(data, name)()[..., :3])


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).movedim(-1, 0)[None].float() / 255


def noise(height: int, width: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def shapes(size: int, supersampling: int, seed: int) -> torch.Tensor:
    """A circle, square or diamond in two flat 8-bit colours: full of tied gradients."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(size * supersampling) / (size * supersampling)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    u, v = x - 0.5, y - 0.45
    inside = ((u**2 + v**2).sqrt(), torch.maximum(u.abs(), v.abs()), u.abs() + v.abs())[seed % 3]
    mask = torch.nn.functional.avg_pool2d((inside < 0.25).float()[None, None], supersampling)
    colours = torch.randint(0, 256, (2, 1, 3, 1, 1), generator=generator) / 255
    return ((colours[0] * mask + colours[1] * (1 - mask)) * 255).round() / 255


def kornia_canny(image: torch.Tensor, low: float = 0.1, high: float = 0.2):
    return kornia.filters.canny(image, low, high)


def steps(width: int = 16, height: int = 12) -> torch.Tensor:
    """Black left half, white right half."""
    image = torch.zeros(1, 3, height, width)
    image[..., width // 2 :] = 1
    return image


# cv2 mode


@pytest.mark.parametrize("name", PHOTOS)
def test_cv2_mode_equals_opencv_on_photographs(name):
    pixels = photo(name)
    expected = cv2.Canny(pixels, 100, 200)
    assert np.array_equal(canny_cv2(as_tensor(pixels))[0, 0].numpy() * 255, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), *SIZES])
@pytest.mark.parametrize("thresholds", [(0, 0), (50, 50), (100, 200), (300, 900)])
def test_cv2_mode_equals_opencv_at_any_size_and_threshold(size, thresholds):
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = cv2.Canny(pixels, *thresholds)
    assert np.array_equal(canny_cv2(as_tensor(pixels), *thresholds)[0, 0].numpy() * 255, expected)


def test_cv2_mode_rounds_to_8_bits_instead_of_truncating():
    # Off the ends of the range, noise of less than half an 8-bit step disappears in rounding.
    pixels = photo("chelsea").clip(1, 254)
    image = as_tensor(pixels)
    image += 0.9 * (noise(*image.shape[-2:]) - 0.5) / 255
    expected = cv2.Canny(pixels, 100, 200)
    assert np.array_equal(canny_cv2(image)[0, 0].numpy() * 255, expected)


def test_cv2_mode_clips_overshoot_instead_of_wrapping():
    nearly_white = 0.98 + 0.04 * steps()
    assert canny_cv2(nearly_white).sum() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("annotate", [canny_cv2, canny_cnpp])
def test_maps_are_0_and_1_in_the_dtype_of_the_picture(annotate, dtype):
    edges = annotate(noise(40, 30, batch=2).to(dtype))
    assert edges.shape == (2, 1, 40, 30)
    assert edges.dtype == dtype
    assert set(edges.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("annotate", [canny_cv2, canny_cnpp, canny_magnitude])
def test_batch_of_four_equals_four_singles(annotate):
    crops = [as_tensor(photo(name)[20:141, 30:233]) for name in PHOTOS[:4]]
    singles = torch.cat([annotate(crop) for crop in crops])
    assert torch.equal(annotate(torch.cat(crops)), singles)


# ControlNet++ mode


@pytest.mark.parametrize("name", PHOTOS)
def test_cnpp_mode_equals_kornia_on_photographs(name):
    image = as_tensor(photo(name))
    magnitude, edges = kornia_canny(image)
    assert torch.equal(canny_cnpp(image, drop_ties=KORNIA_DROPS_TIES), edges)
    assert torch.equal(canny_magnitude(image, drop_ties=KORNIA_DROPS_TIES), magnitude)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("thresholds", [(0.1, 0.2), (0.02, 0.9), (0.5, 0.5)])
def test_cnpp_mode_equals_kornia_at_any_size_batch_and_threshold(size, batch, thresholds):
    image = noise(*size, batch=batch)
    _, edges = kornia_canny(image, *thresholds)
    assert torch.equal(canny_cnpp(image, *thresholds, drop_ties=KORNIA_DROPS_TIES), edges)


@pytest.mark.parametrize("supersampling", [1, 4])
@pytest.mark.parametrize("seed", range(12))
def test_cnpp_mode_equals_kornia_on_clean_graphics(supersampling, seed):
    image = shapes(60 + seed, supersampling, seed)
    _, edges = kornia_canny(image)
    assert torch.equal(canny_cnpp(image, drop_ties=KORNIA_DROPS_TIES), edges)


@pytest.mark.parametrize("mirrored", [False, True])
def test_cnpp_mode_equals_kornia_on_ties_across_both_diagonals(mirrored):
    image = torch.eye(40).expand(1, 3, 40, 40).repeat(1, 1, 1, 2)
    image = torch.cat([image, (image + image.roll(1, -1)).clamp(max=1)], dim=-2)
    image = image.flip(-1) if mirrored else image
    magnitude, edges = kornia_canny(image)
    assert torch.equal(canny_magnitude(image, drop_ties=KORNIA_DROPS_TIES), magnitude)
    assert torch.equal(canny_cnpp(image, drop_ties=KORNIA_DROPS_TIES), edges)


def test_cnpp_mode_takes_half_precision_as_its_values_in_float32():
    image = as_tensor(photo("chelsea")).half()
    assert torch.equal(canny_cnpp(image).float(), canny_cnpp(image.float()))


def test_cnpp_mode_ignores_autocast():
    image = noise(50, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = canny_cnpp(image)
    assert torch.equal(inside, canny_cnpp(image))


def test_step_edge_has_the_magnitude_of_blur_and_sobel_worked_by_hand():
    # Next to a unit step the blurred slope over two pixels is the two largest taps of the Gaussian,
    # and Sobel weighs rows 1 + 2 + 1.
    taps = [math.exp(-x * x / 2) for x in range(-2, 3)]
    expected = 4 * (taps[2] + taps[1]) / sum(taps)
    magnitude = canny_magnitude(steps())
    assert magnitude.max().item() == pytest.approx(expected, rel=1e-5)


def test_step_edge_gives_one_unbroken_line_left_of_the_step():
    edges = canny_cnpp(steps())
    assert edges.sum().item() == 12
    assert edges[0, 0, :, 7].sum().item() == 12


def thinned_by_hand(image: torch.Tensor, drop_ties: bool) -> np.ndarray:
    """kornia's blur and Sobel, thinned pixel by pixel."""
    gray = kornia.filters.gaussian_blur2d(kornia.color.rgb_to_grayscale(image), (5, 5), (1.0, 1.0))
    dx, dy = kornia.filters.spatial_gradient(gray, normalized=False)[0, 0]
    padded = (torch.nn.functional.pad(torch.stack([dx, dy]), (1, 1, 1, 1)) ** 2).sum(0).add(1e-6)
    magnitude, thin = padded.sqrt().numpy(), np.zeros(dx.shape, np.float32)
    for y, x in np.ndindex(thin.shape):
        angle = round(math.degrees(math.atan2(dy[y, x], dx[y, x])) / 45) % 4
        step_y, step_x = ((0, 1), (1, 1), (1, 0), (1, -1))[angle]
        here = magnitude[y + 1, x + 1]
        ahead = magnitude[y + 1 + step_y, x + 1 + step_x]
        behind = magnitude[y + 1 - step_y, x + 1 - step_x]
        tie = here == ahead and angle in (0, 2) and not drop_ties
        if here > behind and (here > ahead or tie):
            thin[y, x] = here
    return thin


@pytest.mark.parametrize("drop_ties", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_thinning_equals_a_loop_over_pixels(drop_ties, seed):
    image = shapes(48, 1, seed)
    expected = thinned_by_hand(image, drop_ties)
    assert np.array_equal(canny_magnitude(image, drop_ties=drop_ties)[0, 0].numpy(), expected)


def test_drop_ties_drops_edges_of_clean_graphics():
    image = shapes(48, 1, 1)
    assert canny_cnpp(image, drop_ties=True).sum() < 0.95 * canny_cnpp(image).sum()


def test_drop_ties_changes_next_to_nothing_on_photographs():
    image = as_tensor(photo("coffee"))
    assert torch.equal(canny_cnpp(image, drop_ties=True), canny_cnpp(image))


@pytest.mark.parametrize(("low", "high"), [(0.03, 0.8), (0.0, 0.8)])
def test_hysteresis_keeps_exactly_the_weak_components_that_hold_a_strong_pixel(low, high):
    image = as_tensor(photo("rocket"))
    magnitude = canny_magnitude(image)[0, 0].numpy()
    labels, count = ndimage.label(magnitude > low, structure=np.ones((3, 3)))
    strong = np.unique(labels[magnitude > high])
    expected = np.isin(labels, strong[strong > 0])
    assert 1 < len(strong) < count, "the picture must have components of both kinds"
    assert np.array_equal(canny_cnpp(image, low, high)[0, 0].numpy() > 0, expected)


def test_a_magnitude_of_just_the_threshold_is_no_edge():
    """So at 0 every ridge counts, and what is no ridge still does not."""
    image = steps()
    ridges = canny_magnitude(image)
    faint = 0.3 * image  # its peak lies within 0..1, as thresholds do
    top = canny_magnitude(faint).max().item()
    assert canny_cnpp(faint, top / 2, top).sum() == 0
    assert canny_cnpp(faint, top, top).sum() == 0
    assert canny_cnpp(faint, top / 2, 0.99 * top).sum() == 12
    assert torch.equal(canny_cnpp(image, 0, 0), (ridges > 0).float())
    assert torch.equal(canny_cnpp(image, 0, 0.2), canny_cnpp(image))


# The two definitions


def f1(a: torch.Tensor, b: torch.Tensor) -> float:
    return (2 * (a * b).sum() / (a.sum() + b.sum())).item()


# Measured. They part because one blurs first and the other does not: the blur merges edges that are
# a pixel or two apart, moves the rest by a pixel, and takes away noise and JPEG blocks, while the
# other threshold lets fainter contours in. So clean graphics agree most, fur least.
@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("astronaut", 0.6385),
        ("chelsea", 0.5130),
        ("coffee", 0.6134),
        ("rocket", 0.5653),
        ("logo", 0.7816),
    ],
)
def test_the_two_definitions_agree_on_photographs_as_measured(name, golden):
    image = as_tensor(photo(name))
    assert f1(canny_cv2(image), canny_cnpp(image)) == pytest.approx(golden, abs=0.002)


# Gradients


def test_magnitude_has_the_gradient_of_finite_differences():
    image = noise(7, 8, seed=3).double().requires_grad_()
    assert torch.autograd.gradcheck(canny_magnitude, (image,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_magnitude_of_a_flat_picture_is_zero_with_finite_gradient(value):
    image = torch.full((2, 3, 20, 24), value, requires_grad=True)
    magnitude = canny_magnitude(image)
    magnitude.sum().backward()
    assert magnitude.max() == 0
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_magnitude_of_a_photograph_sends_finite_gradient_to_the_picture():
    image = as_tensor(photo("astronaut")[:200, :200]).requires_grad_()
    canny_magnitude(image).square().mean().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert (image.grad != 0).float().mean() > 0.5


@pytest.mark.parametrize("annotate", [canny_cv2, canny_cnpp])
def test_maps_carry_no_graph(annotate):
    assert not annotate(noise(20, 20).requires_grad_()).requires_grad


# Refusals


@pytest.mark.parametrize("annotate", [canny_cv2, canny_cnpp, canny_magnitude])
@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(1, 1, 8, 8), r"\(1, 1, 8, 8\).*RGB"),
        (torch.zeros(1, 4, 8, 8), r"\(1, 4, 8, 8\).*RGB"),
        (torch.zeros(3, 8, 8), r"\(3, 8, 8\).*RGB"),
        (torch.zeros(1, 3, 0, 8), r"empty.*\(1, 3, 0, 8\)"),
        (torch.zeros(0, 3, 8, 8), r"empty.*\(0, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8.*Divide"),
    ],
)
def test_wrong_tensors_are_refused_by_shape_and_dtype(annotate, image, words):
    with pytest.raises(ValueError, match=words):
        annotate(image)


@pytest.mark.parametrize("annotate", [canny_cv2, canny_cnpp])
@pytest.mark.parametrize(
    ("value", "words"),
    [(math.nan, "NaN"), (math.inf, "infinite"), (255.0, "to 255.*0..1"), (-1.0, "from -1 to")],
)
def test_wrong_values_are_refused(annotate, value, words):
    image = noise(8, 8)
    image[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=words):
        annotate(image)


@pytest.mark.parametrize(
    ("annotate", "low", "high"),
    [
        (canny_cv2, 200, 100),
        (canny_cv2, -1, 100),
        (canny_cnpp, 0.3, 0.2),
        (canny_cnpp, 100, 200),
        (canny_cnpp, -0.1, 0.2),
    ],
)
def test_wrong_thresholds_are_refused_with_both_values(annotate, low, high):
    with pytest.raises(ValueError, match=rf"low {low:g} and high {high:g}"):
        annotate(noise(8, 8), low, high)


def test_cnpp_mode_refuses_pictures_smaller_than_its_blur():
    with pytest.raises(ValueError, match=r"9x2 pixels.*at least 3"):
        canny_cnpp(noise(2, 9))
