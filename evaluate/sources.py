"""The annotator of each kind of condition for a folder of pictures, with its networks loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..annotators import hub, weights
from ..annotators.kinds import KINDS, Network, Ways
from ..cnpp_core.condition import Condition
from .published import NETWORKS

CPU = torch.device("cpu")
PACK = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Source:
    """Where weights come from, and where networks run.

    model: a folder in transformers' format, for the kinds that the paper judged by such a network.
    """

    folders: Sequence[Path]
    download: bool = False
    device: torch.device = CPU
    model: Path | None = None

    def network(self, wanted: Network) -> torch.nn.Module:
        """The network with its weights on the device, without training and gradients."""
        network = wanted.kind.open(self.find(wanted.key), wanted.key)
        return network.to(self.device).eval().requires_grad_(False)

    def find(self, key: str) -> Path:
        """The file or folder, after a download if it was allowed."""
        try:
            return weights.find(key, self.folders, "Add --download")
        except FileNotFoundError:
            if not self.download:
                raise
        try:
            return weights.download(key, self.folders[0])
        except RuntimeError as error:  # a sentence that ends the command, no fault of ours
            raise ValueError(str(error)) from error


@dataclass(frozen=True)
class FolderAnnotator:
    """An annotator with default settings, and what to know of figures that it gives."""

    ways: Ways
    remark: str = ""


def weight_folders() -> list[Path]:
    """Where weights of annotators are looked for: ComfyUI's folder, and the download cache."""
    inside_comfyui = PACK.parent.name == "custom_nodes"
    base = PACK.parent.parent if inside_comfyui else Path()
    return [base / "models" / "annotators", *hub.cache_folders()]


def method_name(kind: Condition, method: str = "") -> str:
    """The method by its name, the default one if it is empty; "" for a kind without a choice.

    ValueError for a method that the kind does not have.
    """
    row = KINDS[kind.key]
    if len(row) > 1:
        return row.method(method).name
    if method:
        raise ValueError(f"--method {method}: {kind.key} has none.")
    return ""


def annotator_for(kind: Condition, source: Source, method: str = "") -> FolderAnnotator:
    """The annotator. Raises FileNotFoundError, which says what to get."""
    found = KINDS[kind.key].method(method_name(kind, method))
    if source.model is not None and kind.key in NETWORKS:
        return FolderAnnotator(NETWORKS[kind.key](source.model, source.device))
    return FolderAnnotator(found.ways(*map(source.network, found.networks)), found.remark)


def require_device(name: str) -> None:
    """ValueError for a device that is not there; "" is whatever there is."""
    if not name:
        return
    try:
        there = torch.zeros(1, device=name).device.type != "meta"
    except (RuntimeError, AssertionError, ValueError) as error:  # what PyTorch lacks is asserted
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name}: {reason} Give cpu, cuda or cuda:1, say.") from error
    if not there:
        raise ValueError(f"--device {name} computes nothing. Give cpu, cuda or cuda:1, say.")
