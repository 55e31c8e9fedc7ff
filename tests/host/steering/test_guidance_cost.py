"""What guidance costs on the demo model: `pytest -s` prints what the help page says."""

from __future__ import annotations

import time

import pytest
import torch
from controlnet_pp.tests.host.steering.guided import guide

STEPS = 3


@pytest.fixture(scope="module")
def costs(host):
    """CPU time of a sampling step, and the megabytes its graphs keep, by kind of guidance."""
    model, clip, vae, control, picture, caption, *_ = host.call("CNPP_DemoModel", example=3)
    mode = {"mode": "ControlNet++", "low": 100, "high": 200, "resolution": 0}
    hint, *_ = host.call("CNPP_Canny", image=picture, **mode)
    positive, negative = host.call(
        "CNPP_Apply",
        positive=host.call("CLIPTextEncode", clip=clip, text=caption)[0],
        negative=host.call("CLIPTextEncode", clip=clip, text="")[0],
        control_net=control,
        image=hint,
        strength=1.0,
        start_percent=0.0,
        end_percent=1.0,
    )

    def cost(sampled):
        kept = {}

        def pack(tensor):
            if not isinstance(tensor, torch.nn.Parameter):
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        host.sample(sampled, positive, negative, latent=torch.zeros(1, 4, 16, 16), steps=1)
        began = time.process_time()
        host.sample(sampled, positive, negative, latent=torch.zeros(1, 4, 16, 16), steps=STEPS)
        seconds = (time.process_time() - began) / STEPS
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            host.sample(sampled, positive, negative, latent=torch.zeros(1, 4, 16, 16), steps=1)
        return seconds, sum(kept.values()) / 2**20

    found = {
        "plain": cost(model),
        "guided": cost(guide(host, model, vae, hint)),
        "full": cost(guide(host, model, vae, hint, full_gradient=True)),
    }
    for name, (seconds, megabytes) in found.items():
        ratio = seconds / found["plain"][0]
        print(f"{name}: {ratio:.2f} of the time of a step, {megabytes:.0f} MB of graph")
    return found


def test_without_guidance_nothing_is_kept(costs):
    assert costs["plain"][1] == 0


def test_the_gradient_to_x0_alone_costs_less_than_the_whole_one(costs):
    assert costs["guided"][0] < costs["full"][0]
    assert costs["guided"][1] < costs["full"][1]


def test_the_whole_gradient_costs_at_most_a_few_steps(costs):
    assert costs["full"][0] < 6 * costs["plain"][0]


@pytest.mark.parametrize(("decoder", "gigabytes"), [("kl", 3.0), ("taesd", 0.29)])
def test_a_decoders_graph_holds_what_is_planned_for_it(host, monkeypatch, decoder, gigabytes):
    """Counted at Stable Diffusion's shapes without computing anything; the help page says it."""
    import comfy.model_management
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.taesd.taesd import TAESD

    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_a, **_k: 2**40)
    shape = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3}
    shape |= {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": []}
    with torch.inference_mode(False), torch.device("meta"):
        if decoder == "kl":
            module = AutoencoderKL(ddconfig=shape | {"dropout": 0.0}, embed_dim=4)
        else:
            module = TAESD()
        module = module.half().requires_grad_(False)
        latent = torch.randn(1, 4, 64, 64, dtype=torch.float16, requires_grad=True)
        alive, held = [], {}

        def pack(tensor):
            alive.append(tensor)  # so that no other storage takes its place
            if not isinstance(tensor, torch.nn.Parameter):
                held[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module.decode(latent)
    counted = sum(held.values())
    assert counted / 1e9 == pytest.approx(gigabytes, rel=0.05)
    planned_without = host.call("CNPP_DemoModel", example=0)[2].memory_used_decode(
        latent.shape, torch.float16
    )
    x0 = host.pack("nodes.host.steering.x0")
    planned = planned_without * (x0.GRAPH if decoder == "kl" else x0.GRAPH_OF_TAESD)
    assert 0.6 * planned < counted < planned
