"""A shaped control's settings are those of the control inside, whoever sets them and when."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import mode, sampled
from controlnet_pp.tests.host.harness import TINY, apply, picture


def shaped_by_our_apply(host, **changes):
    conditioning = apply(host, mode(host, host.pair(TINY)[0]), **changes)
    return conditioning, conditioning[0][0][1]["control"]


def test_what_others_set_read_and_delete_is_the_inner_controls(host):
    _, control = shaped_by_our_apply(host)
    for name in ("strength", "cond_hint", "timestep_percent_range", "extra_args", "vae"):
        value = object()
        setattr(control, name, value)
        assert getattr(control.inner, name) is value
        assert getattr(control, name) is value
    del control.cond_hint
    assert not hasattr(control.inner, "cond_hint")
    control.cond_hint = value
    assert control.inner.cond_hint is value


def test_the_chain_and_the_methods_stay_its_own(host):
    _, control = shaped_by_our_apply(host)
    previous = control.copy()
    control.previous_controlnet, control.get_control, control.note = previous, print, 7
    assert control.inner.previous_controlnet is None
    assert not {"get_control", "note"} & vars(control.inner).keys()
    assert control.get_control is print
    del control.get_control
    assert control.get_control.__self__ is control


def test_a_copy_takes_along_what_was_set_and_shares_nothing_that_can_be_set(host):
    _, control = shaped_by_our_apply(host)
    control.strength = 0.3
    twin = control.copy()
    twin.strength, twin.extra_args["a"] = 0.9, 1
    assert (control.strength, twin.copy().strength) == (0.3, 0.9)
    assert "a" not in control.extra_args


def test_a_strength_set_while_a_picture_is_sampled_counts_from_the_next_call(host):
    """As with the host's own control, whose strength is read at every call."""

    def faded(conditioning, control):
        original, calls = control.get_control, []

        def get_control(*args):
            calls.append(1)
            control.strength = 1.0 / len(calls)
            return original(*args)

        control.get_control = get_control
        return sampled(host, conditioning)

    theirs = apply(host, host.pair(TINY)[1], node="ControlNetApplyAdvanced")
    wanted = faded(theirs, theirs[0][0][1]["control"])
    assert torch.equal(faded(*shaped_by_our_apply(host)), wanted)


def test_a_hint_exchanged_while_a_picture_is_sampled_counts_from_the_next_call(host):
    def exchanged(conditioning, control):
        original, hints = control.get_control, [picture(seed=i).movedim(-1, 1) for i in range(9)]

        def get_control(*args):
            control.cond_hint_original, control.cond_hint = hints.pop(), None
            return original(*args)

        control.get_control = get_control
        return sampled(host, conditioning)

    theirs = apply(host, host.pair(TINY)[1], node="ControlNetApplyAdvanced")
    wanted = exchanged(theirs, theirs[0][0][1]["control"])
    assert torch.equal(exchanged(*shaped_by_our_apply(host)), wanted)


def test_a_fault_of_this_pack_is_not_called_another_family(host, kind_of):
    kind, control = kind_of("flux xlabs")
    explained = host.pack("nodes.host.control.foreign").explained
    call = host.pack("nodes.host.control.call").Call
    model = kind.model(host).model
    with pytest.raises(AttributeError), explained(control, model):
        call.read(None, None, {}, 1, {})
    with pytest.raises(ValueError, match="can't work with Flux"), explained(control, model):
        torch.ones(2) @ torch.ones(3)
