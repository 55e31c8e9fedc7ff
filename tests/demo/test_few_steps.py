"""Few steps, new noise and the way back, on the demo model."""

import shutil

import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp
from controlnet_pp.cnpp_core.control.scales import ScalePreset
from controlnet_pp.cnpp_core.control.shape import ControlShape
from controlnet_pp.cnpp_core.diffusion.ddim import ddim_timesteps, encode, sample_ddim, with_cfg
from controlnet_pp.cnpp_core.diffusion.schedule import LATENT_SCALE, NoiseSchedule
from controlnet_pp.demo.distil import PART, lcm_of, train_lcm
from controlnet_pp.demo.model import WEIGHTS, load_demo
from controlnet_pp.demo.pipeline import generate
from controlnet_pp.demo.text import tokenize
from controlnet_pp.demo.world import HELD_OUT_SEED, load_batch

CAPTION = ["green star on a black ground"]


@pytest.fixture(scope="module")
def demo():
    return load_demo()


@pytest.fixture(scope="module")
def scene():
    return load_batch(HELD_OUT_SEED, [0])


@pytest.mark.parametrize("sampler", ["euler_ancestral", "lcm"])
def test_new_noise_repeats_from_the_seed(demo, sampler):
    def picture(seed, sampler=sampler):
        return generate(demo, CAPTION, seed=seed, steps=3, sampler=sampler)

    assert torch.equal(picture(1), picture(1))
    assert not torch.equal(picture(1), picture(2))
    assert not torch.equal(picture(1), picture(1, "ddim"))


def test_at_cfg_1_the_picture_is_the_same_for_half_of_the_rows(demo, scene):
    hint = canny_cnpp(scene.images).expand(-1, 3, -1, -1)
    shape = ControlShape(ScalePreset("structure"))
    rows = []
    handle = demo.unet.time_embed.register_forward_hook(lambda _, x, __: rows.append(len(x[0])))
    try:
        half, whole = (
            generate(demo, scene.captions, seed=0, steps=3, cfg=cfg, hints=hint, shape=shape)
            for cfg in (1.0, 1.0 + 1e-7)
        )
    finally:
        handle.remove()
    assert rows == [1] * 3 + [2] * 3
    assert torch.allclose(half, whole, atol=1e-4)


@torch.no_grad()
def test_a_picture_is_sampled_again_from_the_noise_it_was_encoded_to(demo, scene):
    cond, uncond = (
        demo.text_encoder(torch.tensor([tokenize(text)])) for text in (scene.captions[0], "")
    )
    x0 = demo.autoencoder.encode(scene.images * 2 - 1) * LATENT_SCALE
    model = with_cfg(demo.unet, cond, uncond, 1.0)
    schedule, timesteps = NoiseSchedule.scaled_linear(), ddim_timesteps(50)
    noise = encode(model, x0, schedule, timesteps)
    again = sample_ddim(model, noise, schedule, timesteps)
    before, after = (demo.autoencoder.decode(x / LATENT_SCALE) / 2 + 0.5 for x in (x0, again))
    psnr = -10 * (before - after).square().mean().log10()
    assert psnr >= 45  # measured: 52.0, and 49.6 with cfg 3


@pytest.mark.parametrize("missing", [False, True])
def test_the_distilled_unet_is_the_demos_and_a_lora(demo, tmp_path, missing):
    for file in WEIGHTS.glob("*.safetensors"):
        shutil.copy(file, tmp_path)
    if missing:
        with pytest.raises(ValueError, match=f"{PART}.safetensors is missing"):
            lcm_of(demo, tmp_path)
        return
    train_lcm(tmp_path, scenes=4, speed_up=100_000)
    distilled = lcm_of(demo, tmp_path)
    assert (tmp_path / f"{PART}.safetensors").stat().st_size < 3e6
    pairs = zip(demo.unet.parameters(), distilled.unet.parameters(), strict=True)
    moved = [(theirs - ours).abs().max().item() for theirs, ours in pairs]
    assert 0 < max(moved) < 0.05  # one step
    assert distilled.controlnet is demo.controlnet
    generate(distilled, CAPTION, seed=0, steps=2, cfg=1.0, sampler="lcm")
