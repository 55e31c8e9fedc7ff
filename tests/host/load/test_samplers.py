"""Samplers that draw new noise, and those of few steps: the host's picture is the core's."""

from __future__ import annotations

import asyncio

import pytest
import torch

PROMPT = "red circle on a blue ground"
SEED = 5
PICTURE_TOLERANCE = 1e-3  # as in test_demo.py: rounding, far below a step of 8 bits


@pytest.fixture(scope="module")
def lcm_model(host, parts):
    """The demo MODEL, sampled as one that was distilled."""
    import nodes  # the host's own

    file = host.root / "comfy_extras" / "nodes_model_advanced.py"
    asyncio.run(nodes.load_custom_node(str(file), module_parent="comfy_extras"))
    return host.call("ModelSamplingDiscrete", model=parts[0], sampling="lcm", zsnr=False)[0]


@pytest.fixture(autouse=True)
def _noise_of_its_own(host, monkeypatch):
    """Hosts up to 0.3 draw the new noise from the seed of the first: the same noise again."""
    from comfy.k_diffusion import sampling

    first = torch.randn(4, generator=torch.Generator().manual_seed(SEED))
    noise_sampler = sampling.default_noise_sampler
    if torch.equal(noise_sampler(torch.empty(4), seed=SEED)(None, None), first):
        monkeypatch.setattr(
            sampling, "default_noise_sampler", lambda x, seed: noise_sampler(x, seed=seed + 1)
        )


@pytest.fixture(params=[False, True], ids=["prompt alone", "controlled"])
def hint(request, host, parts):
    """Edges (1, H, W, 3), or none."""
    if not request.param:
        return None
    edges, *_ = host.call(
        "CNPP_Canny", image=parts[4], mode="ControlNet++", low=100, high=200, resolution=0
    )
    return edges


def of_the_host(host, parts, model, sampler, scheduler, steps, cfg, hint):
    """(2, 3, H, W) out of the host's nodes."""
    positive, negative = (
        host.call("CLIPTextEncode", clip=parts[1], text=text)[0] for text in (PROMPT, "")
    )
    if hint is not None:
        positive, negative = host.call(
            "CNPP_Apply",
            positive=positive,
            negative=negative,
            control_net=parts[3],
            image=hint,
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        )
    (latent,) = host.call(
        "KSampler",
        model=model,
        seed=SEED,
        steps=steps,
        cfg=cfg,
        sampler_name=sampler,
        scheduler=scheduler,
        positive=positive,
        negative=negative,
        latent_image={"samples": torch.zeros(2, 4, 16, 16)},
        denoise=1.0,
    )
    return host.call("VAEDecode", vae=parts[2], samples=latent)[0].movedim(-1, 1)


def of_the_core(host, demo, sampler, steps, cfg, hint):
    return host.pack("demo.pipeline").generate(
        demo,
        [PROMPT] * 2,
        seed=SEED,
        steps=steps,
        cfg=cfg,
        sampler=sampler,
        hints=None if hint is None else hint.movedim(-1, 1).repeat(2, 1, 1, 1),
    )


def test_euler_ancestral_is_ddim_with_eta_1(host, parts, demo, hint):
    found = of_the_host(host, parts, parts[0], "euler_ancestral", "ddim_uniform", 10, 3.0, hint)
    wanted = of_the_core(host, demo, "euler_ancestral", 10, 3.0, hint)
    assert (found - wanted).abs().max() <= PICTURE_TOLERANCE
    assert (of_the_core(host, demo, "ddim", 10, 3.0, hint) - wanted).abs().max() > 0.1


# sgm_uniform is on the grid of the distillation where its steps divide 49.
@pytest.mark.parametrize(
    ("scheduler", "steps", "cfg"),
    [("simple", 4, 1.0), ("simple", 4, 2.0), ("simple", 8, 1.0), ("sgm_uniform", 7, 1.0)],
)
def test_lcm_is_the_cores(host, parts, lcm_model, demo, hint, scheduler, steps, cfg):
    found = of_the_host(host, parts, lcm_model, "lcm", scheduler, steps, cfg, hint)
    wanted = of_the_core(host, demo, "lcm", steps, cfg, hint)
    assert (found - wanted).abs().max() <= PICTURE_TOLERANCE
