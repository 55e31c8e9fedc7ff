"""Files of trained networks."""

from __future__ import annotations

import pytest
import torch
from controlnet_pp.tests.host.harness import TINY, apply
from controlnet_pp.tests.host.train.given import begun


@pytest.fixture
def folder(host, monkeypatch, tmp_path):
    """models/controlnet, empty."""
    import folder_paths

    host.pair(TINY)  # whose file lies in the usual one
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths,
        "controlnet",
        ([str(tmp_path)], folder_paths.supported_pt_extensions),
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture
def control(host):
    made = begun(host, control_net=host.pair(TINY)[0])
    training = host.pack("cnpp_core.checkpoint.trained").Training
    made.control_model.trained = training("sd15.safetensors", "seg", 700, "0.1.0", {"steps": 700})
    return made


def save(host, control, prefix="mine/seg", layout="original", dtype="fp32"):
    return host.call(
        "CNPP_SaveControlNet",
        control_net=control,
        filename_prefix=prefix,
        layout=layout,
        dtype=dtype,
    )


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_saved_network_comes_back_as_it_was_and_says_how_it_was_trained(
    host, folder, control, layout
):
    path, report = save(host, control, layout=layout)
    assert path == str(folder / "mine" / "seg_00001_.safetensors")
    assert "trained for seg from sd15.safetensors: 700 steps" in report
    name = "mine/seg_00001_.safetensors"
    loaded, told = host.call("CNPP_LoadControlNet", control_net_name=name, dtype="fp32")
    assert "trained for seg from sd15.safetensors: 700 steps, version 0.1.0" in told
    model = host.model(TINY)
    expected = host.sample(model, *apply(host, control))
    assert torch.equal(host.sample(model, *apply(host, loaded)), expected)
    assert loaded.control_model.trained == control.control_model.trained


def test_nothing_is_overwritten_and_half_precision_is_half_as_large(host, folder, control):
    for dtype in ("fp32", "fp16"):
        save(host, control, dtype=dtype)
    files = sorted((folder / "mine").iterdir())
    assert [file.name[:10] for file in files] == ["seg_00001_", "seg_00002_"]
    sizes = [file.stat().st_size for file in files]
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("prefix", ["../out", "/somewhere/else", "", "a/../../b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(host, folder, control, prefix):
    with pytest.raises(ValueError, match="filename_prefix is"):
        save(host, control, prefix)


def test_a_full_disk_is_said_in_words_and_leaves_no_half_file(host, folder, control, monkeypatch):
    saving = host.pack("cnpp_core.checkpoint.save")

    def full(tensors, path, *_):
        path.write_bytes(b"the beginning")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(OSError, match=r"can't be written \(.*No space left.*it needs \d+ MB"):
        save(host, control)
    assert not [p for p in folder.rglob("*") if p.is_file()]


def test_a_control_of_another_kind_is_refused(host, folder, control_of):
    with pytest.raises(ValueError, match="a T2IAdapter"):
        save(host, control_of("t2i full"))
