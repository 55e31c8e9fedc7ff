"""The shipped weights: what they promise, and what happens when they are missing."""

import pytest
import torch
from controlnet_pp.annotators.canny import canny_cnpp
from controlnet_pp.cnpp_core.checkpoint import load_controlnet_file
from controlnet_pp.cnpp_core.control.reuse import ReusePolicy
from controlnet_pp.cnpp_core.control.rows import CONTROL_MODES
from controlnet_pp.cnpp_core.control.scales import ScalePreset
from controlnet_pp.cnpp_core.control.shape import ControlShape, ControlSpeed
from controlnet_pp.cnpp_core.diffusion.schedule import LATENT_SCALE
from controlnet_pp.demo import train
from controlnet_pp.demo.autoencoder import Autoencoder
from controlnet_pp.demo.model import CONFIG, PARTS, TRAININGS, WEIGHTS, load_demo, load_part
from controlnet_pp.demo.pipeline import generate
from controlnet_pp.demo.text import LENGTH, UNKNOWN, tokenize
from controlnet_pp.demo.world import (
    COLOURS,
    HELD_OUT_SEED,
    TRAIN_SEED,
    caption_colours,
    foreground_mask,
    load_batch,
    mask_iou,
    sample_scene,
)


@pytest.fixture(scope="module")
def demo():
    return load_demo()


@pytest.fixture(scope="module")
def held_out():
    return load_batch(HELD_OUT_SEED, range(64))


def test_all_weights_together_take_at_most_42_megabytes():
    sizes = {path.stem: path.stat().st_size for path in WEIGHTS.glob("*.safetensors")}
    assert set(sizes) == set(PARTS)
    assert sum(sizes.values()) <= 42e6


def test_the_autoencoder_keeps_shapes_in_their_place(demo, held_out):
    with torch.no_grad():
        decoded = demo.autoencoder.decode(demo.autoencoder.encode(held_out.images * 2 - 1))
    recovered = foreground_mask(decoded / 2 + 0.5, held_out.captions)
    assert mask_iou(recovered, held_out.masks).mean() >= 0.98


def test_latents_have_the_scale_of_stable_diffusion(demo, held_out):
    with torch.no_grad():
        latents = demo.autoencoder.encode(held_out.images * 2 - 1) * LATENT_SCALE
    assert latents.shape == (64, 4, 16, 16)
    assert latents.std().item() == pytest.approx(1, abs=0.05)
    assert latents.mean().item() == pytest.approx(0, abs=0.15)  # 64 pictures differ in colour


def test_the_controlnet_file_is_one_that_any_loader_understands():
    loaded = load_controlnet_file(WEIGHTS / "controlnet_canny.safetensors")
    assert (loaded.config, loaded.format, loaded.dtype) == (CONFIG, "original", torch.float16)


def test_training_captions_use_known_words_and_fit_the_prompt():
    captions = {sample_scene(TRAIN_SEED, index).caption for index in range(300)}
    assert len(captions) > 100
    for caption in captions:
        assert len(caption.split()) <= LENGTH
        assert UNKNOWN not in tokenize(caption)


def test_unknown_words_and_long_prompts_still_make_a_prompt():
    assert tokenize("Red CIRCLE") == tokenize("red circle")
    assert UNKNOWN in tokenize("red dog")
    assert len(tokenize("red " * 50)) == LENGTH == len(tokenize(""))


def test_the_prompt_decides_the_colour_of_the_ground(demo, held_out):
    captions = [caption for caption in held_out.captions if " and " not in caption][:24]
    pictures = generate(demo, captions, seed=0, steps=6)
    names = list(COLOURS)
    palette = torch.tensor([COLOURS[name] for name in names]) / 255
    right = 0
    for picture, caption in zip(pictures, captions, strict=True):
        rim = torch.cat([picture[:, :4].flatten(1), picture[:, -4:].flatten(1)], dim=1)
        nearest = (palette - rim.median(dim=1).values).square().sum(1).argmin()
        right += names[nearest] == caption_colours(caption)[1]
    assert right >= 16  # measured: 19 of 24; ten colours by chance would give 2


def test_pictures_repeat_from_their_seed_and_change_with_it(demo):
    def picture(seed):
        return generate(demo, ["green star on a black ground"], seed=seed, steps=2)

    assert torch.equal(picture(1), picture(1))
    assert not torch.equal(picture(1), picture(2))


def test_strength_zero_is_no_control_and_scales_change_the_picture(demo, held_out):
    hint = canny_cnpp(held_out.images[:1]).expand(-1, 3, -1, -1)
    caption = list(held_out.captions[:1])

    def picture(**control):
        return generate(demo, caption, seed=0, steps=2, **control)

    assert torch.equal(picture(hints=hint, strength=0.0), picture())
    middle_only = ControlShape(scales=ScalePreset("mid only"))
    full, middle = picture(hints=hint), picture(hints=hint, shape=middle_only)
    assert not torch.equal(full, picture())
    assert not torch.equal(full, middle)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        (ControlShape(), [2] * 8),
        (ControlShape(rows=CONTROL_MODES["cond rows only"]), [1] * 8),
        (ControlShape(speed=ControlSpeed(ReusePolicy(4))), [2] * 2),
    ],
    ids=["neutral", "cond rows only", "reuse"],
)
def test_the_sampling_computes_what_its_shape_asks_for(demo, held_out, shape, rows):
    hint = canny_cnpp(held_out.images[:1]).expand(-1, 3, -1, -1)
    seen, hints = [], []
    handles = [
        demo.controlnet.time_embed.register_forward_hook(
            lambda _module, inputs, _output: seen.append(inputs[0].shape[0])
        ),
        demo.controlnet.input_hint_block.register_forward_hook(lambda *_: hints.append(1)),
    ]
    try:
        generate(demo, held_out.captions[:1], seed=0, steps=8, hints=hint, shape=shape)
    finally:
        for handle in handles:
            handle.remove()
    assert seen == rows
    assert hints == [1]


def test_a_missing_or_foreign_weight_file_is_named_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"autoencoder\.safetensors is missing.*nox -s demo"):
        load_demo(tmp_path)
    (tmp_path / "autoencoder.safetensors").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="does not hold the weights of the demo's autoencoder"):
        load_part("autoencoder", Autoencoder(), tmp_path)


def test_training_writes_weights_that_load(tmp_path):
    assert train.main(["--out", str(tmp_path), "--scenes", "20", "--speed-up", "100000"]) == 0
    for training in TRAININGS:
        demo = load_demo(tmp_path, training=training)
        assert not any(conv[0].weight.isnan().any() for conv in demo.controlnet.zero_convs)
