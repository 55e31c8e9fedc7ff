"""Edge F1 against distance transforms, loops over pixels and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controlnet_pp.cnpp_core.consistency.metrics import dilate, edge_f1
from scipy import ndimage
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_precision,
    binary_recall,
)


def maps(seed: int, density: float, batch: int = 3, size=(31, 44)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, 1, *size, generator=generator) < density).float()


def share_near(pixels: np.ndarray, other: np.ndarray, tolerance: int) -> float:
    """Share of the set pixels whose chessboard distance to the other map is in tolerance."""
    if not pixels.any():
        return float(not other.any())
    if not other.any():
        return 0.0
    distance = ndimage.distance_transform_cdt(~other, metric="chessboard")
    return float((distance[pixels] <= tolerance).mean())


def reference(prediction, target, tolerance, mask=None) -> tuple[float, float, float]:
    if mask is not None:
        prediction, target = prediction & mask, target & mask
    precision = share_near(prediction, target, tolerance)
    recall = share_near(target, prediction, tolerance)
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


@pytest.mark.parametrize("tolerance", [0, 1, 2, 5])
@pytest.mark.parametrize("densities", [(0.1, 0.1), (0.01, 0.3), (0.002, 0.002)])
@pytest.mark.parametrize("masked", [False, True])
def test_edge_f1_equals_a_distance_transform(tolerance, densities, masked):
    prediction, target = maps(1, densities[0]), maps(2, densities[1])
    mask = maps(3, 0.6) if masked else None
    found = edge_f1(prediction, target, tolerance, mask)
    for index in range(3):
        arrays = [m[index, 0].numpy() > 0 for m in (prediction, target)]
        inside = None if mask is None else mask[index, 0].numpy() > 0
        expected = reference(*arrays, tolerance, inside)
        assert [part[index].item() for part in found] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (64, 64), (33, 90)])
def test_exact_edge_f1_equals_torchmetrics(size):
    prediction, target = maps(4, 0.4, size=size), maps(5, 0.5, size=size)
    prediction[..., 0], target[..., 0] = 1, 1  # torchmetrics scores two empty maps 0
    found = edge_f1(prediction, target)
    for index in range(3):
        pair = prediction[index].int(), target[index].int()
        torch.testing.assert_close(found.precision[index], binary_precision(*pair))
        torch.testing.assert_close(found.recall[index], binary_recall(*pair))
        torch.testing.assert_close(found.f1[index], binary_f1_score(*pair))


def test_tolerance_is_a_square_so_a_diagonal_step_is_one_pixel():
    prediction, target = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)
    prediction[0, 0, 4, 4] = 1
    target[0, 0, 5, 5] = 1
    assert edge_f1(prediction, target, 0).f1.item() == 0
    assert edge_f1(prediction, target, 1).f1.item() == 1


def test_precision_and_recall_tell_invented_from_lost():
    line = torch.zeros(1, 1, 8, 8)
    line[0, 0, 2] = 1
    two_lines = line.clone()
    two_lines[0, 0, 6] = 1
    invented, lost = edge_f1(two_lines, line), edge_f1(line, two_lines)
    assert (invented.precision.item(), invented.recall.item()) == (0.5, 1.0)
    assert (lost.precision.item(), lost.recall.item()) == (1.0, 0.5)


@pytest.mark.parametrize("tolerance", [0, 3])
def test_two_empty_maps_score_one_and_one_empty_map_zero(tolerance):
    empty, some = torch.zeros(1, 1, 8, 8), maps(6, 0.2, batch=1, size=(8, 8))
    assert [part.item() for part in edge_f1(empty, empty, tolerance)] == [1, 1, 1]
    assert [part.item() for part in edge_f1(some, empty, tolerance)] == [0, 0, 0]
    assert [part.item() for part in edge_f1(empty, some, tolerance)] == [0, 0, 0]


def test_edges_outside_the_mask_do_not_exist_for_the_score():
    target = maps(7, 0.2)
    mask = torch.zeros(1, 1, 31, 44)
    mask[..., :20] = 1
    prediction = torch.where(mask > 0, target, 1 - target)
    assert edge_f1(prediction, target, mask=mask).f1.tolist() == [1, 1, 1]


def test_one_target_serves_every_prediction():
    prediction, target = maps(8, 0.2), maps(9, 0.2, batch=1)
    shared = edge_f1(prediction, target, 1)
    repeated = edge_f1(prediction, target.repeat(3, 1, 1, 1), 1)
    assert all(torch.equal(a, b) for a, b in zip(shared, repeated, strict=True))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64])
def test_maps_of_any_dtype_score_the_same(dtype):
    prediction, target = maps(10, 0.2), maps(11, 0.2)
    expected = edge_f1(prediction, target, 1)
    found = edge_f1(prediction.to(dtype), target.to(dtype), 1)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("radius", [0, 1, 4, 40])
def test_dilation_equals_scipy(radius):
    pixels = maps(12, 0.01, batch=1) > 0
    square = np.ones((2 * radius + 1, 2 * radius + 1))
    expected = ndimage.binary_dilation(pixels[0, 0].numpy(), square)
    assert np.array_equal(dilate(pixels, radius)[0, 0].numpy(), expected)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((2, 1, 8, 8), (2, 1, 8, 9)), r"target.*\(2, 1, 8, 9\).*\(2, 1, 8, 8\)"),
        (((2, 1, 8, 8), (3, 1, 8, 8)), r"target.*\(3, 1, 8, 8\)"),
        (((2, 3, 8, 8), (2, 3, 8, 8)), r"\(2, 3, 8, 8\)"),
        (((2, 1, 8, 8), (2, 1, 8, 8), (1, 1, 4, 4)), r"mask.*\(1, 1, 4, 4\)"),
    ],
)
def test_maps_that_do_not_fit_are_refused_with_both_shapes(shapes, words):
    prediction, target, *mask = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=words):
        edge_f1(prediction, target, mask=mask[0] if mask else None)


@pytest.mark.parametrize("tolerance", [-1, 0.5])
def test_tolerance_must_be_whole_pixels(tolerance):
    with pytest.raises(ValueError, match=str(tolerance)):
        edge_f1(maps(1, 0.1), maps(2, 0.1), tolerance)
