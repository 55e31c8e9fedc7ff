"""The judge of the shapes world: scenes whose worth is known, and pictures spoilt on purpose."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp
from controlnet_pp.cnpp_core.consistency.metrics import edge_f1
from controlnet_pp.demo.conditions import EDGES, TOLERANCE
from controlnet_pp.demo.judge import Judge, colour_error
from controlnet_pp.demo.world import COLOURS, HELD_OUT_SEED, Batch, load_batch

COUNT = 4


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(load_batch(HELD_OUT_SEED, range(COUNT)))


def test_the_scenes_themselves_are_perfect_but_for_their_outlines(judge: Judge) -> None:
    judged = judge.judge(judge.batch.images)
    assert judged.f1.tolist() == [1] * COUNT
    assert judged.iou.tolist() == [1] * COUNT
    assert judged.colour_error.max() < 3
    assert judged.difference.shape == judge.batch.images.shape


def test_another_scene_of_other_places_is_far_off(judge: Judge) -> None:
    judged = judge.judge(judge.batch.images.roll(1, 0))
    assert judged.f1.max() < 0.5
    assert judged.iou.max() < 0.6


def test_f1_is_that_of_canny_edges_within_a_pixel(judge: Judge) -> None:
    moved = judge.batch.images.roll(1, 3)
    found = edge_f1(canny_cnpp(moved), canny_cnpp(judge.batch.images), TOLERANCE).f1
    assert judge.judge(moved).f1.tolist() == pytest.approx(found.tolist())
    assert found.min() > 0.98
    assert judge.judge(judge.batch.images.roll(4, 3)).f1.max() < 0.6


def test_iou_is_that_of_the_masks_that_the_colours_give(judge: Judge) -> None:
    moved = judge.batch.images.roll(9, 2)
    masks, wanted = judge.batch.masks.roll(9, 2), judge.batch.masks
    both, either = (masks & wanted).sum((1, 2, 3)), (masks | wanted).sum((1, 2, 3))
    assert judge.judge(moved).iou.tolist() == pytest.approx((both / either).tolist())


def test_iou_misses_a_shape_in_the_colour_of_its_ground(judge: Judge) -> None:
    grounds = judge.batch.images[:, :, :1, :1].expand_as(judge.batch.images)
    assert judge.judge(grounds).iou.tolist() == [0] * COUNT


def test_the_difference_shows_what_was_invented_in_the_colours_of_its_legend(judge: Judge) -> None:
    images = judge.batch.images.clone()
    square = (1 - images[0, :, 2:4, 2:4].mean((1, 2))).view(3, 1, 1)
    images[0, :, 4:14, 4:14] = square
    corner = judge.judge(images).difference[0, :, :16, :16]
    invented = torch.tensor(dict(EDGES.legend)["invented"])
    assert (corner == invented.view(3, 1, 1)).all(0).sum() >= 20


def test_a_scene_whose_mask_nobody_knows_has_no_iou_and_spoils_no_other(judge: Judge) -> None:
    batch = judge.batch
    mine = Batch(
        torch.cat([batch.images[:1], batch.images]),
        torch.cat([torch.zeros_like(batch.masks[:1]), batch.masks]),
        ("anything at all", *batch.captions),
    )
    drawn = mine.images.roll(5, 3)
    judged, others = Judge(mine).judge(drawn), judge.judge(drawn[1:])
    assert judged.iou[0].isnan()
    assert judged.f1[0] == judged.f1[1]
    for name in ("f1", "iou", "colour_error", "difference"):
        assert torch.equal(getattr(judged, name)[1:], getattr(others, name))


def test_colour_error_is_the_distance_to_the_nearest_colour_of_the_world() -> None:
    red = torch.tensor(COLOURS["red"]).view(1, 3, 1, 1).expand(1, 3, 4, 4) / 255
    off = red + torch.tensor([3.0, 0.0, 4.0]).view(1, 3, 1, 1) / 255
    half = torch.cat([red[..., :2], off[..., 2:]], -1)
    assert colour_error(torch.cat([red, off, half])).tolist() == pytest.approx(
        [0, 5, 2.5], abs=1e-3
    )


def test_grey_pictures_are_far_from_every_colour(judge: Judge) -> None:
    greyed = judge.batch.images.lerp(torch.tensor(0.5), 0.4)
    assert judge.judge(greyed).colour_error.min() > 25


def test_the_ceiling_is_what_the_autoencoder_leaves_of_the_scenes(judge: Judge) -> None:
    class Shifting:
        """Decodes 7 pixels to the side, and beyond what a picture can hold."""

        def encode(self, pictures):
            assert pictures.min() < -0.5, "pictures in -1..1"
            return pictures

        def decode(self, latents):
            return latents.roll(7, 3) * 1.5

    drawn = (judge.batch.images.roll(7, 3) * 2 - 1) * 1.5
    wanted = judge.judge((drawn / 2 + 0.5).clamp(0, 1))
    found = judge.ceiling(Shifting())  # type: ignore[arg-type]
    assert torch.equal(found.f1, wanted.f1)
    assert torch.equal(found.colour_error, wanted.colour_error)
