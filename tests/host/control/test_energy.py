"""Residual Energy in the running host, against norms taken by hooks of its own."""

from __future__ import annotations

import weakref
from dataclasses import fields

import pytest
import torch
from harness import TINY, TINY_SD15, TINY_XL, picture, prompt, randomise


def applied(host, layout, control, *, node="CNPP_Apply", window=(0.0, 1.0), prompts=None, **extra):
    positive, negative = prompts or (prompt(layout, 1), prompt(layout, 2))
    return host.call(
        node,
        positive=positive,
        negative=negative,
        control_net=control,
        image=picture(),
        strength=0.8,
        start_percent=window[0],
        end_percent=window[1],
        **extra,
    )


def measured(host, layout, conditioning, **options):
    """The latent, the table of energies."""
    watched, energy = host.call("CNPP_ResidualEnergy", model=host.model(layout))
    latent = host.sample(watched, *conditioning, **options)
    return latent, energy.table


def scales(host, *values):
    return host.pack("cnpp_core.control.scales").BlockScales(values)


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
    conditioning = applied(host, layout, ours)
    hand = by_hand(layout)
    _, table = measured(host, layout, conditioning, steps=2)
    count = ours.blocks
    assert table.blocks == (*(f"in_{i}" for i in range(count - 1)), "middle")
    assert list(table.sides) == ["cond", "uncond"]
    assert table.steps == 2
    assert (table.sides["cond"] > 0).all()
    assert_equal(table, hand)


@pytest.mark.parametrize("node", ["CNPP_Apply", "ControlNetApplyAdvanced"])
def test_a_chain_is_measured_as_its_sum_whoever_applies_it(host, by_hand, node):
    prompts = None
    for seed in (1, 2):
        ours, theirs = host.pair(TINY, seed=seed)
        control = ours if node == "CNPP_Apply" else theirs
        prompts = applied(host, TINY, control, node=node, prompts=prompts)[:2]
    hand = by_hand(TINY)
    _, table = measured(host, TINY, prompts)
    assert_equal(table, hand)
    alone = measured(host, TINY, applied(host, TINY, host.pair(TINY)[0]))[1]
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
    conditioning = applied(host, TINY_SD15, adapter(host), node=node)
    hand = by_hand(TINY_SD15)
    _, table = measured(host, TINY_SD15, conditioning, steps=2)
    assert table.blocks == ("adapter_2", "adapter_5", "adapter_8", "adapter_11")
    assert (table.sides["cond"] > 0).all()
    assert_equal(table, hand)


def test_an_adapter_and_a_controlnet_are_measured_side_by_side(host, by_hand):
    prompts = applied(host, TINY_SD15, adapter(host))
    prompts = applied(host, TINY_SD15, host.pair(TINY_SD15)[0], prompts=prompts)
    hand = by_hand(TINY_SD15)
    _, table = measured(host, TINY_SD15, prompts, steps=2)
    assert len(table.blocks) == 4 + 13
    assert (table.sides["cond"] > 0).all()
    assert_equal(table, hand)


def areas(host):
    """A control over the whole picture, and one in an area of another size, with its own prompt."""
    ours, _ = host.pair(TINY)
    positive, negative = applied(host, TINY, ours)
    extra = prompt(TINY, 5)
    extra[0][1]["area"] = (8, 12, 0, 2)
    second, _ = applied(host, TINY, ours, prompts=(extra, prompt(TINY, 2)))
    return positive + second, negative


SETTINGS = {
    "euler": {},
    "heun": {"sampler": "heun"},
    "dpm_2": {"sampler": "dpm_2"},
    "euler_ancestral": {"sampler": "euler_ancestral"},
    "batch 3": {"latent": torch.zeros(3, 4, 16, 16)},
    "cfg 1": {"cfg": 1.0},
    "odd size": {"latent": torch.zeros(1, 4, 13, 17)},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_latent_is_bit_for_bit_the_same(host, setting):
    conditioning = applied(host, TINY, host.pair(TINY)[0])
    wanted = host.sample(host.model(TINY), *conditioning, **SETTINGS[setting])
    latent, table = measured(host, TINY, conditioning, **SETTINGS[setting])
    assert torch.equal(latent, wanted)
    assert table.sides["cond"].isfinite().all()
    assert table.steps == 3


def test_the_latent_is_bit_for_bit_the_same_with_areas(host):
    conditioning = areas(host)
    wanted = host.sample(host.model(TINY), *conditioning)
    assert torch.equal(measured(host, TINY, conditioning)[0], wanted)


@pytest.mark.parametrize("setting", ["heun", "batch 3"])
def test_several_calls_and_images_are_averaged(host, by_hand, setting):
    conditioning = applied(host, TINY, host.pair(TINY)[0])
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
    _, table = measured(host, TINY, applied(host, TINY, cond_only))
    assert (table.sides["cond"] > 0).all()
    assert (table.sides["uncond"] == 0).all()


def test_at_cfg_1_there_are_only_cond_rows(host):
    _, table = measured(host, TINY, applied(host, TINY, host.pair(TINY)[0]), cfg=1.0)
    assert list(table.sides) == ["cond"]


def test_a_scale_of_a_half_halves_the_number_of_its_block(host):
    ours, _ = host.pair(TINY)
    full = measured(host, TINY, applied(host, TINY, ours))[1].sides["cond"]
    half = scales(host, 1.0, 0.5, 1.0, 1.0, 0.5)
    halved = measured(host, TINY, applied(host, TINY, ours, scales=half))[1].sides["cond"]
    # In the first step all that is added to is still the same.
    wanted = full[:, 0] * torch.tensor([1.0, 0.5, 1.0, 1.0, 0.5])
    torch.testing.assert_close(halved[:, 0], wanted, rtol=1e-6, atol=0)


def test_muted_blocks_are_zero_and_listed(host):
    ours, _ = host.pair(TINY)
    muted = scales(host, 0.0, 1.0, 0.0, 1.0, 0.0)
    _, table = measured(host, TINY, applied(host, TINY, ours, scales=muted))
    acts = (table.sides["cond"] > 0).all(dim=1)
    assert acts.tolist() == [False, True, False, True, False]
    assert (table.sides["cond"][~acts] == 0).all()


def test_outside_its_window_a_control_adds_nothing(host):
    ours, _ = host.pair(TINY)
    _, table = measured(host, TINY, applied(host, TINY, ours, window=(0.3, 0.7)), steps=8)
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


def test_every_run_starts_anew(host):
    watched, energy = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    conditioning = applied(host, TINY, host.pair(TINY)[0])
    host.sample(watched, *conditioning, steps=2)
    first = energy.table
    host.sample(watched, *conditioning, steps=3)
    assert energy.table.steps == 3
    host.sample(watched, *conditioning, steps=2)
    assert torch.equal(energy.table.sides["cond"], first.sides["cond"])


def hooks_of(host):
    unet = host.model(TINY).model.diffusion_model
    return sum(len(module._forward_hooks) for module in unet.modules())


@pytest.mark.parametrize("interrupted", [False, True], ids=["error", "interrupt"])
def test_a_run_that_fails_leaves_nothing_behind(host, monkeypatch, interrupted):
    from comfy.model_management import InterruptProcessingException

    watched, energy = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    conditioning = applied(host, TINY, host.pair(TINY)[0])
    wanted = host.sample(watched, *conditioning)
    table = energy.table
    error = InterruptProcessingException() if interrupted else RuntimeError("out of order")
    unet = host.model(TINY).model.diffusion_model
    calls = []

    def fail(*_args, **_kwargs):
        calls.append(0)
        if len(calls) == 2:
            raise error

    handle = unet.output_blocks[0][0].register_forward_hook(fail)
    with pytest.raises(type(error)):
        host.sample(watched, *conditioning)
    handle.remove()
    assert energy.table is None
    assert energy._run is None
    assert hooks_of(host) == 0
    assert torch.equal(host.sample(watched, *conditioning), wanted)
    assert torch.equal(energy.table.sides["cond"], table.sides["cond"])


def test_the_model_that_came_in_is_not_watched(host):
    model = host.model(TINY)
    _, energy = host.call("CNPP_ResidualEnergy", model=model)
    host.sample(model, *applied(host, TINY, host.pair(TINY)[0]))
    assert energy.table is None


def test_no_feature_is_kept(host):
    watched, energy = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    kept, alive = [], []

    def remember(_module, _args, out):
        alive.append(sum(ref() is not None for ref in kept))
        kept.append(weakref.ref(out))

    unet = host.model(TINY).model.diffusion_model
    handle = unet.input_blocks[1][-1].register_forward_hook(remember)
    host.sample(watched, *applied(host, TINY, host.pair(TINY)[0]), steps=4)
    handle.remove()
    assert alive == [0] * 4  # while sampling, nothing of the steps before
    assert energy.table is not None


def test_nothing_is_read_back_from_the_device_while_sampling(host):
    """Tensors without values: whoever asks for a number of one gets an error."""
    energy = host.pack("nodes.host.control.energy")
    h, r = (torch.empty(2, 4, 8, 8, device="meta") for _ in range(2))
    options = {"cond_or_uncond": [1, 0], "sigmas": r[0, 0, 0], "sample_sigmas": r[0, 0, 0]}
    recording = energy.Recording()
    for _ in range(2):
        lists = {"input": [r], "middle": [r], "output": [r, None]}
        probe = energy.Probe(lists, 2, has_middle=True)
        probe.before_input(0)(None, None, h)
        probe.see_skip(h, options)
        probe.see_skip(h, options)
        probe.see_middle(None, None, h)
        recording.add(probe, options)
    with pytest.raises(NotImplementedError, match="meta"):
        recording.table()


def test_control_on_demand_stays_on_demand(host):
    """A step cache inside ours that skips the UNet: no ControlNet there, and an empty column."""
    from comfy.patcher_extension import WrappersMP

    (lazy,) = host.call(
        "CNPP_ControlSpeed",
        control_net=host.pair(TINY)[0], reuse_every=1, fresh_steps=0, max_drift=0.0, lazy=True,
        overlap=False, channels_last=False, compile=False,
    )  # fmt: skip
    watched, energy = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    calls = []

    def skip_the_second(forward, x, *args, **kwargs):
        calls.append(0)
        return torch.zeros_like(x) if len(calls) == 2 else forward(x, *args, **kwargs)

    watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "step cache", skip_the_second)
    evaluated = []
    network = lazy.control_model
    handle = network.middle_block[-1].register_forward_hook(lambda *_: evaluated.append(0))
    host.sample(watched, *applied(host, TINY, lazy))
    handle.remove()
    assert len(evaluated) == 2
    measured_steps = energy.table.sides["cond"].isfinite().all(dim=0)
    assert measured_steps.tolist() == [True, False, True]
    assert energy.table.means("cond").isfinite().all()


def test_a_transformer_is_refused_by_name(host):
    from comfy import model_base, model_patcher, supported_models
    from comfy.ldm.flux.model import FluxParams

    layout = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "vec_in_dim": 64, "context_in_dim": 64, "hidden_size": 64, "mlp_ratio": 1.0, "num_heads": 4,
        "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000,
        "qkv_bias": True, "guidance_embed": False,
    }  # fmt: skip
    if any(field.name == "txt_ids_dims" for field in fields(FluxParams)):
        layout["txt_ids_dims"] = []
    config = supported_models.Flux(layout)
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    flux = model_patcher.ModelPatcher(model_base.Flux(config, device=cpu), cpu, cpu)
    with pytest.raises(ValueError, match="Residual Energy: the model is Flux"):
        host.call("CNPP_ResidualEnergy", model=flux)


def test_a_compiled_model_is_refused_before_the_first_step(host):
    from comfy.patcher_extension import WrappersMP

    watched, _ = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    watched.add_wrapper_with_key(
        WrappersMP.APPLY_MODEL, "torch.compile", lambda apply, *a, **k: apply(*a, **k)
    )
    with pytest.raises(ValueError, match="is compiled"):
        host.sample(watched, *applied(host, TINY, host.pair(TINY)[0]))


def test_the_plot_shows_the_last_run(host):
    watched, energy = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    latent = {"samples": host.sample(watched, *applied(host, TINY, host.pair(TINY)[0]))}
    plot = host.registry["CNPP_ResidualEnergyPlot"]
    picture, text = plot.execute(energy, latent, 0.0).result
    again, _ = host.call("CNPP_ResidualEnergyPlot", energy=energy, latent=latent, limit=0.0)
    assert picture.ndim == 4
    assert picture.shape[-1] == 3
    assert torch.equal(picture, again)
    assert text == energy.table.text()
    assert "cond, step by step" in text
    shown = plot.execute(energy, latent, 0.0).ui
    assert shown["images"]
    assert shown["text"] == (energy.table.summary(),)


def test_a_plot_without_a_run_says_what_to_connect(host):
    _, energy = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    with pytest.raises(ValueError, match="nothing was measured"):
        host.call("CNPP_ResidualEnergyPlot", energy=energy, latent={}, limit=0.0)


def graph(limit):
    """The demo's model through both nodes, as a graph to POST."""
    return {
        "demo": {"class_type": "CNPP_DemoModel", "inputs": {"example": 3}},
        "text": {
            "class_type": "CLIPTextEncode",
            "inputs": {"clip": ["demo", 1], "text": "red circle on a blue ground"},
        },
        "canny": {
            "class_type": "CNPP_Canny",
            "inputs": {"image": ["demo", 4], "mode": "ControlNet++", "low": 100, "high": 200,
                       "resolution": 0},
        },
        "apply": {
            "class_type": "CNPP_Apply",
            "inputs": {
                "positive": ["text", 0], "negative": ["text", 0], "control_net": ["demo", 3],
                "image": ["canny", 0], "strength": 1.0, "start_percent": 0.0, "end_percent": 0.6,
            },
        },
        "energy": {"class_type": "CNPP_ResidualEnergy", "inputs": {"model": ["demo", 0]}},
        "empty": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 128, "height": 128, "batch_size": 1},
        },
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["energy", 0], "positive": ["apply", 0], "negative": ["apply", 1],
                "latent_image": ["empty", 0], "seed": 1, "steps": 10, "cfg": 3.0, "denoise": 1.0,
                "sampler_name": "euler", "scheduler": "normal",
            },
        },
        "plot": {
            "class_type": "CNPP_ResidualEnergyPlot",
            "inputs": {"energy": ["energy", 1], "latent": ["sampler", 0], "limit": limit},
        },
    }  # fmt: skip


def test_a_plot_behind_a_sampler_that_was_cached_shows_the_last_run(host):
    first = host.run(graph(0.0))["plot"]
    again = host.run(graph(0.5), keep_cache=True)["plot"]
    assert first["text"] == again["text"]
    assert first["text"][0].startswith("|residual| / |feature|, mean over 10 steps")
    assert first["images"][0]["type"] == "temp"
