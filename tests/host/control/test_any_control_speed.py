"""Controls of other loaders and families, evaluated less often, later, or call by call."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.foreign import (
    SHAPED,
    by_hand,
    host_apply,
    our_apply,
    sampled,
    untouched,
)
from controlnet_pp.tests.host.control.shaping import CLOSE, masked, mode, schedule, speed
from controlnet_pp.tests.host.harness import picture


@pytest.mark.parametrize("name", SHAPED)
def test_residuals_are_reused_over_steps(host, kind_of, monkeypatch, name):
    kind, control = kind_of(name)
    kept = []

    def edit(blocks, _x, t, _options):
        kept.append([None if b is None else b.clone() for b in blocks])
        return [None if b is None else b.clone() for b in kept[len(kept) - 1 - (len(kept) - 1) % 2]]

    wanted = by_hand(host_apply(host, kind, control), kind, edit)
    wanted = sampled(host, kind, wanted, steps=4)
    asked = []
    original = type(control).get_control

    def counted(self, *args):
        asked.append(1)
        return original(self, *args)

    monkeypatch.setattr(type(control), "get_control", counted)
    shaped = speed(host, control, reuse_every=2)
    got = sampled(host, kind, our_apply(host, kind, shaped), steps=4)
    assert len(asked) == 2
    assert (got - wanted).abs().max() == 0.0


@pytest.mark.parametrize("name", ["t2i full", "control-lora", "flux instantx", "qwen instantx"])
def test_batches_and_split_calls_change_nothing(host, kind_of, monkeypatch, name):
    kind, control = kind_of(name)
    shaped = speed(host, masked(host, control, torch.full((1, 4, 4), 0.5)), reuse_every=2)
    settings = {"latent": kind.latents(3), "steps": 3}
    conditioning = our_apply(host, kind, shaped, image=picture(batch=3))
    together = sampled(host, kind, conditioning, **settings)
    base = kind.model(host).model
    monkeypatch.setattr(base, "memory_required", lambda shape, **_: 1e20 if shape[0] > 3 else 0.0)
    apart = sampled(host, kind, conditioning, **settings)
    assert (together - apart).abs().max() < CLOSE * together.abs().max()


def test_a_residual_at_many_places_is_held_once(host, kind_of, monkeypatch):
    """Qwen's ControlNets say the same at neighbouring blocks: sixty places, five tensors."""
    kind, control = kind_of("qwen instantx")
    shaped = masked(host, mode(host, control, "cond rows only"), torch.full((1, 4, 4), 0.5))
    shaped = speed(host, shaped, reuse_every=2)
    conditioning = our_apply(host, kind, shaped, scales=schedule(host, "0%: 0.5", "step"))
    object_of = conditioning[0][0][1]["control"]
    lists = []
    original = type(object_of).get_control

    def noted(self, *args):
        lists.append(original(self, *args))
        return lists[-1]

    monkeypatch.setattr(type(object_of), "get_control", noted)
    sampled(host, kind, conditioning)
    assert len(lists) == 2
    for answer in lists:
        assert len(answer["input"]) == 4
        assert len({block.untyped_storage().data_ptr() for block in answer["input"]}) == 2


@pytest.mark.parametrize("name", ["flux instantx", "sd3", "qwen instantx", "t2i full"])
def test_a_lazy_control_is_the_same_and_skipped_with_the_model(host, kind_of, monkeypatch, name):
    kind, control = kind_of(name)
    lazy = our_apply(host, kind, speed(host, control, lazy=True))
    assert torch.equal(sampled(host, kind, lazy), untouched(host, name, kind, control))
    twice = our_apply(
        host, kind, speed(host, control, lazy=True), positive=lazy[0], negative=lazy[1]
    )
    eager = host_apply(host, kind, control)
    eager = host_apply(host, kind, control, positive=eager[0], negative=eager[1])
    assert torch.equal(sampled(host, kind, twice), sampled(host, kind, eager))

    asked = []
    original = type(control).get_control

    def counted(self, *args):
        asked.append(1)
        return original(self, *args)

    def skipped(_apply_model, given):
        return given["input"] * 0.9

    monkeypatch.setattr(type(control), "get_control", counted)
    model = kind.model(host).clone()
    model.set_model_unet_function_wrapper(skipped)
    host.sample(model, *lazy, latent=kind.latents(), steps=3)
    # A UNet asks adapters for `input` at once; what they say is kept over the steps anyway. A hint
    # that goes through a VAE is encoded before the model first runs, not in the middle of it.
    assert len(asked) == (3 if name == "t2i full" else 1)
