"""Where annotator weights lie: the model folder of this pack, and where other packs keep theirs."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ....annotators import hub
from ....annotators.catalogue import WEIGHTS

FOLDER = "annotators"
SEGMENTER = WEIGHTS["oneformer_ade20k"].name


def register() -> None:
    """Make models/annotators a model folder, beside those that extra_model_paths names."""
    folder_paths.add_model_folder_path(FOLDER, str(download_folder()))
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    # Without extensions the host would list every file in there, read-me files too.
    folder_paths.folder_names_and_paths[FOLDER] = (paths, folder_paths.supported_pt_extensions)


def download_folder() -> Path:
    """models/annotators, where downloads go."""
    return Path(folder_paths.models_dir) / FOLDER


def transformers_folders() -> list[Path]:
    """Folders in there that hold a model in transformers' format."""
    own = [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]
    return sorted(file.parent for path in own for file in path.glob("*/config.json"))


def segmenter_names() -> list[str]:
    """Segmentation models to choose from: the one that can be downloaded, then those found."""
    found = {folder.name for folder in transformers_folders()}
    return [SEGMENTER, *sorted(found - {SEGMENTER})]


def named_folder(name: str) -> Path:
    """The folder of this name among them; ValueError if it is gone."""
    for folder in transformers_folders():
        if folder.name == name:
            return folder
    raise ValueError(
        f"The folder {name!r} is not in models/annotators. Choose another model, or refresh the "
        "list with the key R."
    )


def search_folders() -> list[Path]:
    """Where to look for weights, in order: our own folders, then those of others that exist."""
    own = [Path(path) for path in folder_paths.get_folder_paths(FOLDER)]
    models = Path(folder_paths.models_dir)
    others = [
        *map(Path, folder_paths.get_folder_paths("custom_nodes")),  # comfyui_controlnet_aux/ckpts
        *_from_environment("AUX_ANNOTATOR_CKPTS_PATH"),  # where that pack was told to keep them
        models / "ControlNetPreprocessor",
        models / "controlnet_aux",
        *hub.cache_folders(),
    ]
    return [*own, *(path for path in others if path not in own and path.is_dir())]


def _from_environment(variable: str) -> list[Path]:
    value = os.environ.get(variable)
    return [Path(value).expanduser()] if value else []
