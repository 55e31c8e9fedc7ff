"""The demo model behind the host's MODEL, CLIP, VAE and CONTROL_NET, against the core's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

PROMPT = "red circle on a blue ground"
# The host samples in sigmas and adds things up in another order: rounding (2e-5 when written), far
# below a step of 8 bits.
PICTURE_TOLERANCE = 1e-3


def encode(host, parts, text):
    return host.call("CLIPTextEncode", clip=parts[1], text=text)[0]


def generate(host, parts, *, control=None, batch=2, **apply):
    """(B, H, W, 3) out of the host's nodes."""
    positive, negative = encode(host, parts, PROMPT), encode(host, parts, "")
    if control is not None:
        positive, negative = host.call(
            "CNPP_Apply",
            positive=positive,
            negative=negative,
            control_net=parts[3],
            image=control,
            start_percent=0.0,
            end_percent=1.0,
            **apply,
        )
    (latent,) = host.call(
        "KSampler",
        model=parts[0],
        seed=5,
        steps=20,
        cfg=3.0,
        sampler_name="ddim",
        scheduler="ddim_uniform",
        positive=positive,
        negative=negative,
        latent_image={"samples": torch.zeros(batch, 4, 16, 16)},
        denoise=1.0,
    )
    return host.call("VAEDecode", vae=parts[2], samples=latent)[0]


def edges(host, picture):
    edges, *_ = host.call(
        "CNPP_Canny", image=picture, mode="ControlNet++", low=100, high=200, resolution=0
    )
    return edges


def test_the_host_draws_the_picture_of_the_core(host, parts, demo):
    wanted = host.pack("demo.pipeline").generate(demo, [PROMPT] * 2, seed=5)
    found = generate(host, parts).movedim(-1, 1)
    assert (found - wanted).abs().max() <= PICTURE_TOLERANCE


def test_the_host_draws_the_controlled_picture_of_the_core(host, parts, demo):
    hint = edges(host, parts[4])
    scales = host.pack("cnpp_core.control.scales").ScalePreset("structure", 0.75)
    wanted = host.pack("demo.pipeline").generate(
        demo,
        [PROMPT] * 2,
        seed=5,
        hints=hint.movedim(-1, 1).repeat(2, 1, 1, 1),
        shape=host.pack("cnpp_core.control.shape").ControlShape(scales=scales),
        strength=0.8,
    )
    found = generate(host, parts, control=hint, scales=scales, strength=0.8).movedim(-1, 1)
    assert (found - wanted).abs().max() <= PICTURE_TOLERANCE
    assert (found - generate(host, parts).movedim(-1, 1)).abs().max() > 0.1


def test_the_host_draws_what_the_core_draws_in_every_dimension_at_once(host, parts, demo):
    """Block, time, row and place, with residuals reused: two ways through one runner."""
    hint = edges(host, parts[4])
    mask = torch.zeros(1, 128, 128)
    mask[:, 40:] = 1.0
    (scales,) = host.call(
        "CNPP_ScaleSchedule", schedule="0%: 1; 60%: soft; 100%: 0.2", interpolation="cosine"
    )
    (control,) = host.call(
        "CNPP_ControlMode",
        control_net=parts[3],
        mode="prompt is more important",
        cond_strength=1.2,
        uncond_strength=0.5,
    )
    (control,) = host.call(
        "CNPP_BlockMasks",
        control_net=control,
        mask=mask,
        blocks="structure",
        block=0,
        invert=False,
        feather=3.0,
    )
    (control,) = host.call(
        "CNPP_ControlSpeed",
        control_net=control,
        reuse_every=3,
        fresh_steps=2,
        max_drift=0.0,
        lazy=True,
        overlap=False,
        channels_last=False,
        compile=False,
    )
    wanted = host.pack("demo.pipeline").generate(
        demo,
        [PROMPT] * 2,
        seed=5,
        hints=hint.movedim(-1, 1).repeat(2, 1, 1, 1),
        shape=replace(control.shape, scales=scales),
        strength=0.8,
    )
    shaped = (*parts[:3], control, *parts[4:])
    found = generate(host, shaped, control=hint, scales=scales, strength=0.8).movedim(-1, 1)
    assert (found - wanted).abs().max() <= PICTURE_TOLERANCE


def test_the_hosts_own_nodes_take_the_demo_controlnet(host, parts):
    hint = edges(host, parts[4])
    positive, negative = encode(host, parts, PROMPT), encode(host, parts, "")
    settings = {"control_net": parts[3], "image": hint, "strength": 0.8}
    settings |= {"start_percent": 0.0, "end_percent": 1.0}
    ours, theirs = (
        host.sample(parts[0], *host.call(n, positive=positive, negative=negative, **settings))
        for n in ("CNPP_Apply", "ControlNetApplyAdvanced")
    )
    assert (ours - theirs).abs().max() == 0.0


def test_the_unet_is_the_cores(parts, demo):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 16, 12, generator=generator)
    context = torch.randn(2, 12, 64, generator=generator)
    t = torch.tensor([10.0, 900.0])
    unet = parts[0].model.diffusion_model
    with torch.inference_mode():
        wanted = demo.unet(x, t, context)
        assert torch.allclose(unet(x, t, context=context), wanted, rtol=1e-4, atol=1e-4)


def test_the_text_encoder_is_the_cores(host, parts, demo):
    tokenize = host.pack("demo.text").tokenize
    context, options = encode(host, parts, PROMPT)[0]
    with torch.inference_mode():
        wanted = demo.text_encoder(torch.tensor([tokenize(PROMPT)]))
    assert torch.allclose(context, wanted, atol=1e-5)
    assert options["pooled_output"].shape == (1, context.shape[-1])


def test_weights_in_a_prompt_move_their_words_away_from_the_empty_prompt(host, parts):
    plain = encode(host, parts, PROMPT)[0][0]
    empty = encode(host, parts, "")[0][0]
    weighted = encode(host, parts, "(red circle:1.5) on a blue ground")[0][0]
    wanted = plain.clone()
    wanted[:, :2] = empty[:, :2] + 1.5 * (plain - empty)[:, :2]
    assert torch.allclose(weighted, wanted, atol=1e-5)
    assert torch.equal(encode(host, parts, "(red circle:1.0) on a blue ground")[0][0], plain)


def test_a_prompt_of_other_words_and_any_length_is_no_error(host, parts):
    for text in ("", "a photo of a cat, 8k", "red circle " * 40, "\\(red\\) circle", "embedding:x"):
        assert encode(host, parts, text)[0][0].shape == (1, 12, 64)


def test_the_vae_is_the_cores_in_0_to_1(host, parts, demo):
    pictures = torch.cat([parts[4], parts[4].flip(1)])[:, :, :96]
    (latent,) = host.call("VAEEncode", vae=parts[2], pixels=pictures)
    (decoded,) = host.call("VAEDecode", vae=parts[2], samples=latent)
    with torch.inference_mode():
        wanted = demo.autoencoder.encode(pictures.movedim(-1, 1) * 2 - 1)
        back = (demo.autoencoder.decode(latent["samples"]) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(latent["samples"], wanted, atol=1e-4)
    assert torch.allclose(decoded, back.movedim(1, -1), atol=1e-4)


def test_the_vae_runs_in_tiles(host, parts):
    (whole,) = host.call("VAEEncode", vae=parts[2], pixels=parts[4])
    tiles = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    (latent,) = host.call("VAEEncodeTiled", vae=parts[2], pixels=parts[4], **tiles)
    (decoded,) = host.call("VAEDecode", vae=parts[2], samples=whole)
    (tiled,) = host.call("VAEDecodeTiled", vae=parts[2], samples=whole, **tiles)
    assert latent["samples"].shape == whole["samples"].shape
    assert (tiled - decoded).abs().mean() < 0.02


def test_the_example_is_a_picture_the_training_has_not_seen(host, parts):
    world = host.pack("demo.world")
    batch = world.load_batch(world.HELD_OUT_SEED, [3])
    assert world.HELD_OUT_SEED != world.TRAIN_SEED
    assert torch.equal(parts[4].movedim(-1, 1), batch.images)
    assert parts[5] == batch.captions[0]


def test_loading_twice_gives_parts_of_their_own(host, parts):
    again = host.call("CNPP_DemoModel", example=3)
    assert all(a is not b for a, b in zip(parts[:4], again[:4], strict=True))


def test_the_annotator_tells_shape_from_ground_in_every_node_that_takes_one(host, parts):
    """Annotate (any) makes the condition image with it, and the check finds it again."""
    world = host.pack("demo.world")
    picture, annotator = parts[4], parts[6]
    condition, same = host.call(
        "CNPP_Annotate", image=picture, condition="canny", resolution=64, other_annotator=annotator
    )
    assert same is annotator
    assert condition.shape == picture.shape  # its own settings, not those of the node
    shape = condition.movedim(-1, 1)[:, 0] > 0.7
    mask = world.load_batch(world.HELD_OUT_SEED, [3]).masks
    assert world.mask_iou(shape[:, None], mask) > 0.9
    score, *_ = host.call(
        "CNPP_CycleConsistencyCheck",
        images=picture,
        condition=condition,
        kind="seg",
        tolerance=0,
        annotator=annotator,
    )
    assert score == 1
    cropped = picture[:, :90, :75]
    found = host.call(
        "CNPP_Annotate", image=cropped, condition="seg", resolution=0, other_annotator=annotator
    )[0]
    assert found.shape == cropped.shape


def test_a_condition_that_is_none_of_the_demo_models_is_refused_in_its_words(host, parts):
    with pytest.raises(ValueError, match="in the colours of the demo model"):
        host.call(
            "CNPP_CycleConsistencyCheck",
            images=parts[4],
            condition=parts[4],
            kind="seg",
            tolerance=0,
            annotator=parts[6],
        )
