"""One function per condition: the settings of a node to the annotator that its output carries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ....annotators.annotator import LearnedAnnotator
from ....annotators.canny import canny_cnpp, canny_cv2, canny_magnitude, canny_strength
from ....annotators.depth import DPTHybrid
from ....annotators.lineart import LineArt
from ....annotators.mlsd import MLSD
from ....annotators.normal import BACKGROUND, annotate_normal, normal_image, normals, soft_normal
from ....annotators.openpose import OpenPoseBody, OpenPoseHand, Pose, draw_poses
from ....annotators.openpose.joints import joint_maps
from ....annotators.scribble import scribble_drawing, scribble_hed, scribble_xdog
from ....annotators.segmentation import Segmentation
from ....annotators.softedge import HED
from ....annotators.weights import WEIGHTS
from .annotator import NodeAnnotator, Size
from .folders import transformers_folders
from .networks import find_weights, model, once

CNPP_THRESHOLD_UNIT = 1 / 1000  # so that 100 and 200 are the defaults of both definitions of canny
CANNY_MODES = ("ControlNet++", "cv2")
LINE_STYLES = {"fine": "lineart", "coarse": "lineart_coarse"}  # to the weights
SCRIBBLE_METHODS = ("HED", "XDoG", "drawing")
NORMAL_SOURCES = ("picture", "depth map")
DEPTH_MAP_STRENGTH = 500.0  # what brings depth in 0..1 to about MiDaS's slopes
SEGMENTER = "oneformer_ade20k"  # of WEIGHTS
STICKS = {"standard": False, "by size": True}  # to `scale_sticks`


def canny(size: Size, mode: str = "ControlNet++", low: int = 100, high: int = 200) -> NodeAnnotator:
    """Canny edges in one of its two definitions."""
    if mode == "cv2":
        find = partial(canny_cv2, low=low, high=high)
    else:
        find = partial(canny_cnpp, low=low * CNPP_THRESHOLD_UNIT, high=high * CNPP_THRESHOLD_UNIT)
    # Of cv2's thresholds on another gradient this is near enough, as its defaults show.
    guiding = partial(canny_strength, high=min(max(high, 1) * CNPP_THRESHOLD_UNIT, 1.0))
    return NodeAnnotator("canny", find, canny_magnitude, size=size, guiding=guiding)


def soft_edge(size: Size, download: bool, safe: bool = False) -> NodeAnnotator:
    """HED edges, in three grey levels if safe."""
    return _of_network("softedge", HED, "hed", size, download, safe=safe)


def line_art(size: Size, download: bool, style: str = "fine") -> NodeAnnotator:
    """A line drawing."""
    return _of_network("lineart", LineArt, LINE_STYLES[style], size, download)


def mlsd(size: Size, download: bool, score: float = 0.1, distance: float = 0.1) -> NodeAnnotator:
    """Straight lines."""
    return _of_network("mlsd", MLSD, "mlsd", size, download, score=score, distance=distance)


def scribble(size: Size, download: bool, method: str = "HED", threshold: int = 32) -> NodeAnnotator:
    """Strokes from soft edges, by differences of Gaussians (threshold), or from a drawing."""
    if method == "XDoG":
        find = partial(scribble_xdog, threshold=threshold)
        return NodeAnnotator("scribble", find, size=size, title="Scribble (XDoG)")
    if method == "drawing":
        title = "Scribble (drawing)"
        return NodeAnnotator("scribble", scribble_drawing, size=size, title=title)
    patcher = model(HED, "hed", download=download)
    find = partial(scribble_hed, patcher.model)
    return NodeAnnotator("scribble", find, patcher.model, (patcher,), size)


class PoseTools(NamedTuple):
    """An annotator, and the two steps that it consists of."""

    annotator: NodeAnnotator
    detect: Callable[[Tensor], list[Pose]]
    draw: Callable[[list[Pose]], Tensor]

    def poses(self, image: Tensor) -> list[Pose]:
        """The people in every picture of (B, 3, H, W)."""
        return [pose for part in self.annotator.run(self.detect, image) for pose in part]


def pose(
    size: Size, download: bool, body: bool = True, hands: bool = False, sticks: str = "standard"
) -> PoseTools:
    """Skeletons of the body, of the hands, or of both."""
    # Hands are looked for at the wrists, so the body's network always runs.
    patchers = [model(OpenPoseBody, "openpose_body", download=download)]
    if hands:
        patchers.append(model(OpenPoseHand, "openpose_hand", download=download))
    detect = partial(patchers[0].model.detect, hands=patchers[1].model if hands else None)
    draw = partial(draw_poses, body=body, hands=hands, scale_sticks=STICKS[sticks])
    annotator = NodeAnnotator(
        "pose",
        lambda image: draw(detect(image)),
        patchers[0].model,
        tuple(patchers),
        size,
        guiding=partial(joint_maps, patchers[0].model),
    )
    return PoseTools(annotator, detect, draw)


def depth(size: Size, download: bool) -> NodeAnnotator:
    """Depth, near is white."""
    return _of_network("depth", DPTHybrid, "dpt_hybrid", size, download)


def normal(
    size: Size,
    download: bool,
    background: float = BACKGROUND,
    source: str = "picture",
    strength: float = DEPTH_MAP_STRENGTH,
) -> NodeAnnotator:
    """Normals from the depth of a picture, or (with strength) from a picture that is depth."""
    if source == "picture":
        patcher = model(DPTHybrid, "dpt_hybrid", download=download)
        find = partial(annotate_normal, patcher.model, background=background)
        soft = partial(soft_normal, patcher.model, background=background)
        return NodeAnnotator("normal", find, soft, (patcher,), size)

    def from_depth(image: Tensor) -> Tensor:
        return normal_image(image.float().mean(1, keepdim=True), background, strength)

    def soft_from_depth(image: Tensor) -> Tensor:
        return normals(image.float().mean(1, keepdim=True), background, strength) * 0.5 + 0.5

    return NodeAnnotator("normal", from_depth, soft_from_depth, size=size)


def segmenters() -> list[str]:
    """Names of the models to choose from: the one that can be downloaded, then those found."""
    default = WEIGHTS[SEGMENTER].name
    found = {folder.name for folder in transformers_folders()}
    return [default, *sorted(found - {default})]


class SegmentationTools(NamedTuple):
    """An annotator, and the step that gives its colours and its classes."""

    annotator: NodeAnnotator
    segment: Callable[[Tensor], Tensor]

    def colours_and_classes(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) to colours (B, 3, H', W') and to (class + 1) / 255 as (B, H', W')."""
        both = torch.cat(self.annotator.run(self.segment, image))
        return both[:, :3], both[:, 3]


def segmentation(size: Size, download: bool, name: str = "") -> SegmentationTools:
    """Classes of ADE20K, by a model of `segmenters`; the first of them by default."""
    default = WEIGHTS[SEGMENTER].name

    def read(dtype: torch.dtype, device: torch.device) -> Segmentation:
        if name in ("", default):
            folder = find_weights(SEGMENTER, download)
        else:
            folder = next((f for f in transformers_folders() if f.name == name), None)
            if folder is None:
                raise ValueError(
                    f"The folder {name!r} is not in models/annotators. Choose another model, or "
                    "refresh the list with the key R."
                )
        return Segmentation.from_folder(folder, dtype=dtype).to(device)

    patcher = once(name or default, read)

    def segment(image: Tensor) -> Tensor:
        found = patcher.model.segment(image)
        return torch.cat([found.colours, (found.classes[:, None] + 1).to(image.dtype) / 255], 1)

    network = patcher.model
    annotator = NodeAnnotator(
        "seg", network.annotate, network, (patcher,), size, rewarded=network.logits
    )
    return SegmentationTools(annotator, segment)


# Name of a condition -> its annotator with default settings, from the size and the switch.
BY_CONDITION: Mapping[str, Callable[[Size, bool], NodeAnnotator]] = {
    "canny": lambda size, _download: canny(size),
    "softedge": soft_edge,
    "lineart": line_art,
    "mlsd": mlsd,
    "scribble": scribble,
    "pose": lambda size, download: pose(size, download).annotator,
    "depth": depth,
    "normal": normal,
    "seg": lambda size, download: segmentation(size, download).annotator,
}


def _of_network(
    condition: str,
    kind: Callable[..., LearnedAnnotator],
    key: str,
    size: Size,
    download: bool,
    **options: Any,
) -> NodeAnnotator:
    """The annotator that is one network with one weight file."""
    patcher = model(kind, key, download=download)
    find = partial(patcher.model.annotate, **options)
    return NodeAnnotator(condition, find, patcher.model, (patcher,), size)
