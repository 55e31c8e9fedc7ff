"""Control shaped over the steps, against the host's own residuals edited by hand."""

from __future__ import annotations

import pytest
from controlnet_pp.tests.host.control.shaping import CLOSE, percent, sampled, schedule
from controlnet_pp.tests.host.harness import TINY, apply
from controlnet_pp.tests.host.residuals import edited, evaluations


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2", "dpmpp_2s_ancestral", "uni_pc"])
def test_a_schedule_is_a_function_of_the_calls_sigma_for_every_sampler(host, sampler):
    def fade(blocks, _x, t, _options):
        done = percent(host, t)
        return [b * (1.0 - 0.8 * min(done / 0.7, 1.0)) for b in blocks]

    ours, _ = host.pair(TINY)
    conditioning = apply(host, ours, scales=schedule(host, "0%: 1; 70%: 0.2"))
    latent = sampled(host, conditioning, sampler=sampler, steps=5)
    wanted = sampled(host, edited(host, fade), sampler=sampler, steps=5)
    assert (latent - wanted).abs().max() < CLOSE * wanted.abs().max()
    constant = sampled(host, apply(host, ours), sampler=sampler, steps=5)
    assert (latent - constant).abs().max() > 10 * CLOSE * wanted.abs().max()


def test_a_schedule_of_block_curves_moves_each_block_on_its_own(host):
    def cross_fade(blocks, _x, t, _options):
        done = percent(host, t)
        return [b * (1 - done if i < 2 else done) for i, b in enumerate(blocks)]

    ours, _ = host.pair(TINY)
    conditioning = apply(host, ours, scales=schedule(host, "0%: detail; 100%: structure"))
    wanted = sampled(host, edited(host, cross_fade), steps=5)
    assert (sampled(host, conditioning, steps=5) - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_the_window_holds_beside_a_schedule(host):
    def half(blocks, *_):
        return [b * 0.5 for b in blocks]

    ours, _ = host.pair(TINY)
    window = {"start_percent": 0.3, "end_percent": 0.7}
    conditioning = apply(host, ours, scales=schedule(host, "0%: 0.5"), **window)
    wanted = sampled(host, edited(host, half, **window), steps=6)
    assert (sampled(host, conditioning, steps=6) - wanted).abs().max() == 0.0


def test_chained_schedule_nodes_keep_each_others_key_frames(host):
    (preset,) = host.call("CNPP_BlockScalePreset", preset="structure", strength=0.5)
    first = schedule(host, "0%: scales", scales=preset)
    both = schedule(host, "50%: 1", "step", previous=first)
    assert both.resolve(5, 0.49).values == (0.0, 0.0, 0.5, 0.5, 0.5)
    assert both.resolve(5, 0.51).values == (1.0,) * 5


def test_nothing_is_computed_while_a_schedule_is_at_zero(host):
    ours, _ = host.pair(TINY)
    conditioning = apply(host, ours, scales=schedule(host, "0%: 1; 50%: 0", "step"))
    with evaluations(ours.control_model) as counted:
        sampled(host, conditioning, steps=8)
    assert len(counted) == 4
