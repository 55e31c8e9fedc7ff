"""What guidance costs on the demo model: `pytest -s` prints what the help page says."""

from __future__ import annotations

import time

import pytest
import torch
from guided import guide

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
