"""The shapes world: repeatable, disjoint, and its pictures show exactly what captions say."""

from __future__ import annotations

import math

import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp, canny_cv2
from controlnet_pp.demo import world
from controlnet_pp.demo.world import HELD_OUT_SEED, TRAIN_SEED, Scene, Shape

SHAPE_AREAS = {  # in units of radius squared, from the geometry of each outline
    "circle": math.pi,
    "square": 2.0,
    "triangle": 3 * math.sqrt(3) / 4,
    "star": 10 * 0.45 * math.sin(math.pi / 5) / 2,
}


@pytest.fixture(scope="module")
def batch() -> world.Batch:
    return world.load_batch(HELD_OUT_SEED, range(48))


def test_a_scene_is_a_function_of_seed_and_index(batch: world.Batch) -> None:
    again = world.load_batch(HELD_OUT_SEED, [5, 3])
    assert torch.equal(again.images, batch.images[[5, 3]])
    assert torch.equal(again.masks, batch.masks[[5, 3]])
    assert again.captions == (batch.captions[5], batch.captions[3])


def test_held_out_scenes_are_not_in_the_training_set() -> None:
    training = {world.sample_scene(TRAIN_SEED, index).shapes for index in range(2000)}
    held_out = {world.sample_scene(HELD_OUT_SEED, index).shapes for index in range(200)}
    assert len(training) == 2000
    assert len(held_out) == 200
    assert not training & held_out


def test_masks_are_recovered_from_colours_pixel_for_pixel(batch: world.Batch) -> None:
    recovered = world.foreground_mask(batch.images, batch.captions)
    assert torch.equal(recovered, batch.masks)


def test_a_shape_of_another_colour_than_its_caption_says_counts_as_wrong() -> None:
    blue = Scene((Shape("circle", "blue", 0.5, 0.5, 0.3, 0.0),), "white")
    image = torch.from_numpy(world.render(blue)[0]).movedim(-1, 0)[None] / 255
    assert world.foreground_mask(image, ["yellow circle on a blue ground"]).float().mean() > 0.5


def test_captions_use_the_vocabulary_only_and_do_not_tell_where() -> None:
    for index in range(500):
        scene = world.sample_scene(TRAIN_SEED, index)
        assert set(scene.caption.split()) <= set(world.WORDS)
        shapes, ground = world.caption_colours(scene.caption)
        assert (shapes, ground) == (tuple(shape.colour for shape in scene.shapes), scene.ground)


@pytest.mark.parametrize("kind", SHAPE_AREAS)
def test_area_of_a_shape_is_the_one_of_its_geometry(kind: str) -> None:
    scene = Scene((Shape(kind, "red", 0.47, 0.52, 0.3, 0.7),), "white")
    _, mask = world.render(scene, 256)
    assert mask.mean() == pytest.approx(SHAPE_AREAS[kind] * 0.3**2, rel=0.02)


def test_shapes_lie_inside_the_picture(batch: world.Batch) -> None:
    masks = batch.masks
    border = torch.cat([masks[..., 0, :], masks[..., -1, :], masks[..., 0], masks[..., -1]], -1)
    assert not border.any()
    assert masks.flatten(1).any(1).all()


@pytest.mark.parametrize("canny", [canny_cv2, canny_cnpp])
def test_every_outline_is_seen_by_canny(batch: world.Batch, canny) -> None:
    masks = batch.masks.float()
    grown = torch.nn.functional.max_pool2d(masks, 3, 1, 1)
    outline = (grown > masks)[:, 0]
    near_edge = torch.nn.functional.max_pool2d(canny(batch.images), 5, 1, 2)[:, 0] > 0
    seen = (outline & near_edge).flatten(1).sum(1) / outline.flatten(1).sum(1)
    assert seen.min() > 0.9


def test_intersection_over_union_of_known_masks() -> None:
    left, top = torch.zeros(2, 1, 4, 4, dtype=torch.bool).unbind()
    left, top = left.clone()[None], top.clone()[None]
    left[..., :2], top[..., :2, :] = True, True
    assert world.mask_iou(left, top).item() == pytest.approx(4 / 12)
    assert world.mask_iou(left & False, top & False).item() == 1.0


@pytest.mark.parametrize("caption", ["", "red circle", "mauve circle on a blue ground"])
def test_a_caption_without_palette_colours_is_refused(caption: str) -> None:
    with pytest.raises(ValueError, match="red circle on a blue ground"):
        world.caption_colours(caption)


def test_an_article_fits_its_colour() -> None:
    scene = Scene((Shape("star", "black", 0.5, 0.5, 0.3, 0.0),), "orange")
    assert scene.caption == "black star on an orange ground"
    assert world.caption_colours(scene.caption) == (("black",), "orange")
