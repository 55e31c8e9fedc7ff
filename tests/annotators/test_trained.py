"""Annotators with the weights of their authors, on photographs.

`golden` holds what they gave when this was written. Convolutions round by the order in which a
machine adds; so a pixel may be a level or two off, and beside a threshold a thin line may move.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from controlnet_pp.cnpp_core.condition import Condition
from controlnet_pp.cnpp_core.consistency.check import check_consistency
from controlnet_pp.tests.trained import PHOTOS, TEXTURES, photo, trained
from PIL import Image

pytestmark = pytest.mark.weights
GOLDEN = Path(__file__).parent / "golden"
WAYS = [("softedge", ""), ("mlsd", ""), ("scribble", "hed"), ("scribble", "xdog")]
WAYS += [("canny", "cnpp"), ("canny", "cv2"), ("tile", "resample"), ("tile", "blur")]


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(GOLDEN / f"{name}.png")))[None, None].float() / 255


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_soft_edges_are_as_they_were(name: str):
    ways, _ = trained("softedge")
    found = ways.find(photo(name))
    off = (found - golden(f"softedge_{name}")).abs() * 255
    assert off.max() <= 3
    assert off.mean() < 0.1


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_straight_lines_are_as_they_were(name: str):
    ways, _ = trained("mlsd")
    found = ways.find(photo(name, 512))
    result = Condition.MLSD.measure(1).compare(found, golden(f"mlsd_{name}") > 0.5, None)
    assert result.scores.item() > 0.97


@pytest.mark.parametrize("name", ["astronaut", "coins", "gravel"])
def test_the_soft_map_of_hed_is_its_condition_before_rounding(name: str):
    ways, (network,) = trained("softedge")
    picture = photo(name)
    with torch.no_grad():
        assert (network(picture) - ways.find(picture)).abs().max() < 1 / 255 + 1e-4


@pytest.mark.parametrize(("kind", "method"), WAYS)
@pytest.mark.parametrize("side", [256, 512])
def test_no_map_of_ours_is_refused(kind: str, method: str, side: int):
    ways, _ = trained(kind, method)
    measure = Condition.named(kind).measure()
    for name in (*PHOTOS[: 6 if side == 256 else 1], *TEXTURES):
        measure.read(ways.find(photo(name, side)))


@pytest.mark.parametrize(("kind", "method"), WAYS)
def test_a_photograph_follows_its_own_condition_and_not_that_of_another(kind: str, method: str):
    ways, _ = trained(kind, method)
    measure = Condition.named(kind).measure()
    pictures = torch.cat([photo(name) for name in PHOTOS])
    conditions = ways.find(pictures)

    def scores(wanted: torch.Tensor) -> torch.Tensor:
        return torch.tensor(check_consistency(pictures, wanted, ways.find, measure).per_image)

    own, other = scores(conditions), scores(conditions.roll(1, 0))
    if measure.higher_is_better:
        assert own.min() > 0.999
        assert other.max() < 0.6
    else:
        assert own.max() == 0
        assert other.min() > 20
