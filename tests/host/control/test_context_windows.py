"""The host's own Context Windows: every frame keeps its hint, its mask and its strength."""

from __future__ import annotations

import inspect

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import control_in, masked, mode, sampled
from controlnet_pp.tests.host.harness import TINY, apply, picture
from controlnet_pp.tests.host.residuals import captured

CLOSE = 5e-4
FRAMES = 4  # as many as noise levels in three steps: else 0.3.64 fails to find its step
LATENT = torch.zeros(FRAMES, 4, 16, 16)


def windowed(host, length=2, overlap=1, **options):
    """TINY's model behind Context Windows (Manual), with this version's defaults."""
    nodes = pytest.importorskip("comfy_extras.nodes_context_windows")
    execute = nodes.ContextWindowsManualNode.execute
    known = inspect.signature(execute).parameters
    inputs = {
        "model": host.model(TINY),
        "context_length": length,
        "context_overlap": overlap,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "flat",
        "dim": 0,
        "freenoise": False,
    } | options
    return execute(**{name: value for name, value in inputs.items() if name in known}).result[0]


def has_anchor(host):
    """Whether this version can put a frame in front of a window."""
    return hasattr(windowed(host).model_options["context_handler"], "causal_window_fix")


def frames_shaped(host):
    masks = torch.rand(FRAMES, 16, 16, generator=torch.Generator().manual_seed(1)).round()
    shaped = masked(host, host.pair(TINY)[0], masks)
    return apply(host, shaped, image=picture(batch=FRAMES))


@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "batched"])
def test_frames_in_windows_keep_their_hints_and_masks(host, schedule, anchored):
    if anchored and not has_anchor(host):
        pytest.skip("this ComfyUI puts no frame in front of a window")
    conditioning = frames_shaped(host)
    wanted = sampled(host, conditioning, latent=LATENT)
    model = windowed(host, context_schedule=schedule, causal_window_fix=anchored)
    got = host.sample(model, *conditioning, latent=LATENT)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_the_windows_have_a_frame_in_front_where_the_host_puts_one(host):
    """Guards the test above: without the frame it would show nothing."""
    if not has_anchor(host):
        pytest.skip("this ComfyUI puts no frame in front of a window")
    calls = captured(host, windowed(host), *frames_shaped(host), latent=LATENT, steps=1)
    rows = {call["x"].shape[0] // len(call["cond_or_uncond"]) for call in calls}
    assert rows == {2, 3}


def test_factors_of_feedback_go_to_the_frames_they_are_meant_for(host):
    factors = host.pack("nodes.host.control.factors")
    ours = host.pack("nodes.host.control.control").as_ours(host.pair(TINY)[0])
    conditioning = apply(host, ours.shaped(feedback=("loop",)))
    live = factors.LiveFactors()
    live.values = (1.0, 0.5, 2.0, 0.0)

    def steered(model):
        twin = model.clone()
        live.publish("loop", twin.model_options)
        return host.sample(twin, *conditioning, latent=LATENT)

    wanted = steered(host.model(TINY))
    assert (steered(windowed(host)) - wanted).abs().max() < CLOSE * wanted.abs().max()
    assert (wanted[0] - wanted[1]).abs().max() > 0.01


def test_a_window_over_another_axis_than_the_batch_leaves_the_batch_whole(host):
    frames_of = host.pack("nodes.host.control.windows").frames_of
    windows = pytest.importorskip("comfy.context_windows")
    known = inspect.signature(windows.IndexListContextWindow).parameters
    options = {"total_frames": 9} if "total_frames" in known else {}
    control = control_in(apply(host, mode(host, host.pair(TINY)[0])))
    for dim, expected in ((0, (3, 4)), (2, None)):
        window = windows.IndexListContextWindow([3, 4], dim=dim, **options)
        assert frames_of({"context_window": window}, control) == expected
