"""What can't work is refused before the first step, in words that say what to change."""

from __future__ import annotations

import dataclasses
import types
from types import SimpleNamespace

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import block_scales, mode
from controlnet_pp.tests.host.harness import TINY, TINY_SD15, TINY_XL, apply, prompt


def with_config(host, **fields):
    """Our tiny control, whose network claims another configuration."""
    ours, _ = host.pair(TINY)
    control = ours.copy()
    config = dataclasses.replace(ours.control_model.config, **fields)
    control.control_model = types.SimpleNamespace(config=config, input_hint_block=None)
    return control


def family(host, name):
    return getattr(host.pack("cnpp_core.network.config"), name)


@pytest.mark.parametrize(
    ("control", "width", "names"),
    [
        ("SDXL", 768, ["SDXL", "2048", "SD1.5", "768", "positive"]),
        ("SD15", 2048, ["SD1.5", "SDXL", "Load ControlNet++"]),
        ("SD21", 768, ["SD2.x", "1024", "SD1.5"]),
        ("SD15", 4096, ["SD1.5", "Flux"]),
        ("SD15", 999, ["another family", "999"]),
    ],
)
def test_apply_refuses_a_prompt_of_another_family_naming_both(host, control, width, names):
    config = family(host, control)
    ours = with_config(
        host, **{f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    )
    foreign = [[torch.zeros(1, 77, width), {}]]
    with pytest.raises(ValueError, match="Apply ControlNet") as error:
        apply(host, ours, positive=foreign, negative=foreign)
    for name in names:
        assert name in str(error.value)


def test_apply_checks_the_negative_prompt_too(host):
    ours, _ = host.pair(TINY)
    with pytest.raises(ValueError, match="'negative'"):
        apply(host, ours, negative=[[torch.zeros(1, 77, 768), {}]])


def test_apply_checks_the_family_of_a_control_from_the_hosts_loader(host):
    _, theirs = host.pair(TINY)
    with pytest.raises(ValueError, match=r"width 64.*SD1\.5"):
        apply(host, theirs, positive=[[torch.zeros(1, 77, 768), {}]])


def test_a_prompt_for_the_controlnet_alone_is_the_one_that_counts(host):
    ours, _ = host.pair(TINY)
    mixed = [[torch.zeros(1, 77, 4096), {"cross_attn_controlnet": torch.zeros(1, 8, 64)}]]
    positive, _ = apply(host, ours, positive=mixed)
    assert "control" in positive[0][1]


def sample_with(host, layout, control):
    """Run the sampler of a model in `layout`; the control was made for TINY's prompts."""
    positive, negative = prompt(layout, 1), prompt(layout, 2)
    applied = apply(host, control, positive=positive, negative=negative)
    steps = []
    model = host.model(layout).clone()
    model.set_model_unet_function_wrapper(
        lambda run, args: (steps.append(1), run(args["input"], args["timestep"], **args["c"]))[1]
    )
    with pytest.raises(ValueError, match="The ControlNet is") as error:
        host.sample(model, *applied)
    assert steps == [], "the model was run before the control was refused"
    return str(error.value)


def test_a_model_of_other_widths_is_refused_before_the_first_step(host):
    ours, _ = host.pair(TINY)
    message = sample_with(host, TINY_SD15, mode(host, ours))
    assert "64 64 64 128 128 " in message, "the ControlNet's own blocks"
    assert "64 64 64 64 128 128 128 256" in message, "the model's blocks"


def test_a_model_without_the_pooled_text_is_refused_before_the_first_step(host):
    ours, _ = host.pair(TINY_XL)
    without = TINY_XL | {"num_classes": None, "adm_in_channels": None}
    message = sample_with(host, without, ours)
    assert "1600" in message


def test_a_transformer_model_is_named(host):
    ours, _ = host.pair(TINY)

    class Flux:
        def __init__(self):
            self.unet_config = {"image_model": "flux", "hidden_size": 3072}

    with pytest.raises(ValueError, match="the model is Flux"):
        mode(host, ours).pre_run(types.SimpleNamespace(model_config=Flux()), lambda percent: 0.0)


def test_the_families_are_named_before_the_first_step(host):
    require_model = host.pack("nodes.host.control.family").require_model
    sdxl = {"model_channels": 320, "channel_mult": [1, 2, 4], "num_res_blocks": 2}
    model = types.SimpleNamespace(
        model_config=types.SimpleNamespace(
            unet_config=sdxl | {"context_dim": 2048, "adm_in_channels": 2816}
        )
    )
    require_model(family(host, "SDXL"), model)
    with pytest.raises(ValueError, match=r"is SD1\.5 .* model is SDXL .*Load ControlNet\+\+"):
        require_model(family(host, "SD15"), model)


def test_scales_of_another_length_are_refused_naming_both(host):
    ours, _ = host.pair(TINY)
    scales = block_scales(host, *[1.0] * 13)
    with pytest.raises(ValueError, match=r"13 .* 5"):
        apply(host, ours, scales=scales)


def test_scales_of_another_length_on_a_control_of_another_loader_are_refused(host):
    _, theirs = host.pair(TINY)
    scales = block_scales(host, *[1.0] * 13)
    with pytest.raises(ValueError, match="13 numbers, the ControlNet has 5 blocks"):
        apply(host, theirs, scales=scales)


def test_a_control_of_another_loader_is_applied_as_the_host_applies_it(host):
    _, theirs = host.pair(TINY)
    model = host.model(TINY)
    ours = host.sample(model, *apply(host, theirs))
    wanted = host.sample(model, *apply(host, theirs, node="ControlNetApplyAdvanced"))
    assert (ours - wanted).abs().max() == 0.0


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(0, 64, 64, 3), "shape"),
        (torch.zeros(1, 0, 64, 3), "shape"),
        (torch.zeros(64, 64, 3), "shape"),
        (torch.zeros(1, 64, 64, 1), "1 channel,.*Mask to Image"),
        (torch.zeros(1, 64, 64, 4), "4 channels.*alpha"),
        (torch.full((1, 64, 64, 3), float("nan")), "NaN"),
        (torch.full((1, 64, 64, 3), float("inf")), "NaN or infinite"),
    ],
    ids=["no picture", "no rows", "no batch", "grey", "alpha", "NaN", "infinite"],
)
def test_an_image_that_is_no_hint_is_refused(host, image, words):
    ours, _ = host.pair(TINY)
    with pytest.raises(ValueError, match=words):
        apply(host, ours, image=image)


def test_a_window_that_ends_before_it_starts_is_refused(host):
    ours, _ = host.pair(TINY)
    with pytest.raises(ValueError, match=r"0\.6 to 0\.4"):
        apply(host, ours, start_percent=0.6, end_percent=0.4)


def test_a_control_that_reads_latents_asks_for_the_vae(host):
    _, theirs = host.pair(TINY)
    control = theirs.copy()
    control.latent_format = object()
    with pytest.raises(ValueError, match="vae"):
        apply(host, control)


def test_two_chained_controls_of_other_shapes_are_refused(host):
    merged = host.pack("nodes.host.control.lists").merged
    ours = {"input": [], "output": [torch.ones(1, 64, 8, 8)], "middle": []}
    before = {"input": [], "output": [torch.ones(1, 32, 8, 8)], "middle": []}
    with pytest.raises(ValueError, match=r"output 0: \(32, 8, 8\) before, \(64, 8, 8\) now"):
        merged(before, ours)


def test_a_residual_that_does_not_fit_the_latent_is_refused_instead_of_dropped(host):
    ours, _ = host.pair(TINY)
    positive, _ = apply(host, mode(host, ours))
    control = positive[0][1]["control"]
    network = control.control_model

    class Wrong(torch.nn.Module):
        config, dtype = network.config, network.dtype

        def forward(self, **inputs):
            lists = network(**inputs)
            return {key: [block[..., 1:] for block in blocks] for key, blocks in lists.items()}

    control.control_model = Wrong()
    with pytest.raises(ValueError, match="residual of input block 0"):
        host.sample(host.model(TINY), positive, prompt(TINY, 2))


def test_an_interrupted_run_leaves_the_next_one_as_if_nothing_had_been(host):
    from comfy import model_management

    ours, _ = host.pair(TINY)
    model = host.model(TINY)
    applied = apply(host, ours)
    undisturbed = host.sample(model, *applied)
    control = applied[0][0][1]["control"]
    original, calls = control.get_control, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise model_management.InterruptProcessingException
        return original(*args)

    control.get_control = interrupted
    with pytest.raises(model_management.InterruptProcessingException):
        host.sample(model, *applied, latent=torch.zeros(2, 4, 24, 24))
    del control.get_control
    assert torch.equal(host.sample(model, *applied), undisturbed)


@pytest.mark.parametrize(
    ("channels", "wanted", "words"),
    [
        (4, 3, r"has 4 channels, the ControlNet reads 3\. Remove the alpha channel"),
        (1, 3, r"has 1 channel, the ControlNet reads 3\. Convert a mask"),
        (3, 6, r"has 3 channels, the ControlNet reads 6\. Connect a picture of 6 channels"),
        (3, 4, r"has 3 channels, the ControlNet reads 4\. Connect a picture of 4 channels"),
    ],
)
def test_advice_fits_the_channels_that_are_read(host, channels, wanted, words):
    block = torch.nn.Sequential(torch.nn.Conv2d(wanted, 8, 3))
    network = SimpleNamespace(input_hint_block=block)
    require_image = host.pack("nodes.host.control.apply").require_image
    with pytest.raises(ValueError, match=words):
        require_image(
            torch.zeros(1, 8, 8, channels), SimpleNamespace(control_model=network), "Apply"
        )
