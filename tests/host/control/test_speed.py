"""How often and how deep a control is evaluated, and that the result stays what it was."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import block_scales, counted, embedded_hints, speed
from controlnet_pp.tests.host.harness import TINY, apply
from controlnet_pp.tests.host.residuals import captured, edited, evaluations


@pytest.mark.parametrize(
    ("every", "fresh", "evaluated"), [(1, 1, 12), (2, 1, 6), (4, 1, 3), (2, 2, 7), (4, 2, 4)]
)
def test_reuse_computes_as_often_as_it_says(host, every, fresh, evaluated):
    ours, _ = host.pair(TINY)
    _, rows = counted(host, speed(host, ours, reuse_every=every, fresh_steps=fresh), steps=12)
    assert rows == [2] * evaluated


def test_reused_residuals_are_those_of_the_step_that_computed_them(host):
    kept = {}

    def hold(blocks, _x, t, _options):
        sampling = host.model(TINY).model.model_sampling
        planned = list(kept.setdefault("sigmas", []))
        sigma = float(t[0])
        if sigma not in planned:
            kept["sigmas"].append(sigma)
        step = kept["sigmas"].index(sigma)
        assert sampling is not None
        if step % 3 == 0:
            kept["blocks"] = [block.clone() for block in blocks]
        return [block.clone() for block in kept["blocks"]]

    ours, _ = host.pair(TINY)
    latent, _ = counted(host, speed(host, ours, reuse_every=3), steps=9)
    wanted = host.sample(host.model(TINY), *edited(host, hold), steps=9)
    assert (latent - wanted).abs().max() == 0.0


@pytest.mark.parametrize(("sampler", "calls"), [("heun", 15), ("dpm_2", 15)])
def test_samplers_with_two_calls_a_step_reuse_by_step_and_not_by_call(host, sampler, calls):
    ours, _ = host.pair(TINY)
    _, every_call = counted(host, ours, steps=8, sampler=sampler)
    assert len(every_call) == calls
    _, rows = counted(host, speed(host, ours, reuse_every=4), steps=8, sampler=sampler)
    # Steps 0 and 4; the first step's second call is still in the zone that is always fresh.
    assert len(rows) == {"heun": 2, "dpm_2": 3}[sampler]


def test_a_drift_bound_computes_when_the_input_has_changed(host):
    ours, _ = host.pair(TINY)
    full = counted(host, ours, steps=12)[0]
    errors, evaluated = [], []
    for drift in (0.0001, 0.2, 100.0):
        latent, rows = counted(host, speed(host, ours, reuse_every=50, max_drift=drift), steps=12)
        errors.append(float((latent - full).abs().max()))
        evaluated.append(len(rows))
    assert evaluated[0] == 12
    assert errors[0] == 0.0
    assert 12 > evaluated[1] > evaluated[2] == 1
    assert 0.0 < errors[1] < errors[2]


def test_drift_is_that_of_what_the_network_reads_and_not_of_the_noisy_latents(host):
    """From step to step the latents shrink with the noise, while what is read keeps its size."""
    from controlnet_pp.cnpp_core.control.reuse import drift

    ours, _ = host.pair(TINY)
    bound, steps = 0.4, 12
    model = host.model(TINY)
    sampling = model.model.model_sampling
    seen = []

    def wrapper(apply_model, given):
        seen.append((given["input"].clone(), given["timestep"].clone()))
        return apply_model(given["input"], given["timestep"], **given["c"])

    watched = model.clone()
    watched.set_model_unet_function_wrapper(wrapper)
    shaped = speed(host, ours, reuse_every=50, max_drift=bound)
    _, rows = counted(host, shaped, watched, steps=steps, cfg=1.0)

    def computed(inputs):
        times, last = 0, None
        for x in inputs:
            if last is None or drift(x, last) > bound:
                times, last = times + 1, x
        return times

    read = computed([sampling.calculate_input(t, x) for x, t in seen])
    assert len(seen) == steps
    assert read != computed([x for x, _ in seen])
    assert len(rows) == read


def test_a_hint_is_embedded_once_a_sampling(host):
    ours, _ = host.pair(TINY)
    shaped = speed(host, ours)
    with embedded_hints(ours.control_model) as hints:
        counted(host, shaped, steps=6)
        assert len(hints) == 1
        counted(host, shaped, steps=3)
        assert len(hints) == 2, "a new sampling embeds it anew"


def test_blocks_below_the_last_one_asked_for_are_not_computed(host):
    ours, _ = host.pair(TINY)
    scales = block_scales(host, 1.0, 0.5, 0.0, 0.0, 0.0)
    seen = []
    network = ours.control_model
    handles = [
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
        for name, module in [
            *((f"block {i}", block) for i, block in enumerate(network.input_blocks)),
            *((f"zero {i}", zero) for i, zero in enumerate(network.zero_convs)),
            ("middle", network.middle_block),
        ]
    ]
    try:
        host.sample(host.model(TINY), *apply(host, ours, scales=scales), steps=1)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == ["block 0", "zero 0", "block 1", "zero 1"]


@pytest.mark.parametrize(
    "changes", [{"strength": 0.0}, {"start_percent": 1.0}, {"scales": "zero"}], ids=str
)
def test_a_control_that_says_nothing_costs_nothing(host, changes):
    ours, _ = host.pair(TINY)
    if changes.get("scales"):
        preset = host.pack("cnpp_core.control.scales").ScalePreset
        changes = {"scales": preset("uniform", 0.0)}
    with evaluations(ours.control_model) as rows:
        host.sample(host.model(TINY), *apply(host, ours, **changes))
    assert rows == []


def test_a_rising_plan_reuses_by_its_own_steps(host):
    """Noise put back on a picture (Flip Sigmas): every step is another one, as on the way down."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    ours, _ = host.pair(TINY)
    model = host.model(TINY)
    positive, _ = apply(host, speed(host, ours, reuse_every=2))
    guider = Guider_Basic(model)
    guider.set_conds(positive)
    schedule = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(schedule, "normal", 6).flip(0)
    sigmas[0] = 0.001
    with evaluations(ours.control_model) as rows, torch.inference_mode():
        guider.sample(
            torch.zeros(1, 4, 16, 16), torch.ones(1, 4, 16, 16),
            comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True,
        )  # fmt: skip
    assert len(rows) == 3


def test_nothing_that_the_unet_gets_is_handed_out_twice(host):
    """Reused residuals may lie in two calls at once, but the lists are taken apart by the UNet."""
    ours, _ = host.pair(TINY)
    conditioning = apply(host, speed(host, ours, reuse_every=4))
    calls = captured(host, host.model(TINY), *conditioning, steps=4)
    lists = [id(call["control"]["output"]) for call in calls]
    assert len(set(lists)) == len(lists)
    assert all(len(call["control"]["output"]) == 4 for call in calls)
