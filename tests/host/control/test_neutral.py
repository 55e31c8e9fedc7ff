"""With neutral settings our control is the host's own, bit for bit."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import in_area
from controlnet_pp.tests.host.harness import TINY, TINY_SD15, TINY_XL, apply, picture, prompt

LAYOUTS = {"two levels": TINY, "sd15": TINY_SD15, "sdxl": TINY_XL}


def both(host, layout, sampling=None, **settings):
    """(ours, theirs): the latents of the same run, with our nodes and with the host's."""
    ours, theirs = host.pair(layout)
    model, sampling = host.model(layout), sampling or {}
    mine = apply(host, ours, layout, **settings)
    hosts = apply(host, theirs, layout, node="ControlNetApplyAdvanced", **settings)
    return host.sample(model, *mine, **sampling), host.sample(model, *hosts, **sampling)


def always(host):
    def run():
        control, _ = host.pair(TINY)
        return host.sample(host.model(TINY), *apply(host, control), steps=6)

    return host.once("without a window", run)


def plain(host, layout, **sampling):
    return host.sample(host.model(layout), prompt(layout, 1), prompt(layout, 2), **sampling)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_neutral_equals_the_hosts_loader_and_apply(host, layout):
    ours, theirs = both(host, layout)
    assert (ours - theirs).abs().max() == 0.0
    assert (ours - plain(host, layout)).abs().max() > 0.01, "the control did nothing"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_neutral_equals_the_host_for_a_batch_of_two(host, layout):
    ours, theirs = both(host, layout, {"latent": torch.zeros(2, 4, 16, 16)})
    assert (ours - theirs).abs().max() == 0.0


def test_neutral_equals_the_host_for_one_hint_per_picture(host):
    sampling = {"latent": torch.zeros(2, 4, 16, 16)}
    ours, theirs = both(host, TINY, sampling, image=picture(batch=2))
    same_hint, _ = both(host, TINY, sampling, image=picture(batch=2)[:1])
    assert (ours - theirs).abs().max() == 0.0
    assert (ours[1] - same_hint[1]).abs().max() > 0.01, "the second hint did nothing"


def test_neutral_equals_the_host_at_sides_that_do_not_divide(host):
    sampling = {"latent": torch.zeros(1, 4, 13, 19)}
    ours, theirs = both(host, TINY_SD15, sampling, image=picture(height=111, width=90))
    assert (ours - theirs).abs().max() == 0.0


@pytest.mark.parametrize("cfg", [1.0, 5.0])
@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m"])
def test_neutral_equals_the_host_for_other_samplers(host, cfg, sampler):
    ours, theirs = both(host, TINY, {"cfg": cfg, "sampler": sampler})
    assert (ours - theirs).abs().max() == 0.0


@pytest.mark.parametrize("window", [(0.0, 0.4), (0.3, 0.6), (0.5, 1.0)])
def test_the_window_is_the_hosts(host, window):
    settings = {"start_percent": window[0], "end_percent": window[1]}
    ours, theirs = both(host, TINY, {"steps": 6}, **settings)
    assert (ours - theirs).abs().max() == 0.0
    assert (ours - always(host)).abs().max() > 0.01, "the window did nothing"


def test_neutral_equals_the_host_for_area_prompts_of_two_sizes(host):
    def prompts():
        return [*prompt(TINY, 1), *in_area(host, prompt(TINY, 4), 64, 128)]

    ours, theirs = both(host, TINY, positive=prompts())
    assert (ours - theirs).abs().max() == 0.0


def test_strength_zero_is_no_control(host):
    ours, _ = host.pair(TINY)
    positive, negative = prompt(TINY, 1), prompt(TINY, 2)
    applied = apply(host, ours, positive=positive, negative=negative, strength=0)
    assert applied == (positive, negative)
    assert "control" not in applied[0][0][1]


def test_cond_and_uncond_share_one_control(host):
    ours, _ = host.pair(TINY)
    positive, negative = apply(host, ours)
    assert positive[0][1]["control"] is negative[0][1]["control"]


def test_the_same_conditioning_sampled_twice_gives_the_same(host):
    ours, _ = host.pair(TINY)
    model, applied = host.model(TINY), apply(host, ours)
    first = host.sample(model, *applied)
    host.sample(model, *applied, seed=8, latent=torch.zeros(2, 4, 24, 8))
    assert torch.equal(host.sample(model, *applied), first)


def test_attention_is_the_hosts_at_the_time_of_the_call(host, monkeypatch):
    import comfy.ldm.modules.attention as attention

    original, calls = attention.optimized_attention, []

    def spy(*args, **kwargs):
        calls.append(kwargs)
        return original(*args, **kwargs)

    ours, _ = host.pair(TINY)
    network, wanted = ours.control_model, torch.ones(1, 8, 64)
    x, hint, t = torch.ones(1, 4, 8, 8), torch.ones(1, 3, 64, 64), torch.ones(1)
    with torch.inference_mode():
        network(x, hint, t, wanted)
        assert calls == []
        monkeypatch.setattr(attention, "optimized_attention", spy)
        network(x, hint, t, wanted)
    assert len(calls) == 2 * 3  # self and cross, in two input blocks and the middle block
