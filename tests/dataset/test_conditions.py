"""Conditions that are found in the pictures at every draw."""

import cv2
import pytest
import torch
from controlnet_pp.dataset.conditions import fixed, random_canny


def pictures(count: int = 4):
    """Bars on black, the brighter the further right, so that thresholds decide what is an edge."""
    bars = torch.stack([torch.arange(10.0, 70, 2), torch.zeros(30)], 1).flatten() / 255
    return bars.repeat_interleave(4).expand(count, 3, 32, 240)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_picture_gets_thresholds_of_its_own_out_of_the_generator():
    annotate = random_canny((20, 80), (80, 200))
    found = annotate(pictures(16), seeded(0))
    assert found.shape == (16, 1, 32, 240)
    assert len({int(edges.sum()) for edges in found}) > 4
    assert torch.equal(found, annotate(pictures(16), seeded(0)))
    assert not torch.equal(found, annotate(pictures(16), seeded(1)))


def test_the_thresholds_lie_in_their_ranges(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        cv2, "Canny", lambda row, low, high: drawn.append((low, high)) or row[..., 0]
    )
    random_canny((50, 150), (150, 250))(pictures(200), seeded(0))
    for values, low, high in zip(zip(*drawn, strict=True), (50, 150), (150, 250), strict=True):
        assert low <= min(values) < low + 5
        assert high - 5 < max(values) <= high


def test_ranges_of_one_number_are_the_usual_canny():
    from controlnet_pp.annotators.canny import canny_cv2

    found = random_canny((100, 100), (200, 200))(pictures(), seeded(0))
    assert torch.equal(found, canny_cv2(pictures()))


@pytest.mark.parametrize(
    ("low", "high"), [((50, 160), (150, 250)), ((-1, 5), (5, 9)), ((5, 4), (5, 9))]
)
def test_ranges_that_overlap_are_named(low, high):
    with pytest.raises(ValueError, match="the first range must end before the second"):
        random_canny(low, high)


def test_a_fixed_annotator_draws_nothing():
    generator = seeded(0)
    state = generator.get_state()
    assert torch.equal(fixed(lambda p: 1 - p)(pictures(), generator), 1 - pictures())
    assert torch.equal(generator.get_state(), state)
