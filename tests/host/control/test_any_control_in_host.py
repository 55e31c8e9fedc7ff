"""Controls of other loaders and families under the host's own nodes, devices and weights."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.foreign import (
    PoolingVAE,
    host_apply,
    our_apply,
    sampled,
    untouched,
)
from controlnet_pp.tests.host.control.shaping import mode
from controlnet_pp.tests.host.harness import picture


def test_a_control_lora_lends_the_models_weights_for_one_run_only(host, kind_of):
    kind, control = kind_of("control-lora")
    conditioning = our_apply(host, kind, mode(host, control))
    ours = conditioning[0][0][1]["control"]
    assert ours.control_model is None
    assert ours.get_models() == []
    first = sampled(host, kind, conditioning)
    assert ours.control_model is None
    assert torch.equal(sampled(host, kind, conditioning), first)
    needed = ours.inner.inference_memory_requirements(torch.float32)
    assert ours.inference_memory_requirements(torch.float32) == needed > 0
    assert torch.equal(sampled(host, kind, our_apply(host, kind, ours)), first)


def test_the_hosts_apply_nodes_take_a_shaped_control(host, kind_of):
    kind, control = kind_of("flux inpaint")
    shaped = mode(host, control)
    settings = {
        "image": picture(),
        "mask": torch.ones(1, 128, 128).triu(),
        "strength": 0.5,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "vae": PoolingVAE(kind.latent),
    }
    positive, negative = kind.prompts()

    def inpainted(control_net):
        conditioning = host.call(
            "ControlNetInpaintingAliMamaApply",
            positive=positive, negative=negative, control_net=control_net, **settings,
        )  # fmt: skip
        return sampled(host, kind, conditioning)

    assert torch.equal(inpainted(shaped), inpainted(control))
    unmasked = untouched(host, "flux inpaint", kind, control)
    assert (inpainted(shaped) - unmasked).abs().max() > 0.01
    assert torch.equal(sampled(host, kind, host_apply(host, kind, shaped)), unmasked)


def test_the_hosts_union_node_sets_the_type_of_a_wrapped_control(host, kind_of):
    kind, control = kind_of("flux instantx")
    wanted = {}
    for name in ("openpose", "depth"):
        plain, wrapped = (
            host.call("SetUnionControlNetType", control_net=c, type=name)[0]
            for c in (control, mode(host, control))
        )
        wanted[name] = sampled(host, kind, host_apply(host, kind, plain))
        assert torch.equal(sampled(host, kind, our_apply(host, kind, wrapped)), wanted[name])
    assert (wanted["openpose"] - wanted["depth"]).abs().max() > 0.001


@pytest.mark.parametrize("name", ["controlnet", "t2i full", "flux xlabs", "qwen fun"])
def test_a_copy_and_a_clone_for_another_device_keep_the_kind(host, kind_of, name):
    kind, control = kind_of(name)
    shaped = our_apply(host, kind, mode(host, control))[0][0][1]["control"]
    assert type(shaped.copy().inner) is type(control)
    if not hasattr(control, "deepclone_multigpu"):
        pytest.skip("this ComfyUI has no clones per device")
    clone = shaped.deepclone_multigpu(torch.device("cpu"), autoregister=True)
    assert shaped.get_instance_for_device(torch.device("cpu")) is clone
    assert type(clone.inner) is type(control)
    assert (clone.strength, clone.shape) == (shaped.strength, shaped.shape)
    network = next(
        value
        for value in (getattr(clone.inner, n, None) for n in ("control_model", "t2i_model"))
        if value is not None
    )
    assert network is not getattr(control, "control_model", None)
    assert network is not getattr(control, "t2i_model", None)
