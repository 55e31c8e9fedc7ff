"""What can't be trained is refused in words before the first step."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY
from controlnet_pp.tests.host.train.given import begun, trained


@pytest.mark.parametrize("name", ["t2i full", "control-lora", "flux instantx"])
def test_controls_that_cannot_learn(host, given, control_of, name):
    with pytest.raises(ValueError, match="control_net is a"):
        trained(host, given | {"control_net": control_of(name)}, "refused")


def test_weights_in_half_precision(host, given, parts):
    control = begun(host, control_net=parts[3])
    control.control_model.half()
    with pytest.raises(ValueError, match=r"holds its weights as float16.*Initialise ControlNet"):
        trained(host, given | {"control_net": control}, "refused")


def test_hints_of_other_channels(host, given, parts):
    control = begun(host, control_net=parts[3], hint_channels=4)
    with pytest.raises(ValueError, match="the conditions have 3 channels, control_net reads 4"):
        trained(host, given | {"control_net": control}, "refused")


def test_a_controlnet_of_another_model(host, given):
    control = begun(host, model=host.model(TINY))
    with pytest.raises(ValueError, match=r"The ControlNet is .*, but the model is"):
        trained(host, given | {"control_net": control}, "refused")


def test_an_inpaint_model(host, given):
    model = host.model(TINY | {"in_channels": 9})
    with pytest.raises(ValueError, match=r"latents of 9 channels.*inpaint"):
        trained(host, given | {"model": model}, "refused")


def test_prompts_of_another_model(host, given):
    model = host.model(TINY | {"context_dim": 32})
    control = begun(host, model=model)
    with pytest.raises(ValueError, match="prompts of the data are 64 wide"):
        trained(host, given | {"model": model, "control_net": control}, "refused")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 1}, "steps is 1; a training takes at least 2"),
        ({"middle_first": 4}, "middle_first is 4 of 4 steps"),
        ({"name": "../out"}, "name is '../out'"),
        ({"name": " "}, "name is ' '"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be(host, given, changes, words):
    with pytest.raises(ValueError, match=words):
        trained(host, given, changes.pop("name", "refused"), **changes)


def test_a_disk_without_room_for_checkpoints(host, given, monkeypatch):
    import shutil

    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"checkpoints in .* take up to .* MB, and 0 MB are free"):
        trained(host, given, "refused")


def test_weights_that_are_stored_too_coarsely(host, given, parts):
    networks = host.pack("nodes.host.train.networks")
    model = parts[0].clone()
    small = torch.zeros(4, dtype=torch.float8_e4m3fn)
    model.get_key_patches = lambda _: {"diffusion_model.x": [(small, lambda w, **_: w)]}
    with pytest.raises(ValueError, match=r"stored as torch\.float8_e4m3fn"):
        networks.unet_of(model, "cpu", torch.float32)


def test_nothing_is_left_of_a_refused_training(host):
    assert not (host.folder / "output" / "controlnet_training" / "refused").exists()
