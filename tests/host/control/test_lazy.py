"""A control that waits until the UNet asks for it, under caches that skip the UNet."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import counted, speed
from controlnet_pp.tests.host.harness import TINY, TINY_XL, apply, picture, prompt


def with_a_step_cache(host, layout=TINY):
    """A model whose UNet runs at every other step only, as EasyCache does it."""
    from comfy.patcher_extension import WrappersMP

    kept = {}

    def skip(executor, *args, **kwargs):
        kept["calls"] = kept.get("calls", -1) + 1
        if kept["calls"] % 2 == 0:
            kept["output"] = executor(*args, **kwargs)
        return kept["output"].clone()

    model = host.model(layout).clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "skip", skip)
    return model


@pytest.mark.parametrize("layout", [TINY, TINY_XL], ids=["two levels", "sdxl"])
def test_lazy_control_is_the_host_bit_for_bit(host, layout):
    ours, theirs = host.pair(layout)
    latent, rows = counted(host, speed(host, ours, lazy=True), layout=layout)
    hosts_own = apply(host, theirs, layout, node="ControlNetApplyAdvanced")
    assert torch.equal(latent, host.sample(host.model(layout), *hosts_own))
    assert rows == [2, 2, 2]


def test_a_step_cache_that_skips_the_unet_skips_lazy_control_too(host):
    ours, _ = host.pair(TINY)
    eager, all_rows = counted(host, ours, model=with_a_step_cache(host), steps=6)
    lazy, rows = counted(host, speed(host, ours, lazy=True), model=with_a_step_cache(host), steps=6)
    assert len(all_rows) == 6
    assert len(rows) == 3
    assert torch.equal(lazy, eager)


def test_the_hosts_own_easy_cache_saves_lazy_control(host):
    try:
        from comfy_extras.nodes_easycache import EasyCacheNode
    except ImportError:
        pytest.skip("this ComfyUI has no EasyCache")
    ours, _ = host.pair(TINY)
    settings = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}

    def cached():
        return EasyCacheNode.execute(host.model(TINY), **settings).result[0]

    eager, all_rows = counted(host, ours, model=cached(), steps=10)
    lazy, rows = counted(host, speed(host, ours, lazy=True), model=cached(), steps=10)
    assert len(rows) < len(all_rows)
    assert torch.equal(lazy, eager)


def test_lazy_controls_in_a_chain_with_the_hosts_add_up(host):
    ours, theirs = host.pair(TINY)
    lazy = speed(host, ours, lazy=True)
    for links in ((lazy, theirs), (theirs, lazy), (lazy, lazy)):
        latents = []
        for chain in (links, [ours if link is lazy else link for link in links]):
            positive, negative = prompt(TINY, 1), prompt(TINY, 2)
            for i, link in enumerate(chain):
                positive, negative = apply(
                    host, link, positive=positive, negative=negative, image=picture(seed=i)
                )
            latents.append(host.sample(host.model(TINY), positive, negative))
        assert torch.equal(*latents)
