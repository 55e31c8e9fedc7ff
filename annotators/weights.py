"""Find, download and load the weight files that the catalogue lists."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from ..cnpp_core.checkpoint.read import read_tensors, shown
from .catalogue import WEIGHTS, WeightFile
from .download import Progress, fetch
from .hub import mirrored

__all__ = [
    "WEIGHTS",
    "WeightFile",
    "download",
    "find",
    "load",
    "manifest",
]

log = logging.getLogger(__name__)

MANIFESTS = Path(__file__).parent / "manifests"


def find(key: str, folders: Sequence[Path | str], to_download: str = "") -> Path:
    """The first place that has the file (or its .safetensors twin), or the whole folder.

    folders: searched in order; in each also the sub-folders where other packs keep the file.
    to_download: what the user does to have it fetched, for the message.
    Raises FileNotFoundError, which says what to get and where to put it.
    """
    wanted = WEIGHTS[key]
    for folder in map(Path, folders):
        for place in (folder, *(p for also in wanted.also for p in sorted(folder.glob(also)))):
            for path in _names(wanted, place):
                if path.exists() and all((path / file.name).is_file() for file in wanted.files):
                    return path
    looked = ", ".join(str(folder) for folder in folders) or "no folder at all"
    put = f" and put it into {folders[0]}" if folders else ""
    get = f"{to_download}, or get it" if to_download else "Get it"
    raise FileNotFoundError(
        f"{wanted.name} is not there. Looked in: {looked}. {get} from {wanted.url}{put}. Size "
        f"{wanted.size_text}, licence {wanted.licence_text}."
    )


def _names(wanted: WeightFile, place: Path) -> Sequence[Path]:
    path = place / wanted.name
    if wanted.files:
        return (path, place)  # the Hugging Face cache has the files without a folder of that name
    return (path, path.with_suffix(".safetensors"))


def download(key: str, folder: Path | str, progress: Progress | None = None) -> Path:
    """Fetch the file or folder into `folder`, checked; returns its path.

    progress(done, total) gets bytes and may raise to cancel; the next call goes on from there.
    Raises RuntimeError where that fails, and FileExistsError rather than overwrite a file.
    """
    wanted, folder = WEIGHTS[key], Path(folder)
    log.info("%s: licence %s", wanted.name, wanted.licence_text)
    if not wanted.files:
        return fetch(mirrored(wanted.url), folder / wanted.name, wanted.sha256, progress)
    before = 0
    for file in wanted.files:
        target = folder / wanted.name / file.name
        if not target.exists():
            fetch(mirrored(file.url), target, file.sha256, _shifted(progress, before, wanted.size))
        before += file.size or 0
    return folder / wanted.name


def _shifted(progress: Progress | None, before: int, total: int | None) -> Progress | None:
    """Progress of one file as progress of its folder."""
    return progress and (lambda done, _: progress(before + done, total))


def load(network: nn.Module, key: str, path: Path | str) -> None:
    """Put the weights of the file into the network, in the network's dtype and device.

    Runs no code of the file. Names, number and shapes are compared with the network's before
    anything is loaded; raises ValueError, which says what the file is and which one to get.
    """
    wanted, path = WEIGHTS[key], Path(path)
    try:
        found = read_tensors(path)
    except ValueError as error:
        # What the file is; the advice behind the colon is for ControlNet files.
        problem = str(error).rpartition(": ")[0] or str(error)
        raise ValueError(f"{problem}. {_instead(wanted)}") from error
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    tensors = _renamed(found, expected)
    if problem := _difference(tensors, expected):
        named = _known_as({name: tuple(value.shape) for name, value in found.items()})
        what = f"It looks like {named}. " if named and named != wanted.name else ""
        raise ValueError(
            f"{shown(path.name)} is not the published {wanted.name}: {problem}. "
            f"{what}{_instead(wanted)}"
        )
    network.load_state_dict(tensors, strict=False)  # only counters can be missing by now
    log.info("loaded %s", path)


def manifest(key: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file's tensors, as committed in annotators/manifests."""
    text = (MANIFESTS / f"{key}.json").read_text(encoding="utf-8")
    return {name: tuple(shape) for name, shape in json.loads(text).items()}


def _renamed(tensors: Mapping[str, Tensor], expected: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors under the network's names, where a file only has other prefixes."""
    for prefix in ("module.", "model.", "model.module.", "params."):
        if all(name.startswith(prefix) for name in tensors) and not tensors.keys() & expected:
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    # The OpenPose files lack the name of the stage in front of the layer's.
    shortened = {name.partition(".")[2]: name for name in expected}
    if len(shortened) == len(expected) and tensors.keys() == shortened.keys():
        return {shortened[name]: value for name, value in tensors.items()}
    return dict(tensors)


def _difference(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> str:
    """What does not fit, in words; "" if all does."""
    needed = [name for name in expected if not name.endswith("num_batches_tracked")]
    missing = [name for name in needed if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} is {shown(tuple(value.shape))} instead of {expected[name]}"
        for name, value in tensors.items()
        if name in expected and tuple(value.shape) != expected[name]
    ]
    parts = [
        f"{len(names)} of {total} tensors {words} (such as {shown(names[0])})"
        for names, total, words in (
            (missing, len(needed), "are missing"),
            (unknown, len(tensors), "are unknown"),
            (shapes, len(expected), "have another shape"),
        )
        if names
    ]
    return ", ".join(parts)


def _known_as(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Name of the published file with these tensors, "" if there is none."""
    return next((WEIGHTS[key].name for key in _manifests() if manifest(key) == shapes), "")


@cache
def _manifests() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in MANIFESTS.glob("*.json") if path.stem in WEIGHTS))


def _instead(wanted: WeightFile) -> str:
    return f"Replace it by {wanted.name} ({wanted.size_text}) from {wanted.url}."
