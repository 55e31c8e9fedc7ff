"""Consistency Guidance in the real host: what it does to x0, whatever samples."""

from __future__ import annotations

import gc

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY
from controlnet_pp.tests.host.steering.guided import (
    around,
    by_hand,
    edges,
    guide,
    noted,
    sample,
    vae,
)

DECODERS = ("kl", "taesd")


@pytest.fixture(scope="module")
def condition():
    return edges()


@pytest.fixture(scope="module")
def parts(host):
    """MODEL, CLIP, VAE, CONTROL_NET, picture, caption of the demo."""
    return host.call("CNPP_DemoModel", example=3)


@pytest.mark.parametrize("kind", DECODERS)
def test_x0_is_corrected_as_the_core_says(host, condition, kind):
    before, behind, _ = around(host, vae(host, kind), condition)
    assert len(before) == len(behind) == 3
    for given, found in zip(before, behind, strict=True):
        wanted = by_hand(host, vae(host, kind), given.x0, condition)
        assert (wanted - given.x0).abs().max() > 1e-3
        assert (found.x0 - wanted).abs().max() <= 1e-5 * given.x0.abs().max()


def test_the_model_comes_back_itself_where_guidance_never_acts(host, condition):
    model, decoder = host.model(TINY), vae(host)
    for nothing in ({"strength": 0.0}, {"bound": 0.0}, {"start_percent": 0.5, "end_percent": 0.5}):
        assert guide(host, model, decoder, condition, **nothing) is model


def test_only_steps_in_the_window_and_every_so_many_are_corrected(host, condition):
    before, behind, _ = around(
        host, vae(host, "taesd"), condition, {"steps": 6}, start_percent=0.3, every=2
    )
    acted = [not torch.equal(a.x0, b.x0) for a, b in zip(before, behind, strict=True)]
    assert acted == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    "sampler", ["euler", "ddim", "dpmpp_2m", "heun", "uni_pc", "euler_ancestral"]
)
def test_every_sampler_is_guided_and_gives_the_same_twice(host, condition, sampler):
    guided = guide(host, host.model(TINY), vae(host, "taesd"), condition)
    plain = sample(host, host.model(TINY), sampler=sampler)
    once, again = (sample(host, guided, sampler=sampler) for _ in range(2))
    assert torch.equal(once, again)
    assert once.isfinite().all()
    assert (once - plain).abs().max() > 1e-3
    # And the model that came in is as it was.
    assert torch.equal(sample(host, host.model(TINY), sampler=sampler), plain)


def test_cfg_1_is_guided_as_well(host, condition):
    before, behind, _ = around(host, vae(host, "taesd"), condition, {"cfg": 1.0})
    wanted = by_hand(host, vae(host, "taesd"), before[0].x0, condition)
    assert (behind[0].x0 - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_each_picture_follows_its_own_condition_whatever_its_batch_mates_do(host):
    conditions = edges(batch=3)
    latent = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    before, behind, _ = around(host, vae(host, "taesd"), conditions, {"latent": latent})
    for row in range(3):
        own = conditions[row : row + 1]
        wanted = by_hand(host, vae(host, "taesd"), before[1].x0[row : row + 1], own)
        found = behind[1].x0[row : row + 1]
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_outside_the_mask_nothing_is_asked_of_the_picture(host, condition):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1.0
    decoder = vae(host, "taesd")
    before, behind, _ = around(host, decoder, condition, mask=mask)
    wanted = by_hand(host, decoder, before[0].x0, condition, mask=mask[:, None])
    assert (behind[0].x0 - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    everywhere = by_hand(host, decoder, before[0].x0, condition)
    assert (wanted - everywhere).abs().max() > 1e-3


def test_what_a_latent_noise_mask_keeps_is_seen_but_not_moved(host, condition):
    model, before = noted(host.model(TINY))
    guided, behind = noted(guide(host, model, vae(host, "taesd"), condition))
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    noise_mask = torch.zeros(1, 1, 8, 8)
    noise_mask[..., 4:] = 1.0
    out = inpaint(host, guided, latent, noise_mask)
    change = behind[0].x0 - before[0].x0
    assert change[..., 4:].abs().max() > 1e-3
    assert change[..., :4].abs().max() == 0.0
    # What the decoder saw was the picture with the kept half in it.
    seen = before[0].x0 * noise_mask + latent * 0.18215 * (1 - noise_mask)
    wanted = by_hand(host, vae(host, "taesd"), seen, condition) - seen
    right = torch.nn.functional.cosine_similarity(
        wanted[..., 4:].flatten(), change[..., 4:].flatten(), dim=0
    )
    assert right > 0.999
    assert torch.allclose(out[..., :4], latent[..., :4], atol=1e-5)


def inpaint(host, model, latent, noise_mask=None, denoise=1.0):
    from controlnet_pp.tests.host.harness import prompt

    given = {"samples": latent} | ({} if noise_mask is None else {"noise_mask": noise_mask})
    (out,) = host.call(
        "KSampler",
        model=model,
        seed=3,
        steps=4,
        cfg=3.0,
        sampler_name="euler",
        scheduler="normal",
        positive=prompt(TINY, 1),
        negative=prompt(TINY, 2),
        latent_image=given,
        denoise=denoise,
    )
    return out["samples"]


def test_a_picture_that_is_only_partly_made_anew_is_guided_where_the_window_says(host, condition):
    """Percent counts the noise, so half a denoise begins at half."""
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    acted = {}
    for start in (0.0, 0.95):
        model, before = noted(host.model(TINY))
        guided, behind = noted(
            guide(host, model, vae(host, "taesd"), condition, start_percent=start)
        )
        inpaint(host, guided, latent, denoise=0.5)
        acted[start] = [not torch.equal(a.x0, b.x0) for a, b in zip(before, behind, strict=True)]
    assert acted[0.0] == [True] * 4
    assert not acted[0.95][0]


def test_a_condition_of_another_size_is_brought_to_the_pictures(host):
    small = edges(side=64)
    large = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    _, at_once, _ = around(host, vae(host, "taesd"), small)
    _, brought, _ = around(host, vae(host, "taesd"), large)
    # Two by two pixels of the large one fall into one of the small one.
    assert torch.allclose(at_once[0].x0, brought[0].x0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", DECODERS)
def test_a_vae_in_half_precision_points_the_same_way(host, condition, kind, dtype):
    before, behind, _ = around(host, vae(host, kind, dtype), condition)
    moved = behind[0].x0 - before[0].x0
    wanted = by_hand(host, vae(host, kind), before[0].x0, condition) - before[0].x0
    likeness = torch.nn.functional.cosine_similarity(moved.flatten(), wanted.flatten(), dim=0)
    assert likeness > (0.98 if dtype is torch.float16 else 0.9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_unet_in_half_precision_is_guided_in_single(host, condition, dtype):
    model = half(host, dtype)
    watched, before = noted(model)
    guided, behind = noted(guide(host, watched, vae(host, "taesd"), condition))
    out = sample(host, guided, steps=2)
    assert out.isfinite().all()
    wanted = by_hand(host, vae(host, "taesd"), before[0].x0.float(), condition)
    assert torch.allclose(behind[0].x0.float(), wanted, atol=1e-4 * float(wanted.abs().max()))


def half(host, dtype):
    from comfy import model_base, model_patcher, supported_models
    from controlnet_pp.tests.host.harness import randomise

    config = type("Half", (supported_models.SD15,), {"unet_extra_config": {}})(TINY)
    config.set_inference_dtype(dtype, None)
    base = model_base.BaseModel(config, model_type=model_base.ModelType.EPS, device="cpu")
    randomise(base.diffusion_model, seed=0)
    cpu = torch.device("cpu")
    return model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu)


def test_two_guidances_in_a_row_act_one_behind_the_other(host, condition):
    other = edges(seed=9)
    model, before = noted(host.model(TINY))
    first = guide(host, model, vae(host, "taesd"), condition)
    second, behind = noted(guide(host, first, vae(host, "kl"), other))
    sample(host, second)
    wanted = by_hand(host, vae(host, "taesd"), before[0].x0, condition)
    wanted = by_hand(host, vae(host, "kl"), wanted, other)
    assert (behind[0].x0 - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_copies_share_no_state(host, condition):
    guided = guide(host, host.model(TINY), vae(host, "taesd"), condition)
    copy = guided.clone()
    alone = sample(host, guided)
    assert torch.equal(sample(host, copy), alone)
    del copy
    gc.collect()
    assert torch.equal(sample(host, guided), alone)


def test_the_demo_picture_follows_its_edges_better(host, parts):
    """With the ControlNet, against the picture that the ControlNet makes alone."""
    mode = {"mode": "ControlNet++", "low": 100, "high": 200, "resolution": 0}
    hint, *_ = host.call("CNPP_Canny", image=parts[4], **mode)
    encode = lambda text: host.call("CLIPTextEncode", clip=parts[1], text=text)[0]  # noqa: E731
    positive, negative = host.call(
        "CNPP_Apply",
        positive=encode(parts[5]),
        negative=encode(""),
        control_net=parts[3],
        image=hint,
        strength=0.3,
        start_percent=0.0,
        end_percent=1.0,
    )
    core = host.pack("cnpp_core.consistency.steering.guidance").GuidanceSettings()
    guided = guide(host, parts[0], parts[2], hint, start_percent=core.window.start)
    scores = []
    for model in (parts[0], guided):
        latent = torch.zeros(4, 4, 16, 16)
        out = host.sample(model, positive, negative, latent=latent, steps=10, sampler="ddim")
        (pictures,) = host.call("VAEDecode", vae=parts[2], samples={"samples": out})
        kind = "canny (ControlNet++)"
        score, *_ = host.call(
            "CNPP_CycleConsistencyCheck", images=pictures, condition=hint, kind=kind, tolerance=1
        )
        scores.append(score)
    assert scores[1] > scores[0] + 0.02
