"""Weight files are found where this pack and others keep them, or named with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from controlnet_pp.annotators.catalogue import WEIGHTS
from controlnet_pp.annotators.weights import find

FILES = [key for key, file in WEIGHTS.items() if not file.files]


def place(folder: Path, *parts: str) -> Path:
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    return path


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("comfyui_controlnet_aux", "ckpts", "lllyasviel", "Annotators"),
        ("lllyasviel", "Annotators"),
        ("models--lllyasviel--Annotators", "snapshots", "982e7eda"),
    ],
)
def test_a_file_is_found_where_this_and_other_packs_keep_it(tmp_path, key, parts):
    path = place(tmp_path / "b", *parts, WEIGHTS[key].name)
    assert find(key, [tmp_path / "a", tmp_path / "b"]) == path


def test_a_file_is_found_in_the_folders_of_the_webui(tmp_path):
    path = place(
        tmp_path, "extensions/sd-webui-controlnet/annotator/downloads/hed/ControlNetHED.pth"
    )
    assert find("hed", [tmp_path]) == path


def test_the_first_folder_wins(tmp_path):
    first, _ = (place(tmp_path / name, "sk_model.pth") for name in "ab")
    assert find("lineart", [tmp_path / "a", tmp_path / "b"]) == first


def test_a_file_saved_as_safetensors_counts(tmp_path):
    path = place(tmp_path / "a", "ControlNetHED.safetensors")
    assert find("hed", [tmp_path / "a"]) == path


def test_half_a_download_is_no_file(tmp_path):
    place(tmp_path / "a", "ControlNetHED.pth.part")
    with pytest.raises(FileNotFoundError):
        find("hed", [tmp_path / "a"])


def test_a_model_folder_is_found_once_it_is_whole(tmp_path):
    folder = tmp_path / "oneformer_ade20k_swin_tiny"
    folder.mkdir()
    names = [file.name for file in WEIGHTS["oneformer_ade20k"].files]
    for name in names[1:]:
        (folder / name).write_bytes(b"x")
    with pytest.raises(FileNotFoundError):
        find("oneformer_ade20k", [tmp_path])
    (folder / names[0]).write_bytes(b"x")
    assert find("oneformer_ade20k", [tmp_path]) == folder


def test_a_model_folder_is_found_in_the_hugging_face_cache(tmp_path):
    folder = tmp_path / "models--shi-labs--oneformer_ade20k_swin_tiny/snapshots/4a5bac8e"
    folder.mkdir(parents=True)
    for file in WEIGHTS["oneformer_ade20k"].files:
        (folder / file.name).write_bytes(b"x")
    assert find("oneformer_ade20k", [tmp_path]) == folder


def test_a_missing_file_is_named_with_folders_address_size_licence_and_switch(tmp_path):
    folders = [tmp_path / "annotators", tmp_path / "elsewhere"]
    with pytest.raises(FileNotFoundError) as caught:
        find("openpose_body", folders, "Switch on `download` in the node")
    assert type(caught.value) is FileNotFoundError
    message = str(caught.value)
    for words in (
        "body_pose_model.pth",
        str(folders[0]),
        str(folders[1]),
        "https://huggingface.co/lllyasviel/Annotators/resolve/main/body_pose_model.pth",
        "209.3 MB",
        "CMU OpenPose licence: NO COMMERCIAL USE",
        "`download`",
    ):
        assert words in message
