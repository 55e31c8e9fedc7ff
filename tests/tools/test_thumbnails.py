"""Thumbnails of the templates, drawn from pictures that stand in for those of a run."""

from __future__ import annotations

from io import BytesIO

import pytest
from controlnet_pp.tests.source import ROOT
from controlnet_pp.tools.thumbnails import CARDS, SIDE, Card
from PIL import Image

BEST_OF_12 = "Best of 12: 89.8% with seed 1, strength 1, uniform (Edge F1 (within 1 pixel))"
TEXT = f"{BEST_OF_12}\npicture 1: F1 70%\npicture 2: F1 90%\nscore 81.2%, 40.5% before (mIoU)"
RED = (255, 0, 0)


def found() -> dict[str, list[Image.Image]]:
    """Pictures of the shapes that a run gives."""
    sizes = {
        "example": (128, 128),
        "edges": (128, 128),
        "MaskPreview": (128, 128),
        "PreviewImage": (648, 590),
        "CNPP_ResidualEnergyPlot": (1194, 344),
        "CNPP_CycleConsistencyCheck": (128, 156),
        "CNPP_ConsistencyFeedbackPlot": (792, 574),
    }
    pictures = {name: [Image.new("RGB", size, RED)] for name, size in sizes.items()}
    pictures["CNPP_CycleConsistencyCheck"] *= 4
    sheet_and_plot = [Image.new("RGB", size, RED) for size in ((640, 1000), (900, 500))]
    pictures |= {"CNPP_TrainControlNet": sheet_and_plot, "CNPP_RewardFineTune": sheet_and_plot}
    return pictures | {"SaveImage": [Image.new("RGB", (128, 128), RED)] * 4}


def test_every_template_that_a_run_changes_has_a_card():
    assert set(CARDS) == {path.stem for path in (ROOT / "workflows" / "api").glob("*.json")}


@pytest.mark.parametrize("name", CARDS)
def test_all_that_is_on_a_card_lies_inside_it(name: str, monkeypatch: pytest.MonkeyPatch):
    ends = []
    picture = Card.picture

    def noted(card, image, at, width, *rest, **more):
        ends.append((at[0] + width, at[1] + width * image.height / image.width))
        picture(card, image, at, width, *rest, **more)

    monkeypatch.setattr(Card, "picture", noted)
    image = CARDS[name](found(), TEXT).image
    assert max(x for x, _ in ends) <= SIDE - 20
    assert max(y for _, y in ends) <= SIDE - 10
    written = BytesIO()
    image.save(written, "JPEG", quality=90)
    assert written.tell() < 200_000


def test_the_steered_picture_on_the_card_is_the_best_one():
    green = (0, 255, 0)
    pictures = found()
    pictures["SaveImage"] = [Image.new("RGB", (128, 128), c) for c in (RED, green, RED, RED)]
    image = CARDS["consistency_steering_demo"](pictures, TEXT).image
    assert green in {colour for _, colour in image.getcolors(SIDE * SIDE) or []}


def test_a_picture_keeps_its_shape_and_place():
    card = Card("title")
    card.picture(Image.new("RGB", (20, 10), RED), (100, 200), 40)
    red = [(x, y) for x in range(SIDE) for y in range(SIDE) if card.image.getpixel((x, y)) == RED]
    assert (min(red), max(red)) == ((100, 200), (139, 219))
