"""Annotators with random weights in files of their own, and the host's folders for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from controlnet_pp.tests.host.harness import randomise
from safetensors.torch import save_file


@pytest.fixture(scope="session")
def weight_files(host, tmp_path_factory) -> dict[str, Path]:
    """By key a file with random weights under the published names."""
    folder = tmp_path_factory.mktemp("weights")
    kinds = {
        "hed": host.pack("annotators.softedge").HED,
        "lineart": host.pack("annotators.lineart").LineArt,
        "lineart_coarse": host.pack("annotators.lineart").LineArt,
        "mlsd": host.pack("annotators.mlsd").MLSD,
        "openpose_body": host.pack("annotators.openpose").OpenPoseBody,
        "dpt_hybrid": host.pack("annotators.depth").DPTHybrid,
    }
    files = {}
    for seed, (key, kind) in enumerate(kinds.items()):
        name = Path(host.pack("annotators.weights").WEIGHTS[key].name)
        files[key] = folder / name.with_suffix(".safetensors")
        state = randomise(kind(dtype=torch.float16), seed).state_dict()
        if key == "dpt_hybrid":  # it ends in a ReLU, below which all would be black
            state["scratch.output_conv.4.bias"].fill_(2)
        save_file(state, files[key])
    return files


@pytest.fixture
def models(host, tmp_path, monkeypatch, weight_files) -> Path:
    """An empty models/annotators, and nothing loaded."""
    import folder_paths

    folder = tmp_path / "models" / "annotators"
    folder.mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "models_dir", str(folder.parent))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "annotators", ([str(folder)], {".safetensors"})
    )
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "custom_nodes", ([str(tmp_path / "packs")], set())
    )
    networks = host.pack("nodes.host.annotate.networks")
    monkeypatch.setattr(networks, "_patchers", type(networks._patchers)())
    return folder


@pytest.fixture(scope="session")
def upernet(host, tmp_path_factory) -> Path:
    """A folder with a tiny random UperNet for ADE20K, in transformers' format."""
    import transformers

    labels = dict(enumerate(host.pack("annotators.ade20k").CLASSES))
    config = transformers.UperNetConfig(
        backbone_config=transformers.ConvNextConfig(
            hidden_sizes=[8, 8, 16, 16],
            depths=[1, 1, 1, 1],
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        hidden_size=16,
        use_auxiliary_head=False,
        id2label=labels,
        label2id={name: number for number, name in labels.items()},
    )
    torch.manual_seed(0)
    model = transformers.UperNetForSemanticSegmentation(config).eval()
    torch.nn.init.normal_(model.decode_head.classifier.weight)  # else one class wins everywhere
    folder = tmp_path_factory.mktemp("models") / "tiny_upernet"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def progress(monkeypatch) -> list[tuple[int, int]]:
    """(done, of) of every step that the host would have shown."""
    import comfy.utils

    shown: list[tuple[int, int]] = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda done, total, preview, **_: shown.append((done, total)),
    )
    return shown
