"""Residual Energy in the running host: it changes no sampling, and no run leaves a trace."""

from __future__ import annotations

import weakref
from dataclasses import fields

import pytest
import torch
from controlnet_pp.tests.host.control.measuring import SETTINGS, areas, measured
from controlnet_pp.tests.host.harness import TINY, apply


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_latent_is_bit_for_bit_the_same(host, setting):
    conditioning = apply(host, host.pair(TINY)[0])
    wanted = host.sample(host.model(TINY), *conditioning, **SETTINGS[setting])
    latent, table = measured(host, TINY, conditioning, **SETTINGS[setting])
    assert torch.equal(latent, wanted)
    assert table.sides["cond"].isfinite().all()
    assert table.steps == 3


def test_the_latent_is_bit_for_bit_the_same_with_areas(host):
    conditioning = areas(host)
    wanted = host.sample(host.model(TINY), *conditioning)
    assert torch.equal(measured(host, TINY, conditioning)[0], wanted)


def test_every_run_starts_anew(host):
    watched, energy = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    conditioning = apply(host, host.pair(TINY)[0])
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
    conditioning = apply(host, host.pair(TINY)[0])
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
    host.sample(model, *apply(host, host.pair(TINY)[0]))
    assert energy.table is None


def test_no_feature_is_kept(host):
    watched, energy = host.call("CNPP_ResidualEnergy", model=host.model(TINY))
    kept, alive = [], []

    def remember(_module, _args, out):
        alive.append(sum(ref() is not None for ref in kept))
        kept.append(weakref.ref(out))

    unet = host.model(TINY).model.diffusion_model
    handle = unet.input_blocks[1][-1].register_forward_hook(remember)
    host.sample(watched, *apply(host, host.pair(TINY)[0]), steps=4)
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
    host.sample(watched, *apply(host, lazy))
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
        host.sample(watched, *apply(host, host.pair(TINY)[0]))
