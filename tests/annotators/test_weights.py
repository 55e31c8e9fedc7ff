"""Weight files in every form that they come in, loaded whole or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from controlnet_pp.annotators.catalogue import WEIGHTS
from controlnet_pp.annotators.lineart import LineArt
from controlnet_pp.annotators.mlsd import MLSD
from controlnet_pp.annotators.weights import load
from controlnet_pp.tests.annotators.aux_oracle import randomise
from safetensors.torch import save_file
from torch import Tensor, nn


def random_lineart(seed: int = 0) -> LineArt:
    return randomise(LineArt(), seed)


def copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def zipped(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(tensors, path)


def pickled(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def nested(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save({"state_dict": tensors, "epoch": 3}, path)


def below_model(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save({"model": tensors}, path)


def of_data_parallel(tensors: dict[str, Tensor], path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in tensors.items()}, path)


@pytest.mark.parametrize(
    "save", [zipped, pickled, nested, below_model, of_data_parallel, save_file]
)
def test_every_form_of_a_file_loads_the_same_weights(tmp_path, save):
    expected = copied(random_lineart())
    save(expected, tmp_path / "sk_model.pth")
    network = LineArt()
    load(network, "lineart", tmp_path / "sk_model.pth")
    assert same(copied(network), expected)


def test_a_file_in_half_precision_loads_into_the_dtype_of_the_network(tmp_path):
    half = {name: value.half() for name, value in copied(random_lineart()).items()}
    zipped(half, tmp_path / "sk_model.pth")
    network = LineArt()
    load(network, "lineart", tmp_path / "sk_model.pth")
    assert same(copied(network), {name: value.float() for name, value in half.items()})


def test_names_without_the_stage_in_front_are_those_of_the_openpose_files(tmp_path):
    network = nn.ModuleDict(
        {
            "model0": nn.ModuleDict({"conv1": nn.Linear(2, 3)}),
            "m1": nn.ModuleDict({"c2": nn.Linear(3, 1)}),
        }
    )
    expected = {name: torch.rand_like(value) for name, value in copied(network).items()}
    without = {name.partition(".")[2]: value for name, value in expected.items()}
    zipped(without, tmp_path / "body_pose_model.pth")
    load(network, "openpose_body", tmp_path / "body_pose_model.pth")
    assert same(copied(network), expected)


def test_counters_of_batch_norm_may_be_missing(tmp_path):
    tensors = copied(randomise(MLSD()))
    expected = {n: v for n, v in tensors.items() if not n.endswith("num_batches_tracked")}
    zipped(expected, tmp_path / "mlsd.pth")
    network = MLSD()
    load(network, "mlsd", tmp_path / "mlsd.pth")
    assert all(torch.equal(network.state_dict()[name], value) for name, value in expected.items())


def refused(path: Path, network: nn.Module, key: str) -> str:
    """The message; the network must be as it was before."""
    before = copied(network)
    with pytest.raises(ValueError, match="Replace it by") as caught:
        load(network, key, path)
    assert type(caught.value) is ValueError  # ComfyUI shows other classes with their module's path
    assert same(copied(network), before)
    assert WEIGHTS[key].name in str(caught.value)
    assert WEIGHTS[key].url in str(caught.value)
    return str(caught.value)


def test_another_annotators_file_is_named(tmp_path):
    zipped(copied(random_lineart()), tmp_path / "mlsd_large_512_fp32.pth")
    message = refused(tmp_path / "mlsd_large_512_fp32.pth", MLSD(), "mlsd")
    assert "is not the published mlsd_large_512_fp32.pth: 305 of 305 tensors are missing" in message
    assert "It looks like sk_model.pth." in message


def test_missing_unknown_and_misshapen_tensors_are_told_before_any_is_loaded(tmp_path):
    tensors = copied(random_lineart())
    tensors["extra.weight"] = tensors.pop("model4.1.bias")
    tensors["model0.1.weight"] = torch.zeros(64, 3, 3, 3)
    zipped(tensors, tmp_path / "sk_model.pth")
    message = refused(tmp_path / "sk_model.pth", LineArt(), "lineart")
    assert "1 of 24 tensors are missing (such as model4.1.bias)" in message
    assert "1 of 24 tensors are unknown (such as extra.weight)" in message
    assert "model0.1.weight is (64, 3, 3, 3) instead of (64, 3, 7, 7)" in message


@pytest.mark.parametrize("save", [zipped, pickled, save_file])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path, save, share):
    path = tmp_path / "sk_model.pth"
    save(copied(random_lineart()), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "sk_model.pth" in refused(path, LineArt(), "lineart").split(". ")[0]


def test_a_login_page_is_called_a_web_page(tmp_path):
    path = tmp_path / "sk_model.pth"
    path.write_text("<!DOCTYPE html><html>Log in</html>")
    assert "sk_model.pth is a web page" in refused(path, LineArt(), "lineart")


def test_a_file_that_is_no_checkpoint_is_not_sent_to_the_controlnet_folder(tmp_path):
    path = tmp_path / "sk_model.pth"
    path.write_bytes(b"nonsense" * 100)
    message = refused(path, LineArt(), "lineart")
    assert "no checkpoint" in message
    assert "models/controlnet" not in message


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("was_run"),))


def test_no_code_of_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sk_model.pth"
    path.write_bytes(pickle.dumps({"weight": Evil()}))
    refused(path, LineArt(), "lineart")
    assert not (tmp_path / "was_run").exists()
