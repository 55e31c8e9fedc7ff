"""The annotator for each kind of condition: what the check compares, and what the paper did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..annotators import weights
from ..annotators.annotator import LearnedAnnotator
from ..annotators.canny import canny_cnpp, canny_cv2
from ..annotators.depth import DPTHybrid
from ..annotators.lineart import LineArt
from ..annotators.mlsd import MLSD
from ..annotators.normal import annotate_normal
from ..annotators.openpose import OpenPoseBody, draw_poses
from ..annotators.scribble import scribble_drawing, scribble_hed, scribble_xdog
from ..annotators.segmentation import Segmentation
from ..annotators.softedge import HED
from ..cnpp_core.condition import Condition
from . import published

Annotate = Callable[[Tensor], Tensor]
Network = TypeVar("Network", bound=LearnedAnnotator)
CPU = torch.device("cpu")
# Ways to find a condition, the default first. None of the others has a choice.
METHODS = {
    Condition.CANNY: ("cnpp", "cv2"),
    Condition.LINEART: ("fine", "coarse"),
    Condition.SCRIBBLE: ("hed", "xdog", "drawing"),
}


@dataclass(frozen=True)
class Annotator:
    """Two ways through one annotator, for pictures (B, 3, H, W) in 0..1 on its device.

    image: the condition image, as the nodes give it. raw: what `paper.PaperProtocol.prediction`
    takes, None where the paper has no protocol.
    """

    image: Annotate
    raw: Annotate | None = None
    remark: str = ""


@dataclass(frozen=True)
class Source:
    """Where weights come from, and where networks run."""

    folders: Sequence[Path]
    download: bool = False
    device: torch.device = CPU
    model: Path | None = None  # a folder in transformers' format, for depth and seg

    def network(self, kind: type[Network], key: str) -> Network:
        """The network with its weights, ready."""
        module = kind()
        weights.load(module, key, self.find(key))
        return self.ready(module)

    def find(self, key: str) -> Path:
        """The file or folder, after a download if it was allowed."""
        try:
            return weights.find(key, self.folders)
        except weights.MissingWeights as error:
            if self.download:
                return weights.download(key, self.folders[0])
            told = str(error).replace("Switch on `download` in the node", "Add --download")
            raise weights.MissingWeights(told) from error

    def ready(self, module: Network) -> Network:
        """On the device, without training and gradients."""
        return module.to(self.device).eval().requires_grad_(False)


def annotator_for(kind: Condition, source: Source, method: str = "") -> Annotator:
    """The annotator with default settings. Raises MissingWeights, which says what to get."""
    methods = METHODS.get(kind, ("",))
    method = method or methods[0]
    if method not in methods:
        choice = f"one of {', '.join(methods)}" if kind in METHODS else "none"
        raise ValueError(f"--method {method}: {kind.name.lower()} has {choice}.")
    return _MAKERS[kind](source, method)


def _canny(_source: Source, method: str) -> Annotator:
    if method == "cv2":
        return Annotator(canny_cv2, canny_cv2)
    # The published evaluation pins a kornia that loses both pixels of a tie.
    return Annotator(canny_cnpp, partial(canny_cnpp, drop_ties=True))


def _softedge(source: Source, _method: str) -> Annotator:
    network = source.network(HED, "hed")
    return Annotator(network.annotate, network)


def _lineart(source: Source, method: str) -> Annotator:
    network = source.network(LineArt, "lineart" if method == "fine" else "lineart_coarse")

    def drawing(image: Tensor) -> Tensor:
        """Black on white, as the network draws it."""
        return 1 - network(image)

    return Annotator(network.annotate, drawing)


def _mlsd(source: Source, _method: str) -> Annotator:
    return Annotator(source.network(MLSD, "mlsd").annotate)


def _scribble(source: Source, method: str) -> Annotator:
    if method == "hed":
        return Annotator(partial(scribble_hed, source.network(HED, "hed")))
    return Annotator(scribble_xdog if method == "xdog" else scribble_drawing)


def _pose(source: Source, _method: str) -> Annotator:
    network = source.network(OpenPoseBody, "openpose_body")
    return Annotator(lambda image: draw_poses(network.detect(image)))


def _depth(source: Source, _method: str) -> Annotator:
    if source.model is not None:
        depth = published.depth_model(source.model, source.device)
        return Annotator(lambda image: published.stretched(depth(image), image), depth)
    network = source.network(DPTHybrid, "dpt_hybrid")
    remark = (
        "Depth by DPT-hybrid. The published figures are by DPT-large, another network than the one "
        "that made the conditions: give its folder with --model to compare with them."
    )
    return Annotator(network.annotate, lambda image: network.depth(image).clamp(min=0), remark)


def _normal(source: Source, _method: str) -> Annotator:
    return Annotator(partial(annotate_normal, source.network(DPTHybrid, "dpt_hybrid")))


def _seg(source: Source, _method: str) -> Annotator:
    if source.model is not None:
        classes = published.segmenter(source.model, source.device)
        return Annotator(lambda image: published.coloured(classes(image)), classes)
    network = source.ready(Segmentation.from_folder(source.find("oneformer_ade20k")))
    remark = (
        "Segmentation by OneFormer Swin-T. The published figures are by Mask2Former Swin-L: give a "
        "folder of it in transformers' format with --model to come close to them."
    )
    return Annotator(
        network.annotate, lambda image: network.segment(image).classes[:, None], remark
    )


_MAKERS = {
    Condition.CANNY: _canny,
    Condition.SOFTEDGE: _softedge,
    Condition.LINEART: _lineart,
    Condition.MLSD: _mlsd,
    Condition.SCRIBBLE: _scribble,
    Condition.POSE: _pose,
    Condition.DEPTH: _depth,
    Condition.NORMAL: _normal,
    Condition.SEG: _seg,
}
