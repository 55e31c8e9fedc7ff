"""Partial networks give the same numbers for less, and old residuals return only when allowed."""

import copy
from unittest.mock import Mock

import pytest
import torch
from controlnet_pp.cnpp_core.control.partial import (
    HintCache,
    count_blocks,
    is_controlnet,
    is_divisible,
    partial_network,
)
from controlnet_pp.cnpp_core.control.residuals import ControlResiduals
from controlnet_pp.cnpp_core.control.reuse import ResidualStore, ReusePolicy, drift
from controlnet_pp.cnpp_core.control.timing import Timing
from controlnet_pp.cnpp_core.network.config import NetworkConfig
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

CONFIG = NetworkConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=(2, 1),
    transformer_depth=(1, 0, 1),
    context_dim=16,
    num_heads=4,
)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    network = ControlNet(CONFIG).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    return network


def inputs(batch=2, size=8):
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(batch, 4, size, size, generator=generator),
        "hint": torch.rand(batch, 3, 8 * size, 8 * size, generator=generator),
        "timesteps": torch.full((batch,), 500.0),
        "context": torch.randn(batch, 3, 16, generator=generator),
    }


def test_a_network_is_told_by_its_parts(net):
    assert is_controlnet(net)
    assert count_blocks(net) == CONFIG.blocks == 6
    assert not is_controlnet(torch.nn.Linear(1, 1))
    assert not is_controlnet(None)


@settings(max_examples=20, deadline=None)
@given(asked=st.sets(st.integers(0, 5), min_size=1))
def test_what_is_asked_for_is_the_networks_bit_for_bit_and_the_rest_is_none(asked):
    torch.manual_seed(0)
    network = ControlNet(CONFIG).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    full = network(**inputs())
    part = partial_network(network, asked, HintCache())(**inputs())
    assert len(part) == len(full)
    for i, (a, b) in enumerate(zip(part, full, strict=True)):
        assert a is None if i not in asked else torch.equal(a, b)


def flops(network, given=None):
    counter = FlopCounterMode(display=False)
    with counter:
        network(**(given or inputs()))
    return counter.get_total_flops()


def test_nothing_below_the_deepest_block_is_computed(net):
    assert flops(partial_network(net, None, HintCache())) == flops(net)
    given, hints = inputs(), HintCache()
    costs = [flops(partial_network(net, {0}, hints), given)]
    costs = [flops(partial_network(net, {depth}, hints), given) for depth in range(CONFIG.blocks)]
    assert costs == sorted(costs)
    assert costs[1] < 0.4 * costs[-1]


def test_the_middle_alone_needs_every_block_but_no_other_zero_convolution(net):
    spared = sum(
        2 * 2 * channels**2 * (8 // downscale) ** 2
        for channels, downscale in CONFIG.block_layout[:-1]
    )
    alone = flops(partial_network(net, {CONFIG.blocks - 1}, HintCache()))
    assert flops(net) - alone == spared


def test_a_hint_is_embedded_once_and_another_one_again(net):
    spy = Mock(side_effect=net.input_hint_block.forward)
    cache, given = HintCache(), inputs()
    network = partial_network(net, None, cache)
    network.input_hint_block._modules["block"] = spy
    first = network(**given)
    second = network(**given)
    assert spy.call_count == 1
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    network(**given | {"hint": given["hint"].clone()})
    assert spy.call_count == 2


def test_a_hint_that_is_gone_never_lends_its_place_to_another(net):
    cache, seen = HintCache(), []
    for i in range(20):  # freed memory is handed out again at the same address
        hint = torch.full((1, 3, 8, 8), float(i))
        seen.append(cache.get(hint, hint.mean).item())
        del hint
    assert seen == [float(i) for i in range(20)]


def test_only_the_last_hints_are_kept():
    cache, hints, embedded = HintCache(kept=2), [torch.rand(1, 3, 8, 8) for _ in range(3)], []

    def embed(i):
        return cache.get(hints[i], lambda: embedded.append(i) or hints[i])

    for i in (0, 1, 0, 2, 0, 1):  # 1 has to go for 2, and 2 for 1
        embed(i)
    assert embedded == [0, 1, 2, 1]


def test_a_partial_network_leaves_its_original_as_it_was(net):
    names = {name: id(module) for name, module in net.named_modules()}
    before = net(**inputs())
    partial_network(net, {1}, HintCache())(**inputs())
    assert {name: id(module) for name, module in net.named_modules()} == names
    assert all(torch.equal(a, b) for a, b in zip(before, net(**inputs()), strict=True))


class Forwarding(torch.nn.Module):
    """Reads and writes the network inside, as torch.compile's wrapper does."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def __getattr__(self, name):
        if name == "network":
            return self._modules["network"]
        return getattr(self._modules["network"], name)

    def forward(self, **given):
        return self.network(**given)


WRAPPERS = {
    "torch.compile": lambda network: torch.compile(network, backend="eager"),
    "data parallel": torch.nn.DataParallel,
    "forwarding": Forwarding,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_network_runs_whole_and_nothing_is_written_into_it(net, wrap):
    wrapped, before = wrap(net), dict(net._modules)
    assert (is_controlnet(wrapped), is_divisible(wrapped)) == (True, False)
    assert count_blocks(wrapped) == CONFIG.blocks
    partial = partial_network(wrapped, {1}, HintCache())
    assert partial is wrapped
    for got, wanted in zip(partial(**inputs()), net(**inputs()), strict=True):
        assert torch.equal(got, wanted)
    assert net._modules == before


def test_a_network_whose_forward_is_replaced_or_compiled_in_place_runs_whole(net):
    replaced = copy.copy(net)
    replaced.forward = lambda **given: net(**given)
    compiled = copy.copy(net)
    compiled.compile(backend="eager")
    for network in (replaced, compiled):
        assert partial_network(network, {1}, HintCache()) is network
    assert is_divisible(net)


def evaluations(policy, steps=20, drifts=None):
    """The steps at which residuals are computed anew."""
    store, done = ResidualStore(policy), []
    for step in range(steps):
        x = torch.full((1, 4, 2, 2), 1.0 if drifts is None else drifts[step])
        if store.find("rows", step, x, None) is None:
            store.keep("rows", step, x, ControlResiduals([x]), None)
            done.append(step)
    return done


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (ReusePolicy(), list(range(20))),
        (ReusePolicy(every=2), list(range(0, 20, 2))),
        (ReusePolicy(every=2, fresh_steps=0), list(range(0, 20, 2))),
        (ReusePolicy(every=4), [0, 4, 8, 12, 16]),
        (ReusePolicy(every=2, fresh_steps=2), [0, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19]),
        (ReusePolicy(every=4, fresh_steps=2), [0, 1, 5, 9, 13, 17]),
        (ReusePolicy(every=30, fresh_steps=3), [0, 1, 2]),
    ],
)
def test_reuse_computes_at_the_steps_it_says(policy, expected):
    assert evaluations(policy) == expected


def test_a_drift_beyond_the_bound_computes_anew():
    drifts = [1.0 + 0.04 * step for step in range(20)]
    done = evaluations(ReusePolicy(every=30, max_drift=0.1), drifts=drifts)
    reference = drifts[0]
    expected = [0]
    for step, value in enumerate(drifts):
        if abs(value - reference) / reference > 0.1:
            expected.append(step)
            reference = value
    assert done == expected
    assert 3 < len(done) < 20


def test_a_sampler_that_steps_in_place_drifts_as_well():
    store, batch = ResidualStore(ReusePolicy(every=30, max_drift=0.1)), torch.ones(2, 4, 2, 2)
    store.keep("rows", 0, batch[:1], ControlResiduals([None]), None)
    batch *= 1.05
    assert store.find("rows", 1, batch[:1], None) is not None
    batch *= 1.5
    assert store.find("rows", 2, batch[:1], None) is None


def test_drift_is_that_of_the_image_that_changed_most():
    before = torch.ones(2, 4, 3, 3)
    after = before.clone()
    after[1] *= 1.5
    assert drift(after, before) == pytest.approx(0.5)


def test_residuals_are_not_reused_for_blocks_that_nobody_computed():
    store, x = ResidualStore(ReusePolicy(every=9)), torch.ones(1)
    store.keep("a", 0, x, ControlResiduals([None, None]), {0, 1})
    assert store.find("a", 1, x, {1}) is not None
    assert store.find("a", 1, x, {1, 2}) is None
    assert store.find("a", 1, x, None) is None
    assert store.find("b", 1, x, {1}) is None


def test_a_step_back_and_another_size_compute_anew():
    store, x = ResidualStore(ReusePolicy(every=9)), torch.ones(1, 4)
    store.keep("a", 5, x, ControlResiduals([None]), None)
    assert store.find("a", 4, x, None) is None
    assert store.find("a", 6, torch.ones(1, 5), None) is None


def test_what_is_too_old_for_everybody_is_not_kept():
    """Windows of frames that never come again would fill the memory."""
    store, x = ResidualStore(ReusePolicy(every=3)), torch.ones(1)
    for step in range(12):
        store.keep(f"window {step}", step, x, ControlResiduals([x]), None)
    assert set(store._stored) == {"window 9", "window 10", "window 11"}


@pytest.mark.parametrize(("every", "fresh"), [(0, 1), (2, -1)])
def test_a_policy_that_makes_no_sense_is_refused(every, fresh):
    with pytest.raises(ValueError, match="every must be at least 1"):
        ReusePolicy(every, fresh)


SIGMAS = [14.6, 7.1, 3.9, 2.2, 1.2, 0.6, 0.3, 0.0]


@pytest.mark.parametrize(
    ("sigma", "step"),
    [(14.6, 0), (14.5999, 0), (7.1, 1), (5.0, 1), (3.9, 2), (0.31, 5), (0.3, 6), (20.0, 0)],
)
def test_a_call_between_two_sigmas_belongs_to_the_earlier_step(sigma, step):
    assert Timing.step(sigma, SIGMAS) == step


def test_steps_of_a_rising_plan_are_counted_from_its_start():
    rising = SIGMAS[::-1]
    assert [Timing.step(sigma, rising) for sigma in (0.0, 0.3, 0.5, 14.6)] == [0, 1, 1, 7]


@given(st.floats(0.01, 0.99))
def test_percent_is_the_inverse_of_percent_to_sigma(percent):
    def percent_to_sigma(p):
        return 999999999.9 if p <= 0 else 0.0 if p >= 1 else 14.6 * (1 - p) ** 3 + 0.03

    timing = Timing(percent_to_sigma)
    assert timing.percent(percent_to_sigma(percent)) == pytest.approx(percent, abs=1e-5)
    assert timing.percent(1e9) == 0.0
    assert timing.percent(0.0) == 1.0
