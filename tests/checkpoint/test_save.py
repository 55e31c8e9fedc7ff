"""Files that are written: bit for bit again, with how they were made, whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from controlnet_pp.cnpp_core.checkpoint import (
    Training,
    load_controlnet_file,
    read_config,
    read_tensors,
    save_controlnet_file,
    save_unet_file,
    to_diffusers,
)
from controlnet_pp.cnpp_core.checkpoint.trained import KEY
from controlnet_pp.cnpp_core.network.controlnet import ControlNet
from controlnet_pp.cnpp_core.network.unet import UNet
from controlnet_pp.tests.checkpoint.files import TINY, same, saved, weights
from safetensors import safe_open
from safetensors.torch import save_file

ABOUT = Training(
    base="sd15.safetensors",
    condition="canny",
    steps=12_000,
    version="0.1.0",
    settings={"learning_rate": 1e-5, "mode": "SD locked", "betas": [0.9, 0.99], "autocast": None},
)


def network(config=TINY, dtype=torch.float32):
    net = ControlNet(config, dtype=dtype)
    net.load_state_dict(weights(config, dtype=dtype))
    return net


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("hint_channels", [1, 3])
def test_a_saved_controlnet_is_the_same_again(tmp_path, layout, dtype, hint_channels):
    config = replace(TINY, hint_channels=hint_channels)
    net, path = network(config), tmp_path / "n.safetensors"
    save_controlnet_file(path, net, ABOUT, layout=layout, dtype=dtype)
    loaded = load_controlnet_file(path)
    assert (loaded.layout, loaded.dtype, loaded.config) == (layout, dtype, config)
    assert same(loaded.state_dict, {k: v.to(dtype) for k, v in net.state_dict().items()})
    assert loaded.training == ABOUT
    assert next(net.parameters()).dtype == torch.float32
    names = read_tensors(path).keys()
    theirs = to_diffusers(net.state_dict(), config)
    assert names == (theirs.keys() if layout == "diffusers" else net.state_dict().keys())


def test_weights_of_another_memory_layout_and_with_gradients_are_saved_too(tmp_path):
    net = network().to(memory_format=torch.channels_last).requires_grad_(True)
    save_controlnet_file(tmp_path / "n.safetensors", net, ABOUT)
    assert same(load_controlnet_file(tmp_path / "n.safetensors").state_dict, weights())


def test_the_summary_says_how_it_was_trained(tmp_path):
    save_controlnet_file(tmp_path / "n.safetensors", network(), ABOUT)
    lines = load_controlnet_file(tmp_path / "n.safetensors").summary().splitlines()
    assert lines[-2:] == [
        "trained for canny from sd15.safetensors: 12,000 steps, version 0.1.0",
        "settings: learning_rate 1e-05, mode SD locked, betas [0.9, 0.99], autocast None",
    ]


def test_a_unet_is_saved_under_the_names_of_a_checkpoint(tmp_path):
    unet, path = UNet(TINY), tmp_path / "u.safetensors"
    save_unet_file(path, unet, ABOUT, dtype=torch.float16)
    found = read_tensors(path)
    prefix = "model.diffusion_model."
    assert all(name.startswith(prefix) for name in found)
    inner = {name.removeprefix(prefix): value for name, value in found.items()}
    assert same(inner, {k: v.half() for k, v in unet.state_dict().items()})
    assert read_config(inner) == TINY


def test_a_file_that_could_not_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    path = tmp_path / "n.safetensors"
    save_controlnet_file(path, network(), ABOUT)
    before = path.read_bytes()

    def full(_tensors, target, _metadata):
        target.write_bytes(before[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr("controlnet_pp.cnpp_core.checkpoint.save.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_controlnet_file(path, network(replace(TINY, hint_channels=1)), ABOUT)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["n.safetensors"]


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'flax' is no layout of a file; choose original or"):
        save_controlnet_file(tmp_path / "n.safetensors", network(), ABOUT, layout="flax")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": torch.float16},
        {"loss": float("nan")},
        {"long": "x" * 70_000},
        {"deep": [[]] * 200},
    ],
    ids=["no JSON", "not finite", "long", "many lists"],
)
def test_settings_that_could_not_be_read_again_are_not_written(tmp_path, settings):
    with pytest.raises(ValueError, match="settings"):
        save_controlnet_file(
            tmp_path / "n.safetensors", network(), replace(ABOUT, settings=settings)
        )
    assert not list(tmp_path.iterdir())


def entry(**changes):
    return json.dumps({**vars(ABOUT), "settings": {}, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[1, 2]",
        '"text"',
        "{}",
        entry(other=1),
        entry(base=3),
        entry(steps="many"),
        entry(steps=True),
        entry(steps=-1),
        entry(steps=10**30),
        entry(settings=[1]),
        entry(settings={"a": "x" * 70_000}),
        '{"settings": ' + "[" * 100_000,
        '{"settings": ' + "[" * 150 + "]" * 150 + "}",
    ],
)
def test_a_header_that_nobody_here_wrote_says_nothing(tmp_path, text):
    path = tmp_path / "n.safetensors"
    save_file(weights(), path, {KEY: text, "format": "pt"})
    loaded = load_controlnet_file(path)
    assert loaded.training is None
    assert "trained" not in loaded.summary()


def test_what_a_header_says_is_shown_in_one_line_each(tmp_path):
    path = tmp_path / "n.safetensors"
    strange = entry(base="a\nb\x1b[31m" + "c" * 500, settings={"x": "y\n" * 3000})
    save_file(weights(), path, {KEY: strange})
    text = load_controlnet_file(path).training.text()
    assert len(text.splitlines()) == 2
    assert len(text) < 4500
    assert "\x1b" not in text


def test_files_of_others_and_pickles_have_no_training(tmp_path):
    assert load_controlnet_file(saved(tmp_path / "n.safetensors", weights())).training is None
    assert load_controlnet_file(saved(tmp_path / "n.pth", weights())).training is None


def test_other_readers_find_the_format_in_the_header(tmp_path):
    save_controlnet_file(tmp_path / "n.safetensors", network(), ABOUT)
    with safe_open(tmp_path / "n.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
