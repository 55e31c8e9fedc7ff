"""What Consistency Search refuses, all of it before anything is sampled."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY, TINY_XL, picture, prompt
from controlnet_pp.tests.host.select.searched import NODE, SETTINGS


@pytest.fixture
def search(host, monkeypatch):
    """Runs the node on tiny random models; sampling fails the test."""
    import comfy.sample

    def sampled(*_, **__):
        raise AssertionError("something was sampled")

    monkeypatch.setattr(comfy.sample, "sample", sampled)
    vae = host.call("CNPP_DemoModel", example=4)[2]
    inputs = SETTINGS | {
        "model": host.model(TINY),
        "positive": prompt(TINY, 1),
        "negative": prompt(TINY, 2),
        "control_net": host.pair(TINY)[0],
        "condition": edges(128, 128),
        "latent_image": {"samples": torch.zeros(1, 4, 16, 16)},
        "vae": vae,
        "sampler_name": "euler",
        "scheduler": "normal",
        "strengths": "0.5, 1",
        "max_trials": 24,
    }
    return lambda **changes: host.call(NODE, **inputs | changes)


def edges(height, width, batch=1):
    """White lines on black."""
    maps = torch.zeros(batch, height, width, 3)
    maps[:, ::16] = 1.0
    return maps


def annotator(host, condition):
    return host.annotator(condition, lambda image: image)


def test_with_sound_inputs_it_would_sample(search):
    with pytest.raises(RuntimeError, match="something was sampled"):
        search()


def test_a_kind_without_an_annotator_that_finds_it(host, search):
    with pytest.raises(ValueError, match=r"Consistency Search: kind is depth.*Connect the output"):
        search(kind="depth")
    with pytest.raises(ValueError, match=r"kind is canny.*annotator finds depth"):
        search(annotator=annotator(host, "depth"))


def test_a_condition_that_is_not_of_its_kind(search):
    with pytest.raises(ValueError, match="is not an edge map"):
        search(condition=picture())
    with pytest.raises(ValueError, match="is not an edge map"):
        search(condition=1 - edges(128, 128))


def test_a_condition_of_another_shape_than_the_latent(search):
    with pytest.raises(ValueError, match=r"condition is 192x128 .* picture 128x128"):
        search(condition=edges(128, 192))
    wide = {"samples": torch.zeros(1, 4, 16, 24)}
    with pytest.raises(ValueError, match=r"condition is 128x128 .* picture 192x128"):
        search(latent_image=wide)
    with pytest.raises(RuntimeError, match="something was sampled"):
        search(latent_image=wide, condition=edges(256, 384))


def test_a_mask_that_leaves_nothing_to_compare(host, search):
    with pytest.raises(ValueError, match="mask is empty"):
        search(mask=torch.zeros(1, 128, 128))
    with pytest.raises(ValueError, match=r"mask is 64x128"):
        search(mask=torch.ones(1, 128, 64))
    condition = host.pack("annotators.ade20k").to_colours(torch.full((1, 128, 128), 7))
    condition[:, :, :64] = 0.0  # no class: not compared
    seg = {"kind": "seg", "annotator": annotator(host, "seg")}
    seg["condition"] = condition.movedim(1, -1)
    mask = torch.zeros(128, 128)
    mask[:64] = 1.0
    with pytest.raises(ValueError, match="Nothing is left to compare"):
        search(mask=mask, **seg)
    with pytest.raises(RuntimeError, match="something was sampled"):
        search(mask=1 - mask, **seg)


def test_a_condition_with_nan(search):
    condition = edges(128, 128)
    condition[0, 3, 3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        search(condition=condition)


def test_batches_of_latents_or_conditions(search):
    with pytest.raises(ValueError, match=r"latent_image is a batch of 4\..*seeds to the number"):
        search(latent_image={"samples": torch.zeros(4, 4, 16, 16)})
    with pytest.raises(ValueError, match=r"condition is a batch of 2; connect one"):
        search(condition=edges(128, 128, batch=2))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strengths": ""}, "strengths is empty"),
        ({"strengths": "1, strong"}, "strengths holds 'strong'"),
        ({"presets": "uniform, sharp"}, r"presets names 'sharp'.*uniform, guess mode, mid only"),
        ({"seeds": 13}, r"13 seeds x 2 strengths x 1 presets make 26 .* max_trials is 24"),
        ({"start_percent": 0.6, "end_percent": 0.5}, "start_percent must not lie behind"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_numbers_and_names_that_make_no_sense(search, changes, words):
    with pytest.raises(ValueError, match=words):
        search(**changes)


@pytest.mark.parametrize("ours", [True, False], ids=["our loader", "the host's loader"])
def test_a_control_of_another_family_than_the_prompts_or_the_model(host, search, ours):
    control = host.pair(TINY_XL)[0 if ours else 1]
    with pytest.raises(ValueError, match=r"ControlNet is a custom network .* the model is"):
        search(control_net=control)
    with pytest.raises(ValueError, match=r"ControlNet is a custom network .* the model is"):
        search(control_net=control, presets="structure")


def test_block_scales_of_another_family(host, search):
    sliders = {f"in_{i}": 1.0 for i in range(12)} | {"middle": 1.0}
    (scales,) = host.call("CNPP_BlockScalesSD15", **sliders)
    with pytest.raises(ValueError, match="13 numbers"):
        search(scales=scales)


def test_settings_are_those_of_ksampler(host):
    """Names, limits and defaults, so that a KSampler's values can be copied."""
    ours = host.registry[NODE].INPUT_TYPES()["required"]
    theirs = host.registry["KSampler"].INPUT_TYPES()["required"]
    for name in ("seed", "steps", "cfg", "denoise"):
        for key in ("default", "min", "max", "step", "round", "control_after_generate"):
            assert ours[name][1].get(key) == theirs[name][1].get(key), (name, key)
    for name in ("sampler_name", "scheduler"):
        kind, options = ours[name]
        assert list(theirs[name][0]) == (kind if isinstance(kind, list) else options["options"])
