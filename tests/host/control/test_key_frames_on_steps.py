"""A jump between key frames that falls on a step comes with that step, as start_percent does."""

from __future__ import annotations

import pytest
from controlnet_pp.tests.host.control.shaping import CLOSE, sampled, schedule
from controlnet_pp.tests.host.harness import TINY, apply


@pytest.mark.parametrize("scheduler", ["sgm_uniform", "simple"])
@pytest.mark.parametrize("percent", [20, 30, 50, 80])
def test_a_jump_acts_from_the_step_from_which_the_hosts_window_does(host, scheduler, percent):
    ours, _ = host.pair(TINY)
    sampling = {"steps": 10, "scheduler": scheduler, "sampler": "euler"}
    jump = apply(host, ours, scales=schedule(host, f"0%: 0; {percent}%: 1", "step"))
    window = apply(host, ours, start_percent=percent / 100)
    wanted = sampled(host, window, **sampling)
    assert (sampled(host, jump, **sampling) - wanted).abs().max() <= CLOSE * wanted.abs().max()
