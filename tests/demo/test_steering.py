"""The segmenter of the shapes world, and sampling that goes by it."""

import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp
from controlnet_pp.cnpp_core.consistency.agreement.labels import LabelMeasure
from controlnet_pp.cnpp_core.consistency.steering.feedback import Feedback, FeedbackSettings
from controlnet_pp.cnpp_core.consistency.steering.guidance import GuidanceSettings
from controlnet_pp.cnpp_core.consistency.steering.window import SteeringWindow
from controlnet_pp.demo.conditions import Follower
from controlnet_pp.demo.model import load_demo, load_segmenter
from controlnet_pp.demo.pipeline import Steering, generate
from controlnet_pp.demo.segmenter import CLASSES, PALETTE, colours_of
from controlnet_pp.demo.world import HELD_OUT_SEED, load_batch, mask_iou

MEASURE = LabelMeasure(PALETTE, CLASSES)
STEPS = 6


@pytest.fixture(scope="module")
def segmenter():
    return load_segmenter()


@pytest.fixture(scope="module")
def held_out():
    return load_batch(HELD_OUT_SEED, range(24))


def found(segmenter, images):
    with torch.no_grad():
        return segmenter.logits(images).argmax(1, keepdim=True) == 1


def test_the_segmenter_finds_the_shapes_of_pictures_it_has_not_seen(segmenter, held_out):
    assert mask_iou(found(segmenter, held_out.images), held_out.masks).mean() >= 0.95


def test_its_condition_image_is_read_back_as_the_classes(segmenter, held_out):
    image = segmenter.annotate(held_out.images[:4])
    classes, remarks = MEASURE.read(image)
    assert torch.equal(classes == 1, found(segmenter, held_out.images[:4]))
    assert not remarks
    assert torch.equal(colours_of(held_out.masks[:4, 0])[0, :, 0, 0], image[0, :, 0, 0])


def test_its_soft_map_and_its_logits_give_finite_gradients(segmenter, held_out):
    for way in (segmenter, segmenter.logits):
        image = held_out.images[:2].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(way(image)[:, 1].sum(), image)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0


@pytest.fixture(scope="module")
def drawing(segmenter, held_out):
    """Draws the first four conditions, steered or not, from the same noise."""
    demo, part = load_demo(), slice(4)
    hints = canny_cnpp(held_out.images[part]).expand(-1, 3, -1, -1)

    def draw(**steering):
        captions = held_out.captions[part]
        return generate(demo, captions, seed=0, steps=STEPS, hints=hints, **steering)

    return draw


@pytest.fixture(scope="module")
def follower(segmenter, held_out):
    return Follower.by_segments(colours_of(held_out.masks[:4, 0]), segmenter)


def test_guidance_makes_what_steers_agree_more(follower, drawing):
    guided = drawing(steering=Steering(follower, GuidanceSettings()))
    with torch.no_grad():
        assert follower.losses(guided).mean() < 0.8 * follower.losses(drawing()).mean()


def test_guidance_by_edges_draws_edges_that_agree_more(held_out, drawing):
    hints = canny_cnpp(held_out.images[:4]).expand(-1, 3, -1, -1)
    follower, every = Follower.by_edges(hints), SteeringWindow(every=1)
    weak = drawing(strength=0.5)
    guided = drawing(strength=0.5, steering=Steering(follower, GuidanceSettings(window=every)))
    assert sum(follower.scores(guided)) > sum(follower.scores(weak)) + 0.1


def test_guidance_without_strength_changes_next_to_nothing(follower, drawing):
    still = drawing(steering=Steering(follower, GuidanceSettings(strength=0)))
    assert (still - drawing()).abs().max() < 1e-3  # eps goes by way of x0, and is rounded there


def test_feedback_moves_the_control_of_each_picture_by_its_own_score(follower, drawing):
    looks = []

    class Scored(Follower):
        def scores(self, images):
            looks.append(images.shape)
            return [1.0, 1.0, 0.0, 0.0]

    by = Scored(follower.wanted, follower.find, follower.measure, follower.losses)
    feedback = Feedback(FeedbackSettings(gain=1, memory=0, high=3, window=SteeringWindow(every=2)))
    moved = drawing(steering=Steering(by, feedback=feedback))
    plain = drawing()
    assert len(looks) == len(feedback.steps) == -(-(STEPS + 1) // 2)  # 1000 / 6 leaves a step more
    assert feedback.factors == (1.0, 1.0, 2.0, 2.0)
    # In a batch with others rows are rounded differently.
    assert (moved[:2] - plain[:2]).abs().max() < 1e-3 < (moved[2:] - plain[2:]).abs().amax()
