"""Networks that others run in their own way: compiled, wrapped; and what they share stays whole."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import block_scales, control_in, mode, sampled, speed
from controlnet_pp.tests.host.harness import TINY, apply

CLOSE = 2e-4


class Wrapped(torch.nn.Module):
    """As DataParallel and its like hold a network, with what the host asks of one."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    @property
    def dtype(self):
        return self.module.dtype

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def compiled(network):
    return torch.compile(network, backend="eager")


RUNS = {"compiled": compiled, "wrapped": Wrapped}


@pytest.mark.parametrize("loader", [0, 1], ids=["ours", "the host's"])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_network_that_another_node_wrapped_runs_whole_and_stays_as_it_was(host, run, loader):
    """As a compile node does it: on the control that comes out of ours, the network shared."""
    control = host.pair(TINY)[loader]
    network = control.control_model
    parts = dict(network._modules)
    scales = block_scales(host, 1.0, 0.5, 0.0, 2.0, 0.0)
    conditioning = apply(host, mode(host, control), scales=scales)
    wanted = sampled(host, conditioning)
    control_in(conditioning).control_model = run(network)
    got = sampled(host, conditioning)
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()
    assert network._modules == parts
    again = apply(host, mode(host, control), scales=scales)
    assert torch.equal(sampled(host, again), wanted)


def test_a_compiled_network_takes_every_node_that_shapes(host):
    ours, _ = host.pair(TINY)
    control = ours.copy()
    control.control_model = compiled(ours.control_model)
    shaped = speed(host, mode(host, control, "cond rows only"), reuse_every=2, lazy=True)
    (preset,) = host.call("CNPP_BlockScalePreset", preset="structure", strength=0.5)
    plain = speed(host, mode(host, ours, "cond rows only"), reuse_every=2, lazy=True)
    wanted = sampled(host, apply(host, plain, scales=preset))
    got = sampled(host, apply(host, shaped, scales=preset))
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()


def test_a_network_compiled_in_place_runs_whole(host):
    """`network.compile()` leaves the class as it is; a part would call the whole all the same."""
    import copy

    ours, _ = host.pair(TINY)
    control, network = ours.copy(), copy.deepcopy(ours.control_model)
    control.control_model = network
    network.compile(backend="eager")
    scales = block_scales(host, 0.5, 0.0, 0.0, 0.0, 0.0)
    wanted = sampled(host, apply(host, ours, scales=scales))
    got = sampled(host, apply(host, control, scales=scales))
    assert (got - wanted).abs().max() < CLOSE * wanted.abs().max()
