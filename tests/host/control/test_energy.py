"""Residual Energy in the running host: its numbers against norms taken by hooks of the tests."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.measuring import SETTINGS, areas, measured
from controlnet_pp.tests.host.control.shaping import block_scales
from controlnet_pp.tests.host.harness import TINY, TINY_SD15, TINY_XL, apply, prompt, randomise


class ByHand:
    """|r| / |h| of every UNet call in double precision, by hooks around the UNet's own function."""

    def __init__(self, unet, monkeypatch):
        self.calls = []  # (cond_or_uncond, sigma, {place: (rows,)})
        original = unet._forward

        def forward(x, timesteps, context, y, control, options, **kwargs):
            lists = {key: list(control[key]) for key in control} if control else {}
            found, skips = {}, []

            def note(place, feature, residual):
                found[place] = torch.zeros(x.shape[0], dtype=torch.double)
                if residual is not None:
                    h, r = (t.double().flatten(1).norm(dim=1) for t in (feature, residual))
                    found[place] = r / h

            def encoded(index):
                def hook(_module, _args, out):
                    adapters = [*reversed(lists.get("input", [])), *[None] * 99]
                    note(f"adapter_{index}", out, adapters[index])
                    skips.append(out if adapters[index] is None else out + adapters[index])

                return hook

            def middle(_module, _args, out):
                note("middle", out, (lists.get("middle") or [None])[0])
                outputs = lists.get("output") or [None] * len(skips)
                for i, pair in enumerate(zip(skips, outputs, strict=True)):
                    note(f"in_{i}", *pair)

            handles = [
                block[-1].register_forward_hook(encoded(i))
                for i, block in enumerate(unet.input_blocks)
            ]
            handles.append(unet.middle_block[-1].register_forward_hook(middle))
            out = original(x, timesteps, context, y, control, options, **kwargs)
            for handle in handles:
                handle.remove()
            self.calls.append((options["cond_or_uncond"], float(options["sigmas"][0]), found))
            return out

        monkeypatch.setattr(unet, "_forward", forward)

    def mean(self, side, place, step, sigmas):
        """Over all rows of one side at a step, which is told by its exact sigma."""
        rows = []
        for order, sigma, found in self.calls:
            if abs(sigma - sigmas[step]) < 1e-4 * sigmas[step]:
                for index, part in zip(order, found[place].chunk(len(order)), strict=True):
                    if (index == 0) == (side == "cond"):
                        rows.append(part)
        return float(torch.cat(rows).mean())


def assert_equal(table, hand):
    for side, values in table.sides.items():
        for row, place in zip(values, table.blocks, strict=True):
            for step in range(table.steps):
                wanted = hand.mean(side, place, step, table.sigmas)
                assert float(row[step]) == pytest.approx(wanted, rel=1e-5), (side, place, step)


@pytest.fixture
def by_hand(host, monkeypatch):
    return lambda layout: ByHand(host.model(layout).model.diffusion_model, monkeypatch)


@pytest.mark.parametrize("layout", [TINY, TINY_SD15, TINY_XL], ids=["two levels", "sd15", "sdxl"])
def test_the_numbers_equal_norms_taken_by_hand(host, by_hand, layout):
    ours, _ = host.pair(layout)
    conditioning = apply(host, ours, layout)
    hand = by_hand(layout)
    _, table = measured(host, layout, conditioning, steps=2)
    count = len(ours.control_model.zero_convs) + 1
    assert table.blocks == (*(f"in_{i}" for i in range(count - 1)), "middle")
    assert list(table.sides) == ["cond", "uncond"]
    assert table.steps == 2
    assert (table.sides["cond"] > 0).all()
    assert_equal(table, hand)


@pytest.mark.parametrize("node", ["CNPP_Apply", "ControlNetApplyAdvanced"])
def test_a_chain_is_measured_as_its_sum_whoever_applies_it(host, by_hand, node):
    sides = {"positive": prompt(TINY, 1), "negative": prompt(TINY, 2)}
    for seed in (1, 2):
        ours, theirs = host.pair(TINY, seed=seed)
        control = ours if node == "CNPP_Apply" else theirs
        sides["positive"], sides["negative"] = apply(host, control, node=node, **sides)
    hand = by_hand(TINY)
    _, table = measured(host, TINY, tuple(sides.values()))
    assert_equal(table, hand)
    alone = measured(host, TINY, apply(host, host.pair(TINY)[0]))[1]
    assert (table.sides["cond"] - alone.sides["cond"]).abs().max() > 0.01


def adapter(host):
    """The host's T2I adapter for the widths of TINY_SD15, with random weights."""
    from comfy.controlnet import T2IAdapter
    from comfy.t2i_adapter.adapter import Adapter

    network = Adapter(
        channels=[64, 128, 256, 256], nums_rb=1, cin=192, ksize=1, sk=True, use_conv=False, xl=False
    )
    return host.once("adapter", lambda: T2IAdapter(randomise(network, 5), 3, 8, "nearest-exact"))


@pytest.mark.parametrize("node", ["CNPP_Apply", "ControlNetApplyAdvanced"])
def test_an_adapter_is_measured_where_it_adds(host, by_hand, node):
    conditioning = apply(host, adapter(host), TINY_SD15, node=node)
    hand = by_hand(TINY_SD15)
    _, table = measured(host, TINY_SD15, conditioning, steps=2)
    assert table.blocks == ("adapter_2", "adapter_5", "adapter_8", "adapter_11")
    assert (table.sides["cond"] > 0).all()
    assert_equal(table, hand)


def test_an_adapter_and_a_controlnet_are_measured_side_by_side(host, by_hand):
    positive, negative = apply(host, adapter(host), TINY_SD15)
    ours, _ = host.pair(TINY_SD15)
    prompts = apply(host, ours, TINY_SD15, positive=positive, negative=negative)
    hand = by_hand(TINY_SD15)
    _, table = measured(host, TINY_SD15, prompts, steps=2)
    assert len(table.blocks) == 4 + 13
    assert (table.sides["cond"] > 0).all()
    assert_equal(table, hand)


@pytest.mark.parametrize("setting", ["heun", "batch 3"])
def test_several_calls_and_images_are_averaged(host, by_hand, setting):
    conditioning = apply(host, host.pair(TINY)[0])
    hand = by_hand(TINY)
    _, table = measured(host, TINY, conditioning, **SETTINGS[setting])
    assert_equal(table, hand)


def test_prompts_with_areas_are_averaged(host, by_hand):
    hand = by_hand(TINY)
    _, table = measured(host, TINY, areas(host))
    assert_equal(table, hand)
    assert len(hand.calls) == 2 * table.steps


def test_rows_told_apart_when_only_one_side_is_controlled(host):
    ours, _ = host.pair(TINY)
    (cond_only,) = host.call(
        "CNPP_ControlMode",
        control_net=ours, mode="cond rows only", cond_strength=1.0, uncond_strength=1.0,
    )  # fmt: skip
    _, table = measured(host, TINY, apply(host, cond_only))
    assert (table.sides["cond"] > 0).all()
    assert (table.sides["uncond"] == 0).all()


def test_at_cfg_1_there_are_only_cond_rows(host):
    _, table = measured(host, TINY, apply(host, host.pair(TINY)[0]), cfg=1.0)
    assert list(table.sides) == ["cond"]


def test_a_scale_of_a_half_halves_the_number_of_its_block(host):
    ours, _ = host.pair(TINY)
    full = measured(host, TINY, apply(host, ours))[1].sides["cond"]
    half = block_scales(host, 1.0, 0.5, 1.0, 1.0, 0.5)
    halved = measured(host, TINY, apply(host, ours, scales=half))[1].sides["cond"]
    # In the first step all that is added to is still the same.
    wanted = full[:, 0] * torch.tensor([1.0, 0.5, 1.0, 1.0, 0.5])
    torch.testing.assert_close(halved[:, 0], wanted, rtol=1e-6, atol=0)


def test_muted_blocks_are_zero_and_listed(host):
    ours, _ = host.pair(TINY)
    muted = block_scales(host, 0.0, 1.0, 0.0, 1.0, 0.0)
    _, table = measured(host, TINY, apply(host, ours, scales=muted))
    acts = (table.sides["cond"] > 0).all(dim=1)
    assert acts.tolist() == [False, True, False, True, False]
    assert (table.sides["cond"][~acts] == 0).all()


def test_outside_its_window_a_control_adds_nothing(host):
    ours, _ = host.pair(TINY)
    _, table = measured(host, TINY, apply(host, ours, start_percent=0.3, end_percent=0.7), steps=8)
    acts = (table.sides["cond"] > 0).all(dim=0)
    assert not acts[0]
    assert not acts[-1]
    assert acts[4]
    assert (table.sides["cond"][:, ~acts] == 0).all()


def test_without_a_control_the_numbers_are_zero_and_the_text_says_why(host):
    _, table = measured(host, TINY, (prompt(TINY, 1), prompt(TINY, 2)))
    assert table.blocks == ("in_0", "in_1", "in_2", "in_3", "middle")
    assert (table.sides["cond"] == 0).all()
    assert "No control reached the UNet" in table.text()
