"""What can't apply to a control of another loader or family is refused before it runs."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.control.foreign import PoolingVAE, our_apply, sampled
from controlnet_pp.tests.host.control.shaping import block_scales, masked, mode, speed


def refused(host, kind, conditioning, match):
    """ValueError before the control's network has run."""
    with pytest.raises(ValueError, match=match):
        sampled(host, kind, conditioning)


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [("t2i full", 12, 13), ("t2i xl", 13, 10), ("control-lora", 4, 5), ("flux instantx", 19, 7)],
)
def test_scales_of_another_length_are_refused_with_both(host, kind_of, name, count, expected):
    kind, control = kind_of(name)
    conditioning = our_apply(host, kind, control, scales=block_scales(host, *[0.5] * count))
    refused(host, kind, conditioning, f"hold {count} numbers, the ControlNet has {expected} ")


def test_scales_that_leave_a_control_nothing_to_say_are_refused(host, kind_of):
    kind, control = kind_of("t2i full")
    (middle,) = host.call("CNPP_BlockScalePreset", preset="mid only", strength=1.0)
    conditioning = our_apply(host, kind, control, scales=middle)
    refused(host, kind, conditioning, "leave only block 12, where this control says nothing")


WRONG_MODEL = {
    "t2i of SD1.5 on SDXL": ("t2i full", "t2i xl"),
    "t2i on Flux": ("t2i full", "flux xlabs"),
    "control-lora on SDXL": ("control-lora", "sdxl controlnet"),
    "control-lora on Flux": ("control-lora", "flux xlabs"),
    "Flux on SD1.5": ("flux xlabs", "controlnet"),
    "Flux on SD3": ("flux instantx", "sd3"),
    "SD3.5 on Flux": ("sd3.5", "flux xlabs"),
    "SD3.5 on SD1.5": ("sd3.5", "controlnet"),
    "Qwen on SD3": ("qwen instantx", "sd3"),
}


@pytest.mark.parametrize("case", WRONG_MODEL)
def test_a_control_of_another_family_than_the_model_is_refused_by_name(host, kind_of, case):
    theirs, models = WRONG_MODEL[case]
    control_kind, control = kind_of(theirs)
    kind, _ = kind_of(models)
    extra = {"vae": PoolingVAE(control_kind.latent)} if control_kind.reads_latents else {}
    conditioning = our_apply(host, kind, mode(host, control), **extra)
    refused(host, kind, conditioning, "another family|made for|made from")


def test_a_control_that_reads_latents_asks_for_the_vae_before_sampling(host, kind_of):
    kind, control = kind_of("flux instantx")
    for given in (control, mode(host, control)):
        with pytest.raises(ValueError, match="connect the model's VAE to vae"):
            our_apply(host, kind, given, vae=None)


@pytest.mark.parametrize("switch", ["overlap", "compile"])
def test_a_switch_for_controlnets_of_sd_is_refused_by_name(host, kind_of, switch):
    _, control = kind_of("t2i full")
    with pytest.raises(ValueError, match=f"'{switch}' needs a ControlNet.*T2IAdapter"):
        speed(host, control, **{switch: True})


def test_a_mask_is_refused_where_the_place_of_the_residuals_is_unknown(host, kind_of, monkeypatch):
    kind, control = kind_of("flux xlabs")
    forward = control.control_model.forward

    def with_tokens_of_its_own(**inputs):
        answer = forward(**inputs)["input"]
        return {"input": [torch.cat([tokens, tokens[:, :5]], dim=1) for tokens in answer]}

    monkeypatch.setattr(control.control_model, "forward", with_tokens_of_its_own)
    conditioning = our_apply(host, kind, masked(host, control, torch.full((1, 4, 4), 0.5)))
    refused(host, kind, conditioning, "a mask can't be applied. Disconnect Block Masks")


def test_our_union_node_leaves_flux_to_the_hosts(host, kind_of):
    _, control = kind_of("flux instantx")
    with pytest.raises(ValueError, match="Set Union ControlNet Type"):
        host.call("CNPP_UnionControlType", control_net=control, type="depth", weight=1.0)


def test_a_control_lora_is_refused_on_several_gpus(host, kind_of):
    _, control = kind_of("control-lora")
    shaped = mode(host, control)
    with pytest.raises(ValueError, match="control-LoRA borrows"):
        shaped.deepclone_multigpu(torch.device("cpu"), autoregister=True)
