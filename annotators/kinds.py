"""How each kind of condition is found in a picture: a kind is one row.

Nodes and the evaluation of folders make what they need from these rows. The other half of a kind,
what agreement with it means, is the row of the same name in `cnpp_core.condition`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .ade20k import CLASSES, PALETTE
from .annotator import Annotator, LearnedAnnotator
from .canny import canny_cnpp, canny_cv2, canny_magnitude, canny_strength, threshold_message
from .depth import DPTHybrid
from .lineart import LineArt
from .mlsd import MLSD
from .normal import BACKGROUND, annotate_normal, normal_image, normals, soft_normal
from .openpose import OpenPoseBody, OpenPoseHand, Pose, draw_poses
from .openpose.joints import joint_maps
from .scribble import scribble_drawing, scribble_hed, scribble_xdog
from .segmentation import Segmentation
from .softedge import HED
from .tile import RATE, SIGMA, soft_blur, soft_tile, tile_blur, tile_resample

CNPP_THRESHOLD_UNIT = 1 / 1000  # so that 100 and 200 are the defaults of both definitions of canny
DEPTH_MAP_STRENGTH = 500.0  # what brings depth in 0..1 to about MiDaS's slopes


class Classes(NamedTuple):
    """What colours stand for. palette: RGB of each class, 0..255; name: whose palette it is."""

    palette: Sequence[tuple[int, int, int]]
    names: Sequence[str]
    name: str


ADE20K = Classes(PALETTE[1:], CLASSES, "ADE20K")


@dataclass(frozen=True)
class Ways:
    """The ways through an annotator with its settings, for pictures (B, 3, H, W) in 0..1.

    find: to the condition image (B, 1 or 3, H, W) in 0..1, as published.
    soft: to what the reward of the kind compares, before any rounding and differentiable (B, C, H,
    W), for seg the logits; None where there is no gradient. guiding: to what guidance follows,
    where that is another map.
    raw: to what the published evaluation compares (`evaluate.paper`); None where it has none.
    classes: where colours stand for classes. title: for messages that the kind's label is too
    little for.
    """

    find: Annotator
    soft: Annotator | None = None
    guiding: Annotator | None = None
    raw: Annotator | None = None
    classes: Classes | None = None
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class PoseWays(Ways):
    """`find` in two steps: people in each picture, and their drawing (B, 3, H, W)."""

    detect: Callable[[Tensor], list[Pose]]
    draw: Callable[[list[Pose]], Tensor]


@dataclass(frozen=True, kw_only=True)
class SegmentationWays(Ways):
    """segment: pictures -> (B, 4, H, W), the colours and (class + 1) / 255 behind them."""

    segment: Annotator


class Network(NamedTuple):
    """A network that a method runs, and the key of its file in `weights.WEIGHTS`."""

    kind: type[LearnedAnnotator]
    key: str


@dataclass(frozen=True)
class Method:
    """One way to find a kind of condition.

    name: on the command line; label: in the nodes. ways: (*networks, **settings) -> Ways.
    reads: what the image must be. remark: what to know of figures that it gives.
    """

    name: str
    ways: Callable[..., Ways]
    networks: tuple[Network, ...] = ()
    label: str = ""
    reads: str = "picture"
    remark: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)


class Row(tuple[Method, ...]):
    """The methods of a kind, the default first."""

    __slots__ = ()

    @property
    def labels(self) -> list[str]:
        """As the nodes call the methods."""
        return [method.label for method in self]

    @property
    def without_weights(self) -> list[Method]:
        """Methods that find the condition in any picture and need no file."""
        return [method for method in self if not method.networks and method.reads == "picture"]

    def method(self, name: str = "") -> Method:
        """The method of this name or label, by default the first; ValueError for another one."""
        for method in self:
            if name in ("", method.name, method.label):
                return method
        choice = f"one of {', '.join(m.name for m in self)}" if len(self) > 1 else "none"
        raise ValueError(f"There is no method {name} for this condition; it has {choice}.")


def _canny_cnpp(low: float = 100, high: float = 200) -> Ways:
    if not 0 <= low <= high <= 1000:  # here in the unit of the node
        expected = "0 <= low <= high <= 1000, e.g. 100 and 200"
        raise ValueError(threshold_message("ControlNet++", expected, low, high))
    find = partial(canny_cnpp, low=low * CNPP_THRESHOLD_UNIT, high=high * CNPP_THRESHOLD_UNIT)
    # The published evaluation pins a kornia that loses both pixels of a tie.
    return _canny(find, high, partial(find, drop_ties=True))


def _canny_cv2(low: float = 100, high: float = 200) -> Ways:
    find = partial(canny_cv2, low=low, high=high)
    # Guidance takes the other gradient; of these thresholds it is near enough, as defaults show.
    return _canny(find, high, find)


def _canny(find: Annotator, high: float, raw: Annotator) -> Ways:
    strong = min(max(high, 1) * CNPP_THRESHOLD_UNIT, 1.0)
    return Ways(find, canny_magnitude, partial(canny_strength, high=strong), raw)


def _soft_edge(network: HED, safe: bool = False) -> Ways:
    return Ways(partial(network.annotate, safe=safe), network, raw=network)


def _line_art(network: LineArt) -> Ways:
    # Black on white, as the network draws it.
    return Ways(network.annotate, network, raw=lambda image: 1 - network(image))


def _mlsd(network: MLSD, score: float = 0.1, distance: float = 0.1) -> Ways:
    return Ways(partial(network.annotate, score=score, distance=distance), network)


def _scribble_hed(network: HED) -> Ways:
    return Ways(partial(scribble_hed, network), network)


def _scribble_xdog(threshold: int = 32) -> Ways:
    return Ways(partial(scribble_xdog, threshold=threshold), title="Scribble (XDoG)")


def _scribble_drawing() -> Ways:
    return Ways(scribble_drawing, title="Scribble (drawing)")


def _pose(
    network: OpenPoseBody,
    hand: OpenPoseHand | None = None,
    body: bool = True,
    scale_sticks: bool = False,
) -> Ways:
    detect = partial(network.detect, hands=hand)
    draw = partial(draw_poses, body=body, hands=hand is not None, scale_sticks=scale_sticks)
    return PoseWays(
        lambda image: draw(detect(image)),
        network,
        partial(joint_maps, network),
        detect=detect,
        draw=draw,
    )


def _depth(network: DPTHybrid) -> Ways:
    def inverse_depth(image: Tensor) -> Tensor:
        return network.depth(image).clamp(min=0)

    return Ways(network.annotate, inverse_depth, guiding=network, raw=inverse_depth)


def _normal(network: DPTHybrid, background: float = BACKGROUND) -> Ways:
    return Ways(
        partial(annotate_normal, network, background=background),
        partial(soft_normal, network, background=background),
    )


def _normal_of_depth(background: float = BACKGROUND, strength: float = DEPTH_MAP_STRENGTH) -> Ways:
    def find(image: Tensor) -> Tensor:
        return normal_image(image.float().mean(1, keepdim=True), background, strength)

    def soft(image: Tensor) -> Tensor:
        return normals(image.float().mean(1, keepdim=True), background, strength) * 0.5 + 0.5

    return Ways(find, soft)


def _segmentation(network: Segmentation) -> Ways:
    def segment(image: Tensor) -> Tensor:
        found = network.segment(image)
        return torch.cat([found.colours, (found.classes[:, None] + 1).to(image.dtype) / 255], 1)

    return SegmentationWays(
        network.annotate,
        network.logits,
        raw=lambda image: network.segment(image).classes[:, None],
        classes=ADE20K,
        segment=segment,
    )


def _tile(rate: float = RATE) -> Ways:
    return Ways(partial(tile_resample, rate=rate), partial(soft_tile, rate=rate))


def _blurred(sigma: float = SIGMA) -> Ways:
    return Ways(partial(tile_blur, sigma=sigma), partial(soft_blur, sigma=sigma))


_HED = Network(HED, "hed")
_DPT = Network(DPTHybrid, "dpt_hybrid")
_BODY, _HAND = Network(OpenPoseBody, "openpose_body"), Network(OpenPoseHand, "openpose_hand")
_ONEFORMER = Network(Segmentation, "oneformer_ade20k")

KINDS: Mapping[str, Row] = {
    "canny": Row(
        (
            Method("cnpp", _canny_cnpp, label="ControlNet++"),
            Method(
                "cv2",
                _canny_cv2,
                remark="Canny as OpenCV has it. The published figures are by ControlNet++'s own, "
                "which finds other pixels: leave out --method to compare with them.",
            ),
        ),
    ),
    "softedge": Row((Method("hed", _soft_edge, (_HED,), "HED"),)),
    "lineart": Row(
        (
            Method("fine", _line_art, (Network(LineArt, "lineart"),)),
            Method(
                "coarse",
                _line_art,
                (Network(LineArt, "lineart_coarse"),),
                remark="Coarse line art. The published figures are by the fine network: leave out "
                "--method to compare with them.",
            ),
        )
    ),
    "mlsd": Row((Method("mlsd", _mlsd, (Network(MLSD, "mlsd"),), "M-LSD"),)),
    "scribble": Row(
        (
            Method("hed", _scribble_hed, (_HED,), "HED"),
            Method("xdog", _scribble_xdog, label="XDoG"),
            Method("drawing", _scribble_drawing, reads="drawing"),
        )
    ),
    "pose": Row(
        (Method("body", _pose, (_BODY,)), Method("hands", _pose, (_BODY, _HAND))),
    ),
    "depth": Row(
        (
            Method(
                "midas",
                _depth,
                (_DPT,),
                "MiDaS",
                remark="Depth by DPT-hybrid. The published figures are by DPT-large, another "
                "network than the one that made the conditions: give its folder with --model to "
                "compare with them.",
            ),
        )
    ),
    "normal": Row(
        (
            Method("picture", _normal, (_DPT,)),
            Method("depth", _normal_of_depth, label="depth map", reads="depth map"),
        )
    ),
    "seg": Row(
        (
            Method(
                "oneformer",
                _segmentation,
                (_ONEFORMER,),
                "OneFormer",
                remark="Segmentation by OneFormer Swin-T. The published figures are by Mask2Former "
                "Swin-L: give a folder of it in transformers' format with --model to come close "
                "to them.",
            ),
        )
    ),
    "tile": Row((Method("resample", _tile), Method("blur", _blurred))),
}


def weight_keys(kind: type[LearnedAnnotator]) -> tuple[str, ...]:
    """Keys in `weights.WEIGHTS` of the files that the methods load into a network, each once."""
    networks = (net for row in KINDS.values() for method in row for net in method.networks)
    return tuple(dict.fromkeys(net.key for net in networks if net.kind is kind))
