"""Real pictures through every annotator without learned weights; the results of record, and why.

The pictures come with scikit-image and scikit-learn. Shares are of white pixels, in percent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp, canny_cv2
from controlnet_pp.annotators.scribble import scribble_drawing, scribble_xdog
from controlnet_pp.tests.annotators.aux_oracle import as_pixels, as_tensor
from scipy import ndimage
from skimage import data
from sklearn.datasets import load_sample_image


class Shares(NamedTuple):
    canny_cv2: float
    canny_cnpp: float
    xdog: float
    drawing: float


# What is measured, and why it is so. Both Cannys draw every contour as a line of one pixel;
# ControlNet++'s blurs first and has the lower threshold for its unit, so it adds faint contours and
# merges what is finer than its blur. XDoG marks what is darker than its surroundings in all three
# channels: a few pixels on the dark side of a step. The drawing is a plain threshold on the darkest
# channel, meant for ink on paper: in a photograph, all that is dark or of a strong colour.
GOLDEN = {
    # portrait before a light wall; the orange suit has next to no blue, so it is "dark"
    "astronaut": Shares(9.00, 10.30, 11.46, 61.86),
    # a cat's fur: fine and low in contrast, under cv2's threshold; brown throughout
    "chelsea": Shares(8.55, 13.35, 5.60, 85.28),
    # cup and wood grain; the grain is brighter in one channel where it is darker in another
    "coffee": Shares(10.59, 12.46, 3.68, 90.15),
    # cameraman on a lawn: the grass is all edges, the coat is one dark area
    "camera": Shares(7.51, 10.44, 8.63, 35.43),
    # rocket between lattice towers, whose struts the blur merges; dusk, so nearly all is dark
    "rocket": Shares(8.37, 6.33, 1.58, 98.69),
    # printed page in a shadow: two contours for every stroke of a letter, and XDoG the stroke
    # itself; the threshold takes the shadow for ink
    "page": Shares(12.09, 13.23, 12.78, 21.35),
    # handwriting on squared grey paper, likewise
    "text": Shares(7.69, 9.02, 9.85, 31.04),
    # a black silhouette on white: its outline, a band inside it, and itself
    "horse": Shares(1.71, 1.81, 11.19, 33.09),
    # flat colours with white gaps: contours only; blue and green lack red, so they are "dark"
    "logo": Shares(4.25, 4.53, 1.73, 64.51),
    # a palace with tiles and carvings all over, under a bright sky
    "china.jpg": Shares(16.71, 15.60, 11.53, 48.67),
    # one flower in focus before a blurred dark ground
    "flower.jpg": Shares(4.33, 4.76, 2.68, 96.98),
}


def picture(name: str) -> np.ndarray:
    """uint8 (H, W, 3)."""
    pixels = load_sample_image(name) if name.endswith(".jpg") else getattr(data, name)()
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.ndim == 2:
        pixels = pixels[..., None].repeat(3, axis=2)
    return pixels[..., :3].copy()


def percent(maps: torch.Tensor) -> float:
    return 100 * maps.mean().item()


@pytest.mark.parametrize(("name", "golden"), GOLDEN.items())
def test_shares_of_white_are_those_of_record(name, golden):
    image = as_tensor(picture(name))
    annotators = (canny_cv2, canny_cnpp, scribble_xdog, scribble_drawing)
    found = Shares(*(percent(annotate(image)) for annotate in annotators))
    # Decoders of JPEG and floating point may differ in a few pixels of 100000.
    assert found == pytest.approx(golden, abs=0.05)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_drawing_is_the_share_of_dark_pixels(name):
    pixels = picture(name)
    assert np.array_equal(
        as_pixels(scribble_drawing(as_tensor(pixels)))[0] > 0, pixels.min(2) < 127
    )


@pytest.mark.parametrize("annotate", [canny_cv2, canny_cnpp])
def test_canny_of_a_silhouette_is_its_outline(annotate):
    silhouette = data.horse()
    edges = annotate(as_tensor(picture("horse")))[0, 0].numpy() > 0
    touching = np.ones((3, 3))
    outline = silhouette ^ ndimage.binary_erosion(silhouette, touching, border_value=1)
    near_outline = ndimage.binary_dilation(outline, touching, iterations=2)
    near_edges = ndimage.binary_dilation(edges, touching, iterations=2)
    assert not (edges & ~near_outline).any()
    assert (outline & near_edges).sum() > 0.97 * outline.sum()


def test_xdog_of_a_silhouette_is_the_band_inside_its_outline():
    # Inside, the wide Gaussian (sigma 5, cut at 20 pixels) still sees white near the outline.
    dark = ~data.horse()
    strokes = scribble_xdog(as_tensor(picture("horse")))[0, 0].numpy() > 0
    distance = ndimage.distance_transform_edt(dark)
    assert not (strokes & ~ndimage.binary_dilation(dark, np.ones((3, 3)))).any()
    assert distance[strokes].max() < 20
    beside = dark & (distance < 3)
    assert strokes[beside].mean() > 0.9


def test_xdog_reads_a_page_in_a_shadow_and_the_threshold_does_not():
    # Bottom left the paper itself is below the threshold; letters cover a tenth of it.
    image = as_tensor(picture("page"))
    shadow = (..., slice(80, 191), slice(0, 50))
    assert percent(scribble_drawing(image)[shadow]) > 80
    assert 5 < percent(scribble_xdog(image)[shadow]) < 25


@pytest.mark.parametrize("annotate", [canny_cv2, canny_cnpp, scribble_xdog, scribble_drawing])
def test_a_batch_of_photographs_equals_the_singles(annotate):
    crops = [as_tensor(picture(name)[40:161, 30:233]) for name in ("china.jpg", "camera", "coffee")]
    singles = torch.cat([annotate(crop) for crop in crops])
    assert torch.equal(annotate(torch.cat(crops)), singles)
