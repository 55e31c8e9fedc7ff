"""What a control costs: what is computed, counted, and that the result stays what it was."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.harness import (
    TINY,
    TINY_XL,
    apply,
    captured,
    edited,
    evaluations,
    picture,
    prompt,
)

LOOSE = 2e-4


def fast(host, control, every=1, fresh=1, drift=0.0, **switches):
    options = {"lazy": False, "overlap": False, "channels_last": False, "compile": False}
    return host.call(
        "CNPP_ControlSpeed",
        control_net=control,
        reuse_every=every,
        fresh_steps=fresh,
        max_drift=drift,
        **options | switches,
    )[0]


def counted(host, control, network=None, model=None, layout=TINY, **sampling):
    """(latent, rows of each evaluation) of a sampling with this control."""
    with evaluations(network or control.control_model) as rows:
        conditioning = apply(host, control, layout)
        latent = host.sample(model or host.model(layout), *conditioning, **sampling)
    return latent, list(rows)


@pytest.mark.parametrize(
    ("every", "fresh", "evaluated"), [(1, 1, 12), (2, 1, 6), (4, 1, 3), (2, 2, 7), (4, 2, 4)]
)
def test_reuse_computes_as_often_as_it_says(host, every, fresh, evaluated):
    ours, _ = host.pair(TINY)
    _, rows = counted(host, fast(host, ours, every, fresh), steps=12)
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
    latent, _ = counted(host, fast(host, ours, 3), steps=9)
    wanted = host.sample(host.model(TINY), *edited(host, hold), steps=9)
    assert (latent - wanted).abs().max() == 0.0


@pytest.mark.parametrize(("sampler", "calls"), [("heun", 15), ("dpm_2", 15)])
def test_samplers_with_two_calls_a_step_reuse_by_step_and_not_by_call(host, sampler, calls):
    ours, _ = host.pair(TINY)
    _, every_call = counted(host, ours, steps=8, sampler=sampler)
    assert len(every_call) == calls
    _, rows = counted(host, fast(host, ours, 4), steps=8, sampler=sampler)
    # Steps 0 and 4; the first step's second call is still in the zone that is always fresh.
    assert len(rows) == {"heun": 2, "dpm_2": 3}[sampler]


def test_a_drift_bound_computes_when_the_input_has_changed(host):
    ours, _ = host.pair(TINY)
    full = counted(host, ours, steps=12)[0]
    errors, evaluated = [], []
    for drift in (0.0001, 0.2, 100.0):
        latent, rows = counted(host, fast(host, ours, 50, drift=drift), steps=12)
        errors.append(float((latent - full).abs().max()))
        evaluated.append(len(rows))
    assert evaluated[0] == 12
    assert errors[0] == 0.0
    assert 12 > evaluated[1] > evaluated[2] == 1
    assert 0.0 < errors[1] < errors[2]


def test_a_hint_is_embedded_once_a_sampling(host):
    ours, _ = host.pair(TINY)
    seen = []
    block = ours.control_model.input_hint_block[0]
    handle = block.register_forward_hook(lambda *_: seen.append(1))
    try:
        counted(host, ours, steps=6)
        assert seen == [1]
        counted(host, ours, steps=3)
        assert seen == [1, 1], "a new sampling embeds it anew"
    finally:
        handle.remove()


def test_blocks_below_the_last_one_asked_for_are_not_computed(host):
    ours, _ = host.pair(TINY)
    scales = host.pack("cnpp_core.control.scales").BlockScales((1.0, 0.5, 0.0, 0.0, 0.0))
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


# Lazy control, and caches that skip the UNet


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
    latent, rows = counted(host, fast(host, ours, lazy=True), layout=layout)
    hosts_own = apply(host, theirs, layout, node="ControlNetApplyAdvanced")
    assert torch.equal(latent, host.sample(host.model(layout), *hosts_own))
    assert rows == [2, 2, 2]


def test_a_step_cache_that_skips_the_unet_skips_lazy_control_too(host):
    ours, _ = host.pair(TINY)
    eager, all_rows = counted(host, ours, model=with_a_step_cache(host), steps=6)
    lazy, rows = counted(host, fast(host, ours, lazy=True), model=with_a_step_cache(host), steps=6)
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
    lazy, rows = counted(host, fast(host, ours, lazy=True), model=cached(), steps=10)
    assert len(rows) < len(all_rows)
    assert torch.equal(lazy, eager)


def test_a_rising_plan_reuses_by_its_own_steps(host):
    """Noise put back on a picture (Flip Sigmas): every step is another one, as on the way down."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    ours, _ = host.pair(TINY)
    model = host.model(TINY)
    positive, _ = apply(host, fast(host, ours, 2))
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


def test_lazy_controls_in_a_chain_with_the_hosts_add_up(host):
    ours, theirs = host.pair(TINY)
    lazy = fast(host, ours, lazy=True)
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


# Switches


def test_channels_last_changes_the_last_digits_at_most(host):
    ours, _ = host.pair(TINY)
    plain, _ = counted(host, ours)
    latent, _ = counted(host, fast(host, ours, channels_last=True))
    assert (latent - plain).abs().max() < LOOSE * plain.abs().max()


def test_channels_last_reaches_the_convolutions(host):
    ours, _ = host.pair(TINY)
    seen = []
    handle = ours.control_model.input_blocks[0][0].register_forward_hook(
        lambda _m, inputs, _o: seen.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    try:
        counted(host, fast(host, ours, channels_last=True), steps=1)
    finally:
        handle.remove()
    assert seen == [True]


def test_a_compiled_network_gives_the_same_and_stays_compiled(host, monkeypatch):
    """Through Dynamo, with the graph run as it is: building kernels is PyTorch's own affair."""
    compiled = []
    original = torch.compile

    def compile_quickly(module):
        compiled.append(module)
        return original(module, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_quickly)
    ours, _ = host.pair(TINY)
    plain, _ = counted(host, ours)
    shaped = fast(host, ours, compile=True)
    first, _ = counted(host, shaped)
    second, _ = counted(host, shaped)
    assert len(compiled) == 1
    assert (first - plain).abs().max() < LOOSE * plain.abs().max()
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp8_e4m3fn"])
def test_the_switches_work_with_weights_that_are_cast_on_the_fly(host, dtype):
    host.file(TINY, "tiny_cast.safetensors")
    control, _ = host.call(
        "CNPP_LoadControlNet", control_net_name="tiny_cast.safetensors", dtype=dtype
    )
    plain, _ = counted(host, control, steps=4)
    shaped = fast(host, control, 2, lazy=True, channels_last=True)
    latent, rows = counted(host, shaped, steps=4)
    assert len(rows) == 2
    assert latent.isfinite().all()
    reused, _ = counted(host, fast(host, control, 2), steps=4)
    assert (latent - reused).abs().max() < 0.02 * plain.abs().max()


def test_overlap_without_cuda_computes_at_once(host):
    ours, _ = host.pair(TINY)
    plain, _ = counted(host, ours)
    latent, rows = counted(host, fast(host, ours, overlap=True))
    assert torch.equal(latent, plain)
    assert rows == [2, 2, 2]


@pytest.mark.gpu
def test_overlap_on_cuda_is_the_same_bit_for_bit(host):
    ours, _ = host.pair(TINY)
    plain, _ = counted(host, ours)
    for _ in range(5):
        latent, _ = counted(host, fast(host, ours, overlap=True))
        assert torch.equal(latent, plain)


def test_nothing_that_the_unet_gets_is_handed_out_twice(host):
    """Reused residuals may lie in two calls at once, but the lists are taken apart by the UNet."""
    ours, _ = host.pair(TINY)
    calls = captured(host, host.model(TINY), *apply(host, fast(host, ours, 4)), steps=4)
    lists = [id(call["control"]["output"]) for call in calls]
    assert len(set(lists)) == len(lists)
    assert all(len(call["control"]["output"]) == 4 for call in calls)
