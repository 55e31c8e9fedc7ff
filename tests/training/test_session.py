"""A training from start to end: modes that change, resuming, what it plans, what comes out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from controlnet_pp.cnpp_core.training.checkpoints import Checkpoints
from controlnet_pp.cnpp_core.training.modes import DECODER, Mode
from controlnet_pp.cnpp_core.training.recipes import plain
from controlnet_pp.cnpp_core.training.session import Session
from controlnet_pp.cnpp_core.training.settings import TrainSettings
from controlnet_pp.tests.training.regression import same_weights
from controlnet_pp.tests.training.tiny import always, batch, denoiser

SETTINGS = TrainSettings(steps=4, learning_rate=1e-2, warmup=1, weight_decay=0.0, ema_decay=0.5)
SWITCHING = {0: Mode.MIDDLE_ONLY, 2: Mode.SD_LOCKED}


def session_of(folder=None, **settings):
    model = denoiser()
    checkpoints = Checkpoints(folder, every=1, keep=9) if folder else None
    session = Session(model, SETTINGS, checkpoints=checkpoints, **settings)
    return session, plain(model, always(batch()))


def zero_convs(session):
    return [p.detach().clone() for p in session.denoiser.controlnet.zero_convs.parameters()]


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_mode_changes_before_the_step_that_it_is_given_for():
    session, recipe = session_of(modes=SWITCHING)
    seen = [zero_convs(session)]
    session.run(recipe, lambda *_: seen.append(zero_convs(session)))
    assert [same(a, b) for a, b in pairwise(seen)] == [True, True, False, False]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_training_is_the_one_that_was_not_interrupted(stop, tmp_path):
    """Whichever mode it was interrupted in, or between the two."""
    whole, recipe = session_of(modes=SWITCHING)
    assert whole.run(recipe, validate=lambda step, _: {"score": step / 10}, validate_every=2)
    first, recipe = session_of(tmp_path, modes=SWITCHING)
    scores = {"validate": lambda step, _: {"score": step / 10}, "validate_every": 2}
    assert not first.run(recipe, lambda step, _: step == stop, **scores)
    second, recipe = session_of(tmp_path, modes=SWITCHING)
    assert second.resume()
    assert second.run(recipe, **scores)
    ours, theirs = second.trained(), whole.trained()
    assert same_weights(ours.controlnet, theirs.controlnet)
    assert ours.losses == theirs.losses
    assert list(ours.losses) == [1, 2, 3, 4]
    assert ours.scores == theirs.scores == {0: 0.0, 2: 0.2, 4: 0.4}
    assert ours.steps == 4


def test_another_order_of_modes_is_another_training(tmp_path):
    first, recipe = session_of(tmp_path, modes=SWITCHING)
    first.run(recipe, lambda step, _: step == 1)
    with pytest.raises(ValueError, match=r'modes\.2 was "SD locked" and is null'):
        session_of(tmp_path, modes={0: Mode.MIDDLE_ONLY})[0].resume()


def test_what_is_kept_are_the_averaged_weights():
    session, recipe = session_of()
    session.run(recipe)
    trained = session.trained()
    assert not same_weights(trained.controlnet, session.denoiser.controlnet)
    assert same_weights(trained.controlnet, session.averaged.controlnet)
    assert not any(p.requires_grad for p in trained.controlnet.parameters())
    assert trained.unet is None


def test_an_unlocked_decoder_comes_with_its_unet():
    session, recipe = session_of(modes={0: Mode.SD_DECODER_UNLOCKED})
    before = denoiser().unet
    session.run(recipe)
    unet = session.trained().unet
    changed = {
        name: not torch.equal(value, unet.state_dict()[name])
        for name, value in before.state_dict().items()
    }
    assert changed == {name: name.startswith(DECODER) for name in changed}


def test_recomputing_changes_memory_and_no_number():
    ours, theirs = session_of(recompute=True), session_of()
    for session, recipe in (ours, theirs):
        session.run(recipe)
    assert same_weights(ours[0].trained().controlnet, theirs[0].trained().controlnet)
    less, more = (session.plan(recipe, 4).working for session, recipe in (ours, theirs))
    assert less < 0.8 * more


def test_the_plan_is_of_the_mode_that_takes_most_and_leaves_the_first_one_on():
    def planned(modes):
        session, recipe = session_of(modes=modes)
        made = session.plan(recipe, 4)
        assert (session.denoiser.blocks is None) == (modes[0] is Mode.SD_LOCKED)
        return made

    switching, locked = planned(SWITCHING), planned({0: Mode.SD_LOCKED})
    assert switching == locked
    assert switching.working > planned({0: Mode.MIDDLE_ONLY}).working
    assert switching.frozen == sum(p.numel() for p in denoiser().unet.parameters())


def test_the_settings_that_are_kept_name_everything():
    session, _ = session_of(modes=SWITCHING, about={"data": "circles"})
    kept = session.trained().settings
    assert kept["about"] == {"data": "circles", "modes": {"0": "middle only", "2": "SD locked"}}
    assert kept["learning_rate"] == SETTINGS.learning_rate


def test_modes_begin_with_the_first_step():
    with pytest.raises(ValueError, match="expected one for 0"):
        session_of(modes={2: Mode.SD_LOCKED})


def test_without_an_average_the_training_can_go_on_after_a_look_at_it():
    model = denoiser()
    session = Session(model, replace(SETTINGS, ema_decay=0.0))
    recipe = plain(model, always(batch()))
    session.run(recipe, lambda step, _: step == 2)
    before = [p.clone() for p in session.trained().controlnet.parameters()]
    session.run(recipe)
    assert not same(before, session.trained().controlnet.parameters())
