"""Our network in the host's own class: it says itself what can't fit, and what is not finite."""

from __future__ import annotations

import copy

import pytest
import torch
from controlnet_pp.tests.host.control.shaping import mode
from controlnet_pp.tests.host.harness import TINY, TINY_XL, apply, picture, prompt


def answer(network, **changes):
    inputs = {
        "x": torch.zeros(1, 4, 8, 8),
        "hint": torch.zeros(1, 3, 64, 64),
        "timesteps": torch.ones(1),
        "context": torch.zeros(1, 8, 64),
    }
    with torch.inference_mode():
        return network(**inputs | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context": torch.zeros(1, 8, 768)}, r"context width 64.*prompts of SD1\.5 \(width 768\)"),
        ({"context": torch.zeros(1, 8, 2048)}, r"prompts of SDXL \(width 2048\).*Load ControlNet"),
        ({"x": torch.zeros(1, 16, 8, 8)}, "latents of 16 channels, which must be 4"),
        ({"hint": torch.zeros(1, 6, 64, 64)}, "image has 6 channels, the ControlNet reads 3"),
    ],
)
def test_inputs_of_another_family_are_named(host, changes, words):
    with pytest.raises(ValueError, match=words):
        answer(host.pair(TINY)[0].control_model, **changes)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, "no pooled text, which must be 1600 wide"),
        (torch.zeros(1, 2816), "pooled text of 2816, which must be 1600 wide"),
    ],
)
def test_a_pooled_text_of_another_family_is_named(host, y, words):
    with pytest.raises(ValueError, match=words):
        answer(host.pair(TINY_XL)[0].control_model, y=y)


def test_a_network_copied_from_an_inpainting_unet_is_named(host, tmp_path):
    """Its file loads, reports nine channels, and fails in words at the first step."""
    from safetensors.torch import save_file

    blocks = host.pair(TINY)[0].control_model.state_dict()
    first = "input_blocks.0.0.weight"
    wide = {name: tensor.clone() for name, tensor in blocks.items()}
    wide[first] = torch.cat([wide[first], torch.zeros(wide[first].shape[0], 5, 3, 3)], dim=1)
    save_file(wide, tmp_path / "nine.safetensors")
    load = host.pack("nodes.host.load.loading").load_control
    control, report = load(tmp_path / "nine.safetensors", "fp32")
    assert "9 channels" in report
    with pytest.raises(ValueError, match=r"must be 9 \(it was copied from a UNet for inpaint"):
        host.sample(host.model(TINY), *apply(host, control))


def test_a_neutral_control_in_the_hosts_apply_says_what_does_not_fit(host):
    """That node looks at nothing, and without our words a matrix size would be all there is."""
    ours, _ = host.pair(TINY)
    wide = [[torch.zeros(1, 8, 768), {}]]
    conditioning = apply(host, ours, node="ControlNetApplyAdvanced", positive=wide, negative=wide)
    with pytest.raises(ValueError, match=r"The ControlNet is .* prompts of SD1\.5"):
        host.sample(host.model(TINY), *conditioning)


def overflowing(host):
    control = host.pair(TINY)[0].copy()
    control.control_model = copy.deepcopy(control.control_model)
    with torch.no_grad():
        control.control_model.zero_convs[2][0].bias.fill_(float("nan"))
    return control


@pytest.mark.parametrize("shaped", [False, True])
def test_residuals_that_are_not_finite_are_named(host, shaped):
    control = overflowing(host)
    control = mode(host, control) if shaped else control
    with pytest.raises(ValueError, match="NaN or infinite residuals at input block 2"):
        host.sample(host.model(TINY), *apply(host, control))


def test_a_latent_that_is_not_finite_is_not_blamed_on_the_control(host):
    """The model has overflowed, or the latent came so: the picture is black, as in the host."""
    ours, theirs = host.pair(TINY)
    latent = torch.full((1, 4, 16, 16), float("nan"))
    for control in (ours, mode(host, ours), theirs):
        out = host.sample(host.model(TINY), *apply(host, control), latent=latent, steps=1)
        assert out.isnan().all()


def test_what_another_device_found_is_named_at_the_next_call(host):
    module = host.pack("nodes.host.control.finite")
    residuals = host.pack("cnpp_core.control.residuals").ControlResiduals
    bad = residuals([torch.ones(1, 2, 4, 4), torch.full((1, 2, 4, 4), float("inf"))])
    watch = module.FiniteWatch()

    class Elsewhere(torch.Tensor):
        is_cuda = True

    watch.look()
    with pytest.MonkeyPatch.context() as patched:
        stack = torch.stack
        patched.setattr(torch, "stack", lambda tensors: stack(tensors).as_subclass(Elsewhere))
        watch.see(bad, torch.zeros(1))
    with pytest.raises(ValueError, match="the middle block"):
        watch.look()
    watch.look()  # said once


@pytest.mark.parametrize("node", ["CNPP_Apply", "ControlNetApplyAdvanced"])
def test_a_copy_keeps_network_patcher_pooling_and_arguments(host, node):
    ours, _ = host.pair(TINY)
    control = ours.copy()
    control.global_average_pooling = True
    control.set_extra_arg("kept", 3)
    twin = apply(host, control, node=node)[0][0][1]["control"]
    assert type(twin) is type(control)
    assert twin.control_model is ours.control_model
    assert twin.control_model_wrapped is ours.control_model_wrapped
    assert twin.global_average_pooling
    assert twin.extra_args["kept"] == 3


def test_a_hint_with_nan_is_refused_where_it_is_applied(host):
    image = picture()
    image[0, 3, 3, 0] = float("nan")
    for control in host.pair(TINY):
        with pytest.raises(ValueError, match="NaN"):
            apply(host, control, image=image)


def test_prompts_are_compared_with_the_network_of_any_loader(host):
    for control in (*host.pair(TINY), mode(host, host.pair(TINY)[0])):
        with pytest.raises(ValueError, match=r"Apply ControlNet\+\+: .*width 768"):
            apply(host, control, positive=[[torch.zeros(1, 8, 768), {}]], negative=prompt(TINY, 1))
