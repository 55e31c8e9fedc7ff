"""Our controls in one chain with the host's."""

from __future__ import annotations

import pytest
from controlnet_pp.tests.host.control.shaping import block_scales
from controlnet_pp.tests.host.harness import TINY, TINY_XL, apply, picture, prompt

LAYOUTS = {"two levels": TINY, "sdxl": TINY_XL}
APPLY = {"ours": "CNPP_Apply", "theirs": "ControlNetApplyAdvanced"}


def hosts_own_chain(host, levels, windows=None):
    return host.once(
        ("chain", levels, windows),
        lambda: chain(host, LAYOUTS[levels], "theirs", "theirs", windows=windows),
    )


def chain(host, layout, *links, windows=None):
    """Two controls of different weights, hints, strengths; `links` says whose each one is."""
    positive, negative = prompt(layout, 1), prompt(layout, 2)
    for i, link in enumerate(links):
        ours, theirs = host.pair(layout, seed=1 + i)
        start, end = windows[i] if windows else (0.0, 1.0)
        positive, negative = apply(
            host,
            ours if link == "ours" else theirs,
            node=APPLY[link],
            positive=positive,
            negative=negative,
            image=picture(seed=10 + i),
            strength=0.7 + 0.2 * i,
            start_percent=start,
            end_percent=end,
        )
    return host.sample(host.model(layout), positive, negative, steps=4)


@pytest.mark.parametrize("levels", LAYOUTS)
@pytest.mark.parametrize(
    "links", [("ours", "theirs"), ("theirs", "ours"), ("ours", "ours")], ids="-".join
)
def test_a_chain_equals_the_hosts_own_chain(host, levels, links):
    latent = chain(host, LAYOUTS[levels], *links)
    assert (latent - hosts_own_chain(host, levels)).abs().max() == 0.0


def test_both_links_of_a_chain_act(host):
    both = hosts_own_chain(host, "two levels")
    assert (both - chain(host, TINY, "ours")).abs().max() > 0.01
    alone = chain(host, TINY, "ours", "ours", windows=((0.0, 0.0), (0.0, 1.0)))
    assert (both - alone).abs().max() > 0.01


@pytest.mark.parametrize("links", [("ours", "theirs"), ("theirs", "ours")], ids="-".join)
def test_a_chain_whose_links_act_at_different_times_equals_the_hosts(host, links):
    windows = ((0.0, 0.5), (0.4, 1.0))
    latent = chain(host, TINY, *links, windows=windows)
    assert (latent - hosts_own_chain(host, "two levels", windows)).abs().max() == 0.0


def test_a_muted_block_keeps_what_an_earlier_control_says_there(host):
    (ours, _), (_, theirs) = host.pair(TINY, seed=2), host.pair(TINY, seed=1)
    first = apply(host, theirs, node="ControlNetApplyAdvanced")
    muted = block_scales(host, *[0.0] * 5)
    second = apply(host, ours, positive=first[0], negative=first[1], scales=muted)
    model = host.model(TINY)
    assert (host.sample(model, *second) - host.sample(model, *first)).abs().max() == 0.0
