"""Reward Fine-Tune inside the host."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from controlnet_pp.tests.host.train.given import data_of, trained, tuned


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def canny(host, given, parts):
    """Inputs for the demo's canny ControlNet, as it is."""
    data = data_of(
        host, parts, kind="canny (ControlNet++)", annotator=None, held_out=1, tolerance=1
    )
    return given | {"data": data}


@pytest.fixture(scope="module")
def whole(host, given):
    return tuned(host, given, "reward whole", most_t=999)


@pytest.mark.parametrize("recipe", ["published", "on trajectories"])
def test_the_reward_moves_the_network_and_nothing_else(host, given, parts, recipe):
    model, vae, annotator = parts[0], parts[2], parts[6]
    frozen = [model.model, vae.first_stage_model, *(p.model for p in annotator.patchers)]
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in frozen]
    asking = [p.requires_grad for module in frozen for p in module.parameters()]
    plain = trained(host, given, "no reward")
    found = tuned(host, given, f"reward {recipe}", recipe=recipe, most_t=999)
    assert not same(found.weights, plain.weights)
    assert all(math.isfinite(loss) for loss in found.loss_map["loss"])
    assert recipe in found.report
    after = [module.state_dict() for module in frozen]
    assert all(same(a, b) for a, b in zip(before, after, strict=True))
    assert asking == [p.requires_grad for module in frozen for p in module.parameters()]
    assert all(p.grad is None for module in frozen for p in module.parameters())


def test_without_weight_it_is_the_plain_training(host, given):
    found, plain = tuned(host, given, "none", reward_weight=0.0), trained(host, given, "plain")
    torch.testing.assert_close(found.weights, plain.weights, rtol=0, atol=1e-6)


def test_a_reward_of_lines_needs_no_network(host, canny):
    found = tuned(host, canny, "lines", most_t=999)
    assert all(math.isfinite(loss) for loss in found.loss_map["loss"])
    assert "trained for canny" in found.report
    assert 0 <= found.score <= 1


@pytest.mark.parametrize("recipe", ["published", "on trajectories"])
def test_cancelled_it_goes_on_exactly(host, given, stop_at, monkeypatch, recipe):
    from comfy import model_management

    changes = {"recipe": recipe, "most_t": 999}
    expected = tuned(host, given, f"{recipe} at once", **changes)
    stop_at(3)
    with pytest.raises(model_management.InterruptProcessingException):
        tuned(host, given, f"{recipe} stopped", **changes)
    monkeypatch.undo()
    model_management.interrupt_current_processing(False)
    found = tuned(host, given, f"{recipe} stopped", **changes)
    assert found.loss_map == expected.loss_map
    assert same(found.weights, expected.weights)


def test_twice_the_same_is_the_same_also_after_an_error(host, given, whole, monkeypatch):
    reward = host.pack("cnpp_core.training.reward").RewardModel
    original, calls = reward.losses, []

    def failing(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, *args)

    monkeypatch.setattr(reward, "losses", failing)
    with pytest.raises(Exception, match=r"out of memory with batches of 2.*gradient_check"):
        tuned(host, given, "again", most_t=999)
    monkeypatch.undo()
    found = tuned(host, given, "again", most_t=999)
    assert found.loss_map == whole.loss_map
    assert same(found.weights, whole.weights)


def test_everything_is_freed_afterwards(host, given, monkeypatch):
    session = host.pack("cnpp_core.training.session").Session
    original, seen = session.__init__, []

    def remembered(self, denoiser, *rest, **more):
        original(self, denoiser, *rest, **more)
        seen.extend(weakref.ref(part) for part in (self, denoiser, denoiser.controlnet))

    monkeypatch.setattr(session, "__init__", remembered)
    tuned(host, given, "freed", recipe="on trajectories")
    gc.collect()
    assert len(seen) == 3
    assert not [ref() for ref in seen if ref() is not None]


def test_an_annotator_without_gradients_is_refused(host, given, parts):
    annotator = host.annotator("seg", parts[6].ways.find)
    with pytest.raises(ValueError, match="has no differentiable map"):
        tuned(host, given, "refused", annotator=annotator)


def test_one_that_counts_in_whole_numbers_is_refused_before_the_first_step(host, canny):
    def rounded(image):
        return (image.detach() > 0.5).float()[:, :1]

    annotator = host.annotator("canny", rounded, soft=rounded)
    with pytest.raises(ValueError, match="gives no gradient"):
        tuned(host, canny, "refused", annotator=annotator, most_t=999)
    assert not (host.folder / "output" / "controlnet_training" / "reward refused").exists()


def test_an_annotator_of_another_kind_is_refused(host, given):
    annotator = host.annotator("depth", lambda image: image[:, :1], soft=lambda image: image)
    with pytest.raises(ValueError, match="are seg, but the connected annotator finds depth"):
        tuned(host, given, "refused", annotator=annotator)


def test_conditions_that_nothing_finds_are_refused(host, given, parts):
    world = host.pack("demo.world")
    batch = world.load_batch(world.TRAIN_SEED, range(3))
    images = [i[None] for i in batch.images.movedim(1, -1)]
    data = data_of(
        host, parts, source="lists", images=images, captions=list(batch.captions),
        conditions=images, kind="other", annotator=None, held_out=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match="nothing here finds conditions of the kind other"):
        tuned(host, given | {"data": data}, "refused")


def test_a_decoder_of_another_kind_of_model_is_refused(host, given, parts):
    class Wide:
        first_stage_model = parts[2].first_stage_model
        latent_channels = 16
        latent_dim = 2
        output_channels = 3
        patcher = parts[2].patcher
        process_output = staticmethod(parts[2].process_output)

    with pytest.raises(ValueError, match="decodes latents of 16 channels"):
        tuned(host, given, "refused", decoder=Wide())
