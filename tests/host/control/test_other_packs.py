"""Advanced-ControlNet's masks and AnimateDiff-Evolved's windows on controls of ours."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.packs import advanced_controlnet, animated
from controlnet_pp.tests.host.control.shaping import (
    control_in,
    left,
    masked,
    mode,
    sampled,
    schedule,
    speed,
)
from controlnet_pp.tests.host.harness import TINY, apply, picture

CLOSE = 5e-4
FRAMES = 4
WINDOWS = ([0, 1], [2, 3], [1, 2])


# Advanced-ControlNet


def test_a_neutral_control_takes_the_mask_of_advanced_controlnet(host):
    ours, theirs = host.pair(TINY)
    plain = apply(host, theirs, node="ControlNetApplyAdvanced")
    wanted = sampled(host, advanced_controlnet(plain, left(64)))
    assert torch.equal(sampled(host, advanced_controlnet(apply(host, ours), left(64))), wanted)
    assert (wanted - sampled(host, plain)).abs().max() > 0.01


def test_a_shaped_control_is_refused_by_name_where_its_mask_would_be_ignored(host):
    ours, _ = host.pair(TINY)
    with pytest.raises(ValueError, match=r"Apply Advanced ControlNet can't act.*ControlNet"):
        advanced_controlnet(apply(host, mode(host, ours)), left(64))


# AnimateDiff-Evolved


def frames_shaped(host):
    """Every frame with a hint and a mask of its own, weaker with every step."""
    ours, _ = host.pair(TINY)
    masks = torch.rand(FRAMES, 16, 16, generator=torch.Generator().manual_seed(1)).round()
    shaped = masked(host, ours, masks)
    return apply(
        host, shaped, image=picture(batch=FRAMES), scales=schedule(host, "0%: 1; 100%: 0.5")
    )


def in_windows(host, conditioning, windows=WINDOWS, **options):
    model = animated(host.model(TINY), FRAMES, windows, **options)
    return host.sample(model, *conditioning, latent=torch.zeros(FRAMES, 4, 16, 16))


@pytest.mark.parametrize("tells", [True, False], ids=["ad_params", "the control's attribute"])
def test_frames_in_sliding_windows_keep_their_hints_and_masks(host, tells):
    conditioning = frames_shaped(host)
    wanted = sampled(host, conditioning, latent=torch.zeros(FRAMES, 4, 16, 16))
    got = in_windows(host, conditioning, tells=tells)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


@pytest.mark.parametrize("tells", [True, False])
def test_after_windows_the_next_run_sees_the_whole_batch_again(host, tells):
    conditioning = frames_shaped(host)
    latent = torch.zeros(FRAMES, 4, 16, 16)
    wanted = sampled(host, conditioning, latent=latent)
    in_windows(host, conditioning, windows=[[2, 3, 0, 1]], tells=tells)
    assert torch.equal(sampled(host, conditioning, latent=latent), wanted)
    assert control_in(conditioning).copy().sub_idxs is None


def test_each_window_keeps_residuals_of_its_own(host):
    ours, _ = host.pair(TINY)
    conditioning = apply(host, speed(host, ours, reuse_every=2), image=picture(batch=FRAMES))
    wanted = sampled(host, conditioning, latent=torch.zeros(FRAMES, 4, 16, 16))
    got = in_windows(host, conditioning, windows=[[0, 1], [2, 3]])
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_what_the_options_say_counts_before_what_the_control_holds(host):
    frames_of = host.pack("nodes.host.control.windows").frames_of
    control = control_in(frames_shaped(host))
    control.sub_idxs = [0, 1]
    for said, expected in (([2, 3], (2, 3)), (None, None)):
        assert frames_of({"ad_params": {"sub_idxs": said}}, control) == expected
    assert frames_of({}, control) == (0, 1)


def test_a_window_of_another_length_than_announced_is_refused(host):
    control = control_in(frames_shaped(host))
    model = host.model(TINY).model
    control.pre_run(model, model.model_sampling.percent_to_sigma)
    options = {"cond_or_uncond": [0], "ad_params": {"sub_idxs": [0, 1, 2]}}
    with pytest.raises(ValueError, match="announces 3, but 2 pictures came"):
        control.get_control(torch.zeros(2, 4, 16, 16), torch.ones(2), {}, 1, options)
