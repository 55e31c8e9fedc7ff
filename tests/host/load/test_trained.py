"""Files of trained networks, as this pack writes them, in the host's own loaders and in ours."""

from __future__ import annotations

import importlib

import pytest
from controlnet_pp.tests.host.harness import TINY, picture, prompt


@pytest.fixture
def training(host):
    return host.pack("cnpp_core.checkpoint").Training(
        "sd15.safetensors", "canny", 1200, "0.1.0", {"learning_rate": 1e-5}
    )


def sample(host, control):
    applied = host.call(
        "ControlNetApplyAdvanced",
        positive=prompt(TINY, 1),
        negative=prompt(TINY, 2),
        control_net=control,
        image=picture(),
        strength=0.8,
        start_percent=0.0,
        end_percent=1.0,
    )
    return host.sample(host.model(TINY), *applied)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_saved_controlnet_works_in_both_loaders_and_says_how_it_was_trained(
    host, training, layout
):
    checkpoint = host.pack("cnpp_core.checkpoint")
    weights = host.network(TINY).state_dict()
    network = host.pack("cnpp_core.network.controlnet").ControlNet(checkpoint.read_config(weights))
    network.load_state_dict(weights)
    path = host.controlnets / f"trained_{layout}.safetensors"
    checkpoint.save_controlnet_file(path, network, training, layout=layout)
    control, report = host.call("CNPP_LoadControlNet", control_net_name=path.name, dtype="auto")
    assert "trained for canny from sd15.safetensors: 1,200 steps, version 0.1.0" in report
    assert "settings: learning_rate 1e-05" in report
    _, theirs = host.pair(TINY)
    expected = sample(host, theirs)
    assert (sample(host, control) - expected).abs().max() == 0.0
    if layout == "original":  # of the other, the host knows the networks of the families only
        (control,) = host.call("ControlNetLoader", control_net_name=path.name)
        assert (sample(host, control) - expected).abs().max() == 0.0


@pytest.mark.parametrize(("family", "model"), [("SD15", "SD15"), ("SDXL", "SDXL")])
def test_the_host_knows_a_saved_unet_by_its_names_and_shapes(host, family, model):
    detection = importlib.import_module("comfy.model_detection")
    config = getattr(host.pack("cnpp_core.network.config"), family)
    unet = host.pack("cnpp_core.network.unet").UNet(config, device="meta")
    prefix = host.pack("cnpp_core.checkpoint.save").UNET_PREFIX
    named = {prefix + name: tensor for name, tensor in unet.state_dict().items()}
    assert detection.unet_prefix_from_state_dict(named) == prefix
    found = detection.model_config_from_unet(named, prefix)
    assert type(found).__name__ == model
    theirs = found.get_model(named, prefix, device="meta").diffusion_model.state_dict()
    assert {name: t.shape for name, t in theirs.items()} == {
        name: t.shape for name, t in unet.state_dict().items()
    }
