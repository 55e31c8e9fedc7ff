"""Consistency Guidance in the real host: interrupts, and what it leaves behind."""

from __future__ import annotations

import gc
import logging

import pytest
import torch
from controlnet_pp.tests.host.graphs import demo_graph, node
from controlnet_pp.tests.host.harness import TINY
from controlnet_pp.tests.host.steering.guided import edges, guide, sample, vae
from PIL import Image, ImageChops


@pytest.fixture(scope="module")
def condition():
    return edges()


def graphs():
    """Tensors that hold a graph, anywhere in this process."""
    gc.collect()
    found = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.grad_fn is not None]
    return len(found)


def asking(*modules):
    return sum(p.requires_grad for module in modules for p in module.parameters())


def test_nothing_is_left_behind(host, condition):
    decoder = vae(host)
    network, unet = decoder.first_stage_model, host.model(TINY).model
    keys = {key: (v.dtype, v.device, v.shape) for key, v in network.state_dict().items()}
    values = {key: v.clone() for key, v in network.state_dict().items()}
    before = asking(unet), graphs()
    sample(host, guide(host, host.model(TINY), decoder, condition))
    assert (asking(unet), graphs()) == before
    assert asking(network) == 0
    after = network.state_dict()
    assert {key: (v.dtype, v.device, v.shape) for key, v in after.items()} == keys
    assert all(torch.equal(after[key], values[key]) for key in values)
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("moment", ["sampling", "gradient"])
def test_an_interrupt_leaves_nothing_and_the_next_run_is_as_ever(
    host, condition, monkeypatch, moment
):
    from comfy import model_management as management

    decoder = vae(host, "taesd")
    guided = guide(host, host.model(TINY), decoder, condition)
    wanted = sample(host, guided)
    before = graphs()

    def stop(*_args, **_kwargs):
        raise management.InterruptProcessingException

    with monkeypatch.context() as patch:
        if moment == "gradient":
            patch.setattr(decoder.first_stage_model.taesd_decoder[-1], "forward", stop)
            broken = guided
        else:
            broken = guided.clone()
            broken.set_model_sampler_post_cfg_function(stop)
        with pytest.raises(management.InterruptProcessingException):
            sample(host, broken)
    del broken
    assert asking(decoder.first_stage_model) == 0
    assert graphs() == before
    assert torch.equal(sample(host, guided), wanted)


def test_a_decoder_that_fails_leaves_x0_alone_and_says_so_once(
    host, condition, monkeypatch, caplog
):
    decoder = vae(host, "taesd")
    guided = guide(host, host.model(TINY), decoder, condition)
    before = graphs()
    decode = decoder.first_stage_model.decode
    monkeypatch.setattr(decoder.first_stage_model, "decode", lambda z: decode(z) * torch.nan)
    with caplog.at_level(logging.WARNING):
        out = sample(host, guided)
    assert torch.equal(out, sample(host, host.model(TINY)))
    assert sum("NaN" in line.message for line in caplog.records) == 1
    assert graphs() == before


def test_everything_is_loaded_together_and_nothing_while_it_samples(host, condition, monkeypatch):
    from comfy import model_management as management

    load, calls, sampling = management.load_models_gpu, [], []

    def noting(models, memory_required=0, *args, **kwargs):
        kinds = {type(m.model).__name__ for m in models}
        calls.append((kinds, memory_required, bool(sampling)))
        return load(models, memory_required, *args, **kwargs)

    guided = guide(host, host.model(TINY), vae(host), condition)
    guided.set_model_sampler_post_cfg_function(lambda args: sampling.append(1) or args["denoised"])
    monkeypatch.setattr(management, "load_models_gpu", noting)
    sample(host, guided)
    together = [call for call in calls if {"BaseModel", "AutoencoderKL"} <= call[0]]
    assert together
    assert not any(late for _, _, late in calls)
    # With room for the way back through the decoder: more than the host plans for one way.
    planned = vae(host).memory_used_decode((1, 4, 8, 8), torch.float32)
    assert max(memory for _, memory, _ in together) > 2 * planned


def test_a_tiny_decoder_asks_for_a_fraction_of_the_memory(host, condition):
    module = host.pack("nodes.host.steering.x0")
    whole, tiny = (module.X0Decoder(vae(host, kind)) for kind in ("kl", "taesd"))
    assert tiny.graph_bytes((1, 4, 64, 64)) < whole.graph_bytes((1, 4, 64, 64)) / 5
    two, one = (whole.graph_bytes((batch, 4, 64, 64)) for batch in (2, 1))
    assert two == pytest.approx(2 * one)


@pytest.mark.parametrize("kind", ["kl", "taesd"])
def test_pictures_are_those_that_vae_decode_gives(host, kind):
    x0 = 3 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    decoder = host.pack("nodes.host.steering.x0").X0Decoder(vae(host, kind))
    model = host.model(TINY).model
    (wanted,) = host.call("VAEDecode", vae=vae(host, kind), samples={"samples": x0 / 0.18215})
    with torch.inference_mode():
        found = decoder.pictures(x0, model)
    assert torch.allclose(found, wanted.movedim(-1, 1), atol=1e-5)
    with torch.inference_mode(False), decoder.gradients_through(model):
        point = x0.clone().requires_grad_()
        shown = decoder.differentiable(point, model)
        assert torch.allclose(shown, wanted.movedim(-1, 1), atol=1e-5)
        saturated = (shown <= 0) | (shown >= 1)
        assert saturated.any()
        (gradient,) = torch.autograd.grad(shown[saturated].sum(), point)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("mapping", ["0 to 1", "-1 to 1"])
def test_the_mapping_of_the_output_is_the_vaes_own(host, monkeypatch, mapping):
    decoder = vae(host, "kl")
    if mapping == "0 to 1":
        monkeypatch.setattr(decoder, "process_output", lambda image: image)
    found = host.pack("nodes.host.steering.x0").X0Decoder(decoder)
    assert (found._scale, found._offset) == ((1.0, 0.0) if mapping == "0 to 1" else (0.5, 0.5))


def test_small_gradients_survive_half_precision(host):
    sound = host.pack("nodes.host.steering.x0").sound_in_half
    x = torch.linspace(0.5, 1.5, 12).view(3, 1, 2, 2).requires_grad_()

    def halved(x):
        return (x.half() ** 2).float()

    scale = torch.tensor([1e-9, 1.0, 1e6]).view(3, 1, 1, 1)  # float16 holds neither end
    (found,) = torch.autograd.grad((sound(halved)(x) * scale).sum(), x)
    assert torch.allclose(found, 2 * x.detach() * scale, rtol=2e-3)
    (lost,) = torch.autograd.grad((halved(x) * scale).sum(), x)
    assert lost[0].abs().max() == 0
    assert not lost[2].isfinite().all()


def guided_graph():
    """The demo's model without control, guided."""
    graph = demo_graph(steps=4)
    graph["guided"] = node(
        "CNPP_ConsistencyGuidance",
        model=["demo", 0], vae=["demo", 2], condition=["canny", 0], annotator=["canny", 1],
        kind="canny (ControlNet++)", strength=1.0, start_percent=0.4, end_percent=1.0, every=1,
        bound=0.1, full_gradient=False,
    )  # fmt: skip
    plain = {"model": ["guided", 0], "positive": ["text", 0], "negative": ["text", 0]}
    graph["sampler"]["inputs"] |= plain
    graph["decoded"] = node("VAEDecode", samples=["sampler", 0], vae=["demo", 2])
    graph["shown"] = node("PreviewImage", images=["decoded", 0])
    return graph


def test_a_guided_graph_queued_twice_gives_the_same(host, condition):
    first, again = (host.run(guided_graph())["shown"]["images"] for _ in range(2))
    assert len(first) == len(again) == 1
    folder = host.folder / "temp"
    one, two = (Image.open(folder / found[0]["filename"]) for found in (first, again))
    assert ImageChops.difference(one, two).getbbox() is None
